//! What people are told about the application's rows, each once or at most once a minute.
//!
//! Arrives: tables in which a committed transaction met something that needs a person. Leaves: log
//! lines. Owns: a fault that goes on does not fill the log. In memory only: after a start it is
//! reported again.

use super::after_commit::AfterCommit;
use crate::actor::Fatal;
use crate::db::connection::DatabaseError;
use crate::model::config::Now;
use std::collections::HashMap;

/// How often the same is reported.
const EVERY_MS: u64 = 60_000;

/// The reports of this process.
#[derive(Debug, Default)]
pub(super) struct Notices {
    /// When the last one of each kind was made, by table, milliseconds of the monotone clock.
    last: HashMap<(Kind, String), u64>,
    /// The reason why the last transaction found no room on the disk.
    no_disk_room: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    NullKey,
    NoIds,
    InsertedTwice,
}

impl Notices {
    /// Takes the result of a step.
    pub(super) fn worked<T>(&mut self, result: &Result<T, Fatal>) {
        self.no_disk_room = match result {
            Err(Fatal::Database(error @ (DatabaseError::Full | DatabaseError::NoIndex))) => {
                Some(error.to_string())
            }
            _ => None,
        };
    }

    /// Returns why the last step found no room on the disk, if it did not.
    pub(super) fn no_disk_room(&self) -> Option<&str> {
        self.no_disk_room.as_deref()
    }

    /// Reports what the transaction has met.
    pub(super) fn committed(&mut self, after: &AfterCommit, now: Now) {
        for table in &after.null_key_tables {
            if self.is_due(Kind::NullKey, table, u64::MAX, now) {
                tracing::warn!(
                    table,
                    "rows with NULL in the primary key have no identity and are not replicated"
                );
            }
        }
        for table in &after.without_ids {
            if self.is_due(Kind::NoIds, table, u64::MAX, now) {
                tracing::error!(
                    table,
                    "ids.ranges: the ids of this table are at the end of the 64-bit numbers; \
                    SQLite counts on, and two nodes may give the same id"
                );
            }
        }
        for table in &after.inserted_twice {
            if self.is_due(Kind::InsertedTwice, table, EVERY_MS, now) {
                tracing::warn!(
                    table,
                    "two nodes inserted different rows under one key: one of them is gone from the \
                    table and stands in the conflict journal. `harmonylite conflicts restore ID \
                    --new-id` writes it again; docs/ids.md shows how to prevent this"
                );
            }
        }
    }

    fn is_due(&mut self, kind: Kind, table: &str, every_ms: u64, now: Now) -> bool {
        let last = self.last.entry((kind, table.to_owned()));
        let mut is_due = false;
        let last = last.or_insert_with(|| {
            is_due = true;
            now.mono_ms
        });
        if now.mono_ms.saturating_sub(*last) >= every_ms {
            (is_due, *last) = (true, now.mono_ms);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_reported_once_a_minute_or_once() {
        let mut notices = Notices::default();
        let at = |mono_ms| Now { unix_ms: 0, mono_ms };
        let mut due = |table: &str, every_ms, ms| {
            notices.is_due(Kind::InsertedTwice, table, every_ms, at(ms))
        };
        assert!(due("a", EVERY_MS, 0) && due("b", EVERY_MS, 5));
        assert!(!due("a", EVERY_MS, EVERY_MS - 1));
        assert!(due("a", EVERY_MS, EVERY_MS) && !due("a", EVERY_MS, EVERY_MS + 1));
        assert!(due("c", u64::MAX, 1) && !due("c", u64::MAX, 1_000_000_000));
    }
}
