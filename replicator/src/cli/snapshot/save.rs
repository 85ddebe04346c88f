//! `harmonylite snapshot save`.

use super::restore::directory_of;
use super::{failed, report, with_store};
use crate::cli::args::Global;
use crate::cli::control::ask;
use crate::cli::exit::{Exit, Failure};
use crate::cli::show;
use crate::db::lockfile::{Sidecar, sidecar};
use crate::db::preflight;
use crate::settings::Settings;
use crate::snapshots::{SaveError, SaveRequest, save_and_prune};
use anyhow::{Context, Result};
use harmonylite_snapshot::retention::Pruned;
use harmonylite_snapshot::save::Saved;
use serde_json::json;
use std::path::Path;

/// Saves a snapshot of the configured database, then removes old ones.
pub(super) fn run(global: &Global, settings: &Settings, resend: bool, json: bool) -> Result<()> {
    let path = &settings.db_path;
    preflight::check(path)?;
    let path = path.canonicalize().with_context(|| path.display().to_string())?;
    store_positions(&path);
    let what = format!("saving a snapshot of {}", path.display());
    let request =
        SaveRequest { scratch: directory_of(&path), path, keep: settings.snapshot.keep, resend };
    let (place, saved, pruned) = with_store(global, settings, &what, async |store, progress| {
        match save_and_prune(request, store, progress).await {
            Ok((saved, pruned)) => Ok((store.place(), saved, pruned)),
            Err(SaveError::Snapshot(error)) => Err(failed(error).into()),
            Err(error) => Err(Failure::new(Exit::Database, error.to_string(), error.hint()).into()),
        }
    })?;
    let value = json!({
        "snapshot": saved.id.as_str(),
        "place": place,
        "created_ms": saved.manifest.created_ms,
        "bytes": saved.manifest.bytes(),
        "chunks": saved.manifest.chunks.len(),
        "sent_chunks": saved.sent_chunks,
        "sent_bytes": saved.sent_bytes,
        "removed": pruned.removed.iter().map(|id| id.as_str()).collect::<Vec<_>>(),
    });
    report(json, &value, &text(&place, &saved, &pruned));
    Ok(())
}

/// Lets a running node store how far it is, so that the snapshot covers what it contains. Without
/// an answer the snapshot is as good, and covers less.
fn store_positions(path: &Path) {
    if let Ok(Sidecar::Running(owner)) = sidecar(path) {
        let _ = ask(owner.as_ref(), "POST", "/flush");
    }
}

fn text(place: &str, saved: &Saved, pruned: &Pruned) -> String {
    let mut text = format!(
        "saved snapshot {} in {place}: {}, {} of {} chunks sent ({})\n",
        saved.id,
        show::bytes(saved.manifest.bytes()),
        saved.sent_chunks,
        saved.manifest.chunks.len(),
        show::bytes(saved.sent_bytes),
    );
    for id in &pruned.removed {
        text.push_str(&format!("removed snapshot {id}\n"));
    }
    text
}
