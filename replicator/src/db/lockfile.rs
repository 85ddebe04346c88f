//! The file beside a database that says which sidecar works on it: one at a time.
//!
//! Arrives: the database's path. Leaves: a held lock, or who holds it. Owns: the operating system
//! gives the lock back when the process ends, however it ends; what the file says is only for
//! people and for finding the control socket.

use crate::db::preflight::beside;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Who holds the lock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Owner {
    /// Its process.
    pub pid: u32,
    /// Its node.
    pub node_id: u64,
    /// Where it answers, see `harmonylite status`.
    pub socket: PathBuf,
}

/// Why the lock cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another sidecar has it.
    #[error("another harmonylite already runs on {db}{}", who(.owner.as_ref()))]
    Running {
        /// The database.
        db: PathBuf,
        /// Which, if it has said so yet.
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
                "one sidecar serves every program that uses the database; stop the other one \
                first if it is to be replaced"
            }
            Self::Io { .. } => {
                "the lock lies beside the database: check the permissions of the directory, and \
                that its disk has room"
            }
        }
    }
}

/// Where the lock of a database is. Links are followed, so that two names of one file have one
/// lock.
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
                // Removed by its holder between our open and our lock: that lock is worth nothing.
                Ok(()) if !is_at(&file, &path) => {}
                Ok(()) => return Ok(Self { file, path }),
                Err(TryLockError::WouldBlock) => {
                    return Err(LockError::Running { db: db.to_owned(), owner: read_owner(file) });
                }
                Err(TryLockError::Error(error)) => return Err(io(error)),
            }
        }
    }

    /// Gives the lock back and leaves no file behind.
    pub fn remove(self) {
        // Still held here, so nobody else can be using the file. What cannot be removed does no
        // harm.
        let _ = std::fs::remove_file(&self.path);
    }

    /// Says who holds it.
    ///
    /// # Errors
    /// What the file system says.
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

/// Whether a sidecar runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sidecar {
    /// None does.
    Stopped,
    /// One does; who, if it has said so yet.
    Running(Option<Owner>),
}

/// Looks whether a sidecar runs on a database. Creates nothing; holds a shared lock for a moment.
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
    fn one_sidecar_at_a_time_and_it_says_who() {
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
