//! Compares this node's tables with those of the other running nodes, so that people learn of a
//! difference before a row of such a table comes.
//!
//! Arrives: the registry entries of the running nodes, every few seconds, and this node's layout.
//! Leaves: the differences, for `status`. Pure.

use crate::db::layout::Layout;
use crate::model::status::SchemaDifference;
use crate::repair::peer_tables::differing_tables;
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
