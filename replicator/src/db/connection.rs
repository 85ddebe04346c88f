//! Opens the application's database.
//!
//! Arrives: a path. Leaves: connections set up for their use, and what can go wrong with them.

use crate::db::{packed_key, row_digest};
use crate::model::action::Action;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::path::{Path, PathBuf};

/// What can go wrong with the database as such.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// Another connection holds the write lock.
    #[error("the database is locked by another connection")]
    Busy,
    /// The disk is full.
    #[error("the disk under the database is full")]
    Full,
    /// The wal-index cannot grow. SQLite does not report the cause.
    #[error("the wal-index beside the database (-shm) cannot grow: its disk is full, or fails")]
    NoIndex,
    /// A later program wrote the tables.
    #[error(
        "{path}: our tables have format {found}, this program knows up to {known}: upgrade \
        harmonylite on this node"
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The format.
        found: i64,
        /// The last format that this program knows.
        known: i64,
    },
    /// WAL mode is impossible (a network file system, a read-only directory, another connection).
    #[error(
        "{path}: cannot switch the journal to WAL (it stays {found}): close other programs once, \
        or run PRAGMA journal_mode=WAL"
    )]
    NotWal {
        /// The file.
        path: PathBuf,
        /// The journal mode.
        found: String,
    },
    /// Text is stored as UTF-16.
    #[error(
        "{path}: text is stored as {found}: invalid text would be changed on the way to other \
        nodes, and come back as another row"
    )]
    Encoding {
        /// The file.
        path: PathBuf,
        /// The encoding.
        found: String,
    },
    /// Any other error of SQLite.
    #[error(transparent)]
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for DatabaseError {
    fn from(error: rusqlite::Error) -> Self {
        if error
            .sqlite_error()
            .is_some_and(|e| e.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE)
        {
            return Self::NoIndex;
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            Some(ErrorCode::DiskFull) => Self::Full,
            _ => Self::Sqlite(error),
        }
    }
}

impl DatabaseError {
    /// Returns what to do: retry for a lock or a full disk, stop for everything else, to protect
    /// data.
    pub fn action(&self) -> Action {
        match self {
            Self::Busy | Self::Full | Self::NoIndex => Action::Retry,
            Self::NewerFormat { .. }
            | Self::NotWal { .. }
            | Self::Encoding { .. }
            | Self::Sqlite(_) => Action::Stop,
        }
    }
}

const FLAGS: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

fn prepare(db: Connection) -> Result<Connection, DatabaseError> {
    db.set_prepared_statement_cache_capacity(1024);
    db.execute_batch(
        "PRAGMA cache_size = -8192; PRAGMA foreign_keys = OFF; PRAGMA trusted_schema \
        = ON; PRAGMA temp_store = MEMORY;",
    )?;
    Ok(db)
}

/// Opens the writing connection, which writes to the WAL in runs. Only TEMP triggers fire on it;
/// foreign keys and CHECKs do not apply.
///
/// # Errors
/// [`DatabaseError::Encoding`] for a database in UTF-16; [`DatabaseError::NotWal`] if another
/// journal mode is in force and cannot be changed; what SQLite says otherwise.
pub fn open_writer(path: &Path) -> Result<Connection, DatabaseError> {
    harmonylite_vfs::register_gathering()?;
    let vfs = harmonylite_vfs::GATHERING_VFS_NAME;
    let db = prepare(Connection::open_with_flags_and_vfs(path, FLAGS, vfs)?)?;
    let encoding: String = db.query_row("PRAGMA encoding", [], |r| r.get(0))?;
    if encoding != "UTF-8" {
        return Err(DatabaseError::Encoding { path: path.to_owned(), found: encoding });
    }
    let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |r| r.get(0))?;
    if !mode.eq_ignore_ascii_case("wal") && path.to_str() != Some(":memory:") {
        return Err(DatabaseError::NotWal { path: path.to_owned(), found: mode });
    }
    prepare_writer(&db)?;
    Ok(db)
}

/// Configures a connection as the writing one, see [`open_writer`].
///
/// # Errors
/// SQLite's error.
pub fn prepare_writer(db: &Connection) -> Result<(), DatabaseError> {
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    row_digest::register(db)?;
    packed_key::register(db)?;
    // The writer of a row has checked it, and a CHECK may call functions that only the application
    // registers. wal_autocheckpoint keeps its default: the owner of the write lock checkpoints on
    // commit. Where no application commits the pages stay in the cache: with keys that look random
    // each page that is not there costs a read and, once changed, a second write.
    db.execute_batch(
        "PRAGMA ignore_check_constraints = ON; PRAGMA synchronous = NORMAL; PRAGMA cache_size = \
        -24576",
    )?;
    Ok(())
}

/// Opens the reading connection of collect.
///
/// # Errors
/// SQLite's error.
pub fn open_reader(path: &Path) -> Result<Connection, DatabaseError> {
    // Not read-only: a read-only connection cannot recover a WAL that a crashed writer left.
    let db = prepare(Connection::open_with_flags(path, FLAGS)?)?;
    db.execute_batch("PRAGMA query_only = ON;")?;
    Ok(db)
}

/// Lets SQLite read the schema, if it has changed, before the write lock is taken: it takes some 10
/// microseconds for each object.
///
/// # Errors
/// SQLite's error.
pub fn read_schema(db: &Connection) -> Result<(), DatabaseError> {
    db.prepare_cached("SELECT 1 FROM main.sqlite_schema LIMIT 0")?.query([])?.next()?;
    Ok(())
}

/// Runs a statement without parameters or rows that comes again and again (BEGIN, COMMIT,
/// SAVEPOINT), parsed once.
///
/// # Errors
/// SQLite's error.
pub fn run(db: &Connection, sql: &str) -> Result<(), DatabaseError> {
    db.prepare_cached(sql)?.raw_execute()?;
    Ok(())
}
