//! One sidecar for one database: the lock file beside it, which also says how to reach the one that holds it.
//!
//! The lock is the operating system's (it ends with the process, however that ends); the file stays. It holds JSON:
//! `{"pid":123,"node_id":1,"socket":"/path"}`.

use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Who holds the lock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Owner {
    /// Its process.
    pub pid: u32,
    /// Its node id.
    pub node_id: u64,
    /// Its control socket.
    pub socket: PathBuf,
}

/// Why the lock is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody has it.
    #[error("another harmonylite (process {pid}) runs on {database}: one sidecar for one database", pid = owner.pid, database = database.display())]
    Held {
        /// The database.
        database: PathBuf,
        /// Who.
        owner: Owner,
    },
    /// The file cannot be used.
    #[error("cannot use the lock file {path}: {error}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// The lock, held until it is dropped.
#[derive(Debug)]
pub struct DatabaseLock {
    file: File,
    path: PathBuf,
}

/// The lock file of a database.
pub fn lock_path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-harmonylite");
    name.into()
}

/// Takes the lock.
///
/// # Errors
/// [`LockError::Held`] with what the holder says of itself.
pub fn lock(database: &Path) -> Result<DatabaseLock, LockError> {
    let path = lock_path(database);
    let io = |error| LockError::Io { path: path.clone(), error };
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(DatabaseLock { file, path }),
        Err(TryLockError::WouldBlock) => Err(LockError::Held { database: database.to_owned(), owner: read_owner(&file) }),
        Err(TryLockError::Error(error)) => Err(io(error)),
    }
}

/// The sidecar that runs on a database now, if one does.
pub fn running(database: &Path) -> Option<Owner> {
    let file = OpenOptions::new().read(true).write(true).open(lock_path(database)).ok()?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Some(read_owner(&file)),
        _ => None,
    }
}

fn read_owner(file: &File) -> Owner {
    let mut text = String::new();
    // A holder that has not written yet says nothing of itself.
    let read = file.take(4_096).read_to_string(&mut text);
    read.ok().and_then(|_| serde_json::from_str(&text).ok()).unwrap_or_default()
}

impl DatabaseLock {
    /// Says who holds it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn announce(&mut self, owner: &Owner) -> Result<(), LockError> {
        let text = serde_json::to_vec(owner).unwrap_or_default();
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&text)
        };
        write(&mut self.file).map_err(|error| LockError::Io { path: self.path.clone(), error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_and_told_who_is_first() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("a b.db");
        assert_eq!(running(&database), None);
        let mut first = lock(&database).unwrap();
        let owner = Owner { pid: 7, node_id: 9, socket: "/x".into() };
        first.announce(&owner).unwrap();
        assert!(matches!(lock(&database), Err(LockError::Held { owner: found, .. }) if found == owner));
        assert_eq!(running(&database), Some(owner));
        drop(first);
        assert_eq!(running(&database), None);
        assert!(lock(&database).is_ok());
    }
}
