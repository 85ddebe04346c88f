//! From a snapshot in a store to a database file.
//!
//! Arrives: a snapshot. Leaves: a file with its image. Owns: a file that is in the way is never
//! overwritten, it moves aside with its journal; a file appears under its name only whole and
//! durable. A crash leaves a scratch directory, or the old file under its dated name and no new
//! one.

use crate::block::Placed;
use crate::blocking;
use crate::catalog::Found;
use crate::chunk::{self, STORED_BYTES_MAX};
use crate::error::SnapshotError;
use crate::progress::Progress;
use crate::scratch;
use crate::store::Retrying;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// Chunks that are fetched at the same time.
const PARALLEL: usize = 4;
/// The image in its scratch directory.
const IMAGE: &str = "image.db";
/// What `stat` counts blocks in, bytes.
const BLOCK: u64 = 512;
/// What SQLite keeps beside a database.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];

/// A fetched image in a scratch directory, which goes when this is dropped.
#[derive(Debug)]
pub struct Fetched {
    path: PathBuf,
    _dir: TempDir,
}

impl Fetched {
    /// Returns the file. It may be changed, as a database, before it is put in place.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the file to `to`, on the same file system. With `aside` a file that is there moves to
    /// the name that `aside` returns; without, it is an error. Returns where the old file is now.
    ///
    /// # Errors
    /// [`SnapshotError::Exists`]; the file system's error.
    pub fn put_in_place(
        self,
        to: &Path,
        aside: Option<&Path>,
    ) -> Result<Option<PathBuf>, SnapshotError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |error| SnapshotError::Io { action, path, error }
        };
        File::open(&self.path)
            .and_then(|file| file.sync_all())
            .map_err(failed("sync", &self.path))?;
        let moved = match aside {
            Some(aside) => move_aside(to, aside).map_err(failed("move aside", to))?,
            None => {
                check_free(to)?;
                false
            }
        };
        match std::fs::hard_link(&self.path, to) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(SnapshotError::Exists { path: to.to_owned() });
            }
            // A file system without hard links.
            Err(_) => {
                check_free(to)?;
                std::fs::rename(&self.path, to).map_err(failed("create", to))?;
            }
        }
        let parent = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(failed("sync", parent))?;
        Ok(aside.filter(|_| moved).map(Path::to_owned))
    }
}

/// Refuses a database, and what is left of one: SQLite would apply an old journal to a new file.
fn check_free(to: &Path) -> Result<(), SnapshotError> {
    let names = std::iter::once(to.to_owned()).chain(BESIDE.map(|suffix| beside(to, suffix)));
    match names.into_iter().find(|path| path.symlink_metadata().is_ok()) {
        Some(path) => Err(SnapshotError::Exists { path }),
        None => Ok(()),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Moves a database and its journals. The database first: without its journal it could be taken
/// for the whole, a journal alone cannot.
fn move_aside(from: &Path, to: &Path) -> std::io::Result<bool> {
    let mut moved = false;
    for suffix in std::iter::once("").chain(BESIDE) {
        match std::fs::rename(beside(from, suffix), beside(to, suffix)) {
            Ok(()) => moved = true,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(moved)
}

/// Fetches the image of a snapshot into a scratch directory in `dir`. Every chunk is checked.
///
/// # Errors
/// A missing or damaged chunk by name; the error of the store or the file system.
pub async fn fetch(
    store: &Retrying,
    snapshot: &Found,
    dir: &Path,
    progress: &Arc<Progress>,
) -> Result<Fetched, SnapshotError> {
    let dir = scratch::create(dir)?;
    let path = dir.path().join(IMAGE);
    let failed = |error| SnapshotError::Io { action: "write", path: path.clone(), error };
    let file = File::options().read(true).write(true).create_new(true).open(&path);
    let file = Arc::new(file.map_err(failed)?);
    file.set_len(snapshot.manifest.bytes()).map_err(failed)?;
    progress.expect(snapshot.manifest.bytes());
    stream::iter(snapshot.manifest.by_chunk().into_iter().enumerate())
        .filter(|(_, blocks)| std::future::ready(!blocks.is_empty()))
        .map(|(chunk, blocks)| fetch_chunk(store, snapshot, chunk, blocks, &file, &path, progress))
        .buffer_unordered(PARALLEL)
        .try_collect::<()>()
        .await?;
    drop(file);
    Ok(Fetched { path, _dir: dir })
}

/// Returns how far another process is that fetches an image into `dir`: bytes there, bytes in all.
/// The file has its full length from the start, and gets its blocks as the chunks arrive.
pub fn in_progress(dir: &Path) -> Option<(u64, u64)> {
    let image = scratch::newest(dir, IMAGE)?;
    Some(((image.blocks() * BLOCK).min(image.len()), image.len()))
}

async fn fetch_chunk(
    store: &Retrying,
    snapshot: &Found,
    chunk: usize,
    blocks: Vec<u32>,
    file: &Arc<File>,
    path: &Path,
    progress: &Progress,
) -> Result<(), SnapshotError> {
    let (file, block_bytes) = (Arc::clone(file), snapshot.manifest.block_bytes);
    let write = move |content: Vec<u8>, blocks: Vec<Placed>| {
        let runs = blocks.chunk_by(|a, b| a.index + 1 == b.index && a.range.end == b.range.start);
        let mut written = 0;
        for run in runs {
            let [first, ..] = run else { continue };
            let bytes = first.range.start..run.last().unwrap_or(first).range.end;
            let at = (first.index * block_bytes) as u64;
            written += bytes.len() as u64;
            file.write_all_at(&content[bytes], at)?;
        }
        Ok(written)
    };
    let (written, received) = read_chunk(store, snapshot, chunk, &blocks, write).await?;
    let failed = |error| SnapshotError::Io { action: "write", path: path.to_owned(), error };
    progress.add(written.map_err(failed)?, received);
    Ok(())
}

/// Fetches a chunk, and gives its content to `used` after the blocks of the image in it have been
/// checked, on a thread that may block. Returns what that returns, and the received bytes.
///
/// # Errors
/// A missing or damaged chunk by name; the error of the store.
pub(crate) async fn read_chunk<T: Send + 'static>(
    store: &Retrying,
    snapshot: &Found,
    chunk: usize,
    blocks: &[u32],
    used: impl FnOnce(Vec<u8>, Vec<Placed>) -> T + Send + 'static,
) -> Result<(T, u64), SnapshotError> {
    let id = snapshot.manifest.chunks[chunk];
    let older = || snapshot.older.as_ref().map(ToString::to_string);
    let stored = store.get(&id.object(), STORED_BYTES_MAX).await?;
    let stored = stored.ok_or_else(|| SnapshotError::MissingChunk {
        place: store.place(),
        snapshot: snapshot.id.to_string(),
        chunk: id.to_string(),
        older: older(),
    })?;
    let (received, blocks) = (stored.len() as u64, snapshot.manifest.placed(blocks));
    let checked = move || {
        let content = chunk::unpack(&stored)?;
        blocks.iter().try_for_each(|block| block.content(&content).map(|_| ()))?;
        Ok(used(content, blocks))
    };
    blocking(checked).await.map(|done| (done, received)).map_err(|reason| {
        SnapshotError::CorruptChunk {
            place: store.place(),
            snapshot: snapshot.id.to_string(),
            chunk: id.to_string(),
            reason,
            older: older(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog;
    use crate::testing::{database, memory, take};
    use rusqlite::Connection;

    fn count(path: &Path) -> i64 {
        let db = Connection::open(path).unwrap();
        db.query_row("SELECT count(*) FROM note", [], |r| r.get(0)).unwrap()
    }

    #[tokio::test]
    async fn a_snapshot_becomes_a_file_and_an_old_file_is_kept_with_its_journal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let db = database(&path, 2);
        let (_, store) = memory();
        take(&store, &path, 1_000).await;
        db.execute_batch("INSERT INTO note (body) VALUES ('only in the old file')").unwrap();
        let found = catalog::find(&store, None).await.unwrap();
        let fetched = fetch(&store, &found, dir.path(), &Default::default()).await.unwrap();
        let error = fetched.put_in_place(&path, None).unwrap_err();
        assert!(error.to_string().contains("app.db exists"), "{error}");
        assert_eq!(count(&path), 513);

        let progress = Arc::new(Progress::default());
        assert_eq!(in_progress(dir.path()), None);
        let fetched = fetch(&store, &found, dir.path(), &progress).await.unwrap();
        assert_eq!(progress.done_bytes(), found.manifest.bytes());
        let (done, total) = in_progress(dir.path()).unwrap();
        assert_eq!((done, total), (total, found.manifest.bytes()));
        assert!(progress.moved_bytes() > 0);
        let aside = dir.path().join("old.db");
        std::mem::forget(db);
        assert_eq!(fetched.put_in_place(&path, Some(&aside)).unwrap(), Some(aside.clone()));
        assert_eq!((count(&path), count(&aside)), (512, 513));
        let scratch = std::fs::read_dir(dir.path()).unwrap().flatten();
        let left = scratch.filter(|e| e.file_name().to_str().unwrap().starts_with('.')).count();
        assert_eq!(left, 0, "no scratch directory stays");
    }

    /// A journal without its database would be applied to the new file.
    #[tokio::test]
    async fn a_journal_that_is_left_is_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let (_, store) = memory();
        let path = dir.path().join("app.db");
        database(&path, 1);
        take(&store, &path, 1_000).await;
        let found = catalog::find(&store, None).await.unwrap();
        let to = dir.path().join("new.db");
        std::fs::write(dir.path().join("new.db-wal"), "left").unwrap();
        let fetched = fetch(&store, &found, dir.path(), &Default::default()).await.unwrap();
        assert!(matches!(fetched.put_in_place(&to, None), Err(SnapshotError::Exists { .. })));
        let fetched = fetch(&store, &found, dir.path(), &Default::default()).await.unwrap();
        let aside = dir.path().join("aside.db");
        fetched.put_in_place(&to, Some(&aside)).unwrap();
        assert_eq!(count(&to), 256);
        assert_eq!(std::fs::read(dir.path().join("aside.db-wal")).unwrap(), b"left");
    }

    #[tokio::test]
    async fn a_missing_or_damaged_chunk_is_named_with_the_older_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let (memory, store) = memory();
        let path = dir.path().join("app.db");
        let db = database(&path, 2);
        let older = take(&store, &path, 1_000).await.id;
        db.execute_batch("UPDATE note SET body = randomblob(9)").unwrap();
        let newest = take(&store, &path, 2_000).await.manifest.chunks[0];
        let found = catalog::find(&store, None).await.unwrap();
        let error = async || {
            let fetched = fetch(&store, &found, dir.path(), &Default::default()).await;
            let error = fetched.unwrap_err();
            let (text, hint) = (error.to_string(), error.hint());
            for part in [newest.to_string().as_str(), older.as_str()] {
                assert!(text.contains(part), "{part} in {text}");
            }
            assert!(hint.contains(older.as_str()), "{hint}");
            text
        };
        let object = newest.object();
        let mut body = memory.objects.lock().unwrap()[&object].to_vec();
        let middle = body.len() / 2;
        body[middle] ^= 1;
        memory.objects.lock().unwrap().insert(object.clone(), body.into());
        assert!(error().await.contains("damaged"));
        memory.objects.lock().unwrap().remove(&object);
        assert!(error().await.contains("missing"));
    }
}
