//! Connections to the database for the commands that read or repair it.

use super::exit::{Exit, Failure};
use crate::db::preflight;
use crate::store::install;
use anyhow::{Context, Result};
use rusqlite::{Connection, OpenFlags};
use std::path::Path;
use std::time::Duration;

/// How long a command waits for a lock.
const BUSY: Duration = Duration::from_secs(5);

/// Opens an ordinary connection. Triggers fire, so its writes are captured.
pub(crate) fn open(path: &Path) -> Result<Connection> {
    preflight::check(path)?;
    let db = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .with_context(|| path.display().to_string())?;
    db.busy_timeout(BUSY)?;
    Ok(db)
}

/// Opens a connection for a command that needs our tables.
pub(crate) fn open_installed(path: &Path) -> Result<Connection> {
    let db = open(path)?;
    if install::is_installed(&db).with_context(|| path.display().to_string())? {
        return Ok(db);
    }
    let what = format!("{} was never replicated by harmonylite", path.display());
    Err(Failure::new(
        Exit::General,
        what,
        "check --db or db_path; `harmonylite run` starts replication",
    )
    .into())
}
