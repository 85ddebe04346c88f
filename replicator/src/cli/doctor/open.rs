//! Opens a database without changing a byte of it and without creating a file next to it.

use super::report::{Level, Report};
use crate::db::preflight::{FileFacts, beside};
use anyhow::Result;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rusqlite::{Connection, OpenFlags};
use std::path::Path;
use std::time::Duration;

/// The bytes of a path that a URI cannot contain as they are.
const URI_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_');

/// Opens a read-only connection. Such a connection to a WAL database creates a missing -shm, so
/// without one the file is opened as immutable. That is safe: nobody has a WAL database open
/// without a -shm.
pub(super) fn read_only(path: &Path, facts: FileFacts, report: &mut Report) -> Result<Connection> {
    let real = path.canonicalize()?;
    let shared = beside(&real, "-shm").exists();
    let immutable = facts.wal && !shared;
    let wal_bytes = std::fs::metadata(beside(&real, "-wal")).map_or(0, |m| m.len());
    if immutable && wal_bytes > 0 {
        let text = format!(
            "a crash left {wal_bytes} bytes in the -wal; doctor checked the state without them"
        );
        report.add(
            Level::Note,
            "database",
            text,
            "the next program that opens the database recovers them",
        );
    }
    let how = if immutable { "immutable=1" } else { "mode=ro" };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(format!("file:{}?{how}", encode(&real)), flags)?;
    db.busy_timeout(Duration::from_secs(5))?;
    db.execute_batch("PRAGMA query_only = ON; PRAGMA temp_store = MEMORY;")?;
    Ok(db)
}

/// A path inside a URI.
fn encode(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    percent_encode(path.as_os_str().as_bytes(), URI_PATH).to_string()
}
