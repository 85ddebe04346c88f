//! Which snapshots and chunks go.
//!
//! Arrives: how many snapshots to keep. Leaves: what was removed, or with a dry run what would be.
//! Owns: nothing that a kept snapshot or a running save uses is removed. Manifests go first, chunks
//! later, so a crash leaves chunks that the next run removes.
//!
//! A running save has a *marker* in the store, renewed every minute; one that was not renewed for
//! an hour is void. The save puts it there before it looks at what is stored, and looks again
//! before it writes its manifest.

use crate::catalog;
use crate::chunk::{self, ChunkId};
use crate::error::SnapshotError;
use crate::manifest::SnapshotId;
use crate::name::Name;
use crate::store::Retrying;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use std::collections::HashSet;

/// The interval of renewing a marker.
pub(crate) const MARKER_RENEWED_MS: i64 = 60_000;
/// A marker that was not renewed for this time is void: its save was killed.
const MARKER_VOID_MS: i64 = 3_600_000;
const FOLDER: &str = "saving/";
/// The longest content of a marker.
const MARKER_BYTES_MAX: usize = 100;
/// Chunks that are removed before markers are looked at again.
const STEP: usize = 100;
/// Requests at the same time.
const PARALLEL: usize = 8;

/// Returns the name of the marker of a save.
pub(crate) fn marker(node: u64, created_ms: i64) -> Name {
    // Numbers are a name.
    Name::new(format!("{FOLDER}{node}-{}", created_ms.max(0))).unwrap_or_else(|| unreachable!())
}

/// What was removed, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The snapshots that are kept, newest first.
    pub kept: Vec<SnapshotId>,
    /// The removed snapshots.
    pub removed: Vec<SnapshotId>,
    /// The removed chunks.
    pub chunks: u64,
    /// Their stored bytes, as far as the store tells them.
    pub bytes: u64,
    /// Nothing was removed, because this save may be running.
    pub running: Option<String>,
}

/// Keeps the newest `keep` snapshots (at least one), and removes the others and all chunks that no
/// kept snapshot uses. Removes nothing while a save runs.
///
/// # Errors
/// The store's error; a kept manifest that cannot be read, because then it is not known which
/// chunks it needs.
pub async fn prune(
    store: &Retrying,
    keep: usize,
    dry_run: bool,
    now_ms: i64,
) -> Result<Pruned, SnapshotError> {
    let mut ids = catalog::ids(store).await?;
    let removed = ids.split_off(keep.max(1).min(ids.len()));
    let mut pruned = Pruned { kept: ids, ..Pruned::default() };
    pruned.running = running(store, now_ms).await?;
    if pruned.running.is_some() {
        return Ok(pruned);
    }
    let mut needed = HashSet::new();
    for id in &pruned.kept {
        needed.extend(catalog::read(store, id).await?.chunks);
    }
    if !dry_run {
        for id in removed.iter().rev() {
            store.delete(&id.object()).await?;
        }
    }
    pruned.removed = removed;
    let entries = store.list(chunk::FOLDER).await?;
    let unneeded: Vec<_> = entries
        .into_iter()
        .filter(|entry| ChunkId::of_object(&entry.name).is_some_and(|id| !needed.contains(&id)))
        .collect();
    for step in unneeded.chunks(STEP) {
        if !dry_run {
            pruned.running = running(store, now_ms).await?;
            if pruned.running.is_some() {
                break;
            }
            // Owned, so that the future may move between threads.
            stream::iter(step.to_vec())
                .map(|entry| async move { store.delete(&entry.name).await })
                .buffer_unordered(PARALLEL)
                .try_collect::<()>()
                .await?;
        }
        pruned.chunks += step.len() as u64;
        pruned.bytes += step.iter().filter_map(|entry| entry.bytes).sum::<u64>();
    }
    Ok(pruned)
}

/// Returns the marker of a save that may be running. Removes void ones.
async fn running(store: &Retrying, now_ms: i64) -> Result<Option<String>, SnapshotError> {
    for entry in store.list(FOLDER).await? {
        let Some(content) = store.get(&entry.name, MARKER_BYTES_MAX).await? else { continue };
        let renewed_ms = std::str::from_utf8(&content).ok().and_then(|text| text.parse().ok());
        if renewed_ms.is_some_and(|renewed_ms: i64| now_ms - renewed_ms < MARKER_VOID_MS) {
            return Ok(Some(entry.name.to_string()));
        }
        store.delete(&entry.name).await?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::fetch;
    use crate::testing::{database, memory, take};
    use bytes::Bytes;

    #[tokio::test]
    async fn old_snapshots_and_the_chunks_that_only_they_use_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let db = database(&path, 4);
        let (memory, store) = memory();
        let mut ids = Vec::new();
        for now_ms in 1..=4 {
            db.execute("UPDATE note SET body = randomblob(4000) WHERE id % 4 = ?1", [now_ms - 1])
                .unwrap();
            ids.insert(0, take(&store, &path, now_ms).await.id);
        }
        let before = memory.names("");
        let planned = prune(&store, 2, true, 5).await.unwrap();
        assert_eq!(memory.names(""), before, "a dry run removes nothing");
        let pruned = prune(&store, 2, false, 5).await.unwrap();
        assert_eq!(pruned, planned);
        assert_eq!((&pruned.kept[..], &pruned.removed[..]), (&ids[..2], &ids[2..]));
        assert!(pruned.chunks > 0 && pruned.bytes > 0);
        assert_eq!(before.len() as u64, memory.names("").len() as u64 + pruned.chunks + 2);
        for id in &ids[..2] {
            let found = catalog::find(&store, Some(id.as_str())).await.unwrap();
            fetch(&store, &found, dir.path(), &Default::default()).await.unwrap();
        }
        let again = prune(&store, 2, false, 5).await.unwrap();
        assert_eq!((again.chunks, again.removed.len()), (0, 0));
        assert_eq!(prune(&store, 0, false, 5).await.unwrap().kept, ids[..1], "one stays");
    }

    #[tokio::test]
    async fn nothing_goes_while_a_save_runs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let db = database(&path, 1);
        let (memory, store) = memory();
        take(&store, &path, 1).await;
        db.execute_batch("UPDATE note SET body = randomblob(4000)").unwrap();
        take(&store, &path, 2).await;
        let marker = marker(7, 3);
        let running = |renewed_ms: i64| {
            let body = Bytes::from(renewed_ms.to_string());
            memory.objects.lock().unwrap().insert(marker.clone(), body);
        };
        running(3);
        let pruned = prune(&store, 1, false, 3 + MARKER_VOID_MS - 1).await.unwrap();
        assert_eq!(pruned.running.as_deref(), Some(marker.as_str()));
        assert_eq!(catalog::ids(&store).await.unwrap().len(), 2);
        let pruned = prune(&store, 1, false, 3 + MARKER_VOID_MS).await.unwrap();
        assert!(pruned.running.is_none() && pruned.chunks > 0);
        assert_eq!(memory.names(FOLDER), [], "the void marker is gone");
    }

    #[tokio::test]
    async fn a_kept_manifest_that_cannot_be_read_keeps_all_chunks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let db = database(&path, 1);
        let (memory, store) = memory();
        take(&store, &path, 1).await;
        db.execute_batch("UPDATE note SET body = 'x'").unwrap();
        let newest = take(&store, &path, 2).await.id;
        memory.objects.lock().unwrap().insert(newest.object(), Bytes::from_static(b"{}"));
        let before = memory.names("");
        assert!(prune(&store, 1, false, 3).await.is_err());
        assert_eq!(memory.names(""), before);
    }
}
