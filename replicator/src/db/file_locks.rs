//! Looks whether another process uses the database without the -wal and -shm beside it.
//!
//! Arrives: the database's path. Leaves: yes or no. Such a process sees another -wal: only the
//! database file is mounted into its container, for instance. Both then write over each other. A
//! connection in WAL mode holds a shared lock on the database and one on the -shm; `F_GETLK` shows
//! the locks of other processes and changes nothing.
//!
//! Owns: the descriptors are never closed, because closing one drops all POSIX locks of the process
//! on that file, those of SQLite too.

use crate::db::preflight::beside;
use parking_lot::Mutex;
use rustix::process::{Flock, FlockOffsetType, FlockType, fcntl_getlk};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The bytes that a reader of the database locks (SQLite's `SHARED_FIRST`, `SHARED_SIZE`).
const SHARED: (u64, u64) = (0x4000_0002, 510);
/// The locks of the wal-index, the last of which every connection holds (`UNIX_SHM_DMS`).
const WAL_INDEX: (u64, u64) = (120, 9);

/// Where the header has the formats for writing and reading, and what they are in WAL mode.
const FILE_FORMATS: u64 = 18;
const WAL_FORMAT: u8 = 2;

/// A file that stays open until the process ends: device, inode, descriptor.
type Kept = (u64, u64, &'static File);

static KEPT: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

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

/// Opens a file once.
fn kept(path: &Path) -> io::Result<&'static File> {
    let found = std::fs::metadata(path)?;
    let mut kept = KEPT.lock();
    let known = kept.iter().find(|(dev, ino, _)| (*dev, *ino) == (found.dev(), found.ino()));
    if let Some((_, _, file)) = known {
        return Ok(file);
    }
    let file: &'static File = Box::leak(Box::new(File::open(path)?));
    let opened = file.metadata()?;
    kept.push((opened.dev(), opened.ino(), file));
    Ok(file)
}

/// Returns the kind of lock that another process holds in a range.
fn locked(file: &File, (start, length): (u64, u64)) -> Option<FlockType> {
    let wanted = Flock {
        start,
        length,
        pid: None,
        typ: FlockType::WriteLock,
        offset_type: FlockOffsetType::Set,
    };
    fcntl_getlk(file, &wanted).ok().flatten().map(|lock| lock.typ)
}
