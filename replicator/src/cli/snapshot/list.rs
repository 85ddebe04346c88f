//! `harmonylite snapshot list`.

use super::{at, failed, running_broker, runtime, with_store};
use crate::cli::args::Global;
use crate::cli::{show, table};
use crate::clock;
use crate::nats::{History, Target};
use crate::settings::{Settings, StoreSettings};
use crate::snapshots::moments::Reachable;
use anyhow::Result;
use harmonylite_snapshot::SnapshotError;
use harmonylite_snapshot::catalog::{Found, ids, read};
use harmonylite_snapshot::manifest::{Manifest, SnapshotId};
use serde_json::{Value, json};

/// Shows all snapshots, newest first; also those that cannot be used, with the reason.
pub(super) fn run(
    global: &Global,
    settings: &Settings,
    from: &StoreSettings,
    json: bool,
) -> Result<()> {
    let (place, found): (_, Vec<Listed>) =
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
    if json {
        show::print(&format!("{}\n", value(&place, &found, &reachable(settings, &found))));
    } else if found.is_empty() {
        show::print(&format!("no snapshots in {place}\n"));
    } else {
        let now_ms = clock::unix_ms();
        let rows = found.iter().map(|entry| row(entry, now_ms)).collect();
        show::print(&table::table(&["snapshot", "age", "node", "tables", "size"], 3, rows));
        // After the table, because a broker that does not answer takes seconds.
        show::print(&moments(&reachable(settings, &found)));
    }
    Ok(())
}

fn value(place: &str, found: &[Listed], reachable: &Result<Reachable, String>) -> Value {
    json!({
        "place": place,
        "snapshots": found.iter().map(describe).collect::<Vec<_>>(),
        "reachable": match reachable {
            Ok(Reachable { from_ms, to_ms }) => json!({ "from_ms": from_ms, "to_ms": to_ms }),
            Err(why) => json!({ "error": why }),
        },
    })
}

/// The moments that `restore --at` reaches, or why that is not known.
fn reachable(settings: &Settings, listed: &[Listed]) -> Result<Reachable, String> {
    if listed.is_empty() {
        return Ok(Reachable::default());
    }
    let usable = |(id, manifest): &Listed| {
        let manifest = manifest.as_ref().ok()?.clone();
        Some(Found { id: id.clone(), manifest, older: None })
    };
    let found: Vec<Found> = listed.iter().filter_map(usable).collect();
    let target = match running_broker(settings).map_err(|error| error.to_string())? {
        Some(target) => target,
        None if settings.nats.urls.is_empty() => {
            let why =
                "the streams are in the embedded nats-server, and no node runs here: start it";
            return Err(why.to_owned());
        }
        None => Target { urls: settings.nats.urls.clone(), access: None },
    };
    runtime().map_err(|error| error.to_string())?.block_on(async {
        let history = History::open(settings, &target).await.map_err(|error| error.to_string())?;
        let shards = settings.replication_log.shards;
        at::reachable(&history, &found, shards).await.map_err(|error| error.to_string())
    })
}

fn moments(reachable: &Result<Reachable, String>) -> String {
    match reachable {
        Ok(Reachable { from_ms: Some(from_ms), to_ms }) => format!(
            "restore --at reaches each moment from {} to {}\n",
            at::exact(*from_ms),
            at::exact(*to_ms)
        ),
        Ok(_) => "restore --at reaches no moment: the streams hold too little of what follows the \
            snapshots\n"
            .to_owned(),
        Err(why) => format!("which moments restore --at reaches is not known: {why}\n"),
    }
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
