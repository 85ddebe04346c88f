//! The state of the database, as the writing actor keeps it in memory.
//!
//! Arrives: a database, at the start. Leaves: copies for transactions to work on. Owns: memory and
//! database agree. The copy replaces the original after the commit, and is dropped after a
//! rollback, so no code has to undo changes in memory.

use crate::actor::Fatal;
use crate::capture::absorb::AbsorbState;
use crate::capture::compare::Compare;
use crate::db::connection::DatabaseError;
use crate::model::batch::LogMark;
use crate::model::config::NodeConfig;
use crate::model::ids::{BatchNo, NodeId, Site, StreamSeq};
use crate::repair::republish::Republish;
use crate::store::cursor::{Anchor, Cursor, NO_ROW_MS};
use crate::store::meta::{self, Meta};
use crate::store::{change_log, held, sites};
use rusqlite::Connection;
use std::collections::HashMap;

/// The progress of one stream.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The stream.
    pub shard: u32,
    /// The position up to which it is applied.
    pub cursor: Cursor,
    /// The held origins, and the first held message of each.
    pub held: HashMap<NodeId, StreamSeq>,
    /// The held origins whose backlog the consumer delivers again. Not stored: every new consumer
    /// starts with all held origins.
    pub resuming: HashMap<NodeId, StreamSeq>,
}

/// The state of the database in memory.
#[derive(Clone, Debug)]
pub(super) struct Durable {
    /// The present incarnation, the former ones, and how far the log is absorbed and published.
    pub(super) absorb: AbsorbState,
    /// The last acknowledged batch.
    pub(super) batch: BatchNo,
    /// Its last message in the stream.
    pub(super) own_anchor: Option<Anchor>,
    /// The lowest row time published since the cursor passed the own anchor, unix milliseconds.
    pub(super) own_lowest_ms: i64,
    /// Every row has a version.
    pub(super) joined: bool,
    /// The number of the sidecar's transactions so far. Another number in the file means that its
    /// content was replaced.
    pub(super) writes: i64,
    /// How many of them were [pieces](Transaction::count_piece).
    pub(super) pieces: i64,
    /// The last log entry as of the last transaction. The log only grows between two of ours, so
    /// it is there until this process removes it, also in a backup.
    pub(super) log_end: Option<LogMark>,
    /// The progress of each stream, by shard.
    pub(super) streams: Vec<Progress>,
    /// The walks that log rows to republish.
    pub(super) republish: Republish,
    /// Tables that are compared because their triggers were away.
    pub(super) compare: Compare,
}

impl Durable {
    /// Reads the state.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn read(db: &Connection, config: &NodeConfig) -> Result<Self, DatabaseError> {
        let stored = Meta::read(db)?;
        let stream = |shard| {
            Ok(Progress {
                shard,
                cursor: Cursor::read(db, shard)?,
                held: held::read(db, shard)?,
                resuming: HashMap::new(),
            })
        };
        Ok(Self {
            absorb: AbsorbState {
                site: stored.site,
                own_sites: sites::own_sites(db)?,
                absorbed: stored.absorbed,
                published: stored.published,
            },
            batch: stored.batch,
            own_anchor: meta::read_own_anchor(db)?,
            own_lowest_ms: meta::get(db, meta::OWN_LOWEST)?.unwrap_or(NO_ROW_MS),
            joined: stored.joined,
            writes: stored.writes,
            pieces: stored.pieces,
            log_end: change_log::end_mark(db)?,
            streams: (1..=config.shards).map(stream).collect::<Result<_, DatabaseError>>()?,
            republish: Republish::read(db)?,
            compare: Compare::read(db)?,
        })
    }

    /// Returns the present incarnation.
    pub(super) fn site(&self) -> Site {
        self.absorb.site
    }

    /// Returns the position up to which a stream is applied.
    pub(super) fn position(&self, shard: u32) -> StreamSeq {
        self.stream(shard).map_or(StreamSeq(0), |s| s.cursor.seq())
    }

    /// Returns whether a stream is applied up to a position.
    pub(super) fn has_reached(&self, shard: u32, position: StreamSeq) -> bool {
        self.stream(shard).is_some_and(|s| s.cursor.seq() >= position)
    }

    /// Returns the progress of a stream.
    pub(super) fn stream(&self, shard: u32) -> Option<&Progress> {
        self.streams.iter().find(|s| s.shard == shard)
    }

    /// Returns the progress of a stream.
    pub(super) fn stream_mut(&mut self, shard: u32) -> Option<&mut Progress> {
        self.streams.iter_mut().find(|s| s.shard == shard)
    }

    /// Returns the held origins of each stream; an origin can appear several times.
    pub(super) fn held_origins(&self) -> Vec<NodeId> {
        self.streams.iter().flat_map(|s| s.held.keys().copied()).collect()
    }
}

/// Checks by the number of our transactions that nobody replaced the content of the database.
/// Restoring a backup into the live file (SQLite's backup interface, the shell's `.restore`) takes
/// back changes that this process believes to be stored, and no log lists them.
///
/// # Errors
/// [`Fatal::Restored`]; SQLite's error.
pub(super) fn check_content(db: &Connection, writes: i64) -> Result<(), Fatal> {
    match meta::get(db, meta::WRITES) {
        Ok(stored) if stored.unwrap_or(0) == writes => Ok(()),
        Ok(_) => Err(Fatal::Restored),
        Err(error) => Err(Fatal::of(db, error)),
    }
}
