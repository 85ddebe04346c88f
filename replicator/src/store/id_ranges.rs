//! `__harmonylite__id_range`: the block of ids from which this node numbers the rows of a table.
//!
//! Arrives: blocks from [`crate::model::id_ranges`]. Leaves: the same, by table. Written in the
//! transaction that moves `sqlite_sequence`, so a crash leaves both or none.

use crate::db::connection::DatabaseError;
use crate::model::id_ranges::IdBlock;
use rusqlite::Connection;
use std::collections::HashMap;

/// Returns the blocks by the id of the table.
///
/// # Errors
/// SQLite's error.
pub fn all(db: &Connection) -> Result<HashMap<i64, IdBlock>, DatabaseError> {
    let mut read =
        db.prepare_cached("SELECT table_id, first, last FROM main.__harmonylite__id_range")?;
    let rows =
        read.query_map([], |r| Ok((r.get(0)?, IdBlock { first: r.get(1)?, last: r.get(2)? })))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Notes a new block of a table.
///
/// # Errors
/// SQLite's error.
pub fn put(db: &Connection, table_id: i64, block: IdBlock) -> Result<(), DatabaseError> {
    db.prepare_cached(
        "INSERT OR REPLACE INTO main.__harmonylite__id_range (table_id, first, last) VALUES (?1, \
         ?2, ?3)",
    )?
    .execute([table_id, block.first, block.last])?;
    Ok(())
}

/// Forgets all blocks: another node, or a later state of this one, may have used their rest.
///
/// # Errors
/// SQLite's error.
pub fn forget(db: &Connection) -> Result<(), DatabaseError> {
    db.execute("DELETE FROM main.__harmonylite__id_range", [])?;
    Ok(())
}
