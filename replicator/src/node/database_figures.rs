//! Reads the part of the status that only the database knows.
//!
//! Arrives: a connection of its own. Leaves: figures, and where they stand in a [`Status`]. Reads
//! only.

use crate::db::connection::DatabaseError;
use crate::model::status::{HeldStatus, Status, UnmadeStatus};
use crate::store::change_log::{self, Pending};
use crate::store::{conflicts, held, kept_tables, meta, quarantine, unmade_objects};
use rusqlite::Connection;

/// The figures that only the database knows.
#[derive(Default)]
pub(super) struct DatabaseFigures {
    pending: Pending,
    unmarked: u64,
    held: Vec<HeldStatus>,
    unmade: Vec<UnmadeStatus>,
    kept: Vec<String>,
    conflicts: u64,
    inserted_twice: Vec<(String, u64)>,
    quarantine: u64,
}

impl DatabaseFigures {
    /// Reads them. `sent` is the last log entry that the broker has acknowledged; its mark in the
    /// database may wait.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn read(db: &Connection, sent: i64) -> Result<Self, DatabaseError> {
        let marked = meta::get(db, meta::PUBLISHED)?.unwrap_or(0);
        // If somebody emptied the log, its numbers start again.
        let sent = if sent <= change_log::log_end(db)? { sent.max(marked) } else { marked };
        let pending = change_log::pending(db, sent)?;
        Ok(Self {
            pending,
            unmarked: change_log::pending(db, marked)?.entries - pending.entries,
            held: held::list(db)?,
            unmade: unmade_objects::list(db)?,
            kept: kept_tables::list(db)?,
            conflicts: conflicts::count(db)?.cast_unsigned(),
            inserted_twice: conflicts::inserted_twice(db)?,
            quarantine: quarantine::count(db)?.cast_unsigned(),
        })
    }

    pub(super) fn put_into(self, status: &mut Status) {
        status.pending_rows = self.pending.entries;
        status.oldest_pending_ms = self.pending.oldest_ms;
        status.unmarked_rows = self.unmarked;
        status.held = self.held;
        status.unmade_objects = self.unmade;
        status.kept_tables = self.kept;
        status.conflicts = self.conflicts;
        status.inserted_twice = self.inserted_twice;
        status.quarantine = self.quarantine;
    }
}
