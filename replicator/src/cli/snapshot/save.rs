//! `harmonylite snapshot save`.

use super::{failed, with_store};
use crate::cli::args::Global;
use crate::cli::exit::Failure;
use crate::cli::show;
use crate::clock;
use crate::db::preflight;
use crate::settings::{Settings, StoreSettings};
use crate::snapshots::facts;
use anyhow::{Context, Result};
use harmonylite_snapshot::image::Image;
use harmonylite_snapshot::retention::{Pruned, prune};
use harmonylite_snapshot::save::{SaveOptions, Saved, save};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// Saves a snapshot of the configured database in each store, then removes old ones there. A store
/// that fails does not keep the others from getting theirs; the result is an error then.
pub(super) fn run(global: &Global, settings: &Settings, resend: bool, json: bool) -> Result<()> {
    let path = &settings.db_path;
    preflight::check(path)?;
    let path = path.canonicalize().with_context(|| path.display().to_string())?;
    let stores = settings.snapshot.stores();
    let (mut values, mut failures) = (Vec::new(), Vec::new());
    for to in &stores {
        match save_in(global, settings, to, &path, resend) {
            Ok(done) => {
                if !json {
                    show::print(&text(&done));
                }
                values.push(describe(&to.name, &done));
            }
            Err(error) => {
                let failure = Failure::of(&error);
                values.push(json!({
                    "store": to.name,
                    "error": failure.what,
                    "hint": failure.hint,
                }));
                failures.push(failure);
            }
        }
    }
    if json && failures.len() < stores.len() {
        let mut value = values[0].clone();
        if stores.len() > 1 {
            value["stores"] = values.into();
        }
        show::print(&format!("{value}\n"));
    }
    let Some(first) = failures.first() else { return Ok(()) };
    if stores.len() == 1 {
        return Err(first.clone().into());
    }
    let reasons: Vec<_> = failures.iter().map(|failure| failure.what.as_str()).collect();
    let what = format!(
        "{} of {} stores have no new snapshot: {}",
        failures.len(),
        stores.len(),
        reasons.join("; ")
    );
    Err(Failure::new(first.exit, what, first.hint.clone()).into())
}

/// What was done in one store.
struct Done {
    place: String,
    saved: Saved,
    pruned: Pruned,
}

fn save_in(
    global: &Global,
    settings: &Settings,
    to: &StoreSettings,
    path: &Path,
    resend: bool,
) -> Result<Done> {
    let what = format!("saving a snapshot of {}", path.display());
    with_store(global, settings, to, &what, async |store, progress| {
        let image = Image::capture(path, &scratch(path)).map_err(failed)?;
        let facts = facts(image.connection()).with_context(|| path.display().to_string())?;
        let mut options = SaveOptions::new(Arc::new(clock::unix_ms));
        options.resend = resend;
        let saved = save(image, facts, store, &options, progress).await.map_err(failed)?;
        // The snapshot is there; what cannot be removed now is removed by the next save.
        let pruned = prune(store, settings.snapshot.keep, false, clock::unix_ms()).await;
        let pruned = pruned.inspect_err(|error| {
            tracing::warn!(%error, "old snapshots were not removed");
        });
        Ok(Done { place: store.place(), saved, pruned: pruned.unwrap_or_default() })
    })
}

fn describe(name: &str, Done { place, saved, pruned }: &Done) -> Value {
    json!({
        "store": name,
        "snapshot": saved.id.as_str(),
        "place": place,
        "created_ms": saved.manifest.created_ms,
        "bytes": saved.manifest.bytes(),
        "chunks": saved.manifest.chunks.len(),
        "sent_chunks": saved.sent_chunks,
        "sent_bytes": saved.sent_bytes,
        "removed": pruned.removed.iter().map(|id| id.as_str()).collect::<Vec<_>>(),
    })
}

/// A copy, if one is needed, goes beside the database.
fn scratch(path: &Path) -> std::path::PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}

fn text(Done { place, saved, pruned }: &Done) -> String {
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
