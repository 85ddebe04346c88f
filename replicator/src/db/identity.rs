//! What identifies a row of a table without a PRIMARY KEY.
//!
//! Arrives: the columns and unique indexes of a table. Leaves: the unique index whose columns are
//! the key, as with Postgres' replica identity, or none. Pure. Owns: nodes with the same schema
//! choose the same index, whatever its name and whatever the order in which indexes were created.

use super::schema::{Column, UniqueIndex};
use crate::db::sql::Collation;

/// Returns the place of the index whose columns are the key: the one with the fewest columns, and
/// of these the first by the names of its columns. Every column must be NOT NULL and stored, and
/// the index must hold every row: no WHERE, no expression. `stored` are the columns that are not
/// generated.
pub(super) fn choose(unique: &[UniqueIndex], stored: &[&Column]) -> Option<usize> {
    let rank = |index: &UniqueIndex| {
        let names = index.columns.iter().map(|part| {
            let (name, collation) = part.as_ref()?;
            Collation::named(collation)?;
            let column = stored.iter().find(|c| c.name.eq_ignore_ascii_case(name))?;
            column.not_null.then(|| (name.to_ascii_lowercase(), collation.to_ascii_uppercase()))
        });
        let names: Vec<(String, String)> = names.collect::<Option<_>>()?;
        (!index.partial && !names.is_empty()).then_some((names.len(), names))
    };
    let ranked = unique.iter().enumerate().filter_map(|(at, index)| Some((rank(index)?, at)));
    ranked.min().map(|(_, at)| at)
}

#[cfg(test)]
mod tests {
    use crate::db::schema::{KeyKind, Schema, inspect};
    use crate::model::table_filter::{TableFilter, WithoutKey};
    use rusqlite::Connection;

    fn schema(ddl: &str, without_key: WithoutKey) -> Schema {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(ddl).unwrap();
        inspect(&db, &TableFilter { without_key, ..TableFilter::default() }).unwrap()
    }

    #[test]
    fn a_unique_index_that_holds_every_row_is_the_key() {
        for (ddl, key) in [
            ("CREATE TABLE t (a TEXT NOT NULL, b, UNIQUE (a))", Some("a")),
            ("CREATE TABLE t (a TEXT NOT NULL, b); CREATE UNIQUE INDEX i ON t (a)", Some("a")),
            ("CREATE TABLE t (a, b NOT NULL, UNIQUE (a), UNIQUE (b))", Some("b")),
            // The fewest columns, then their names.
            (
                "CREATE TABLE t (a NOT NULL, b NOT NULL, c NOT NULL, UNIQUE (a, b), UNIQUE (c))",
                Some("c"),
            ),
            ("CREATE TABLE t (B NOT NULL, a NOT NULL, UNIQUE (b), UNIQUE (a))", Some("a")),
            ("CREATE TABLE t (a NOT NULL, b NOT NULL, UNIQUE (b, a))", Some("b,a")),
            // None of these identifies every row.
            ("CREATE TABLE t (a UNIQUE, b)", None),
            ("CREATE TABLE t (a NOT NULL, b, UNIQUE (a, b))", None),
            ("CREATE TABLE t (a NOT NULL, b); CREATE UNIQUE INDEX i ON t (a) WHERE b", None),
            ("CREATE TABLE t (a NOT NULL, b); CREATE UNIQUE INDEX i ON t (lower(a))", None),
            ("CREATE TABLE t (a, b NOT NULL AS (a + 1) UNIQUE)", None),
            ("CREATE TABLE t (a NOT NULL, b); CREATE INDEX i ON t (a)", None),
        ] {
            let found = schema(ddl, WithoutKey::Skip);
            let names = found.tables.first().map(|t| {
                assert_eq!(t.key_kind, KeyKind::Columns);
                let names: Vec<&str> = t.key.iter().map(|k| k.name.as_str()).collect();
                names.join(",")
            });
            assert_eq!(names.as_deref(), key, "{ddl}");
            assert_eq!(found.skipped.iter().filter(|s| s.warn).count(), usize::from(key.is_none()));
            let by_rowid = schema(ddl, WithoutKey::Rowid);
            let kind = if key.is_some() { KeyKind::Columns } else { KeyKind::Rowid };
            assert_eq!(by_rowid.tables[0].key_kind, kind, "{ddl}");
        }
    }

    /// Drizzle's migrations have an id that is NULL in every row: with it as the key no row would
    /// travel, and the next node would run the migrations again.
    #[test]
    fn the_rows_of_a_tool_that_leaves_its_key_null_go_by_their_rowid() {
        let db = Connection::open_in_memory().unwrap();
        let columns = "(id SERIAL PRIMARY KEY, hash text NOT NULL, created_at numeric)";
        let ddl = format!("CREATE TABLE __drizzle_migrations {columns}; CREATE TABLE t {columns}");
        db.execute_batch(&ddl).unwrap();
        let filter = TableFilter { migrations_travel: true, ..TableFilter::default() };
        let found = inspect(&db, &filter).unwrap();
        let kinds: Vec<KeyKind> = found.tables.iter().map(|t| t.key_kind).collect();
        assert_eq!(kinds, [KeyKind::Rowid, KeyKind::Columns], "{:?}", found.skipped);
        let here = inspect(&db, &TableFilter::default()).unwrap();
        assert_eq!(here.tables.len(), 1, "it stays here while migrations do not travel");
    }

    #[test]
    fn the_choice_does_not_depend_on_names_and_stands_in_the_hash() {
        let hash = |ddl: &str| schema(ddl, WithoutKey::Rowid).hash();
        let columns = "CREATE TABLE t (a NOT NULL, b NOT NULL);";
        let x = "CREATE UNIQUE INDEX x ON t (a); CREATE UNIQUE INDEX y ON t (b)";
        let y = "CREATE UNIQUE INDEX x ON t (b); CREATE UNIQUE INDEX y ON t (a)";
        let constraint = "CREATE TABLE t (a NOT NULL UNIQUE, b NOT NULL UNIQUE)";
        assert_eq!(hash(&format!("{columns}{x}")), hash(&format!("{columns}{y}")));
        assert_eq!(hash(&format!("{columns}{x}")), hash(constraint));
        // A node with one index less has another key, and so another hash.
        let only_b = hash(&format!("{columns} CREATE UNIQUE INDEX y ON t (b)"));
        assert_ne!(only_b, hash(constraint));
        assert_ne!(only_b, hash(columns));
        let found = schema(&format!("{columns}{x}"), WithoutKey::Skip);
        assert_eq!(found.tables[0].unique.len(), 1, "the other index stays");
    }
}
