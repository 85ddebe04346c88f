//! Compares this node's tables with those of the other running nodes, so that people learn of a
//! difference before a row of such a table comes.
//!
//! Arrives: the registry entries of all nodes, every few seconds, and this node's layout. Leaves:
//! the differences, for `status`. Reads only.

use super::registry;
use super::writer::WriterSnapshot;
use crate::clock;
use crate::db::layout::Layout;
use crate::model::status::SchemaDifference;
use crate::nats::Asker;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::sync::watch;

/// The registry is read this often.
const INTERVAL: Duration = Duration::from_secs(4);
/// An entry that has not changed for so long belongs to a node that does not run: entries are
/// written every 10 s.
const SILENT_MS: u64 = 45_000;

/// Reads the registry again and again, until the receivers are gone.
pub(super) async fn watch_registry(
    asker: Asker,
    me: u64,
    writer: watch::Receiver<WriterSnapshot>,
    seen: watch::Sender<Vec<SchemaDifference>>,
) {
    let mut peers = Peers::default();
    while !seen.is_closed() {
        // Without the broker the last comparison stays.
        if let Ok(entries) = registry::read(&asker).await {
            let layout = writer.borrow().layout.clone();
            peers.take(&entries, me, clock::mono_ms());
            seen.send_replace(peers.compare(&layout, clock::unix_ms(), clock::mono_ms()));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// What is known of the other nodes.
#[derive(Default)]
struct Peers {
    /// The last entry of each, and when it was last another one.
    entries: BTreeMap<u64, (Value, u64)>,
    /// Since when each differs.
    since: HashMap<u64, i64>,
}

impl Peers {
    fn take(&mut self, entries: &[Value], me: u64, mono_ms: u64) {
        self.entries.retain(|id, _| entries.iter().any(|e| e["node_id"] == *id));
        for entry in entries {
            let Some(id) = entry["node_id"].as_u64().filter(|id| *id != me) else { continue };
            match self.entries.get(&id) {
                Some((known, _)) if known == entry => {}
                _ => drop(self.entries.insert(id, (entry.clone(), mono_ms))),
            }
        }
    }

    fn compare(&mut self, layout: &Layout, now_ms: i64, mono_ms: u64) -> Vec<SchemaDifference> {
        let mut found = Vec::new();
        for (id, (entry, changed_ms)) in &self.entries {
            let runs = mono_ms.saturating_sub(*changed_ms) <= SILENT_MS;
            match differing_tables(entry, layout).filter(|_| runs) {
                Some(tables) => {
                    let since_ms = *self.since.entry(*id).or_insert(now_ms);
                    found.push(SchemaDifference { node_id: *id, since_ms, tables });
                }
                None => drop(self.since.remove(id)),
            }
        }
        found
    }
}

/// The tables that differ; None if none does. A table that one of the two keeps local does not
/// count.
fn differing_tables(entry: &Value, layout: &Layout) -> Option<Vec<String>> {
    let same = entry["schema_hash"].as_str()? == data_encoding::HEXLOWER.encode(&layout.hash);
    let (Some(theirs), Some(ours)) = (entry["tables"].as_object(), layout.short_hashes()) else {
        return (!same).then(Vec::new);
    };
    let local_there = entry["local_tables"].as_array().cloned().unwrap_or_default();
    let is_local_there = |name: &str| {
        local_there.iter().any(|n| n.as_str().is_some_and(|n| n.eq_ignore_ascii_case(name)))
    };
    let is_local_here =
        |name: &str| layout.skipped.iter().any(|s| s.name.eq_ignore_ascii_case(name));
    let hash_here = |name: &str| ours.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
    let mut tables: Vec<String> = theirs
        .iter()
        .filter(|(name, hash)| {
            !is_local_here(name)
                && hash_here(name).is_none_or(|(_, h)| Some(h.as_str()) != hash.as_str())
        })
        .map(|(name, _)| name.clone())
        .collect();
    let lists = |name: &str| theirs.keys().any(|n| n.eq_ignore_ascii_case(name));
    tables.extend(ours.keys().filter(|n| !lists(n) && !is_local_there(n)).map(|n| (*n).to_owned()));
    (!tables.is_empty()).then_some(tables)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::install::install;
    use crate::model::table_filter::TableFilter;
    use crate::store::test_database;
    use serde_json::json;

    fn layout(schema: &str) -> Layout {
        let db = test_database();
        db.execute_batch(schema).unwrap();
        install(&db, &TableFilter::default(), 0).unwrap().0
    }

    fn entry(layout: &Layout, updated: i64) -> Value {
        json!({
            "node_id": 2, "updated_at": updated,
            "schema_hash": data_encoding::HEXLOWER.encode(&layout.hash),
            "tables": layout.short_hashes(), "local_tables": layout.local_tables(),
        })
    }

    const HERE: &str =
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v); CREATE TABLE u (id PRIMARY KEY);
        CREATE TABLE django_migrations (id INTEGER PRIMARY KEY);";

    #[test]
    fn tables_that_differ_are_named() {
        let here = layout(HERE);
        for (there, differing) in [
            ("CREATE TABLE T (v, id INTEGER PRIMARY KEY); CREATE TABLE u (id PRIMARY KEY)", None),
            (
                "CREATE TABLE t (id INTEGER PRIMARY KEY); CREATE TABLE u (id PRIMARY KEY)",
                Some(vec!["t"]),
            ),
            ("CREATE TABLE t (id INTEGER PRIMARY KEY, v)", Some(vec!["u"])),
            (
                "CREATE TABLE t (id INTEGER PRIMARY KEY, v); CREATE VIRTUAL TABLE u USING fts5(x)",
                None,
            ),
            (
                "CREATE TABLE t (id INTEGER PRIMARY KEY, v); CREATE TABLE u (id PRIMARY KEY); \
                CREATE TABLE n (id PRIMARY KEY)",
                Some(vec!["n"]),
            ),
        ] {
            let found = differing_tables(&entry(&layout(there), 1), &here);
            let expected: Option<Vec<String>> =
                differing.map(|names| names.into_iter().map(str::to_owned).collect());
            assert_eq!(found, expected, "{there}");
        }
        let older = json!({ "node_id": 2, "schema_hash": "00" });
        assert_eq!(differing_tables(&older, &here), Some(Vec::new()));
        assert_eq!(differing_tables(&json!({ "node_id": 2 }), &here), None, "no entry");
    }

    #[test]
    fn a_difference_lasts_from_when_it_was_seen_until_it_ends_or_the_node_does() {
        let here = layout(HERE);
        let there = layout("CREATE TABLE u (id PRIMARY KEY)");
        let mut peers = Peers::default();
        let mut at = |entry: Value, mono_ms: u64| {
            peers.take(&[entry, json!({ "node_id": 1, "schema_hash": "" })], 1, mono_ms);
            let found = peers.compare(&here, mono_ms as i64, mono_ms);
            found.first().map(|d| (d.node_id, d.since_ms))
        };
        assert_eq!(at(entry(&here, 1), 100), None);
        assert_eq!(at(entry(&there, 2), 200), Some((2, 200)));
        assert_eq!(at(entry(&there, 3), 300), Some((2, 200)));
        assert_eq!(at(entry(&there, 3), 300 + SILENT_MS), Some((2, 200)));
        assert_eq!(at(entry(&there, 3), 301 + SILENT_MS), None, "it does not run");
        assert_eq!(at(entry(&there, 4), 400 + SILENT_MS), Some((2, (400 + SILENT_MS) as i64)));
        assert_eq!(at(entry(&here, 5), 500 + SILENT_MS), None);
    }
}
