//! Decides when bookkeeping is written that nothing else needs yet.
//!
//! Bookkeeping: acknowledgements of own batches, own batches that come back and only move a cursor,
//! the absorbing of changes that are never sent. Writing it makes the snapshot of each open
//! deferred transaction of the application stale, which then fails (docs/design.md, section 5a). So
//! it waits for a transaction that is needed anyway; or for a second without a commit, and then for
//! a moment without snapshots. Memory only: after a crash the broker tells what it has, and what
//! it does not tell is sent again.

use crate::db::connection::DatabaseError;
use crate::model::config::Now;
use rusqlite::Connection;

/// The application must have been quiet for this long.
const QUIET_MS: u64 = 1_000;
/// If it is never quiet, any moment without snapshots will do after this time.
const NEVER_QUIET_MS: u64 = 30_000;
/// If there is no such moment either, bookkeeping is written anyway after this time.
const LATEST_MS: u64 = 300_000;
/// The wait after a look at open snapshots.
const LOOK_MS: u64 = 10;
/// The first wait after a snapshot was opened during the transaction. It doubles.
const MET_MS: u64 = 1_000;
/// The longest such wait.
const MET_MS_MAX: u64 = 60_000;

/// How urgent the waiting bookkeeping is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// It waits.
    None,
    /// It may be written if no snapshot is open.
    IfUnseen,
    /// It must be written.
    Now,
}

/// The time since when bookkeeping waits, and the signs of a busy application. Times are of the
/// monotone clock.
#[derive(Debug, Default)]
pub(super) struct Bookkeeping {
    since_ms: Option<u64>,
    /// The last sign of a commit.
    sign_ms: u64,
    /// `PRAGMA data_version` after that sign.
    data_version: Option<i64>,
    /// The next try, after a snapshot was met.
    not_before_ms: u64,
    met_ms: u64,
}

impl Bookkeeping {
    /// Notes that more bookkeeping waits, which follows a commit.
    pub(super) fn note(&mut self, now: Now) {
        self.since_ms.get_or_insert(now.mono_ms);
        (self.sign_ms, self.data_version) = (now.mono_ms, None);
    }

    /// Notes that some is left, or comes from our own transaction.
    pub(super) fn is_left(&mut self, now: Now) {
        if self.since_ms.is_none() {
            self.note(now);
        }
    }

    /// Looks for commits that led to no bookkeeping, at the latest when the quiet time is over.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn look(&mut self, db: &Connection, now: Now) -> Result<(), DatabaseError> {
        let is_over = now.mono_ms >= self.sign_ms + QUIET_MS;
        if self.since_ms.is_none() || (self.data_version.is_some() && !is_over) {
            return Ok(());
        }
        let version =
            db.prepare_cached("PRAGMA main.data_version")?.query_row([], |r| r.get::<_, i64>(0))?;
        if self.data_version.replace(version).is_some_and(|before| before != version) {
            self.sign_ms = now.mono_ms;
        }
        Ok(())
    }

    /// Returns how urgent it is, by time alone.
    pub(super) fn urgency(&self, now: Now) -> Urgency {
        let Some(since_ms) = self.since_ms else { return Urgency::None };
        if now.mono_ms >= since_ms + LATEST_MS {
            Urgency::Now
        } else if now.mono_ms >= self.try_ms(since_ms) {
            Urgency::IfUnseen
        } else {
            Urgency::None
        }
    }

    fn try_ms(&self, since_ms: u64) -> u64 {
        self.not_before_ms.max((self.sign_ms + QUIET_MS).min(since_ms + NEVER_QUIET_MS))
    }

    /// Notes that a snapshot is open now.
    pub(super) fn seen(&mut self, now: Now) {
        self.not_before_ms = now.mono_ms + LOOK_MS;
    }

    /// Notes that a snapshot was opened during the transaction, which was rolled back.
    pub(super) fn met(&mut self, now: Now) {
        self.met_ms = (self.met_ms * 2).clamp(MET_MS, MET_MS_MAX);
        self.not_before_ms = now.mono_ms + self.met_ms;
    }

    /// Notes that all of it is written.
    pub(super) fn committed(&mut self) {
        *self = Self::default();
    }

    /// Returns when it becomes due, or may be written.
    pub(super) fn deadline(&self) -> u64 {
        let deadline = |since_ms| self.try_ms(since_ms).min(since_ms + LATEST_MS);
        self.since_ms.map_or(u64::MAX, deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now { unix_ms: 0, mono_ms: ms }
    }

    #[test]
    fn it_waits_for_a_second_without_new_bookkeeping() {
        let mut waiting = Bookkeeping::default();
        assert_eq!((waiting.urgency(at(9_000)), waiting.deadline()), (Urgency::None, u64::MAX));
        waiting.note(at(100));
        waiting.note(at(900));
        assert_eq!(waiting.urgency(at(1_899)), Urgency::None);
        assert_eq!((waiting.urgency(at(1_900)), waiting.deadline()), (Urgency::IfUnseen, 1_900));
        waiting.committed();
        assert_eq!(waiting.urgency(at(5_000)), Urgency::None);
    }

    #[test]
    fn a_commit_that_needs_no_bookkeeping_is_a_sign_too() {
        let dir = tempfile::tempdir().unwrap();
        let [own, other] = [0, 1].map(|_| Connection::open(dir.path().join("a.db")).unwrap());
        other.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x)").unwrap();
        let mut waiting = Bookkeeping::default();
        waiting.note(at(0));
        waiting.look(&own, at(0)).unwrap();
        own.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        waiting.look(&own, at(1_000)).unwrap();
        assert_eq!(waiting.urgency(at(1_000)), Urgency::IfUnseen, "our own commits are no sign");
        other.execute_batch("INSERT INTO t VALUES (2)").unwrap();
        waiting.look(&own, at(1_010)).unwrap();
        assert_eq!((waiting.urgency(at(1_010)), waiting.deadline()), (Urgency::None, 2_010));
        waiting.look(&own, at(2_010)).unwrap();
        assert_eq!(waiting.urgency(at(2_010)), Urgency::IfUnseen);
    }

    /// A writer that commits every half second must not keep its log without end.
    #[test]
    fn an_application_that_is_never_quiet_delays_it_for_a_bounded_time() {
        let mut waiting = Bookkeeping::default();
        let urgency = |waiting: &mut Bookkeeping, ms| {
            waiting.note(at(ms));
            waiting.urgency(at(ms))
        };
        for ms in (0..NEVER_QUIET_MS).step_by(500) {
            assert_eq!(urgency(&mut waiting, ms), Urgency::None);
        }
        assert_eq!(urgency(&mut waiting, NEVER_QUIET_MS), Urgency::IfUnseen);
        waiting.seen(at(NEVER_QUIET_MS));
        assert_eq!(urgency(&mut waiting, NEVER_QUIET_MS + 1), Urgency::None);
        assert_eq!(waiting.deadline(), NEVER_QUIET_MS + LOOK_MS);
        assert_eq!(urgency(&mut waiting, LATEST_MS), Urgency::Now);
    }

    #[test]
    fn a_snapshot_opened_during_the_transaction_puts_it_off_ever_longer() {
        let mut waiting = Bookkeeping::default();
        waiting.note(at(0));
        for (now, next) in [(1_000, 2_000), (2_000, 4_000), (4_000, 8_000)] {
            assert_eq!(waiting.urgency(at(now)), Urgency::IfUnseen);
            waiting.met(at(now));
            assert_eq!((waiting.urgency(at(now)), waiting.deadline()), (Urgency::None, next));
        }
    }
}
