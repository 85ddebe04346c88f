//! The first start of `harmonylite run`: a node without a database file begins with a snapshot.
//!
//! Arrives: settings. Leaves: a restored file at `db_path`, or nothing. Owns: a file that exists is
//! never replaced, and no empty database is ever created. A crash leaves a scratch directory, and
//! the next start restores anew.

use super::{failed, restore, with_store};
use crate::cli::args::Global;
use crate::cli::exit::{Exit, Failure};
use crate::cli::show;
use crate::clock;
use crate::db::lockfile::Lock;
use crate::db::preflight::beside;
use crate::settings::{ClusterSettings, Settings, StoreSettings};
use anyhow::Result;
use harmonylite_snapshot::SnapshotError;
use harmonylite_snapshot::catalog::{Found, ids, read};
use harmonylite_snapshot::progress::Progress;
use harmonylite_snapshot::restore::{Fetched, fetch};
use harmonylite_snapshot::store::Retrying;
use std::path::Path;
use std::sync::Arc;

/// Restores the newest snapshot that can be used, if there is no database file yet. Does nothing
/// with `snapshot.enabled = false`, without a snapshot, and if the snapshots would be in an
/// embedded server that is alone and new. One with neighbours is started for the restore, and again
/// for the node.
///
/// # Errors
/// The store cannot be used or reached; every snapshot is damaged; another program restores.
pub(crate) fn begin(global: &Global, settings: &Settings) -> Result<()> {
    let to = &settings.db_path;
    let dir = restore::directory_of(to);
    if !settings.snapshot.enabled || to.symlink_metadata().is_ok() || !dir.is_dir() {
        return Ok(());
    }
    check_alone(to)?;
    restore_newest(global, settings, &dir).map_err(|error| {
        let failure = Failure::of(&error);
        let what =
            format!("no such database: {}; no snapshot restored: {}", to.display(), failure.what);
        let hint = format!(
            "{}; or let the application create the database first, or set snapshot.enabled = false",
            failure.hint
        );
        Failure::new(failure.exit, what, hint).into()
    })
}

/// Refuses what is left of a lost database: it may hold commits that are in no snapshot.
fn check_alone(to: &Path) -> Result<(), Failure> {
    let left = ["-wal", "-shm", "-journal"].map(|suffix| beside(to, suffix));
    match left.into_iter().find(|path| path.symlink_metadata().is_ok()) {
        None => Ok(()),
        Some(path) => Err(Failure::new(
            Exit::Database,
            format!("no such database: {}, but {} exists", to.display(), path.display()),
            "put the database back beside it; or, if it is lost, move that file away: the next \
            start restores the newest snapshot",
        )),
    }
}

/// Whether an embedded server can have no snapshot: it has no neighbours, and no files.
fn is_alone_and_new(settings: &Settings, cluster: &ClusterSettings, dir: &Path) -> bool {
    cluster.peers.is_empty()
        && cluster.leaf_servers.is_empty()
        && settings.nats.server_config.is_empty()
        && !dir.join("nats").exists()
}

/// Tries the stores in their order. An error only if none has a snapshot and one of them failed.
fn restore_newest(global: &Global, settings: &Settings, dir: &Path) -> Result<()> {
    let cluster = global.cluster()?;
    let mut first = None;
    for store in settings.snapshot.stores() {
        let is_embedded = store.store == "nats" && settings.nats.urls.is_empty();
        if is_embedded && is_alone_and_new(settings, &cluster, dir) {
            tracing::debug!(
                database = %settings.db_path.display(),
                "there is no database file, and the snapshots would be in an embedded nats-server \
                without neighbours, which has never run: no snapshot is restored from there"
            );
            continue;
        }
        // The store in the embedded server takes the lock itself.
        let lock = (!is_embedded).then(|| Lock::acquire(&settings.db_path)).transpose()?;
        let done = restore_from(global, settings, &store, dir);
        if let Some(lock) = lock {
            lock.remove();
        }
        match done {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(store = store.name, error = %Failure::of(&error), "no snapshot");
                first.get_or_insert(error);
            }
        }
    }
    first.map_or(Ok(()), Err)
}

/// Returns whether the store had a snapshot.
fn restore_from(
    global: &Global,
    settings: &Settings,
    store: &StoreSettings,
    dir: &Path,
) -> Result<bool> {
    let to = &settings.db_path;
    let what = format!("restoring {}", to.display());
    with_store(global, settings, store, &what, async |store, progress| {
        let now_ms = clock::unix_ms();
        let oldest_ms = now_ms - of_use_ms(settings);
        let Some((found, fetched)) = newest(store, dir, progress, oldest_ms).await? else {
            tracing::info!(place = store.place(), "there is no database file and no snapshot");
            return Ok(false);
        };
        restore::place(fetched, to, None, now_ms).await?;
        tracing::info!(
            database = %to.display(),
            snapshot = %found.id,
            place = store.place(),
            age = show::span(now_ms - found.manifest.created_ms),
            bytes = found.manifest.bytes(),
            "there was no database file: restored a snapshot"
        );
        Ok(true)
    })
}

/// How old a snapshot may be with which a node begins by itself. The other nodes forget deletes
/// after `version_retention`: rows that were deleted since an older snapshot could come back. A
/// quarter is left for the node to catch up.
fn of_use_ms(settings: &Settings) -> i64 {
    i64::try_from(settings.version_retention.as_ms() / 4 * 3).unwrap_or(i64::MAX)
}

/// Refuses a snapshot whose deletes other nodes may have forgotten.
fn check_age(store: &Retrying, found: &Found, oldest_ms: i64) -> Result<(), Failure> {
    if found.manifest.created_ms >= oldest_ms {
        return Ok(());
    }
    let (id, taken) = (&found.id, show::moment(found.manifest.created_ms));
    Err(Failure::new(
        Exit::Protect,
        format!(
            "snapshot {id} in {} is of {taken}, older than three quarters of version_retention: \
            what was deleted since then could come back",
            store.place()
        ),
        "let a running node save one (`harmonylite snapshot save`), then start again; only if no \
        other node exists any more: `harmonylite snapshot restore`, then start",
    ))
}

/// Fetches the newest snapshot that is whole. Each damaged one is named in the log. Returns None if
/// the store has no snapshot; the error of the newest one if all are damaged.
async fn newest(
    store: &Retrying,
    dir: &Path,
    progress: &Arc<Progress>,
    oldest_ms: i64,
) -> Result<Option<(Found, Fetched)>, Failure> {
    let ids = ids(store).await.map_err(failed)?;
    let mut first = None;
    for (index, id) in ids.iter().enumerate() {
        let found = match read(store, id).await {
            Ok(manifest) => {
                let older = ids.get(index + 1).cloned();
                let found = Found { id: id.clone(), manifest, older };
                check_age(store, &found, oldest_ms)?;
                Ok(found)
            }
            Err(error) => Err(error),
        };
        let fetched = match found {
            Ok(found) => fetch(store, &found, dir, progress).await.map(|fetched| (found, fetched)),
            Err(error) => Err(error),
        };
        match fetched {
            Ok(done) => return Ok(Some(done)),
            Err(
                error @ (SnapshotError::Manifest { .. }
                | SnapshotError::MissingChunk { .. }
                | SnapshotError::CorruptChunk { .. }),
            ) => {
                tracing::warn!(snapshot = %id, %error, "this snapshot cannot be restored");
                first.get_or_insert(error);
            }
            Err(error) => return Err(failed(error)),
        }
    }
    first.map_or(Ok(None), |error| Err(failed(error)))
}
