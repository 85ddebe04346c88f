//! `harmonylite snapshot prune`.

use super::{failed, report, with_store};
use crate::cli::args::Global;
use crate::cli::show;
use crate::clock;
use crate::settings::{Settings, StoreSettings};
use anyhow::Result;
use harmonylite_snapshot::manifest::SnapshotId;
use harmonylite_snapshot::retention::{Pruned, prune};
use serde_json::json;

/// Removes old snapshots and the chunks that only they use.
pub(super) fn run(
    global: &Global,
    settings: &Settings,
    from: &StoreSettings,
    keep: Option<u64>,
    dry_run: bool,
    json: bool,
) -> Result<()> {
    let keep =
        keep.map_or(settings.snapshot.keep, |keep| usize::try_from(keep).unwrap_or(usize::MAX));
    let what = "removing old snapshots";
    let pruned = with_store(global, settings, from, what, async |store, _| {
        prune(store, keep, dry_run, clock::unix_ms()).await.map_err(|error| failed(error).into())
    })?;
    let names = |ids: &[SnapshotId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
    let value = json!({
        "dry_run": dry_run,
        "kept": names(&pruned.kept),
        "removed": names(&pruned.removed),
        "chunks": pruned.chunks,
        "bytes": pruned.bytes,
        "running": pruned.running,
        "left": pruned.left,
    });
    report(json, &value, &text(&pruned, dry_run));
    Ok(())
}

fn text(pruned: &Pruned, dry_run: bool) -> String {
    let verb = if dry_run { "would remove" } else { "removed" };
    let mut text = String::new();
    for id in &pruned.removed {
        text.push_str(&format!("{verb} snapshot {id}\n"));
    }
    let size =
        if pruned.bytes > 0 { format!(" ({})", show::bytes(pruned.bytes)) } else { String::new() };
    text.push_str(&format!(
        "{verb} {} chunks{size}; {} snapshots stay\n",
        pruned.chunks,
        pruned.kept.len()
    ));
    if pruned.left > 0 {
        text.push_str(&format!("removed {} files that killed saves had left\n", pruned.left));
    }
    if let Some(running) = &pruned.running {
        text.push_str(&format!("a save is running ({running}): what it may use stays\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_what_goes_and_why_something_stays() {
        let running = Some("saving/1-2".to_owned());
        let pruned = Pruned { chunks: 3, bytes: 2_000_000, running, ..Pruned::default() };
        let text = text(&pruned, true);
        assert!(text.starts_with("would remove 3 chunks (2.0 MB); 0 snapshots stay\n"), "{text}");
        assert!(text.contains("saving/1-2"), "{text}");
    }
}
