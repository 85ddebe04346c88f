//! `harmonylite snapshot list`.

use super::{failed, report, with_store};
use crate::cli::args::Global;
use crate::cli::{show, table};
use crate::clock;
use crate::settings::{Settings, StoreSettings};
use anyhow::Result;
use harmonylite_snapshot::SnapshotError;
use harmonylite_snapshot::catalog::{ids, read};
use harmonylite_snapshot::manifest::{Manifest, SnapshotId};
use serde_json::{Value, json};

/// Shows all snapshots, newest first; also those that cannot be used, with the reason.
pub(super) fn run(
    global: &Global,
    settings: &Settings,
    from: &StoreSettings,
    json: bool,
) -> Result<()> {
    let (place, found) =
        with_store(global, settings, from, "listing snapshots", async |store, _| {
            let mut found = Vec::new();
            for id in ids(store).await.map_err(failed)? {
                match read(store, &id).await {
                    Err(error @ SnapshotError::Store { .. }) => return Err(failed(error).into()),
                    manifest => found.push((id, manifest.map_err(|error| error.to_string()))),
                }
            }
            Ok((store.place(), found))
        })?;
    let value = json!({
        "place": place,
        "snapshots": found.iter().map(describe).collect::<Vec<_>>(),
    });
    let text = if found.is_empty() {
        format!("no snapshots in {place}\n")
    } else {
        let now_ms = clock::unix_ms();
        let rows = found.iter().map(|entry| row(entry, now_ms)).collect();
        table::table(&["snapshot", "age", "node", "tables", "size"], 3, rows)
    };
    report(json, &value, &text);
    Ok(())
}

type Listed = (SnapshotId, Result<Manifest, String>);

fn describe((id, manifest): &Listed) -> Value {
    match manifest {
        Err(error) => json!({ "snapshot": id.as_str(), "error": error }),
        Ok(manifest) => json!({
            "snapshot": id.as_str(),
            "created_ms": manifest.created_ms,
            "node": manifest.facts.node,
            "bytes": manifest.bytes(),
            "chunks": manifest.chunks.len(),
            "tables": manifest.tables.len(),
            "schema_hash": manifest.facts.schema_hash,
            "streams": manifest.facts.streams,
        }),
    }
}

fn row((id, manifest): &Listed, now_ms: i64) -> Vec<String> {
    match manifest {
        Err(error) => vec![id.to_string(), error.clone()],
        Ok(manifest) => vec![
            id.to_string(),
            show::ago(manifest.created_ms, now_ms),
            manifest.facts.node.to_string(),
            manifest.tables.len().to_string(),
            show::bytes(manifest.bytes()),
        ],
    }
}
