//! Keeps what could not be decoded or applied, with its reason, until a person decides.
//!
//! Arrives: the bytes of a batch. Leaves: an entry that can be listed, tried again, dropped. Owns:
//! nothing that a node sent is ever thrown away without being asked. Written in the transaction
//! that moves the cursor past the batch.

use crate::db::connection::DatabaseError;
use crate::model::ids::{BatchNo, NodeId, Site, StreamSeq};
use rusqlite::{Connection, OptionalExtension, Row, params};

/// One batch, or one message that is no part of any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number here.
    pub id: i64,
    /// When it was set aside, unix milliseconds.
    pub time_ms: i64,
    /// The stream it came from.
    pub shard: u32,
    /// The position of its first part.
    pub seq: StreamSeq,
    /// Who published it; 0 if not known.
    pub node: NodeId,
    /// In which life; 0 if not known.
    pub site: Site,
    /// Which batch; 0 if not known.
    pub batch: BatchNo,
    /// Why it is here.
    pub reason: String,
    /// The bytes, as they came.
    pub body: Vec<u8>,
}

/// Sets a batch aside (once, however often it comes) and returns how many there are.
///
/// # Errors
/// What SQLite says.
pub fn add(db: &Connection, entry: &Entry) -> Result<i64, DatabaseError> {
    db.execute(
        "INSERT INTO main.__harmonylite__quarantine (time, shard, seq, node, site, batch, reason, \
        body) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8
         WHERE NOT EXISTS (SELECT 1 FROM main.__harmonylite__quarantine WHERE shard = ?2 AND seq \
         = ?3 AND node = ?4 AND site = ?5 AND batch = ?6)",
        params![
            entry.time_ms,
            entry.shard,
            entry.seq.0.cast_signed(),
            entry.node.0.cast_signed(),
            entry.site.0,
            entry.batch.0.cast_signed(),
            entry.reason,
            entry.body
        ],
    )?;
    count(db)
}

/// How many entries there are.
///
/// # Errors
/// What SQLite says.
pub fn count(db: &Connection) -> Result<i64, DatabaseError> {
    Ok(db.query_row("SELECT count(*) FROM main.__harmonylite__quarantine", [], |r| r.get(0))?)
}

fn entry(r: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        id: r.get(0)?,
        time_ms: r.get(1)?,
        shard: r.get(2)?,
        seq: StreamSeq(r.get::<_, i64>(3)?.cast_unsigned()),
        node: NodeId(r.get::<_, i64>(4)?.cast_unsigned()),
        site: Site(r.get(5)?),
        batch: BatchNo(r.get::<_, i64>(6)?.cast_unsigned()),
        reason: r.get(7)?,
        body: r.get(8)?,
    })
}

/// All entries, oldest first, without their bytes.
///
/// # Errors
/// What SQLite says.
pub fn list(db: &Connection) -> Result<Vec<Entry>, DatabaseError> {
    let mut read = db.prepare(
        "SELECT id, time, shard, seq, node, site, batch, reason, X'' FROM \
            main.__harmonylite__quarantine ORDER BY id",
    )?;
    let rows = read.query_map([], entry)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// One entry with its bytes.
///
/// # Errors
/// What SQLite says.
pub fn load(db: &Connection, id: i64) -> Result<Option<Entry>, DatabaseError> {
    let sql = "SELECT id, time, shard, seq, node, site, batch, reason, body FROM \
        main.__harmonylite__quarantine WHERE id = ?1";
    Ok(db.query_row(sql, [id], entry).optional()?)
}

/// Writes a new reason down.
///
/// # Errors
/// What SQLite says.
pub fn set_reason(db: &Connection, id: i64, reason: &str) -> Result<(), DatabaseError> {
    db.execute(
        "UPDATE main.__harmonylite__quarantine SET reason = ?2 WHERE id = ?1",
        params![id, reason],
    )?;
    Ok(())
}

/// Removes an entry; false if there is none.
///
/// # Errors
/// What SQLite says.
pub fn remove(db: &Connection, id: i64) -> Result<bool, DatabaseError> {
    Ok(db.execute("DELETE FROM main.__harmonylite__quarantine WHERE id = ?1", [id])? > 0)
}
