//! Decides when the sidecar's connection copies the WAL into the database file.
//!
//! Arrives: the size of the WAL after each commit of the writing connection, and whether another
//! connection has committed. Leaves: checkpoints (PASSIVE: nobody waits for them). Owns: what the
//! last look showed. Memory only: after a crash the next commit shows the size again.
//!
//! SQLite itself would copy at each commit that leaves 1,000 pages or more. Random keys change that
//! many in one transaction, so each page would be copied for each transaction that changes it. But
//! whoever commits next copies what has gathered, so more gathers only while no application
//! commits, and only as much as this disk copies in a moment.

use crate::db::connection::DatabaseError;
use rusqlite::Connection;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// SQLite's own limit: an application's commit finds no more to copy than without a sidecar.
const PAGES_MAX: u32 = 1_000;
/// The highest limit while no other connection commits; 33 MB of pages of 4 KiB.
const PAGES_MAX_ALONE: u32 = 8_000;
/// How long an application may have to copy that commits first after such a time. Below that limit
/// the last checkpoint shows how many pages these are.
const STALL_MS: u64 = 100;
/// An application that has not committed for so long is taken for one that does not write.
const ALONE_AFTER_MS: u64 = 10_000;
/// After so long without work, whatever exceeds [`PAGES_MAX`] is copied.
const QUIET_MS: u64 = 50;

/// The checkpoints of one connection.
pub(super) struct Checkpoints {
    /// Pages in the WAL after the last commit; 0 after a checkpoint.
    pages: Arc<AtomicU32>,
    /// `PRAGMA data_version`: it changes when another connection commits.
    data_version: i64,
    /// When another connection was last seen to have committed, on the monotone clock.
    other_ms: Option<u64>,
    /// Since when there is nothing to do, on the monotone clock.
    quiet_since_ms: Option<u64>,
    /// The limit while no other connection commits.
    alone_max: u32,
}

impl Checkpoints {
    /// Takes the checkpoints of a connection over from SQLite.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn take_over(db: &mut Connection) -> Result<Self, DatabaseError> {
        let pages = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&pages);
        db.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: std::ffi::c_int| {
            seen.store(u32::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        let data_version = data_version(db)?;
        Ok(Self { pages, data_version, other_ms: None, quiet_since_ms: None, alone_max: PAGES_MAX })
    }

    /// Copies the WAL if it is time. To be called between two transactions; `is_idle`: there is
    /// nothing else to do. `clock` reads the monotone clock. Returns when to call again, on that
    /// clock, if that is earlier than the next work.
    ///
    /// # Errors
    /// SQLite's error. What is committed is safe; a full or failing disk shows at the next write.
    pub(super) fn look(
        &mut self,
        db: &Connection,
        is_idle: bool,
        clock: impl Fn() -> u64,
    ) -> Result<Option<u64>, DatabaseError> {
        let now_ms = clock();
        let pages = self.pages.load(Ordering::Relaxed);
        if pages < PAGES_MAX {
            self.quiet_since_ms = None;
            return Ok(None);
        }
        let quiet_at = is_idle.then(|| *self.quiet_since_ms.get_or_insert(now_ms) + QUIET_MS);
        if quiet_at.is_none() {
            self.quiet_since_ms = None;
        }
        // Asked each time: a commit that is seen late would count as a later one.
        let is_beside_a_writer = self.is_beside_a_writer(db, now_ms)?;
        let is_quiet = quiet_at.is_some_and(|at| now_ms >= at);
        if !is_quiet && !is_beside_a_writer && pages < self.alone_max {
            return Ok(quiet_at);
        }
        self.pages.store(0, Ordering::Relaxed);
        self.quiet_since_ms = None;
        let before_ms = clock();
        let copied = db
            .prepare_cached("PRAGMA main.wal_checkpoint(PASSIVE)")?
            .query_row([], |row| row.get::<_, i64>(2))?;
        self.learn(copied, clock().saturating_sub(before_ms));
        Ok(None)
    }

    /// Takes over how long the last checkpoint took. One that could copy little, because of a
    /// reader, shows nothing.
    fn learn(&mut self, copied: i64, took_ms: u64) {
        let Ok(copied) = u64::try_from(copied) else { return };
        if copied >= u64::from(PAGES_MAX) {
            let pages = copied * STALL_MS / took_ms.max(1);
            let pages = pages.clamp(PAGES_MAX.into(), PAGES_MAX_ALONE.into());
            self.alone_max = u32::try_from(pages).unwrap_or(PAGES_MAX);
        }
    }

    fn is_beside_a_writer(&mut self, db: &Connection, now_ms: u64) -> Result<bool, DatabaseError> {
        let now = data_version(db)?;
        if std::mem::replace(&mut self.data_version, now) != now {
            self.other_ms = Some(now_ms);
        }
        Ok(self.other_ms.is_some_and(|then| now_ms < then + ALONE_AFTER_MS))
    }
}

fn data_version(db: &Connection) -> Result<i64, DatabaseError> {
    Ok(db.prepare_cached("PRAGMA main.data_version")?.query_row([], |r| r.get(0))?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::path::Path;

    fn open(path: &Path) -> Connection {
        let db = Connection::open(path).unwrap();
        db.execute_batch(
            "PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v)",
        )
        .unwrap();
        db
    }

    /// The application has just committed.
    fn beside_an_application(path: &Path) -> (Connection, Checkpoints) {
        let mut db = open(path);
        let checkpoints = Checkpoints::take_over(&mut db).unwrap();
        open(path).execute("INSERT INTO t(v) VALUES (1)", []).unwrap();
        (db, checkpoints)
    }

    /// Adds some 500 pages to the WAL.
    fn write(db: &Connection) {
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) \
            INSERT INTO t(v) SELECT zeroblob(4000) FROM n";
        db.execute(sql, []).unwrap();
    }

    /// A clock that stands, so that a checkpoint takes no time.
    fn at(ms: u64) -> impl Fn() -> u64 {
        move || ms
    }

    fn size(path: &Path) -> u64 {
        std::fs::metadata(path).unwrap().len()
    }

    #[test]
    fn beside_an_application_that_writes_a_thousand_pages_are_copied_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let (db, mut checkpoints) = beside_an_application(&path);
        write(&db);
        assert_eq!(checkpoints.look(&db, false, at(0)).unwrap(), None);
        assert!(size(&path) < 100_000, "500 pages wait");
        write(&db);
        assert_eq!(checkpoints.look(&db, false, at(1)).unwrap(), None);
        assert!(size(&path) > 4_000_000, "1,000 pages do not");
    }

    #[test]
    fn while_nobody_else_writes_more_gathers_until_a_quiet_moment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let (db, mut checkpoints) = beside_an_application(&path);
        (0..3).for_each(|_| write(&db));
        checkpoints.look(&db, false, at(0)).unwrap();
        let before = size(&path);
        let later = ALONE_AFTER_MS;
        (0..3).for_each(|_| write(&db));
        assert_eq!(checkpoints.look(&db, false, at(later)).unwrap(), None);
        assert_eq!(checkpoints.look(&db, true, at(later + 1)).unwrap(), Some(later + 1 + QUIET_MS));
        assert_eq!(checkpoints.look(&db, false, at(later + 40)).unwrap(), None, "work came");
        let due = later + 60 + QUIET_MS;
        assert_eq!(checkpoints.look(&db, true, at(later + 60)).unwrap(), Some(due));
        assert_eq!(size(&path), before);
        assert_eq!(checkpoints.look(&db, true, at(due)).unwrap(), None);
        assert!(size(&path) > before + 5_000_000);
        let before = size(&path);
        (0..15).for_each(|_| write(&db));
        checkpoints.look(&db, false, at(due + 1)).unwrap();
        assert_eq!(size(&path), before, "7,500 pages wait");
        (0..2).for_each(|_| write(&db));
        checkpoints.look(&db, false, at(due + 2)).unwrap();
        assert!(size(&path) > before + 30_000_000, "8,000 pages do not");
    }

    #[test]
    fn on_a_slow_disk_less_gathers() {
        let dir = tempfile::tempdir().unwrap();
        let mut db = open(&dir.path().join("app.db"));
        let mut checkpoints = Checkpoints::take_over(&mut db).unwrap();
        assert_eq!(checkpoints.alone_max, PAGES_MAX, "nothing is known of the disk");
        for (copied, took_ms, expected) in [
            (1_000, 20, 5_000),
            (2_000, 400, 1_000),
            (999, 0, 1_000),
            (-1, 0, 1_000),
            (8_000, 130, 6_153),
            (1_000, 0, 8_000),
        ] {
            checkpoints.learn(copied, took_ms);
            assert_eq!(checkpoints.alone_max, expected, "{copied} pages in {took_ms} ms");
        }
        // The time is that of the checkpoint itself: here a tick for each look at the clock.
        let ticks = std::cell::Cell::new(0);
        let clock = || ticks.replace(ticks.get() + 50);
        (0..2).for_each(|_| write(&db));
        checkpoints.alone_max = PAGES_MAX;
        checkpoints.look(&db, false, clock).unwrap();
        let pages = checkpoints.alone_max;
        assert!((2_000..2_200).contains(&pages), "some 1,000 pages in 50 ms: {pages}");
    }
}
