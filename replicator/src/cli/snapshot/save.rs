//! `harmonylite snapshot save`.

use super::{failed, report, with_store};
use crate::cli::args::Global;
use crate::cli::show;
use crate::clock;
use crate::db::preflight;
use crate::settings::Settings;
use crate::snapshots::facts;
use anyhow::{Context, Result};
use harmonylite_snapshot::image::Image;
use harmonylite_snapshot::retention::{Pruned, prune};
use harmonylite_snapshot::save::{SaveOptions, Saved, save};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

/// Saves a snapshot of the configured database, then removes old ones.
pub(super) fn run(global: &Global, settings: &Settings, resend: bool, json: bool) -> Result<()> {
    let path = &settings.db_path;
    preflight::check(path)?;
    let path = path.canonicalize().with_context(|| path.display().to_string())?;
    let what = format!("saving a snapshot of {}", path.display());
    let (place, saved, pruned) = with_store(global, settings, &what, async |store, progress| {
        let image = Image::capture(&path, &scratch(&path)).map_err(failed)?;
        let facts = facts(image.connection()).with_context(|| path.display().to_string())?;
        let mut options = SaveOptions::new(Arc::new(clock::unix_ms));
        options.resend = resend;
        let saved = save(image, facts, store, &options, progress).await.map_err(failed)?;
        // The snapshot is there; what cannot be removed now is removed by the next save.
        let pruned = prune(store, settings.snapshot.keep, false, clock::unix_ms()).await;
        let pruned = pruned.inspect_err(|error| {
            tracing::warn!(%error, "old snapshots were not removed");
        });
        Ok((store.place(), saved, pruned.unwrap_or_default()))
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

/// A copy, if one is needed, goes beside the database.
fn scratch(path: &Path) -> std::path::PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
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
