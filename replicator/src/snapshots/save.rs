//! Saves a snapshot of a database, and removes old ones.
//!
//! Arrives: the database's path, a store. Leaves: a snapshot more, and no more than
//! `snapshot.keep`. Owns: what is kept is never replaced by a save that failed. A crash leaves
//! chunks that the next save uses.

use super::facts::facts;
use crate::clock;
use crate::db::connection::DatabaseError;
use harmonylite_snapshot::SnapshotError;
use harmonylite_snapshot::image::Image;
use harmonylite_snapshot::progress::Progress;
use harmonylite_snapshot::retention::{Pruned, prune};
use harmonylite_snapshot::save::{SaveOptions, Saved, save};
use harmonylite_snapshot::store::Retrying;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is saved, and how.
pub(crate) struct SaveRequest {
    /// The database.
    pub(crate) path: PathBuf,
    /// A directory with room for a copy of it, which is made only if there is no other way.
    pub(crate) scratch: PathBuf,
    /// The number of snapshots that stay.
    pub(crate) keep: usize,
    /// Send also the chunks that the store has.
    pub(crate) resend: bool,
}

/// Why a snapshot was not saved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SaveError {
    /// The database or the store.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Our tables in the database cannot be read.
    #[error("{path}: {error}")]
    Tables {
        /// The database.
        path: PathBuf,
        /// Why.
        error: DatabaseError,
    },
}

impl SaveError {
    /// What a person can do.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::Snapshot(error) => error.hint(),
            Self::Tables { .. } => {
                "check that the database is sound: sqlite3 FILE 'PRAGMA integrity_check'".to_owned()
            }
        }
    }
}

/// Saves a snapshot, then removes old ones. What cannot be removed now is removed by the next save.
///
/// # Errors
/// [`SaveError`]; the store then has no new snapshot.
pub(crate) async fn save_and_prune(
    request: SaveRequest,
    store: &Retrying,
    progress: &Arc<Progress>,
) -> Result<(Saved, Pruned), SaveError> {
    let SaveRequest { path, scratch, keep, resend } = request;
    let captured = tokio::task::spawn_blocking(move || capture(&path, &scratch)).await;
    let (image, facts) = captured.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => unreachable!("only a runtime that ends cancels blocking work: {error}"),
    })?;
    let mut options = SaveOptions::new(Arc::new(clock::unix_ms));
    options.resend = resend;
    let saved = save(image, facts, store, &options, progress).await?;
    let pruned = prune(store, keep, false, clock::unix_ms()).await;
    let pruned = pruned.inspect_err(|error| {
        tracing::warn!(%error, "old snapshots were not removed");
    });
    Ok((saved, pruned.unwrap_or_default()))
}

type Captured = (Image, harmonylite_snapshot::manifest::Facts);

fn capture(path: &Path, scratch: &Path) -> Result<Captured, SaveError> {
    let image = Image::capture(path, scratch)?;
    let facts = facts(image.connection())
        .map_err(|error| SaveError::Tables { path: path.to_owned(), error })?;
    Ok((image, facts))
}
