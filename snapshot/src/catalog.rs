//! The snapshots of a store.

use crate::error::SnapshotError;
use crate::manifest::{self, FORMAT, MANIFEST_BYTES_MAX, Manifest, SnapshotId, Unusable};
use crate::store::Retrying;

/// A snapshot that can be read.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its name.
    pub id: SnapshotId,
    /// Its content.
    pub manifest: Manifest,
    /// The next older one, for messages.
    pub older: Option<SnapshotId>,
}

/// Returns the ids of all snapshots, newest first.
///
/// # Errors
/// The store's error.
pub async fn ids(store: &Retrying) -> Result<Vec<SnapshotId>, SnapshotError> {
    let entries = store.list(manifest::FOLDER).await?;
    let mut ids: Vec<_> = entries.iter().filter_map(|e| SnapshotId::of_object(&e.name)).collect();
    ids.sort_unstable_by(|a, b| b.cmp(a));
    Ok(ids)
}

/// Reads and checks the manifest of a snapshot.
///
/// # Errors
/// The store's error; a manifest that cannot be used.
pub async fn read(store: &Retrying, id: &SnapshotId) -> Result<Manifest, SnapshotError> {
    let refused = |reason: &str| SnapshotError::Manifest {
        place: store.place(),
        snapshot: id.to_string(),
        reason: reason.to_owned(),
    };
    let bytes = store.get(&id.object(), MANIFEST_BYTES_MAX).await?;
    let bytes = bytes.ok_or_else(|| refused("is gone"))?;
    if !id.names(&bytes) {
        return Err(refused("is damaged: its content has another SHA-256"));
    }
    Manifest::decode(&bytes).map_err(|unusable| match unusable {
        Unusable::Damaged(reason) => refused(&reason),
        Unusable::Newer(found) => SnapshotError::NewerFormat {
            place: store.place(),
            snapshot: id.to_string(),
            found,
            known: FORMAT,
        },
    })
}

/// Returns the named snapshot, or the newest one. The beginning of an id names it, if no other
/// snapshot begins so.
///
/// # Errors
/// [`SnapshotError::None`], [`SnapshotError::Unknown`], or as [`read`].
pub async fn find(store: &Retrying, wanted: Option<&str>) -> Result<Found, SnapshotError> {
    let ids = ids(store).await?;
    if ids.is_empty() {
        return Err(SnapshotError::None { place: store.place() });
    }
    let index = match wanted {
        None => Some(0),
        Some(text) => {
            let mut named = (0..ids.len()).filter(|i| ids[*i].as_str().starts_with(text));
            named.next().filter(|_| named.next().is_none())
        }
    };
    let Some(index) = index else {
        return Err(SnapshotError::Unknown {
            place: store.place(),
            wanted: wanted.unwrap_or_default().to_owned(),
            present: ids.iter().take(10).map(ToString::to_string).collect(),
        });
    };
    let manifest = read(store, &ids[index]).await?;
    Ok(Found { id: ids[index].clone(), manifest, older: ids.get(index + 1).cloned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{database, memory, take};
    use bytes::Bytes;

    #[tokio::test]
    async fn snapshots_are_found_by_the_beginning_of_their_id() {
        let dir = tempfile::tempdir().unwrap();
        let (memory, store) = memory();
        assert!(matches!(find(&store, None).await, Err(SnapshotError::None { .. })));
        let path = dir.path().join("app.db");
        let db = database(&path, 0);
        let first = take(&store, &path, 1_000).await.id;
        db.execute_batch("INSERT INTO note (body) VALUES ('x')").unwrap();
        let second = take(&store, &path, 2_000).await.id;
        assert_eq!(ids(&store).await.unwrap(), [second.clone(), first.clone()]);
        let newest = find(&store, None).await.unwrap();
        assert_eq!((newest.id, newest.older), (second, Some(first.clone())));
        assert_eq!(find(&store, Some("19700101T000001")).await.unwrap().id, first);
        for wanted in ["19700101T", "2026", "../.."] {
            let error = find(&store, Some(wanted)).await.unwrap_err();
            assert!(error.to_string().contains(first.as_str()), "{error}");
        }
        // A manifest with another content than its name demands.
        let content = memory.objects.lock().unwrap()[&first.object()].clone();
        let other = [&content[..], b" "].concat();
        memory.objects.lock().unwrap().insert(first.object(), Bytes::from(other));
        let error = find(&store, Some(first.as_str())).await.unwrap_err();
        assert!(error.to_string().contains("SHA-256"), "{error}");
    }
}
