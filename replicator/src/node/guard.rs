//! Notices that the database's files are not the ones that were opened.
//!
//! Arrives: the path. Leaves: nothing, or the reason to stop. Owns: nothing is written to a file
//! that is not the application's database any more (deleted, replaced by a backup, renamed), and
//! nothing beside a WAL that was deleted under us. Then connections are not closed but left to the
//! end of the process: SQLite's last close copies the WAL into the database and deletes it *by
//! name*, and under that name there may be another database's by now. Only names are looked at:
//! opening and closing one of these files would drop SQLite's locks on it (DESIGN.md section 7).

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What identifies a file.
type Identity = (u64, u64);

/// The files as they were when the database was opened.
#[derive(Debug)]
pub(super) struct Guard {
    files: Vec<(PathBuf, Identity)>,
}

/// A file is gone, or another.
#[derive(Debug, thiserror::Error)]
#[error("{path} was {what} while the node ran: stopped before anything is written to the wrong \
    file", path = path.display())]
pub struct Replaced {
    path: PathBuf,
    what: &'static str,
}

fn identity(path: &Path) -> io::Result<Identity> {
    std::fs::metadata(path).map(|m| (m.dev(), m.ino()))
}

impl Guard {
    /// Remembers the database and its WAL. Called while a connection in WAL mode is open and has
    /// read something.
    ///
    /// # Errors
    /// What the file system says.
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

    /// Whether the names still stand for the same files.
    ///
    /// # Errors
    /// [`Replaced`].
    pub(super) fn check(&self) -> Result<(), Replaced> {
        for (path, known) in &self.files {
            match identity(path) {
                Ok(found) if found == *known => {}
                Ok(_) => {
                    return Err(Replaced { path: path.clone(), what: "replaced by another file" });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(Replaced { path: path.clone(), what: "deleted or renamed" });
                }
                // A directory that cannot be read for a moment says nothing.
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot look at the database's \
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
        let guard = Guard::new(&db).unwrap();
        std::fs::write(&db, "changed in place").unwrap();
        guard.check().unwrap();
        std::fs::remove_file(&wal).unwrap();
        assert!(guard.check().unwrap_err().to_string().contains("a.db-wal was deleted"));
        std::fs::write(&wal, "2").unwrap();
        std::fs::write(dir.path().join("b"), "3").unwrap();
        let guard = Guard::new(&db).unwrap();
        std::fs::rename(dir.path().join("b"), &db).unwrap();
        assert!(guard.check().unwrap_err().to_string().contains("a.db was replaced"));
    }
}
