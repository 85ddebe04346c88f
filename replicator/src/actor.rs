//! The values that the two actors, inbound and outbound, exchange with each other and with their
//! owner.

use crate::db::connection::DatabaseError;
use crate::db::read_digests::ReadDigests;
use crate::model::batch::LogMark;
use crate::model::ids::{BatchNo, NodeId, Site, StreamSeq};
use crate::store::install::is_installed;
use rusqlite::Connection;

/// An acknowledgement of the broker, as outbound passes it on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The number of the batch. It stays the same if nothing had to be sent.
    pub batch: BatchNo,
    /// Log entries up to here are published, or need no publication.
    pub upto: i64,
    /// The mark of that entry, to see that the log still is the same one.
    pub mark: Option<LogMark>,
    /// The position of its last part in the stream. None if nothing had to be sent.
    pub seq: Option<StreamSeq>,
    /// The lowest row time in it, unix milliseconds.
    pub lowest_ms: i64,
    /// The digests of rows in it that were not absorbed then.
    pub digests: ReadDigests,
}

/// A message of inbound to outbound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Outbound may start or resume publishing, with this identity and these acknowledgements.
    Go {
        /// The check that allowed it. Outbound ignores the go-ahead of an older check.
        check: u64,
        /// The present incarnation of the database.
        site: Site,
        /// The last acknowledged batch.
        batch: BatchNo,
        /// Log entries up to here are published.
        published: i64,
    },
    /// Inbound is about to check the broker. Outbound confirms, and publishes nothing until the
    /// go-ahead.
    Hold {
        /// The number of the check.
        check: u64,
        /// The number of the connection, counted from 1. Both actors count every connection.
        connection: u64,
    },
    /// The broker's time is at least this, unix milliseconds: a bound for versions that are sent.
    BrokerTime(i64),
    /// The log has new entries, or the triggers were reinstalled.
    Look,
    /// The numbers of the log continue after this one, because it was empty.
    LogReplaced {
        /// The last published entry.
        published: i64,
    },
}

/// The result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do before the next input or deadline.
    Idle,
    /// The step did some work. Step again.
    Worked,
    /// Another connection holds the write lock, or the disk is full. Step again a little later.
    Busy,
    /// Another connection has an open snapshot, which a write would make stale. Step again very
    /// soon.
    Polite,
}

/// The reason why the node has to end.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// An error of the database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The temporary file of a batch that is too large for memory failed.
    #[error("cannot use the directory for large batches: {0}")]
    Spill(#[from] std::io::Error),
    /// A single row is larger than a batch may be.
    #[error("{0}")]
    RowTooLarge(String),
    /// Another process uses the same node id.
    #[error(
        "node id {node} is in use by another process ({place}): give this node its own node_id, \
        and if its disk was cloned, remove our tables from the copy (harmonylite cleanup)"
    )]
    SecondNode {
        /// The node id.
        node: NodeId,
        /// The place where the other process runs.
        place: String,
    },
    /// `on_join = "refuse"`, and both the database and the cluster have rows.
    #[error(
        "this database has {rows} rows or more that never joined, and the cluster has data: set \
        on_join to merge or replace"
    )]
    JoinRefused {
        /// The number of rows, counted up to a bound.
        rows: i64,
    },
    /// The database does not contain what this node wrote.
    #[error(
        "the content of the database was replaced while this node ran (a backup was restored into \
        it, or entries of our change log were deleted?): nothing was written to what is there now"
    )]
    Restored,
    /// A batch cannot be applied, and what it has written is to be undone. The transaction is
    /// repeated with a savepoint for each batch, so this error does not leave inbound.
    #[error("a batch cannot be applied, and what it has written has to be undone")]
    Undo,
}

impl Fatal {
    /// Classifies an error of this database. If our tables are missing, the content was replaced.
    pub(crate) fn of(db: &Connection, error: DatabaseError) -> Self {
        if matches!(is_installed(db), Ok(false)) { Self::Restored } else { Self::Database(error) }
    }
}

impl From<rusqlite::Error> for Fatal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error.into())
    }
}
