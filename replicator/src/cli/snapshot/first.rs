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
use crate::settings::{ClusterSettings, Settings};
use anyhow::Result;
use harmonylite_snapshot::SnapshotError;
use harmonylite_snapshot::catalog::{Found, ids, read};
use harmonylite_snapshot::manifest::SnapshotId;
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
    let is_embedded = settings.snapshot.store == "nats" && settings.nats.urls.is_empty();
    if is_embedded && is_alone_and_new(settings, &global.cluster()?, &dir) {
        tracing::debug!(
            database = %to.display(),
            "there is no database file, and the snapshots would be in an embedded nats-server \
            without neighbours, which has never run: no snapshot is restored"
        );
        return Ok(());
    }
    check_alone(to)?;
    // The store in the embedded server takes the lock itself.
    let lock = (!is_embedded).then(|| Lock::acquire(to)).transpose()?;
    let done = restore_newest(global, settings, &dir);
    if let Some(lock) = lock {
        lock.remove();
    }
    done.map_err(|error| {
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

/// Whether an embedded server can have no snapshot: it has no neighbours, and no files.
fn is_alone_and_new(settings: &Settings, cluster: &ClusterSettings, dir: &Path) -> bool {
    cluster.peers.is_empty()
        && cluster.leaf_servers.is_empty()
        && settings.nats.server_config.is_empty()
        && !dir.join("nats").exists()
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

fn restore_newest(global: &Global, settings: &Settings, dir: &Path) -> Result<()> {
    let to = &settings.db_path;
    let what = format!("restoring {}", to.display());
    with_store(global, settings, &what, async |store, progress| {
        let now_ms = clock::unix_ms();
        let Some((found, fetched)) = newest(store, dir, progress).await.map_err(failed)? else {
            tracing::info!(place = store.place(), "there is no database file and no snapshot");
            return Ok(());
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
        Ok(())
    })
}

/// Fetches the newest snapshot that is whole. Each damaged one is named in the log. Returns None if
/// the store has no snapshot; the error of the newest one if all are damaged.
async fn newest(
    store: &Retrying,
    dir: &Path,
    progress: &Arc<Progress>,
) -> Result<Option<(Found, Fetched)>, SnapshotError> {
    let ids = ids(store).await?;
    let mut first = None;
    for (index, id) in ids.iter().enumerate() {
        match one(store, id, ids.get(index + 1), dir, progress).await {
            Ok(done) => return Ok(Some(done)),
            Err(
                error @ (SnapshotError::Manifest { .. }
                | SnapshotError::MissingChunk { .. }
                | SnapshotError::CorruptChunk { .. }),
            ) => {
                tracing::warn!(snapshot = %id, %error, "this snapshot cannot be restored");
                first.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    first.map_or(Ok(None), Err)
}

async fn one(
    store: &Retrying,
    id: &SnapshotId,
    older: Option<&SnapshotId>,
    dir: &Path,
    progress: &Arc<Progress>,
) -> Result<(Found, Fetched), SnapshotError> {
    let manifest = read(store, id).await?;
    let found = Found { id: id.clone(), manifest, older: older.cloned() };
    let fetched = fetch(store, &found, dir, progress).await?;
    Ok((found, fetched))
}
