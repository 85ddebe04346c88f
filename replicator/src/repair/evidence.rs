//! Compares what this node knew of the broker's messages with what the broker holds.
//!
//! Arrives: an anchor, and the message that stands at its position now. Leaves: [`Evidence`]. Owns:
//! an acknowledgement is not durability (docs/design.md, section 4). Pure.

use crate::broker::{Message, StreamState};
use crate::db::connection::{self, DatabaseError};
use crate::model::ids::{NodeId, StreamSeq};
use crate::store::cursor::Anchor;
use rusqlite::{Connection, params};

/// What the broker says of one position that we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The message is there and is the same; or it is older than the stream's first, which is
    /// expiry and not loss.
    Holds,
    /// Another message is there, or none, or the stream is another.
    Lost,
}

/// Compares what we knew with what is there. `not_before_ns`: the message is not older than this
/// (its own time, where that is known). Below the first position of the stream, only a message that
/// is old enough to have expired has expired.
pub fn judge(
    known: &Anchor,
    not_before_ns: i64,
    state: &StreamState,
    found: Option<&Message>,
) -> Evidence {
    if known.seq == StreamSeq(0) && known.created_ns == 0 {
        return Evidence::Holds;
    }
    if known.created_ns != state.created_ns || known.seq > state.last {
        return Evidence::Lost;
    }
    let expired = known.seq < state.first
        && (known.seq == StreamSeq(0) || not_before_ns < state.kept_since_ns);
    if expired || known.matches(found) { Evidence::Holds } else { Evidence::Lost }
}

/// Notes that every row from `since_ms` on is to be logged for publication
/// ([`crate::repair::republish`]), so that it outlives a crash. Returns from when on, with what was
/// noted before and is not done.
///
/// # Errors
/// What SQLite says.
pub fn note_republish(db: &Connection, since_ms: i64) -> Result<i64, DatabaseError> {
    let since_ms = noted_republish(db)?.unwrap_or(i64::MAX).min(since_ms.max(0));
    connection::set(db, "republish", since_ms)?;
    Ok(since_ms)
}

/// What is noted and not done.
///
/// # Errors
/// What SQLite says.
pub fn noted_republish(db: &Connection) -> Result<Option<i64>, DatabaseError> {
    connection::get(db, "republish")
}

/// All of it is logged.
///
/// # Errors
/// What SQLite says.
pub fn republish_done(db: &Connection) -> Result<(), DatabaseError> {
    db.execute("DELETE FROM main.__harmonylite__meta WHERE key = 'republish'", [])?;
    Ok(())
}

/// A hole that other nodes are asked to fill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Its number here.
    pub id: i64,
    /// The stream.
    pub shard: u32,
    /// The origin whose batches are missing; 0 if not known.
    pub node: NodeId,
    /// Rows from this time on are asked for, unix milliseconds.
    pub since_ms: i64,
    /// When it was noticed, unix milliseconds; later if more was found to be missing since.
    pub noticed_ms: i64,
    /// What was noticed, for people.
    pub reason: String,
}

impl Gap {
    /// What an answer has to name: an answer to what was missing earlier is none to what is missing
    /// now.
    pub fn key(&self) -> (i64, i64) {
        (self.id, self.noticed_ms)
    }
}

/// Notes a gap, so that it outlives a crash. One that is open for the same stream is asked for anew
/// instead.
///
/// # Errors
/// What SQLite says.
pub fn note_gap(
    db: &Connection,
    shard: u32,
    node: NodeId,
    since_ms: i64,
    reason: &str,
    now_ms: i64,
) -> Result<(), DatabaseError> {
    let renewed = db.execute(
        "UPDATE main.__harmonylite__gap SET node = iif(node = ?2, node, 0), since = min(since, \
        ?3), noticed = max(noticed + 1, ?4), reason = ?5
         WHERE shard = ?1",
        params![shard, node.0.cast_signed(), since_ms, now_ms, reason],
    )?;
    if renewed == 0 {
        db.execute(
            "INSERT INTO main.__harmonylite__gap (shard, node, since, noticed, reason) VALUES \
            (?1, ?2, ?3, ?4, ?5)",
            params![shard, node.0.cast_signed(), since_ms, now_ms, reason],
        )?;
    }
    Ok(())
}

/// The gaps that wait for an answer.
///
/// # Errors
/// What SQLite says.
pub fn gaps(db: &Connection) -> Result<Vec<Gap>, DatabaseError> {
    let mut read = db.prepare_cached(
        "SELECT id, shard, node, since, noticed, reason FROM main.__harmonylite__gap ORDER BY id",
    )?;
    let rows = read.query_map([], |r| {
        Ok(Gap {
            id: r.get(0)?,
            shard: r.get(1)?,
            node: NodeId(r.get::<_, i64>(2)?.cast_unsigned()),
            since_ms: r.get(3)?,
            noticed_ms: r.get(4)?,
            reason: r.get(5)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// An answered gap is closed, unless more was found to be missing since it was asked for.
///
/// # Errors
/// What SQLite says.
pub fn close_gap(db: &Connection, (id, noticed_ms): (i64, i64)) -> Result<(), DatabaseError> {
    db.execute(
        "DELETE FROM main.__harmonylite__gap WHERE id = ?1 AND noticed = ?2",
        [id, noticed_ms],
    )?;
    Ok(())
}
