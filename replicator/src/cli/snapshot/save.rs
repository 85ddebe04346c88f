//! `harmonylite snapshot save`.

use super::restore::directory_of;
use super::{failed, with_store};
use crate::cli::args::Global;
use crate::cli::control::ask;
use crate::cli::exit::{Exit, Failure};
use crate::cli::show;
use crate::db::lockfile::{Sidecar, sidecar};
use crate::db::preflight;
use crate::settings::{Settings, StoreSettings};
use crate::snapshots::{SaveError, SaveRequest, save_and_prune};
use anyhow::{Context, Result};
use harmonylite_snapshot::retention::Pruned;
use harmonylite_snapshot::save::Saved;
use serde_json::{Value, json};
use std::path::Path;

/// Saves a snapshot of the configured database in each store, then removes old ones there. A store
/// that fails does not keep the others from getting theirs; the result is an error then.
pub(super) fn run(global: &Global, settings: &Settings, resend: bool, json: bool) -> Result<()> {
    let path = &settings.db_path;
    preflight::check(path)?;
    let path = path.canonicalize().with_context(|| path.display().to_string())?;
    store_positions(&path);
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
    let request = SaveRequest {
        path: path.to_owned(),
        scratch: directory_of(path),
        keep: settings.snapshot.keep,
        resend,
    };
    with_store(global, settings, to, &what, async |store, progress| {
        match save_and_prune(request, store, progress).await {
            Ok((saved, pruned)) => Ok(Done { place: store.place(), saved, pruned }),
            Err(SaveError::Snapshot(error)) => Err(failed(error).into()),
            Err(error) => Err(Failure::new(Exit::Database, error.to_string(), error.hint()).into()),
        }
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

/// Lets a running node store how far it is, so that the snapshot covers what it contains. Without
/// an answer the snapshot is as good, and covers less.
fn store_positions(path: &Path) {
    if let Ok(Sidecar::Running(owner)) = sidecar(path) {
        let _ = ask(owner.as_ref(), "POST", "/flush");
    }
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
