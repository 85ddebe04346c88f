//! Detects that the database's files are no longer the ones that were opened.
//!
//! Arrives: the path. Leaves: nothing, or the reason to stop. Owns: the node never writes to a file
//! that is no longer the application's database (deleted, renamed, replaced by a backup), nor next
//! to a WAL that was deleted. In that case connections stay open until the process ends: on its
//! last close SQLite copies the WAL into the database and deletes it *by name*, and that name may
//! belong to another database by then. The guard only looks at names, because opening and closing
//! one of these files would drop SQLite's locks on it (docs/design.md section 7).

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Device and inode of a file.
type FileIdentity = (u64, u64);

/// The files as they were when the database was opened.
#[derive(Debug)]
pub(super) struct FileGuard {
    files: Vec<(PathBuf, FileIdentity)>,
}

/// A file of the database was deleted or replaced.
#[derive(Debug, thiserror::Error)]
#[error("{path} was {what} while the node was running: stopped, so that nothing is written to the \
    wrong file", path = path.display())]
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
        Ok(Self { files })
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
                        what: "replaced by another file",
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(FilesReplaced { path: path.clone(), what: "deleted or renamed" });
                }
                // A directory that is unreadable for a moment proves nothing.
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot check the database's \
                        file")
                }
            }
        }
        Ok(())
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
