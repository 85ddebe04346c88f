//! The lock file next to a database, which allows one sidecar at a time.
//!
//! Arrives: the database's path. Leaves: a held lock, or its holder. Owns: the operating system
//! releases the lock when the process ends in any way. The file's content only serves people and
//! the search for the control socket.

use crate::db::preflight::beside;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The holder of the lock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Owner {
    /// The process id.
    pub pid: u32,
    /// The node id.
    pub node_id: u64,
    /// The control socket, which `harmonylite status` uses.
    pub socket: PathBuf,
}

/// Why the lock cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another sidecar holds the lock.
    #[error("another harmonylite already runs on {db}{}", who(.owner.as_ref()))]
    Running {
        /// The database.
        db: PathBuf,
        /// The holder, if it has announced itself.
        owner: Option<Owner>,
    },
    /// The file system refuses.
    #[error("cannot lock {path}: {error}")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

fn who(owner: Option<&Owner>) -> String {
    owner.map_or(String::new(), |o| format!(" (node {}, process {})", o.node_id, o.pid))
}

impl LockError {
    /// What a person can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Running { .. } => {
                "one sidecar serves all programs that use the database; to replace it, stop it \
                first"
            }
            Self::Io { .. } => {
                "if another user owns that file (a sidecar that ran as root and was killed), and \
                no sidecar runs, remove it; else check the permissions of its directory and the \
                free space on its disk"
            }
        }
    }
}

/// Returns the path of a database's lock file. Follows links, so that two names of one file have
/// one lock.
pub fn lock_path(db: &Path) -> PathBuf {
    beside(&db.canonicalize().unwrap_or_else(|_| db.to_owned()), "-harmonylite")
}

/// The lock, held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock of a database.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn acquire(db: &Path) -> Result<Self, LockError> {
        let path = lock_path(db);
        let io = |error| LockError::Io { path: path.clone(), error };
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(io)?;
            match file.try_lock() {
                // The holder removed the file between our open and our lock, so this lock is void.
                Ok(()) if !is_at(&file, &path) => {}
                Ok(()) => return Ok(Self { file, path }),
                Err(TryLockError::WouldBlock) => {
                    return Err(LockError::Running { db: db.to_owned(), owner: read_owner(file) });
                }
                Err(TryLockError::Error(error)) => return Err(io(error)),
            }
        }
    }

    /// Releases the lock and removes the file.
    pub fn remove(self) {
        // The lock is still held, so nobody else uses the file. A file that stays does no harm.
        let _ = std::fs::remove_file(&self.path);
    }

    /// Writes the holder into the file.
    ///
    /// # Errors
    /// The file system's error.
    pub fn announce(&mut self, owner: &Owner) -> Result<(), LockError> {
        let io = |error| LockError::Io { path: self.path.clone(), error };
        let text = serde_json::to_vec(owner).map_err(|e| io(e.into()))?;
        self.file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .and_then(|()| self.file.write_all(&text))
            .map_err(io)
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let id = |m: std::fs::Metadata| (m.dev(), m.ino());
    file.metadata().ok().map(id) == std::fs::metadata(path).ok().map(id)
}

/// Whether a sidecar runs on a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sidecar {
    /// No sidecar runs.
    Stopped,
    /// A sidecar runs; its holder, if it has announced itself.
    Running(Option<Owner>),
}

/// Checks whether a sidecar runs on a database. Creates nothing; holds a shared lock for a moment.
///
/// # Errors
/// [`LockError::Io`].
pub fn sidecar(db: &Path) -> Result<Sidecar, LockError> {
    let path = lock_path(db);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Sidecar::Stopped),
        Err(error) => return Err(LockError::Io { path, error }),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Sidecar::Stopped),
        Err(TryLockError::WouldBlock) => Ok(Sidecar::Running(read_owner(file))),
        Err(TryLockError::Error(error)) => Err(LockError::Io { path, error }),
    }
}

fn read_owner(mut file: File) -> Option<Owner> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sidecar_at_a_time_and_its_owner_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("app.db");
        std::fs::write(&db, "").unwrap();
        assert_eq!(sidecar(&db).unwrap(), Sidecar::Stopped);
        assert!(!lock_path(&db).exists(), "looking creates nothing");
        let mut lock = Lock::acquire(&db).unwrap();
        assert_eq!(sidecar(&db).unwrap(), Sidecar::Running(None));
        let owner = Owner { pid: 7, node_id: 3, socket: "/run/x.sock".into() };
        lock.announce(&Owner {
            socket: "/a/much/longer/path/than/the/next.sock".into(),
            ..owner.clone()
        })
        .unwrap();
        lock.announce(&owner).unwrap();
        assert_eq!(sidecar(&db).unwrap(), Sidecar::Running(Some(owner)));
        let link = dir.path().join("link.db");
        std::os::unix::fs::symlink(&db, &link).unwrap();
        let error = Lock::acquire(&link).unwrap_err();
        assert!(
            error.to_string().ends_with("(node 3, process 7)") && !error.hint().is_empty(),
            "{error}"
        );
        drop(lock);
        assert_eq!(sidecar(&db).unwrap(), Sidecar::Stopped);
        Lock::acquire(&db).unwrap().remove();
        assert!(!lock_path(&db).exists());
        let nowhere = Lock::acquire(Path::new("/no/such/dir/app.db")).unwrap_err();
        assert!(matches!(nowhere, LockError::Io { .. }) && !nowhere.hint().is_empty());
    }
}
