//! Detects that the database's files are no longer the ones that were opened.
//!
//! Arrives: the path. Leaves: nothing, or the reason to stop. Owns: the node never writes to a file
//! that is no longer the application's database (deleted, renamed, replaced by a backup), nor next
//! to a WAL that was deleted. In that case connections stay open until the process ends: on its
//! last close SQLite copies the WAL into the database and deletes it *by name*, and that name may
//! belong to another database by then. The guard only looks at names, because opening and closing
//! one of these files would drop SQLite's locks on it (docs/design.md section 7).

use crate::clock;
use crate::db::file_locks::FileLocks;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Device and inode of a file.
type FileIdentity = (u64, u64);

/// A process that opens the database is seen without a lock on the -shm for less time.
const OPENING_MS: u64 = 1_500;
/// The time between two looks at a start.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
const MOUNTED: &str = "opened by a process that does not use the -wal and -shm beside it (is only \
    the file mounted into a container? Mount its directory)";

/// The files as they were when the database was opened.
#[derive(Debug)]
pub(super) struct FileGuard {
    files: Vec<(PathBuf, FileIdentity)>,
    locks: FileLocks,
    /// Since when another process uses the database without its -wal, monotone milliseconds; 0: it
    /// does not.
    mounted_ms: AtomicU64,
}

/// Refuses a database in WAL mode that another process uses with another -wal.
///
/// # Errors
/// [`FilesReplaced`].
pub(super) async fn refuse_other_wal(database: &Path) -> Result<(), FilesReplaced> {
    let Ok(locks) = FileLocks::of(database) else { return Ok(()) };
    let begin_ms = clock::mono_ms();
    while locks.is_used_without_wal() {
        if clock::mono_ms() >= begin_ms + OPENING_MS {
            return Err(FilesReplaced { path: database.to_owned(), what: MOUNTED });
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// A file of the database was deleted or replaced.
#[derive(Debug, thiserror::Error)]
#[error("{path} was {what}: stopped, so that nothing is written to the wrong file",
    path = path.display())]
pub struct FilesReplaced {
    path: PathBuf,
    what: &'static str,
}

fn identity(path: &Path) -> io::Result<FileIdentity> {
    std::fs::metadata(path).map(|m| (m.dev(), m.ino()))
}

impl FileGuard {
    /// Records the database and its WAL. A connection in WAL mode must be open and have read.
    ///
    /// # Errors
    /// The file system's error.
    pub(super) fn new(database: &Path) -> io::Result<Self> {
        let mut wal = database.as_os_str().to_owned();
        wal.push("-wal");
        let files = [database.to_owned(), PathBuf::from(wal)];
        let files = files
            .into_iter()
            .map(|path| identity(&path).map(|id| (path, id)))
            .collect::<io::Result<_>>()?;
        Ok(Self { files, locks: FileLocks::of(database)?, mounted_ms: AtomicU64::new(0) })
    }

    /// Checks that no other process uses the database with another -wal.
    fn check_locks(&self) -> Result<(), FilesReplaced> {
        if !self.locks.is_used_without_wal() {
            self.mounted_ms.store(0, Ordering::Relaxed);
            return Ok(());
        }
        let now_ms = clock::mono_ms().max(1);
        let first =
            self.mounted_ms.compare_exchange(0, now_ms, Ordering::Relaxed, Ordering::Relaxed);
        match (first, self.files.first()) {
            (Err(since_ms), Some((path, _))) if now_ms >= since_ms + OPENING_MS => {
                Err(FilesReplaced { path: path.clone(), what: MOUNTED })
            }
            _ => Ok(()),
        }
    }

    /// Checks that the names still lead to the same files.
    ///
    /// # Errors
    /// [`FilesReplaced`].
    pub(super) fn check(&self) -> Result<(), FilesReplaced> {
        for (path, known) in &self.files {
            match identity(path) {
                Ok(found) if found == *known => {}
                Ok(_) => {
                    return Err(FilesReplaced {
                        path: path.clone(),
                        what: "replaced by another file while the node was running",
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(FilesReplaced {
                        path: path.clone(),
                        what: "deleted or renamed while the node was running",
                    });
                }
                // A directory that is unreadable for a moment proves nothing.
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot check the database's \
                        file")
                }
            }
        }
        self.check_locks()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleted_and_replaced_files_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (db, wal) = (dir.path().join("a.db"), dir.path().join("a.db-wal"));
        std::fs::write(&db, "1").unwrap();
        std::fs::write(&wal, "1").unwrap();
        let guard = FileGuard::new(&db).unwrap();
        std::fs::write(&db, "changed in place").unwrap();
        guard.check().unwrap();
        std::fs::remove_file(&wal).unwrap();
        assert!(guard.check().unwrap_err().to_string().contains("a.db-wal was deleted"));
        std::fs::write(&wal, "2").unwrap();
        std::fs::write(dir.path().join("b"), "3").unwrap();
        let guard = FileGuard::new(&db).unwrap();
        std::fs::rename(dir.path().join("b"), &db).unwrap();
        assert!(guard.check().unwrap_err().to_string().contains("a.db was replaced"));
    }
}
