//! The proof that a snapshot restores: it is restored into a scratch file and checked there.
//!
//! Arrives: a snapshot. Leaves: what was checked, or what is wrong. Owns: success means that the
//! file has the content of the capture, is sound for SQLite and has as many rows as it had.

use crate::blocking;
use crate::catalog::Found;
use crate::chunk::ChunkId;
use crate::error::SnapshotError;
use crate::image::{database, row_counts};
use crate::manifest::{Manifest, content_digest};
use crate::progress::Progress;
use crate::restore::{Fetched, fetch};
use crate::store::Retrying;
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

/// What was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The bytes of the database.
    pub bytes: u64,
    /// Its tables.
    pub tables: u64,
    /// Their rows.
    pub rows: u64,
}

/// Restores a snapshot into a scratch directory in `dir`, and checks it.
///
/// # Errors
/// [`SnapshotError::Unsound`]; what [`fetch`] returns.
pub async fn verify(
    store: &Retrying,
    snapshot: &Found,
    dir: &Path,
    progress: &Arc<Progress>,
) -> Result<Verified, SnapshotError> {
    let fetched = fetch(store, snapshot, dir, progress).await?;
    let (place, found) = (store.place(), snapshot.clone());
    blocking(move || {
        let unsound = |reason| SnapshotError::Unsound {
            place: place.clone(),
            snapshot: found.id.to_string(),
            reason,
        };
        check(&fetched, &found.manifest)?.map_err(unsound)
    })
    .await
}

/// Checks a restored file; the inner error is the defect.
fn check(
    fetched: &Fetched,
    manifest: &Manifest,
) -> Result<Result<Verified, String>, SnapshotError> {
    let path = fetched.path();
    if digest(path, manifest.block_bytes)? != manifest.digest {
        return Ok(Err("the restored file has another digest than the captured one".to_owned()));
    }
    let inspect = || -> rusqlite::Result<Result<BTreeMap<String, u64>, String>> {
        let db = Connection::open(path)?;
        let found: String = db.query_row("PRAGMA integrity_check(1)", [], |r| r.get(0))?;
        if found != "ok" {
            return Ok(Err(format!("integrity_check: {found}")));
        }
        Ok(Ok(row_counts(&db)?))
    };
    let tables = match inspect().map_err(|error| database(path, error))? {
        Ok(tables) => tables,
        Err(defect) => return Ok(Err(defect)),
    };
    if let Some(defect) = differing(&manifest.tables, &tables) {
        return Ok(Err(defect));
    }
    Ok(Ok(Verified {
        bytes: manifest.bytes(),
        tables: tables.len() as u64,
        rows: tables.values().sum(),
    }))
}

fn digest(path: &Path, block_bytes: usize) -> Result<ChunkId, SnapshotError> {
    let failed = |error| SnapshotError::Io { action: "read", path: path.to_owned(), error };
    let mut file = File::open(path).map_err(failed)?;
    let mut blocks = Vec::new();
    let mut content = Vec::with_capacity(block_bytes);
    loop {
        content.clear();
        (&mut file).take(block_bytes as u64).read_to_end(&mut content).map_err(failed)?;
        if content.is_empty() {
            return Ok(content_digest(&blocks));
        }
        blocks.push(ChunkId::of(&content));
    }
}

fn differing(captured: &BTreeMap<String, u64>, restored: &BTreeMap<String, u64>) -> Option<String> {
    let rows = |tables: &BTreeMap<String, u64>, name: &str| {
        tables.get(name).map_or("no table".to_owned(), |rows| format!("{rows} rows"))
    };
    let mut names = captured.keys().chain(restored.keys());
    let name = names.find(|name| captured.get(*name) != restored.get(*name))?;
    let (was, is) = (rows(captured, name), rows(restored, name));
    Some(format!("table {name} had {was} when it was captured, and has {is} restored"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog;
    use crate::testing::{database, memory, take};

    #[tokio::test]
    async fn sound_snapshots_of_all_kinds_are_verified() {
        let dir = tempfile::tempdir().unwrap();
        let (_, store) = memory();
        for (name, mib) in [("empty", None), ("tiny", Some(0)), ("large", Some(3))] {
            let path = dir.path().join(name);
            std::fs::write(&path, "").unwrap();
            let _open = mib.map(|mib| database(&path, mib));
            let saved = take(&store, &path, 1_000).await;
            let found = catalog::find(&store, Some(saved.id.as_str())).await.unwrap();
            let verified = verify(&store, &found, dir.path(), &Default::default()).await.unwrap();
            let rows = verified.rows;
            assert!(rows >= mib.unwrap_or(0) as u64 * 256 && verified.bytes >= rows, "{name}");
            assert_eq!(verified.bytes, saved.manifest.bytes());
        }
    }

    /// The store is fine and the database was not.
    #[tokio::test]
    async fn a_damaged_database_is_not_a_proof() {
        let dir = tempfile::tempdir().unwrap();
        let (_, store) = memory();
        let path = dir.path().join("app.db");
        database(&path, 1)
            .execute_batch(
                "CREATE INDEX i ON note (length(body)); PRAGMA writable_schema = ON; DELETE FROM \
                sqlite_schema WHERE name = 'i'",
            )
            .unwrap();
        take(&store, &path, 1_000).await;
        let found = catalog::find(&store, None).await.unwrap();
        let verified = verify(&store, &found, dir.path(), &Default::default()).await;
        let error = verified.unwrap_err();
        assert!(matches!(error, SnapshotError::Unsound { .. }), "{error}");
        assert!(error.to_string().contains("never used"), "{error}");
    }

    #[test]
    fn a_table_with_other_rows_is_named() {
        let of = |rows: &[(&str, u64)]| {
            rows.iter().map(|(name, rows)| ((*name).to_owned(), *rows)).collect()
        };
        assert_eq!(differing(&of(&[("a", 1)]), &of(&[("a", 1)])), None);
        let text = differing(&of(&[("a", 1), ("b", 2)]), &of(&[("a", 1), ("b", 3)])).unwrap();
        assert!(text.contains("table b had 2 rows") && text.contains("has 3 rows"), "{text}");
        assert!(differing(&of(&[]), &of(&[("b", 3)])).unwrap().contains("no table"));
    }
}
