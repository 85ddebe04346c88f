//! `-schema-status-cluster`: the schema hashes of all nodes, read from the registry.

use super::exit::{Exit, Failure};
use super::table::table;
use super::{control, progress, show};
use crate::clock;
use crate::db::lockfile::{Sidecar, sidecar};
use crate::settings::Settings;
use anyhow::{Context, Result};
use serde_json::Value;
use std::process::ExitCode;

/// Asks the running node and prints the table.
pub(crate) fn run(settings: &Settings) -> Result<ExitCode> {
    let Sidecar::Running(owner) = sidecar(&settings.db_path)? else {
        let what = format!(
            "no node runs on {}, so the other nodes' schemas are unknown",
            settings.db_path.display()
        );
        return Err(Failure::new(
            Exit::General,
            what,
            "start it with `harmonylite run`; -schema-status shows this node alone",
        )
        .into());
    };
    let ask = || control::ask(owner.as_ref(), "GET", "/registry");
    let answer = progress::during("asking the node", ask)?;
    if answer.status != 200 {
        let what = format!("the node cannot read the registry: {}", answer.body);
        return Err(Failure::new(
            Exit::General,
            what,
            "`harmonylite status` shows the state of its connection",
        )
        .into());
    }
    let entries: Vec<Value> = serde_json::from_str(&answer.body)
        .context("the node's answer cannot be read: is it another version of harmonylite?")?;
    let here = owner.map(|owner| owner.node_id);
    show::print(&text(&entries, here, clock::unix_ms()));
    Ok(ExitCode::SUCCESS)
}

fn text(entries: &[Value], here: Option<u64>, now_ms: i64) -> String {
    let own = entries.iter().find(|e| e["node_id"].as_u64() == here);
    let mut rows = Vec::new();
    for entry in entries {
        let short = |key: &str| {
            entry[key].as_str().unwrap_or_default().chars().take(16).collect::<String>()
        };
        let written_ms = entry["updated_at"].as_i64().map(|seconds| seconds * 1_000);
        rows.push(vec![
            entry["node_id"].to_string(),
            short("schema_hash"),
            short("previous_hash"),
            compared(entry, own).to_owned(),
            entry["harmonylite_version"].as_str().unwrap_or_default().to_owned(),
            written_ms.map_or("never".to_owned(), |then| show::ago(then, now_ms)),
        ]);
    }
    table(&["node", "schema", "before", "compared", "version", "written"], 6, rows)
}

/// Compares another node's schema with ours by the present and the previous hash of both.
fn compared(entry: &Value, own: Option<&Value>) -> &'static str {
    let Some(own) = own.filter(|own| own["schema_hash"].is_string()) else {
        return "this node has no entry yet";
    };
    let is = |a: &Value, b: &Value| a.as_str().is_some_and(|text| !text.is_empty()) && a == b;
    match () {
        () if entry["node_id"] == own["node_id"] => "this node",
        () if !entry["schema_hash"].is_string() => "no entry",
        () if is(&entry["schema_hash"], &own["schema_hash"]) => "same",
        () if is(&entry["previous_hash"], &own["schema_hash"]) => "one migration ahead",
        () if is(&entry["schema_hash"], &own["previous_hash"]) => "one migration behind",
        () => "differs",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nodes_are_compared_with_the_one_that_is_asked() {
        let node = |id: u64, hash: &str, previous: &str| {
            json!({
                "node_id": id, "schema_hash": hash, "previous_hash": previous,
                "harmonylite_version": "0.1.0", "updated_at": 5,
            })
        };
        let entries = [
            node(1, "bb", "aa"),
            node(2, "bb", ""),
            node(3, "cc", "bb"),
            node(4, "aa", ""),
            node(5, "dd", ""),
            json!({ "node_id": 6 }),
        ];
        let text = text(&entries, Some(1), 9_000);
        let states: Vec<bool> = [
            "this node",
            "same",
            "one migration ahead",
            "one migration behind",
            "differs",
            "no entry",
        ]
        .iter()
        .zip(text.lines().skip(1))
        .map(|(state, line)| line.contains(state))
        .collect();
        assert_eq!(states, [true; 6], "{text}");
    }
}
