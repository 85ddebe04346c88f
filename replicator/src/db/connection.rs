//! Opens the application's database and creates our own tables in it.
//!
//! Arrives: a path. Leaves: connections configured for their use, and [`Meta`]. Owns: our tables
//! exist in the format that this program writes. Every change here is part of the caller's
//! transaction; a crash leaves all of it or nothing.

use crate::model::action::Action;
use crate::model::ids::{BatchNo, Hlc, NodeId, Site, Version};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, ToSql, params};
use std::path::{Path, PathBuf};

/// The format of our tables. FORMAT.md describes each number.
pub const FORMAT: i64 = 1;

/// An error of the database itself.
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
        "{path}: our tables have format {found}, this program knows up to {FORMAT}: upgrade \
        harmonylite on this node"
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The format.
        found: i64,
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
            Self::NewerFormat { .. } | Self::NotWal { .. } | Self::Sqlite(_) => Action::Stop,
        }
    }
}

fn open(path: &Path, flags: OpenFlags) -> Result<Connection, DatabaseError> {
    let db = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.set_prepared_statement_cache_capacity(1024);
    db.execute_batch(
        "PRAGMA cache_size = -8192; PRAGMA foreign_keys = OFF; PRAGMA trusted_schema \
        = ON; PRAGMA temp_store = MEMORY;",
    )?;
    Ok(db)
}

/// Opens the writing connection. Only TEMP triggers fire on it; foreign keys and CHECKs do not
/// apply.
///
/// # Errors
/// [`DatabaseError::NotWal`] if another journal mode is in force and cannot be changed; what SQLite
/// says otherwise.
pub fn open_writer(path: &Path) -> Result<Connection, DatabaseError> {
    let db = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
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
    // The writer of a row has checked it, and a CHECK may call functions that only the application
    // registers. wal_autocheckpoint keeps its default: the owner of the write lock checkpoints on
    // commit.
    db.execute_batch("PRAGMA ignore_check_constraints = ON; PRAGMA synchronous = NORMAL;")?;
    Ok(())
}

/// Opens the reading connection of collect.
///
/// # Errors
/// SQLite's error.
pub fn open_reader(path: &Path) -> Result<Connection, DatabaseError> {
    // Not read-only: a read-only connection cannot recover a WAL that a crashed writer left.
    let db = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    db.execute_batch("PRAGMA query_only = ON;")?;
    Ok(db)
}

/// Creates our missing tables, inside the caller's transaction.
///
/// # Errors
/// [`DatabaseError::NewerFormat`] or SQLite's error.
pub fn create_tables(db: &Connection, path: &Path) -> Result<(), DatabaseError> {
    db.execute_batch(include_str!("../store/tables.sql"))?;
    match get::<i64>(db, "format")? {
        Some(found) if found > FORMAT => {
            Err(DatabaseError::NewerFormat { path: path.to_owned(), found })
        }
        Some(_) => Ok(()),
        None => set(db, "format", FORMAT),
    }
}

/// Returns whether our tables exist.
///
/// # Errors
/// SQLite's error.
pub fn is_installed(db: &Connection) -> Result<bool, DatabaseError> {
    Ok(db.query_row(
        "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE name = '__harmonylite__meta')",
        [],
        |r| r.get(0),
    )?)
}

/// Returns the node that a database belongs to, if it ever had a sidecar. Writes nothing.
///
/// # Errors
/// SQLite's error: not a database, encrypted, locked, damaged.
pub fn stored_node(path: &Path) -> Result<Option<NodeId>, DatabaseError> {
    let db = open_reader(path)?;
    if !is_installed(&db)? {
        return Ok(None);
    }
    Ok(get::<i64>(&db, "node")?.map(|node| NodeId(node.cast_unsigned())))
}

/// Runs a frequent statement without parameters or rows (BEGIN, COMMIT, SAVEPOINT), parsed once.
///
/// # Errors
/// SQLite's error.
pub fn run(db: &Connection, sql: &str) -> Result<(), DatabaseError> {
    db.prepare_cached(sql)?.raw_execute()?;
    Ok(())
}

/// Reads one value of our meta table.
///
/// # Errors
/// SQLite's error.
pub fn get<T: rusqlite::types::FromSql>(
    db: &Connection,
    key: &str,
) -> Result<Option<T>, DatabaseError> {
    Ok(db
        .prepare_cached("SELECT value FROM main.__harmonylite__meta WHERE key = ?1")?
        .query_row([key], |r| r.get(0))
        .optional()?)
}

/// Writes one value of our meta table.
///
/// # Errors
/// SQLite's error.
pub fn set(db: &Connection, key: &str, value: impl ToSql) -> Result<(), DatabaseError> {
    db.prepare_cached(
        "INSERT INTO main.__harmonylite__meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO \
        UPDATE SET value = excluded.value",
    )?
    .execute(params![key, value])?;
    Ok(())
}

/// The state that the stages start from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The node that this database belongs to.
    pub node: NodeId,
    /// The present incarnation of the database.
    pub site: Site,
    /// The number of the last batch known to be acknowledged.
    pub batch: BatchNo,
    /// Log entries up to here have given their versions.
    pub absorbed: i64,
    /// Log entries up to here are published.
    pub published: i64,
    /// Whether the node has joined, so that every row has a version.
    pub joined: bool,
}

impl Meta {
    /// Reads the state.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn read(db: &Connection) -> Result<Self, DatabaseError> {
        // One statement for all: collect reads them at every commit.
        let mut read = db.prepare_cached(
            "SELECT key, value FROM main.__harmonylite__meta WHERE key IN ('node', 'site', \
            'batch', 'absorbed', 'published', 'joined')",
        )?;
        let mut meta = Self {
            node: NodeId(0),
            site: Site(0),
            batch: BatchNo(0),
            absorbed: 0,
            published: 0,
            joined: false,
        };
        let mut rows = read.query([])?;
        while let Some(row) = rows.next()? {
            let value: i64 = row.get(1)?;
            match row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)? {
                "node" => meta.node = NodeId(value.cast_unsigned()),
                "site" => meta.site = Site(value),
                "batch" => meta.batch = BatchNo(value.cast_unsigned()),
                "absorbed" => meta.absorbed = value,
                "published" => meta.published = value,
                _ => meta.joined = value != 0,
            }
        }
        Ok(meta)
    }
}

/// Begins a new incarnation. The present site becomes a superseded one, whose batches this database
/// has up to the last published.
///
/// # Errors
/// SQLite's error.
pub fn begin_site(db: &Connection, site: Site, now_ms: i64) -> Result<(), DatabaseError> {
    assert!(site.0 > 0, "a site is a positive number");
    db.execute(
        "INSERT OR IGNORE INTO main.__harmonylite__site (site, since) VALUES (?1, ?2)",
        params![site.0, now_ms],
    )?;
    db.execute(
        "INSERT OR IGNORE INTO main.__harmonylite__origin (site, node, batch, created)
         SELECT site.value, node.value, batch.value, ?1 FROM main.__harmonylite__meta AS site, \
         main.__harmonylite__meta AS node, main.__harmonylite__meta AS batch
         WHERE site.key = 'site' AND node.key = 'node' AND batch.key = 'batch' AND site.value <> 0",
        [now_ms],
    )?;
    set(db, "site", site.0)?;
    set(db, "batch", 0)
}

/// Returns all incarnations of this node's database, including the present one.
///
/// # Errors
/// SQLite's error.
pub fn own_sites(db: &Connection) -> Result<std::collections::HashSet<Site>, DatabaseError> {
    let mut statement = db.prepare_cached("SELECT site FROM main.__harmonylite__site")?;
    let sites =
        statement.query_map([], |r| r.get(0).map(Site))?.collect::<rusqlite::Result<_>>()?;
    Ok(sites)
}

/// Reads a version from two columns.
///
/// # Errors
/// SQLite's error on the columns.
pub fn version_from(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Version> {
    Ok(Version { hlc: Hlc(row.get(column)?), site: Site(row.get(column + 1)?) })
}
