//! Compares this node's tables with those in the registry entry of another node.
//!
//! Arrives: a registry entry and this node's layout. Leaves: the tables that differ. Pure.

use crate::db::layout::Layout;
use serde_json::Value;

/// Returns the tables that differ; None if none does. A table that one of the two keeps local does
/// not count.
pub fn differing_tables(entry: &Value, layout: &Layout) -> Option<Vec<String>> {
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
}
