//! A consistent image of a live database, page by page.
//!
//! Arrives: the path of a database that applications use. Leaves: its pages as of one moment, and a
//! connection that sees the same moment. Owns: writers are never blocked, and memory is bounded.
//! - In WAL mode a read transaction holds the moment, and the pages are read through SQLite (the
//!   virtual table `sqlite_dbpage`), which finds each page in the WAL or the file. The WAL cannot
//!   be reset meanwhile, so it grows by what is written. A receiver that is slow can end this: the
//!   pages that are left are copied to a scratch file, and the moment is released.
//! - With a rollback journal a read lock stops writers, so the database is first copied to a
//!   scratch file with SQLite's backup interface. So it is in a build without `sqlite_dbpage`.
//!
//! A crash leaves at most the scratch directory.

use crate::chunk::CHUNK_BYTES;
use crate::error::SnapshotError;
use crate::scratch;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// How long the capture waits for a lock of another program.
const BUSY: Duration = Duration::from_secs(30);

/// A database as of one moment. The moment is released when it is dropped.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    page_size: u32,
    page_count: u64,
    db: Connection,
    second: RefCell<Option<Second>>,
    copy: Option<Copy>,
    scratch: PathBuf,
}

/// Another connection that sees the image, for another thread.
#[derive(Debug)]
pub(crate) struct Second {
    path: PathBuf,
    db: Connection,
}

impl Second {
    /// Counts the rows as [`Image::row_counts`] does.
    ///
    /// # Errors
    /// SQLite's error.
    pub(crate) fn row_counts(self) -> Result<BTreeMap<String, u64>, SnapshotError> {
        row_counts(&self.db).map_err(|error| database(&self.path, error))
    }
}

/// Takes the pieces of an image, in order.
pub trait Pieces {
    /// Takes a piece while the moment is held. A receiver that is too slow gives the piece back:
    /// then the rest is copied to a scratch file first.
    fn offer(&mut self, piece: Vec<u8>) -> Offered;

    /// Takes a piece while nothing is held. False ends the reading.
    fn put(&mut self, piece: Vec<u8>) -> bool;
}

/// The answer to an offered piece.
#[derive(Debug)]
pub enum Offered {
    /// It is taken.
    Taken,
    /// Nobody wants the pieces any more.
    Ended,
    /// It is not taken yet, and the moment has been held for long enough.
    Later(Vec<u8>),
}

impl<F: FnMut(Vec<u8>) -> bool> Pieces for F {
    fn offer(&mut self, piece: Vec<u8>) -> Offered {
        if self(piece) { Offered::Taken } else { Offered::Ended }
    }

    fn put(&mut self, piece: Vec<u8>) -> bool {
        self(piece)
    }
}

#[derive(Debug)]
struct Copy {
    file: PathBuf,
    _dir: TempDir,
}

impl Image {
    /// Captures the present moment of a database. `scratch` is a directory with room for a copy,
    /// which is made only if there is no other way.
    ///
    /// # Errors
    /// SQLite's error: no such file, not a database, locked for 30 s.
    pub fn capture(path: &Path, scratch: &Path) -> Result<Self, SnapshotError> {
        let failed = |error| database(path, error);
        scratch::sweep(scratch);
        let db = open(path).map_err(failed)?;
        if reads_pages(&db).map_err(failed)? && is_wal(&db).map_err(failed)? {
            return Self::pin(path, db, None, scratch);
        }
        Self::copied(path, &db, scratch)
    }

    fn copied(path: &Path, live: &Connection, scratch: &Path) -> Result<Self, SnapshotError> {
        let dir = scratch::create(scratch)?;
        let file = dir.path().join("image.db");
        let copy = copy(live, &file).map_err(|error| database(path, error))?;
        Self::pin(path, copy, Some(Copy { file, _dir: dir }), scratch)
    }

    fn pin(
        path: &Path,
        db: Connection,
        copy: Option<Copy>,
        scratch: &Path,
    ) -> Result<Self, SnapshotError> {
        let mut second = None;
        let mut sizes = || -> rusqlite::Result<(u32, u64)> {
            second = begin_both(&db, copy.as_ref().map_or(path, |copy| &copy.file))?;
            let number = |sql| db.query_row(sql, [], |r| r.get::<_, i64>(0));
            let size = number("PRAGMA main.page_size")?;
            Ok((size.unsigned_abs() as u32, number("PRAGMA main.page_count")?.unsigned_abs()))
        };
        let (page_size, page_count) = sizes().map_err(|error| database(path, error))?;
        let (path, scratch) = (path.to_owned(), scratch.to_owned());
        let second = RefCell::new(second.map(|db| Second { path: path.clone(), db }));
        Ok(Self { path, page_size, page_count, db, second, copy, scratch })
    }

    /// Returns the second connection, once and before [`Self::pieces`]; None if other programs
    /// committed too often to get one.
    pub(crate) fn take_second(&self) -> Option<Second> {
        self.second.take()
    }

    /// Returns a connection that sees the image. It must not end the transaction.
    pub fn connection(&self) -> &Connection {
        &self.db
    }

    /// Returns the bytes of a page.
    pub fn page_size(&self) -> u32 {
        self.page_size
    }

    /// Returns the number of pages.
    pub fn page_count(&self) -> u64 {
        self.page_count
    }

    /// Counts the rows of each table of the image, ours and SQLite's own included.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn row_counts(&self) -> Result<BTreeMap<String, u64>, SnapshotError> {
        row_counts(&self.db).map_err(|error| database(&self.path, error))
    }

    /// Reads the image from its start, in pieces of [`CHUNK_BYTES`]; the last one may be shorter.
    /// Ends early if nobody takes them any more.
    ///
    /// # Errors
    /// The error of SQLite or of the file system.
    pub fn pieces(&self, mut to: impl Pieces) -> Result<(), SnapshotError> {
        // It would hold the moment when this connection releases it.
        drop(self.take_second());
        if let Some(copy) = &self.copy {
            return file_pieces(&copy.file, |piece| to.put(piece));
        }
        let Some((rest, _dir)) = self.live_pieces(&mut to)? else { return Ok(()) };
        self.db.execute_batch("ROLLBACK").map_err(|error| database(&self.path, error))?;
        tracing::debug!(file = %rest.display(), "the store is slow: the WAL is released");
        file_pieces(&rest, |piece| to.put(piece))
    }

    /// Reads through SQLite. Returns the file with the rest, if the receiver was too slow.
    fn live_pieces(
        &self,
        to: &mut impl Pieces,
    ) -> Result<Option<(PathBuf, TempDir)>, SnapshotError> {
        let failed = |error| database(&self.path, error);
        let mut read = self.db.prepare("SELECT data FROM sqlite_dbpage('main')").map_err(failed)?;
        let mut rows = read.query([]).map_err(failed)?;
        let mut rest: Option<Rest> = None;
        let mut piece = Vec::with_capacity(CHUNK_BYTES);
        loop {
            let row = rows.next().map_err(failed)?;
            if let Some(row) = row {
                let page = row.get_ref(0).and_then(|page| Ok(page.as_blob()?)).map_err(failed)?;
                piece.extend_from_slice(page);
                if piece.len() < CHUNK_BYTES {
                    continue;
                }
            } else if piece.is_empty() {
                break;
            }
            let full = std::mem::replace(&mut piece, Vec::with_capacity(CHUNK_BYTES));
            if let Some(rest) = &mut rest {
                rest.write(&full)?;
                continue;
            }
            match to.offer(full) {
                Offered::Taken => {}
                Offered::Ended => return Ok(None),
                Offered::Later(piece) => {
                    rest.insert(Rest::create(&self.scratch)?).write(&piece)?;
                }
            }
        }
        Ok(rest.map(|rest| (rest.path, rest.dir)))
    }
}

/// The pieces that a slow receiver has not taken yet.
struct Rest {
    path: PathBuf,
    file: File,
    dir: TempDir,
}

impl Rest {
    fn create(scratch: &Path) -> Result<Self, SnapshotError> {
        let dir = scratch::create(scratch)?;
        let path = dir.path().join("rest");
        let file = File::create_new(&path).map_err(|error| SnapshotError::Io {
            action: "write",
            path: path.clone(),
            error,
        })?;
        Ok(Self { path, file, dir })
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), SnapshotError> {
        self.file.write_all(piece).map_err(|error| SnapshotError::Io {
            action: "write",
            path: self.path.clone(),
            error,
        })
    }
}

/// How often a moment is tried in which nobody commits between two statements.
const TRIES: usize = 5;

/// Begins a read transaction, and one that sees the same moment on a second connection, if there is
/// a moment in which nobody commits. `PRAGMA data_version` tells a connection whether others have
/// committed since its last look.
fn begin_both(first: &Connection, path: &Path) -> rusqlite::Result<Option<Connection>> {
    // A transaction begins with the first read.
    const BEGIN: &str = "BEGIN; SELECT count(*) FROM main.sqlite_schema";
    let second = open(path)?;
    let version = || second.query_row("PRAGMA main.data_version", [], |r| r.get::<_, i64>(0));
    for _ in 0..TRIES {
        let before = version()?;
        first.execute_batch(BEGIN)?;
        second.execute_batch(BEGIN)?;
        if version()? == before {
            return Ok(Some(second));
        }
        second.execute_batch("ROLLBACK")?;
        first.execute_batch("ROLLBACK")?;
    }
    first.execute_batch(BEGIN)?;
    Ok(None)
}

/// Counts the rows of each table that stores rows.
pub(crate) fn row_counts(db: &Connection) -> rusqlite::Result<BTreeMap<String, u64>> {
    let mut list = db.prepare(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'shadow')",
    )?;
    let names = list.query_map([], |r| r.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    let count = |name: String| {
        let sql = format!("SELECT count(*) FROM main.\"{}\"", name.replace('"', "\"\""));
        let rows: i64 = db.query_row(&sql, [], |r| r.get(0))?;
        Ok((name, rows.unsigned_abs()))
    };
    names.into_iter().map(count).collect()
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    // Not read-only: such a connection cannot recover a WAL that a crashed writer left.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY)?;
    db.execute_batch("PRAGMA cache_size = -256; PRAGMA query_only = ON")?;
    Ok(db)
}

fn reads_pages(db: &Connection) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pragma_module_list WHERE name = 'sqlite_dbpage')";
    db.query_row(sql, [], |r| r.get(0))
}

fn is_wal(db: &Connection) -> rusqlite::Result<bool> {
    let mode: String = db.query_row("PRAGMA main.journal_mode", [], |r| r.get(0))?;
    Ok(mode.eq_ignore_ascii_case("wal"))
}

fn copy(live: &Connection, file: &Path) -> rusqlite::Result<Connection> {
    let mut copy = Connection::open(file)?;
    copy.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")?;
    // In one step: a copy in several begins again whenever an application has written.
    let done = Backup::new(live, &mut copy)?.step(-1)?;
    match done {
        StepResult::Done => Ok(copy),
        _ => Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY),
            Some("another program holds the lock of the database".to_owned()),
        )),
    }
}

fn file_pieces(path: &Path, mut each: impl FnMut(Vec<u8>) -> bool) -> Result<(), SnapshotError> {
    let failed = |error| SnapshotError::Io { action: "read", path: path.to_owned(), error };
    let mut file = File::open(path).map_err(failed)?;
    loop {
        let mut piece = Vec::with_capacity(CHUNK_BYTES);
        (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut piece).map_err(failed)?;
        if piece.is_empty() || !each(piece) {
            return Ok(());
        }
    }
}

pub(crate) fn database(path: &Path, error: rusqlite::Error) -> SnapshotError {
    SnapshotError::Database { path: path.to_owned(), error }
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
