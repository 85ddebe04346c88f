//! Looks at the locks of other processes on the files of a database.
//!
//! Arrives: a path, a range of bytes. Leaves: the lock that another process holds there. `F_GETLK`
//! shows it and changes nothing.
//!
//! Owns: a descriptor is never closed, because closing one drops all POSIX locks of the process on
//! that file, those of SQLite too. So each file is opened once.

use parking_lot::Mutex;
use rustix::process::{Flock, FlockOffsetType, FlockType, fcntl_getlk};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A file that stays open until the process ends: device, inode, descriptor.
type Kept = (u64, u64, &'static File);

static KEPT: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

/// Opens a file for the rest of the process, or returns the descriptor that it has.
///
/// # Errors
/// The file system's error.
pub(super) fn kept(path: &Path) -> io::Result<&'static File> {
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

/// Returns the kind of lock that another process holds in a range: its start and its length. None
/// also if the file system does not answer.
pub(super) fn locked(file: &File, (start, length): (u64, u64)) -> Option<FlockType> {
    let wanted = Flock {
        start,
        length,
        pid: None,
        typ: FlockType::WriteLock,
        offset_type: FlockOffsetType::Set,
    };
    fcntl_getlk(file, &wanted).ok().flatten().map(|lock| lock.typ)
}
