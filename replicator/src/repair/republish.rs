//! Republishes rows in bounded steps: what others miss, what the broker lost, and the rows of a
//! database that joins.
//!
//! Arrives: the wish for such a walk. Leaves: log entries, a bounded number in each transaction.
//! Owns: the next step waits until the entries of the last one are published, so that neither the
//! log nor a batch grows with the database. The wish to republish is stored and begins again after
//! a crash; the place in a walk is memory only.

use super::walk::Walk;
use crate::db::connection::DatabaseError;
use crate::db::layout::Layout;
use crate::store::change_log::log_end;
use crate::store::meta::{note_republish, noted_republish, republish_done};
use rusqlite::Connection;

/// The walks under way. A transaction works on a copy, which counts once it is committed.
#[derive(Clone, Debug, Default)]
pub struct Republish {
    /// What was stored to be republished.
    wanted: Option<Walk>,
    /// Rows that the cluster may not have, when a database joins.
    joining: Option<Walk>,
    /// Log entries up to here are of the last step.
    logged_upto: i64,
    /// Begins from this time on, unix milliseconds, when this transaction is committed.
    begins: Option<i64>,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepublishStep {
    /// Log entries were added for a walk that goes on.
    Logged {
        /// How many.
        rows: u64,
        /// For others or the broker, not for joining.
        republished: bool,
    },
    /// The rows that others miss are all logged.
    Republished {
        /// In this step.
        rows: u64,
    },
    /// The rows of the database that joins are all logged.
    Joined {
        /// In this step.
        rows: u64,
    },
}

impl Republish {
    /// Goes on with what a former process had stored.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn read(db: &Connection) -> Result<Self, DatabaseError> {
        Ok(Self { wanted: noted_republish(db)?.map(Walk::since), ..Self::default() })
    }

    /// Whether no walk is under way.
    pub fn is_idle(&self) -> bool {
        self.wanted.is_none() && self.joining.is_none()
    }

    /// Whether rows are republished for others, or because the broker lost them.
    pub fn is_republishing(&self) -> bool {
        self.wanted.is_some()
    }

    /// Whether the walk of a database that joins is under way.
    pub fn is_joining(&self) -> bool {
        self.joining.is_some()
    }

    /// Whether the next step may be done: the last one is published, up to log entry `published`.
    pub fn is_due(&self, published: i64) -> bool {
        !self.is_idle() && published >= self.logged_upto
    }

    /// Rows logged so far by the walk for joining and by the one for others.
    pub fn rows(&self) -> (Option<u64>, Option<u64>) {
        (self.joining.as_ref().map(Walk::rows), self.wanted.as_ref().map(Walk::rows))
    }

    /// Stores the wish that rows from `since_ms` on are republished, all of them from the first on.
    /// The walk begins with the next transaction.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn begin(&mut self, db: &Connection, since_ms: i64) -> Result<(), DatabaseError> {
        self.begins = Some(note_republish(db, since_ms)?);
        Ok(())
    }

    /// Begins the walk over the rows without a version.
    pub fn begin_join(&mut self) {
        self.joining = Some(Walk::unversioned());
    }

    /// Somebody emptied the log: its ids begin again.
    pub fn log_emptied(&mut self) {
        self.logged_upto = 0;
    }

    /// One step of the walk under way, inside the caller's transaction. None: nothing is due.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn step(
        &mut self,
        db: &Connection,
        layout: &Layout,
        rows_max: u64,
        published: i64,
    ) -> Result<Option<RepublishStep>, DatabaseError> {
        if self.begins.is_some() || !self.is_due(published) {
            return Ok(None);
        }
        let republished = self.wanted.is_some();
        let slot = if republished { &mut self.wanted } else { &mut self.joining };
        let Some(walk) = slot else { return Ok(None) };
        let (rows, finished) = walk.step(db, layout, rows_max)?;
        let stepped = match (finished, republished) {
            (false, _) => RepublishStep::Logged { rows, republished },
            (true, true) => {
                republish_done(db)?;
                tracing::warn!(
                    rows = walk.rows(),
                    since_ms = walk.since_ms(),
                    "publishing again what others miss, or the broker lost"
                );
                RepublishStep::Republished { rows }
            }
            (true, false) => {
                tracing::info!(
                    rows = walk.rows(),
                    "joined; rows that the cluster did not have are published"
                );
                RepublishStep::Joined { rows }
            }
        };
        if finished {
            *slot = None;
        }
        self.logged_upto = log_end(db)?;
        Ok(Some(stepped))
    }

    /// After the commit of the transaction that worked on this copy.
    pub fn committed(&mut self) {
        if let Some(since_ms) = self.begins.take() {
            self.wanted = Some(Walk::since(since_ms));
        }
    }
}
