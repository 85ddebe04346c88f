//! Compares this node's tables with those of the other running nodes, so that people learn of a
//! difference before a row of such a table comes.
//!
//! Arrives: the registry entries of the running nodes, every few seconds, and this node's layout.
//! Leaves: the differences, for `status`. Pure.

use crate::db::layout::Layout;
use crate::model::status::SchemaDifference;
use serde_json::Value;
use std::collections::HashMap;

/// Since when each node differs, unix milliseconds.
#[derive(Debug, Default)]
pub(super) struct Differences(HashMap<u64, i64>);

impl Differences {
    /// Compares the running nodes with this one.
    pub(super) fn compare<'a>(
        &mut self,
        running: impl Iterator<Item = (u64, &'a Value)>,
        layout: &Layout,
        now_ms: i64,
    ) -> Vec<SchemaDifference> {
        if layout.schema_version == 0 {
            // The node starts, and has not read its own tables yet.
            return Vec::new();
        }
        let differing = |(id, entry)| Some((id, differing_tables(entry, layout)?));
        let differing: Vec<(u64, Vec<String>)> = running.filter_map(differing).collect();
        self.0.retain(|id, _| differing.iter().any(|(other, _)| other == id));
        let difference = |(node_id, tables)| {
            let since_ms = *self.0.entry(node_id).or_insert(now_ms);
            SchemaDifference { node_id, since_ms, tables }
        };
        differing.into_iter().map(difference).collect()
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
        let mut differences = Differences::default();
        let mut at = |running: Option<Value>, now_ms: i64| {
            let running = running.iter().map(|entry| (2, entry));
            let found = differences.compare(running, &here, now_ms);
            found.first().map(|d| (d.node_id, d.since_ms))
        };
        assert_eq!(at(Some(entry(&here, 1)), 100), None);
        assert_eq!(at(Some(entry(&there, 2)), 200), Some((2, 200)));
        assert_eq!(at(Some(entry(&there, 3)), 300), Some((2, 200)));
        assert_eq!(at(None, 400), None, "it does not run");
        assert_eq!(at(Some(entry(&there, 4)), 500), Some((2, 500)));
        assert_eq!(at(Some(entry(&here, 5)), 600), None);
        let starting = Layout::default();
        let running = [(2, entry(&here, 6))];
        let running = running.iter().map(|(id, entry)| (*id, entry));
        assert!(differences.compare(running, &starting, 700).is_empty(), "not read yet");
    }
}
