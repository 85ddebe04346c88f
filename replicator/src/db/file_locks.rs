//! Looks whether another process uses the database without the -wal and -shm beside it.
//!
//! Arrives: the database's path. Leaves: yes or no. Such a process sees another -wal: only the
//! database file is mounted into its container, for instance. Both then write over each other. A
//! connection in WAL mode holds a shared lock on the database and one on the -shm. It only looks,
//! so a crash changes nothing.

use crate::db::kept_files::{kept, locked};
use crate::db::preflight::beside;
use rustix::process::FlockType;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The bytes that a reader of the database locks (SQLite's `SHARED_FIRST`, `SHARED_SIZE`).
const SHARED: (u64, u64) = (0x4000_0002, 510);
/// The locks of the wal-index, the last of which every connection holds (`UNIX_SHM_DMS`).
const WAL_INDEX: (u64, u64) = (120, 9);

/// Where the header has the formats for writing and reading, and what they are in WAL mode.
const FILE_FORMATS: u64 = 18;
const WAL_FORMAT: u8 = 2;

/// The locks on a database and on its wal-index.
#[derive(Clone, Debug)]
pub struct FileLocks {
    database: &'static File,
    shm: PathBuf,
}

impl FileLocks {
    /// Opens the database's file.
    ///
    /// # Errors
    /// The file system's error.
    pub fn of(database: &Path) -> io::Result<Self> {
        Ok(Self { database: kept(database)?, shm: beside(database, "-shm") })
    }

    /// Returns whether another process reads the database, and none uses the -shm beside it. False
    /// if the file system does not answer. A connection is in that state for a moment while it
    /// opens.
    pub fn is_used_without_wal(&self) -> bool {
        // In another journal mode nobody needs a -shm.
        let mut modes = [0; 2];
        let is_wal = self.database.read_exact_at(&mut modes, FILE_FORMATS).is_ok()
            && modes == [WAL_FORMAT; 2];
        if !is_wal || locked(self.database, SHARED) != Some(FlockType::ReadLock) {
            return false;
        }
        match kept(&self.shm) {
            Ok(shm) => locked(shm, WAL_INDEX).is_none(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}
