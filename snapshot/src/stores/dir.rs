//! A local directory, or one that the operating system mounts, as a store.
//!
//! Owns: an object is written under a temporary name, synced and renamed, so it is there whole or
//! not at all. A crash leaves a file `.part-*`, which no name of an object is.

use super::part;
use crate::blocking;
use crate::name::Name;
use crate::store::{Entry, Store, StoreError, StoreErrorKind};
use async_trait::async_trait;
use bytes::Bytes;
use std::fs::File;
use std::io::{Error, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The folders below the root, at most: `chunk/ab/`.
const DEPTH_MAX: usize = 4;

/// Objects as files below a directory.
#[derive(Clone, Debug)]
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    /// Returns the store in a directory, which is created with the first object.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.root.join(name.as_str())
    }
}

#[async_trait]
impl Store for Directory {
    fn place(&self) -> String {
        format!("directory {}", self.root.display())
    }

    async fn put(&self, name: &Name, body: Bytes) -> Result<(), StoreError> {
        let path = self.path(name);
        blocking(move || write(&path, &body)).await.map_err(|error| classify(&error))
    }

    async fn get(
        &self,
        name: &Name,
        range: Option<Range<u64>>,
        bytes_max: usize,
    ) -> Result<Bytes, StoreError> {
        let path = self.path(name);
        let read = blocking(move || read(&path, range, bytes_max)).await;
        let body = read.map_err(|error| classify(&error))?;
        if body.len() > bytes_max {
            let reason = format!("it has more than {bytes_max} bytes");
            return Err(StoreError::new(StoreErrorKind::TooLarge, reason));
        }
        Ok(body.into())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        let root = self.root.clone();
        // Only the folder that the prefix names is read.
        let folder = prefix.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned());
        let walked = blocking(move || {
            let mut found = Vec::new();
            walk(&root.join(&folder), &folder, DEPTH_MAX, &mut found).map(|()| found)
        });
        let mut found = walked.await.map_err(|error| classify(&error))?;
        found.retain(|entry| entry.name.as_str().starts_with(prefix));
        Ok(found)
    }

    async fn delete(&self, name: &Name) -> Result<(), StoreError> {
        let path = self.path(name);
        match blocking(move || std::fs::remove_file(path)).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(classify(&error)),
            _ => Ok(()),
        }
    }

    async fn sweep(&self) -> Result<u64, StoreError> {
        let root = self.root.clone();
        let swept = blocking(move || {
            let mut left = Vec::new();
            find_left(&root, DEPTH_MAX, &mut left)?;
            left.iter().try_for_each(std::fs::remove_file).map(|()| left.len() as u64)
        });
        swept.await.map_err(|error| classify(&error))
    }
}

fn find_left(folder: &Path, depth: usize, left: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            // Folders of other programs are not ours to read.
            if depth > 0 && name.to_str().and_then(Name::new).is_some() {
                find_left(&entry.path(), depth - 1, left)?;
            }
        } else if name.to_str().is_some_and(part::is_left) {
            left.push(entry.path());
        }
    }
    Ok(())
}

fn write(path: &Path, body: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().ok_or(ErrorKind::InvalidInput)?;
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new().prefix(&part::prefix()).tempfile_in(folder)?;
    file.write_all(body)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|failed| failed.error)?;
    File::open(folder)?.sync_all()
}

fn read(path: &Path, range: Option<Range<u64>>, bytes_max: usize) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut most = bytes_max as u64 + 1;
    if let Some(range) = range {
        file.seek(SeekFrom::Start(range.start))?;
        most = most.min(range.end.saturating_sub(range.start));
    }
    let mut body = Vec::new();
    file.take(most).read_to_end(&mut body)?;
    Ok(body)
}

fn walk(folder: &Path, prefix: &str, depth: usize, found: &mut Vec<Entry>) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let Ok(last) = entry.file_name().into_string() else { continue };
        let name = if prefix.is_empty() { last } else { format!("{prefix}/{last}") };
        let Some(checked) = Name::new(name.as_str()) else { continue };
        // A file may be removed while the folder is read.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() && depth > 0 {
            walk(&entry.path(), &name, depth - 1, found)?;
        } else if metadata.is_file() {
            found.push(Entry { name: checked, bytes: Some(metadata.len()) });
        }
    }
    Ok(())
}

fn classify(error: &Error) -> StoreError {
    let kind = match error.kind() {
        ErrorKind::NotFound => StoreErrorKind::NotFound,
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => StoreErrorKind::Denied,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreErrorKind::Full,
        // A mounted directory whose server is away.
        ErrorKind::Interrupted | ErrorKind::TimedOut | ErrorKind::StaleNetworkFileHandle => {
            StoreErrorKind::Passing
        }
        _ => StoreErrorKind::Lasting,
    };
    StoreError::new(kind, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[tokio::test]
    async fn objects_are_written_read_listed_and_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let store = Directory::new(dir.path().join("new/store"));
        assert_eq!(store.list("").await.unwrap(), []);
        let (a, b) = (name("chunk/ab/ab12"), name("manifest/1.json"));
        store.put(&a, Bytes::from_static(b"first")).await.unwrap();
        store.put(&a, Bytes::from_static(b"content")).await.unwrap();
        store.put(&b, Bytes::new()).await.unwrap();
        let get = async |range, most| store.get(&a, range, most).await;
        assert_eq!(get(None, 7).await.unwrap(), "content");
        assert_eq!(get(Some(3..5), 7).await.unwrap(), "te");
        assert_eq!(get(Some(5..99), 7).await.unwrap(), "nt");
        assert_eq!(get(None, 6).await.unwrap_err().kind, StoreErrorKind::TooLarge);
        // What a crash or another program leaves is no object. An old part is removed.
        let part = |ms: u64| dir.path().join(format!("new/store/chunk/ab/.part-{ms}-x"));
        let young = dir.path().join("new/store/chunk").join(part::name());
        for path in [part(1), young.clone()] {
            std::fs::write(path, "half").unwrap();
        }
        assert_eq!(store.sweep().await.unwrap(), 1);
        assert!(young.exists() && !part(1).exists());
        std::fs::write(dir.path().join("new/store/chunk/ab/.part-x"), "half").unwrap();
        std::fs::write(dir.path().join("new/store/a b"), "x").unwrap();
        let listed = async |prefix| {
            let mut names = Vec::new();
            for entry in store.list(prefix).await.unwrap() {
                names.push((entry.name.to_string(), entry.bytes.unwrap()));
            }
            names.sort();
            names
        };
        assert_eq!(listed("chunk/").await, [("chunk/ab/ab12".to_owned(), 7)]);
        assert_eq!(listed("chunk/ab/ab").await.len(), 1);
        assert_eq!(listed("").await.len(), 2);
        store.delete(&a).await.unwrap();
        store.delete(&a).await.unwrap();
        assert_eq!(get(None, 7).await.unwrap_err().kind, StoreErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_place_that_cannot_be_written_is_an_error_that_lasts() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let store = Directory::new(dir.path().join("file"));
        let error = store.put(&name("a/b"), Bytes::new()).await.unwrap_err();
        assert_ne!(error.kind, StoreErrorKind::Passing, "{error}");
    }
}
