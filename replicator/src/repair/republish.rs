//! Republishes rows in bounded steps: rows that other nodes miss or the broker lost, and the rows
//! of a joining database.
//!
//! Arrives: the request for such a walk. Leaves: log entries, a bounded number in each transaction.
//! Owns: each step waits until the entries of the previous one are published, so that neither the
//! log nor a batch grows with the database. Steps have a pace, in bytes a minute: a bounded stream
//! keeps them until everybody has read them, and questions of other nodes cannot make this node
//! publish without end. The request to republish is stored, and its walk starts again after a
//! crash. The place in a walk is memory only.

use super::walk::{StepBounds, Walk, WalkStep};
use crate::db::connection::DatabaseError;
use crate::db::layout::Layout;
use crate::model::config::{NodeConfig, Now};
use crate::store::change_log::log_end;
use crate::store::meta::{note_republish, noted_republish, republish_done};
use rusqlite::Connection;

/// The budget of this time may be used at once.
const BURST_MS: u64 = 15_000;
const MINUTE_MS: u64 = 60_000;
/// What a step costs beside its rows: the names and hashes of its batch.
const STEP_BYTES: u64 = 512;

/// How much may be republished.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    bounds: StepBounds,
    /// Bytes a minute, for rows that other nodes miss.
    republished: u64,
    /// Bytes a minute, for rows of a joining database.
    joined: u64,
}

impl Pace {
    /// Returns the pace of a node.
    pub fn new(config: &NodeConfig) -> Self {
        let (limits, stream) = (&config.limits, config.stream_bytes_max.max(1));
        Self {
            bounds: StepBounds {
                rows_max: limits.republish_rows_max,
                bytes_max: config.republish_bytes_max(),
            },
            republished: limits.republish_minute_bytes_max.min(stream).max(1),
            joined: stream,
        }
    }
}

/// The time that each table of a step takes, pause included: looking at an empty one takes less
/// than half of it, under the write lock; for the rest the lock is free. Steps that log rows also
/// wait until these are published.
const TABLE_US: u64 = 200;

/// The running walks. A transaction works on a copy, which counts after the commit.
#[derive(Clone, Debug, Default)]
pub struct Republish {
    /// The walk of the stored request to republish.
    wanted: Option<Walk>,
    /// The walk of a joining database over the rows that the cluster may not have.
    joining: Option<Walk>,
    /// The last log entry of the last step.
    logged_upto: i64,
    /// The logged steps use the budget up to this time, on the monotone clock.
    used_until_ms: u64,
    /// The application can write until this time, on the monotone clock.
    rests_until_ms: u64,
    /// The oldest row time (unix milliseconds) of a walk that starts after the commit of this
    /// transaction.
    begins: Option<i64>,
}

/// The result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepublishStep {
    /// The step added log entries, and the walk continues.
    Logged {
        /// The number of rows.
        rows: u64,
        /// Whether they are for other nodes or the broker, not for joining.
        republished: bool,
    },
    /// All rows to republish are logged.
    Republished {
        /// The rows logged in this step.
        rows: u64,
    },
    /// All rows of the joining database are logged.
    Joined {
        /// The rows logged in this step.
        rows: u64,
    },
}

impl Republish {
    /// Reads the stored request of an earlier process, if there is one.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn read(db: &Connection) -> Result<Self, DatabaseError> {
        Ok(Self { wanted: noted_republish(db)?.map(Walk::since), ..Self::default() })
    }

    /// Returns whether no walk is running.
    pub fn is_idle(&self) -> bool {
        self.wanted.is_none() && self.joining.is_none()
    }

    /// Returns whether the walk for other nodes or the broker is running.
    pub fn is_republishing(&self) -> bool {
        self.wanted.is_some()
    }

    /// Returns whether the walk of a joining database is running.
    pub fn is_joining(&self) -> bool {
        self.joining.is_some()
    }

    /// Returns when the next step is due, on the monotone clock: once the previous one is published
    /// and the budget allows it. `published` is the last published log entry.
    pub fn deadline(&self, published: i64) -> u64 {
        if self.is_idle() || published < self.logged_upto {
            return u64::MAX;
        }
        self.used_until_ms.saturating_sub(BURST_MS).max(self.rests_until_ms)
    }

    /// Returns the rows logged so far by the walk for joining, and by the walk to republish.
    pub fn rows(&self) -> (Option<u64>, Option<u64>) {
        (self.joining.as_ref().map(Walk::rows), self.wanted.as_ref().map(Walk::rows))
    }

    /// Stores the request to republish rows from `since_ms` on. The walk starts from the first row,
    /// with the next transaction.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn begin(&mut self, db: &Connection, since_ms: i64) -> Result<(), DatabaseError> {
        self.begins = Some(note_republish(db, since_ms)?);
        Ok(())
    }

    /// Starts the walk over the rows without a version.
    pub fn begin_join(&mut self) {
        self.joining = Some(Walk::unversioned());
    }

    /// Notes that somebody emptied the log. A joining database has to log its rows again.
    pub fn log_emptied(&mut self) {
        if self.joining.is_some() {
            self.begin_join();
        }
    }

    /// Does one step of the running walk inside the caller's transaction. None if no step is due.
    /// `published` is the last published log entry.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn step(
        &mut self,
        db: &Connection,
        layout: &Layout,
        pace: Pace,
        (published, now): (i64, Now),
    ) -> Result<Option<RepublishStep>, DatabaseError> {
        if self.begins.is_some() || now.mono_ms < self.deadline(published) {
            return Ok(None);
        }
        let republished = self.wanted.is_some();
        let slot = if republished { &mut self.wanted } else { &mut self.joining };
        let Some(walk) = slot else { return Ok(None) };
        let WalkStep { rows, bytes, tables, finished } = walk.step(db, layout, pace.bounds)?;
        let minute_bytes = if republished { pace.republished } else { pace.joined };
        // Rows that nobody misses are only looked at.
        let cost = if rows == 0 { 0 } else { bytes + STEP_BYTES };
        let cost_ms = u128::from(cost) * u128::from(MINUTE_MS) / u128::from(minute_bytes);
        let used_ms = u64::try_from(cost_ms).unwrap_or(u64::MAX);
        self.used_until_ms = self.used_until_ms.max(now.mono_ms).saturating_add(used_ms);
        self.rests_until_ms = now.mono_ms + tables * TABLE_US / 1_000;
        let stepped = match (finished, republished) {
            (false, _) => RepublishStep::Logged { rows, republished },
            (true, true) => {
                republish_done(db)?;
                tracing::warn!(
                    rows = walk.rows(),
                    since_ms = walk.since_ms(),
                    "republishing rows that other nodes miss, or that the broker lost"
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

    /// Starts a requested walk, after the commit of the transaction that worked on this copy.
    pub fn committed(&mut self) {
        if let Some(since_ms) = self.begins.take() {
            self.wanted = Some(Walk::since(since_ms));
        }
    }
}
