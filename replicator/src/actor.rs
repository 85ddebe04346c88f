//! What the two actors, inbound and outbound, and their owner exchange.

use crate::db::connection::DatabaseError;
use crate::model::ids::{BatchNo, NodeId, Site, StreamSeq};
use crate::store::install::is_installed;
use rusqlite::Connection;

/// What outbound learned from an acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The batch; the same number as before if nothing had to be sent.
    pub batch: BatchNo,
    /// Log entries up to here are dealt with.
    pub upto: i64,
    /// Position of its last part in the stream. None if nothing had to be sent.
    pub seq: Option<StreamSeq>,
    /// The lowest row time in it, unix milliseconds.
    pub lowest_ms: i64,
}

/// What inbound has for outbound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Publishing may begin (again), with this identity and these acknowledgements.
    Go {
        /// The check that allowed it. A go-ahead of an older check counts for nothing.
        check: u64,
        /// The present incarnation of the database.
        site: Site,
        /// The last acknowledged batch.
        batch: BatchNo,
        /// Log entries up to here are published.
        published: i64,
    },
    /// The broker is about to be checked: publish nothing until the go-ahead, and confirm.
    Hold {
        /// Which check.
        check: u64,
        /// On which connection, counted from 1 as both actors see them come.
        connection: u64,
    },
    /// The log has new entries, or the triggers were installed again.
    Look,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do before the next input or deadline.
    Idle,
    /// Something was done; step again.
    Worked,
    /// Another connection holds the write lock, or the disk is full: step again a little later.
    Busy,
}

/// Why the node has to end.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A temporary file for a batch that is too large for memory.
    #[error("cannot use the directory for large batches: {0}")]
    Spill(#[from] std::io::Error),
    /// One row alone is larger than a batch may be.
    #[error("{0}")]
    RowTooLarge(String),
    /// Two processes with one node id.
    #[error(
        "node id {node} is in use by another process ({place}): give this node its own node_id, \
        and if its disk was cloned, remove our tables from the copy (harmonylite cleanup)"
    )]
    SecondNode {
        /// The node id.
        node: NodeId,
        /// Where the other runs.
        place: String,
    },
    /// `on_join = "refuse"`.
    #[error(
        "this database has {rows} rows or more that never joined, and the cluster has data: set \
        on_join to merge or replace"
    )]
    JoinRefused {
        /// At least so many.
        rows: i64,
    },
    /// What was written into the database is not in it any more.
    #[error(
        "the content of the database was replaced while this node ran (a backup was restored into \
        it?): nothing was written to what is there now"
    )]
    Restored,
    /// Too much in quarantine.
    #[error(
        "{count} batches are in quarantine, which is the limit: look at them with `harmonylite \
        quarantine list`, then retry or drop them"
    )]
    QuarantineFull {
        /// How many.
        count: i64,
    },
}

impl Fatal {
    /// What an error of this database means: without our tables it is another content.
    pub(crate) fn of(db: &Connection, error: DatabaseError) -> Self {
        if matches!(is_installed(db), Ok(false)) { Self::Restored } else { Self::Database(error) }
    }
}

impl From<rusqlite::Error> for Fatal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error.into())
    }
}
