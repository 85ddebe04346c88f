//! Decides when what could not be made of other nodes' migrations is tried again (`unmade.rs`).
//!
//! Arrives: whether something was noted, tried or may be possible now; the time. Leaves: when the
//! next attempt is due. Memory only: a start tries at once.

use crate::db::connection::DatabaseError;
use crate::model::config::Now;
use crate::store::unmade_objects;
use rusqlite::Connection;

/// The first time between two attempts, and the longest, milliseconds. Rows decide whether some
/// indexes can be made, and nothing tells when they have changed.
const RETRY_MS: (u64, u64) = (15_000, 600_000);

/// When the objects that were not made are tried again.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnmadeRetry {
    /// When, milliseconds of the monotone clock; the greatest number if there is nothing to make.
    due_ms: u64,
    /// How long after the last time.
    wait_ms: u64,
}

impl UnmadeRetry {
    /// Reads whether there is something to make; it is tried at once.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn read(db: &Connection) -> Result<Self, DatabaseError> {
        let due_ms = if unmade_objects::any(db)? { 0 } else { u64::MAX };
        Ok(Self { due_ms, wait_ms: RETRY_MS.0 })
    }

    /// Returns when the next attempt is due, on the monotone clock.
    pub(super) fn deadline(&self) -> u64 {
        self.due_ms
    }

    /// Something was not made by a batch.
    pub(super) fn noted(&mut self, now: Now) {
        *self = Self { due_ms: now.mono_ms + RETRY_MS.0, wait_ms: RETRY_MS.0 };
    }

    /// The schema changed: what could not be made may be possible now, or be there.
    pub(super) fn schema_changed(&mut self) {
        if self.due_ms != u64::MAX {
            self.due_ms = 0;
        }
    }

    /// An attempt was committed. `any`: something is left to make.
    pub(super) fn tried(&mut self, any: bool, now: Now) {
        self.due_ms = if any { now.mono_ms + self.wait_ms } else { u64::MAX };
        self.wait_ms = (self.wait_ms * 2).min(RETRY_MS.1);
    }
}
