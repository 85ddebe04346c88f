//! Checks the database file before SQLite opens it, so that each defect gets a clear error of its
//! own.
//!
//! Arrives: a path. Leaves: [`FileFacts`], or why the file is unusable. Owns: nothing changes. It
//! opens and closes the file itself, which drops every POSIX lock that this process holds on it:
//! **only call it before SQLite opens the file.**

use super::connection::DatabaseError;
use rustix::fs::{Access, access};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const HEADER_BYTES: usize = 100;
/// SQLite's own bounds.
const PAGE_BYTES: std::ops::RangeInclusive<u32> = 512..=65_536;

/// Why the file is unusable.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// There is nothing at this path.
    #[error("no such database: {path}")]
    NoFile {
        /// The path.
        path: PathBuf,
    },
    /// A directory.
    #[error("{path} is a directory, not a database")]
    IsDirectory {
        /// The path.
        path: PathBuf,
    },
    /// A device, a socket, a pipe.
    #[error("{path} is not an ordinary file")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// No permission to read.
    #[error("cannot read {path}: {error}")]
    NotReadable {
        /// The database, or its -wal or -shm.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// No permission to write, or a read-only file system.
    #[error("cannot write {path}: {error}")]
    NotWritable {
        /// The database, or its -wal or -shm.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The directory is not writable. SQLite keeps -wal and -shm there, and we keep our lock.
    #[error("cannot create files in the directory {directory} of the database: {error}")]
    DirectoryNotWritable {
        /// The directory.
        directory: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The first 16 bytes are not SQLite's.
    #[error("{path} is not an SQLite database, or it is encrypted")]
    NotADatabase {
        /// The path.
        path: PathBuf,
    },
    /// Shorter than its header says.
    #[error("{path} is damaged: it has {found} bytes, its header promises {expected}")]
    Truncated {
        /// The path.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// What it should be at least.
        expected: u64,
    },
    /// The header holds a page size that SQLite does not have.
    #[error("{path} is damaged: its header gives a page size of {found}")]
    PageSize {
        /// The path.
        path: PathBuf,
        /// The page size.
        found: u32,
    },
}

impl PreflightError {
    /// A remedy for people.
    pub fn hint(&self) -> String {
        match self {
            Self::NoFile { path } => format!(
                "check the path (--db, or db_path in the configuration); let the application \
                create the database first, or: sqlite3 '{}' VACUUM",
                path.display()
            ),
            Self::IsDirectory { .. } | Self::NotAFile { .. } => {
                "give the path of the database file itself (--db, or db_path)".to_owned()
            }
            Self::NotReadable { path, .. } | Self::NotWritable { path, .. } => format!(
                "run harmonylite as the user that owns the database, or give it read and write \
                permission: ls -l '{}'",
                path.display()
            ),
            Self::DirectoryNotWritable { directory, .. } => {
                format!(
                    "SQLite creates its -wal and -shm there: give this user write permission: ls \
                    -ld '{}'",
                    directory.display()
                )
            }
            Self::NotADatabase { .. } => {
                "check the path; an encrypted database (SQLCipher, SEE) cannot be replicated"
                    .to_owned()
            }
            Self::Truncated { .. } | Self::PageSize { .. } => {
                "restore the file from a backup; `sqlite3 FILE .recover` may save what is left"
                    .to_owned()
            }
        }
    }
}

/// The facts from the file's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileFacts {
    /// No bytes yet: a new database.
    pub empty: bool,
    /// Bytes in the file.
    pub bytes: u64,
    /// Bytes in a page; 0 if empty.
    pub page_bytes: u32,
    /// The header says WAL.
    pub wal: bool,
    /// Text is stored as UTF-16.
    pub utf16: bool,
}

impl FileFacts {
    /// Refuses text in UTF-16.
    ///
    /// # Errors
    /// [`DatabaseError::Encoding`].
    pub fn check_encoding(self, path: &Path) -> Result<(), DatabaseError> {
        if self.utf16 {
            let found = "UTF-16".to_owned();
            return Err(DatabaseError::Encoding { path: path.to_owned(), found });
        }
        Ok(())
    }
}

/// Checks the file at a path.
///
/// # Errors
/// [`PreflightError`].
pub fn check(path: &Path) -> Result<FileFacts, PreflightError> {
    check_with(path, &|file, how| access(file, how).map_err(Into::into))
}

/// `<file><suffix>`, as SQLite names its -wal and -shm.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The check of permissions is a parameter, because tests may run as root, which is refused
/// nothing.
fn check_with(
    path: &Path,
    allowed: &dyn Fn(&Path, Access) -> std::io::Result<()>,
) -> Result<FileFacts, PreflightError> {
    let owned = || path.to_owned();
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
            PreflightError::NoFile { path: owned() }
        }
        _ => PreflightError::NotReadable { path: owned(), error },
    })?;
    if metadata.is_dir() {
        return Err(PreflightError::IsDirectory { path: owned() });
    }
    if !metadata.is_file() {
        return Err(PreflightError::NotAFile { path: owned() });
    }
    // SQLite follows links before it names its -wal.
    let real = path
        .canonicalize()
        .map_err(|error| PreflightError::NotReadable { path: owned(), error })?;
    for file in [real.clone(), beside(&real, "-wal"), beside(&real, "-shm")] {
        // The last connection to close takes them away, perhaps at this moment.
        let gone =
            |error: &std::io::Error| file != real && error.kind() == std::io::ErrorKind::NotFound;
        match allowed(&file, Access::READ_OK) {
            Err(error) if gone(&error) => continue,
            Err(error) => return Err(PreflightError::NotReadable { path: file, error }),
            Ok(()) => {}
        }
        match allowed(&file, Access::WRITE_OK) {
            Err(error) if !gone(&error) => {
                return Err(PreflightError::NotWritable { path: file, error });
            }
            _ => {}
        }
    }
    let directory = real.parent().unwrap_or(Path::new("/"));
    allowed(directory, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| {
        PreflightError::DirectoryNotWritable { directory: directory.to_owned(), error }
    })?;
    match header(path, &real) {
        // A VACUUM may have made it shorter between two of our looks.
        Err(PreflightError::Truncated { .. }) => header(path, &real),
        result => result,
    }
}

fn header(path: &Path, real: &Path) -> Result<FileFacts, PreflightError> {
    let path = path.to_owned();
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    let read =
        File::open(real).and_then(|file| file.take(HEADER_BYTES as u64).read_to_end(&mut bytes));
    if let Err(error) = read {
        return Err(PreflightError::NotReadable { path, error });
    }
    if bytes.is_empty() {
        return Ok(FileFacts { empty: true, ..FileFacts::default() });
    }
    if !bytes.starts_with(&MAGIC[..bytes.len().min(MAGIC.len())]) {
        return Err(PreflightError::NotADatabase { path });
    }
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        let found = bytes.len() as u64;
        return Err(PreflightError::Truncated { path, found, expected: HEADER_BYTES as u64 });
    };
    let number = |at: usize| {
        u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let page_bytes = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        other => u32::from(other),
    };
    if !page_bytes.is_power_of_two() || !PAGE_BYTES.contains(&page_bytes) {
        return Err(PreflightError::PageSize { path, found: page_bytes });
    }
    // The page count is valid only if it was written with the present change counter. With a WAL
    // the missing pages may be there: SQLite repeats an interrupted checkpoint.
    let wal_bytes = std::fs::metadata(beside(real, "-wal")).map_or(0, |m| m.len());
    let journal = beside(real, "-journal").exists();
    let pages = if number(24) == number(92) && wal_bytes == 0 && !journal { number(28) } else { 1 };
    let expected = u64::from(pages.max(1)) * u64::from(page_bytes);
    // Only now: the last connection to close copies the WAL into the file before it removes it.
    let found = match std::fs::metadata(real) {
        Ok(metadata) => metadata.len(),
        Err(error) => return Err(PreflightError::NotReadable { path, error }),
    };
    if found < expected {
        return Err(PreflightError::Truncated { path, found, expected });
    }
    Ok(FileFacts {
        empty: false,
        bytes: found,
        page_bytes,
        wal: header[19] == 2,
        utf16: number(56) > 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;
    use std::io::ErrorKind;

    struct Place {
        dir: tempfile::TempDir,
        db: PathBuf,
    }

    fn place() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().canonicalize().unwrap().join("app.db");
        Connection::open(&db)
            .unwrap()
            .execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(20000));")
            .unwrap();
        Place { dir, db }
    }

    fn damaged(change: impl Fn(&mut Vec<u8>)) -> PreflightError {
        let place = place();
        let mut bytes = std::fs::read(&place.db).unwrap();
        change(&mut bytes);
        std::fs::write(&place.db, bytes).unwrap();
        check(&place.db).unwrap_err()
    }

    #[test]
    fn a_good_file_tells_its_facts() {
        let Place { dir, db } = place();
        let facts = check(&db).unwrap();
        assert_eq!(
            (facts.page_bytes, facts.wal, facts.empty, facts.utf16),
            (4096, false, false, false)
        );
        let open = Connection::open(&db).unwrap();
        open.execute_batch("PRAGMA journal_mode = WAL; INSERT INTO t VALUES (1);").unwrap();
        assert!(check(&db).unwrap().wal);
        let link = dir.path().join("link.db");
        std::os::unix::fs::symlink(&db, &link).unwrap();
        assert!(check(&link).unwrap().wal);
        let empty = dir.path().join("empty.db");
        std::fs::write(&empty, "").unwrap();
        assert!(check(&empty).unwrap().empty);
        let wide = dir.path().join("wide.db");
        Connection::open(&wide)
            .unwrap()
            .execute_batch(
                "PRAGMA encoding = 'UTF-16'; PRAGMA page_size = 65536; CREATE TABLE t (a);",
            )
            .unwrap();
        let facts = check(&wide).unwrap();
        assert_eq!((facts.page_bytes, facts.utf16), (65_536, true));
    }

    #[test]
    fn what_is_no_file_is_named_so() {
        let dir = tempfile::tempdir().unwrap();
        let missing = check(&dir.path().join("no.db")).unwrap_err();
        assert!(
            matches!(missing, PreflightError::NoFile { .. }) && missing.hint().contains("no.db")
        );
        assert!(matches!(check(dir.path()), Err(PreflightError::IsDirectory { .. })));
        assert!(matches!(check(Path::new("/dev/null")), Err(PreflightError::NotAFile { .. })));
    }

    #[test]
    fn damage_is_told_apart() {
        assert!(matches!(damaged(|b| b[0] = b'X'), PreflightError::NotADatabase { .. }));
        assert!(matches!(damaged(|b| *b = b"hello".to_vec()), PreflightError::NotADatabase { .. }));
        assert!(matches!(
            damaged(|b| b.truncate(50)),
            PreflightError::Truncated { expected: 100, .. }
        ));
        assert!(matches!(
            damaged(|b| b.truncate(8192)),
            PreflightError::Truncated { found: 8192, .. }
        ));
        assert!(matches!(damaged(|b| b[16] = 3), PreflightError::PageSize { found: 768, .. }));
    }

    /// A checkpoint that was interrupted is finished while we look, and the WAL removed.
    #[test]
    fn a_file_that_becomes_whole_meanwhile_is_not_damaged() {
        let Place { dir: _dir, db } = place();
        let whole = std::fs::read(&db).unwrap();
        std::fs::write(&db, &whole[..8192]).unwrap();
        std::fs::write(beside(&db, "-wal"), "pages").unwrap();
        let facts = check_with(&db, &|file: &Path, _| {
            if file.is_dir() {
                std::fs::write(&db, &whole)?;
                std::fs::remove_file(beside(&db, "-wal"))?;
            }
            Ok(())
        });
        assert_eq!(facts.unwrap().bytes, whole.len() as u64);
    }

    #[test]
    fn missing_permissions_name_the_file_or_the_directory() {
        let Place { dir: _dir, db } = place();
        std::fs::write(beside(&db, "-wal"), "").unwrap();
        let refuse = |name: &'static str, which: Access| {
            check_with(&db, &move |file: &Path, how: Access| {
                if file.ends_with(name) && how.contains(which) {
                    Err(ErrorKind::PermissionDenied.into())
                } else {
                    Ok(())
                }
            })
        };
        assert!(matches!(
            refuse("app.db", Access::READ_OK),
            Err(PreflightError::NotReadable { .. })
        ));
        assert!(matches!(
            refuse("app.db", Access::WRITE_OK),
            Err(PreflightError::NotWritable { .. })
        ));
        let wal = refuse("app.db-wal", Access::WRITE_OK).unwrap_err();
        assert!(wal.to_string().contains("app.db-wal") && !wal.hint().is_empty());
        let directory = check_with(&db, &|_, how| {
            if how.contains(Access::EXEC_OK) {
                Err(ErrorKind::ReadOnlyFilesystem.into())
            } else {
                Ok(())
            }
        });
        assert!(matches!(directory, Err(PreflightError::DirectoryNotWritable { .. })));
    }
}
