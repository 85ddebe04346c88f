//! The permission to write into `sqlite_schema`, given for one call.

use super::connection::DatabaseError;
use rusqlite::Connection;
use rusqlite::config::DbConfig;

/// Runs `write` with the permission to write into `sqlite_schema`. What it changes is unknown to
/// this connection until it reads the schema again.
///
/// # Errors
/// SQLite's error, or that of `write`.
pub fn writable<T>(
    db: &Connection,
    write: impl FnOnce() -> Result<T, DatabaseError>,
) -> Result<T, DatabaseError> {
    let permission = DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA;
    db.set_db_config(permission, true)?;
    let written = write();
    db.set_db_config(permission, false)?;
    written
}
