//! The table `__harmonylite__schema_change`: changes of this node's schema that travel in its next
//! batch.
//!
//! Each has an entry of the log ([`super::change_log::KIND_SCHEMA`]), which decides when it is
//! published.

use super::change_log;
use crate::db::connection::DatabaseError;
use rusqlite::Connection;

/// Stores a change that was noticed at `now_ms`, and logs it.
///
/// # Errors
/// SQLite's error.
pub fn add(db: &Connection, now_ms: i64, changes: &[u8]) -> Result<(), DatabaseError> {
    let log_id = change_log::note_schema_change(db, now_ms)?;
    db.execute(
        "INSERT OR REPLACE INTO main.__harmonylite__schema_change (log_id, time, changes) VALUES \
        (?1, ?2, ?3)",
        (log_id, now_ms, changes),
    )?;
    Ok(())
}

/// Returns the changes after this entry of the log, oldest first.
///
/// # Errors
/// SQLite's error.
pub fn after(db: &Connection, log_id: i64) -> Result<Vec<Vec<u8>>, DatabaseError> {
    let mut read = db.prepare_cached(
        "SELECT changes FROM main.__harmonylite__schema_change WHERE log_id > ?1 ORDER BY log_id",
    )?;
    let rows = read.query_map([log_id], |r| r.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Removes the changes up to this entry of the log: they are published.
///
/// # Errors
/// SQLite's error.
pub fn forget(db: &Connection, upto: i64) -> Result<(), DatabaseError> {
    db.prepare_cached("DELETE FROM main.__harmonylite__schema_change WHERE log_id <= ?1")?
        .execute([upto])?;
    Ok(())
}
