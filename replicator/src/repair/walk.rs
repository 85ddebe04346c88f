//! Logs rows for publication, a bounded number in each transaction.
//!
//! Arrives: the oldest row time. Leaves: log entries, and baseline versions for rows without one.
//! Owns: the application never waits long for the write lock, even if the database is large. The
//! place is memory only. After a crash the rows are logged again, which is harmless.

use crate::capture::baseline::baseline_rows;
use crate::db::connection::DatabaseError;
use crate::db::key_pages::next_page;
use crate::db::layout::{Layout, TableLayout};
use crate::db::sql::quote;
use crate::model::batch::Value;
use crate::model::planted_bugs::{Bug, planted};
use crate::store::change_log::publish_rows;
use crate::store::sites::IS_OWN;
use rusqlite::Connection;

/// A walk over all tables.
#[derive(Clone, Debug)]
pub struct Walk {
    since_ms: Option<i64>,
    rows: u64,
    schema_version: i64,
    table: usize,
    unversioned: bool,
    after: Option<Vec<Value>>,
}

impl Walk {
    /// Returns a walk over every row with a version from `since_ms` on, from any writer. With 0 it
    /// includes rows without a version (older than the retention), which get the baseline version.
    pub fn since(since_ms: i64) -> Self {
        Self {
            since_ms: Some(since_ms.max(0)),
            rows: 0,
            schema_version: 0,
            table: 0,
            unversioned: false,
            after: None,
        }
    }

    /// Returns a walk over every row without a version, which gets the baseline version.
    pub fn unversioned() -> Self {
        Self { since_ms: None, unversioned: true, ..Self::since(0) }
    }

    /// Returns the oldest row time; None for rows without a version only.
    pub fn since_ms(&self) -> Option<i64> {
        self.since_ms
    }

    /// Returns the number of rows logged so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Continues inside the caller's write transaction, until `rows_max` rows of one table are
    /// examined or the walk is complete. Returns the number of logged rows, and whether the walk is
    /// complete. Starts again if the schema has changed.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn step(
        &mut self,
        db: &Connection,
        layout: &Layout,
        rows_max: u64,
    ) -> Result<(u64, bool), DatabaseError> {
        if self.schema_version != layout.schema_version {
            (self.schema_version, self.table, self.after) = (layout.schema_version, 0, None);
            self.unversioned = self.since_ms.is_none();
        }
        let mut logged = 0;
        while let Some(table) = layout.tables.get(self.table) {
            logged += if self.unversioned {
                self.without_version(db, table, rows_max)?
            } else {
                self.with_version(db, table, rows_max)?
            };
            if self.after.is_some() {
                break;
            }
            if !self.unversioned && self.since_ms == Some(0) {
                self.unversioned = true;
            } else {
                (self.table, self.unversioned) = (self.table + 1, self.since_ms.is_none());
            }
        }
        self.rows += logged;
        Ok((logged, self.table >= layout.tables.len()))
    }

    fn with_version(
        &mut self,
        db: &Connection,
        table: &TableLayout,
        rows_max: u64,
    ) -> Result<u64, DatabaseError> {
        let keys: Vec<String> = (0..table.schema.key.len()).map(|i| format!("key{i}")).collect();
        let from = format!("main.{}", quote(&table.version_table()));
        let mut next = next_page(db, &from, &keys, self.after.as_deref(), rows_max)?;
        next.values.push(Value::Integer(self.since_ms.unwrap_or(0) << 16));
        let own = if planted(Bug::OwnRowsOnly) { format!(" AND {IS_OWN}") } else { String::new() };
        let from =
            format!("FROM {from} WHERE {} AND hlc >= ?{}{own}", next.condition, next.values.len());
        let logged = publish_rows(db, table.id, &keys, &from, &next.values)?;
        self.after = next.end;
        Ok(logged as u64)
    }

    fn without_version(
        &mut self,
        db: &Connection,
        table: &TableLayout,
        rows_max: u64,
    ) -> Result<u64, DatabaseError> {
        let keys: Vec<String> =
            table.schema.key.iter().map(|k| format!("t.{}", quote(&k.name))).collect();
        let from = format!("main.{} AS t", quote(table.name()));
        let next = next_page(db, &from, &keys, self.after.as_deref(), rows_max)?;
        let logged = baseline_rows(db, table, &next.condition, &next.values)?;
        self.after = next.end;
        Ok(logged as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::install::install;
    use crate::model::ids::{Hlc, Site};
    use crate::model::table_filter::TableFilter;
    use crate::store::install::create_tables;
    use crate::store::sites::begin_site;

    fn database() -> (Connection, Layout) {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(
            "CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (x TEXT COLLATE NOCASE, y, \
            v, PRIMARY KEY (x, y));
             CREATE TABLE c (free); CREATE TABLE empty (id INTEGER PRIMARY KEY);
             WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 19)
             INSERT INTO a SELECT i * 37 % 20 FROM n;
             WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 19)
             INSERT INTO b SELECT CAST(CASE i % 4 WHEN 0 THEN X'FF' || i WHEN 1 THEN 'k' WHEN 2 \
             THEN 'K' || i ELSE NULL END AS TEXT), i / 2.0, 0 FROM n;
             INSERT INTO c VALUES (1), (1), (NULL)",
        )
        .unwrap();
        create_tables(&db, std::path::Path::new(":memory:")).unwrap();
        begin_site(&db, Site(7), 0).unwrap();
        let (layout, _) = install(&db, &TableFilter::with_rowids(), 0).unwrap();
        (db, layout)
    }

    fn finish(db: &Connection, layout: &Layout, mut walk: Walk, rows_max: u64) -> u64 {
        for _ in 0..200 {
            if walk.step(db, layout, rows_max).unwrap().1 {
                return walk.rows();
            }
        }
        panic!("the walk does not end");
    }

    /// With pages of any size each row is logged once, except rows with NULL in the key (5 of b),
    /// which have no identity.
    #[test]
    fn every_row_is_logged_once_with_pages_of_any_size() {
        for rows_max in [1, 2, 3, 7, 100] {
            let (db, layout) = database();
            assert_eq!(
                finish(&db, &layout, Walk::unversioned(), rows_max),
                20 + 15 + 3,
                "pages of {rows_max}"
            );
            let count = |sql: &str| db.query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap();
            assert_eq!(
                count(
                    "SELECT count(*) FROM (SELECT DISTINCT table_id, key0, typeof(key0), key1 \
                    FROM __harmonylite__change_log)"
                ),
                38
            );
            assert_eq!(
                count("SELECT count(*) FROM __harmonylite__b_version WHERE hlc = 1 AND site = 7"),
                15
            );
            assert_eq!(finish(&db, &layout, Walk::unversioned(), rows_max), 0, "all have versions");
            db.execute(
                "UPDATE __harmonylite__a_version SET hlc = ?1 WHERE key0 >= 12",
                [Hlc::from_ms(5_000).0],
            )
            .unwrap();
            db.execute("DELETE FROM __harmonylite__a_version WHERE key0 < 4", []).unwrap();
            assert_eq!(finish(&db, &layout, Walk::since(5_000), rows_max), 8);
            assert_eq!(
                finish(&db, &layout, Walk::since(0), rows_max),
                38,
                "with those whose versions were dropped"
            );
        }
    }

    #[test]
    fn a_changed_schema_restarts_the_walk() {
        let (db, layout) = database();
        let mut walk = Walk::unversioned();
        assert!(!walk.step(&db, &layout, 5).unwrap().1);
        db.execute_batch("CREATE TABLE aa (id INTEGER PRIMARY KEY); INSERT INTO aa VALUES (1)")
            .unwrap();
        let (layout, _) = install(&db, &TableFilter::with_rowids(), 0).unwrap();
        let before = walk.rows();
        assert_eq!(
            (before, finish(&db, &layout, walk, 5)),
            (5, 38 + 1),
            "nothing twice, nothing left out"
        );
    }
}
