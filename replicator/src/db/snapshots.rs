//! Looks whether other processes have open snapshots of the database.
//!
//! Arrives: the database's path, once a connection in WAL mode is open. Leaves: yes or no. A
//! snapshot holds a shared lock on one of the five read marks of the wal-index. Connections of this
//! process are not seen: neither our own, nor those of a program that runs a node as a library.

use crate::db::kept_files::{kept, locked};
use crate::db::preflight::beside;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The lock byte of read mark 0 (SQLite's `walLockName`); those of marks 1 to 4 follow.
const READ_LOCK: u64 = 123;
const READ_MARKS: usize = 5;
/// The position of `mxFrame`, the last valid frame.
const MAX_FRAME: usize = 16;
/// The position of `nBackfill`, the frames that the database file has; the read marks follow.
const BACKFILLED: usize = 96;
/// The length of the part that is read.
const HEAD: usize = 120;

/// The wal-index of a database.
#[derive(Clone, Copy, Debug)]
pub struct Snapshots {
    shm: &'static File,
}

impl Snapshots {
    /// Opens the wal-index. A connection must be open, so that the file stays the same.
    ///
    /// # Errors
    /// The file system's error.
    pub fn of(database: &Path) -> io::Result<Self> {
        Ok(Self { shm: kept(&beside(database, "-shm"))? })
    }

    /// Returns whether another process has an open snapshot that a commit now would make stale. A
    /// snapshot that is stale already does not count. If the file system does not answer, none is
    /// open: to wait is a courtesy.
    pub fn any_open(self) -> bool {
        if !self.is_locked(READ_LOCK, READ_MARKS as u64) {
            return false;
        }
        let locked = [0, 1, 2, 3, 4].map(|mark| self.is_locked(READ_LOCK + mark, 1));
        let mut head = [0; HEAD];
        if self.shm.read_exact_at(&mut head, 0).is_err() {
            return locked.contains(&true);
        }
        is_any_current(&head, locked)
    }

    fn is_locked(self, start: u64, length: u64) -> bool {
        locked(self.shm, (start, length)).is_some()
    }
}

/// Returns whether one of the locked read marks is that of the newest commit.
fn is_any_current(head: &[u8; HEAD], locked: [bool; READ_MARKS]) -> bool {
    let word = |at: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&head[at..at + 4]);
        u32::from_ne_bytes(bytes)
    };
    let (max_frame, backfilled) = (word(MAX_FRAME), word(BACKFILLED));
    // A reader with mark 0 uses the database file alone, which had everything at that time.
    if locked[0] && max_frame == backfilled {
        return true;
    }
    // A reader takes a mark below the newest frame only if all others are in use.
    let all_used = locked[1..].iter().all(|locked| *locked);
    (1..READ_MARKS).any(|i| locked[i] && (all_used || word(BACKFILLED + 4 + 4 * i) >= max_frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(max_frame: u32, backfilled: u32, marks: [u32; READ_MARKS]) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        let words = [(MAX_FRAME, max_frame), (BACKFILLED, backfilled)];
        let marks = marks.into_iter().enumerate().map(|(i, mark)| (BACKFILLED + 4 + 4 * i, mark));
        for (at, value) in words.into_iter().chain(marks) {
            head[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        head
    }

    #[test]
    fn only_the_newest_snapshots_count() {
        let (yes, no) = (true, false);
        for (max_frame, backfilled, locked, expected) in [
            (9, 3, [no; 5], no),
            (9, 3, [no, no, yes, no, no], yes),
            (9, 3, [no, yes, no, no, no], no),
            (9, 3, [yes, no, no, no, no], no),
            (9, 9, [yes, no, no, no, no], yes),
            (0, 0, [yes, no, no, no, no], yes),
            (9, 3, [no, yes, no, yes, yes], no),
            (9, 3, [no, yes, yes, yes, yes], yes),
            (10, 3, [no, yes, yes, yes, yes], yes),
        ] {
            let head = head(max_frame, backfilled, [0, 4, 9, 5, 6]);
            let found = is_any_current(&head, locked);
            assert_eq!(found, expected, "{max_frame} {backfilled} {locked:?}");
        }
    }

    /// The same file is opened once, and the locks of this very process are not shown.
    #[test]
    fn the_descriptor_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        assert!(Snapshots::of(&path).is_err(), "there is no wal-index");
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x); BEGIN; SELECT * FROM t")
            .unwrap();
        let (first, second) = (Snapshots::of(&path).unwrap(), Snapshots::of(&path).unwrap());
        assert!(std::ptr::eq(first.shm, second.shm));
        assert!(!first.any_open());
    }
}
