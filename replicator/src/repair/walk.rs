//! Logs rows for publication, a bounded number in each transaction.
//!
//! Arrives: the oldest row time. Leaves: log entries, and baseline versions for rows without one.
//! Owns: the application never waits long for the write lock, even if the database is large. The
//! place is memory only. After a crash the rows are logged again, which is harmless.

use crate::capture::baseline::{baseline_rows, unversioned};
use crate::db::connection::DatabaseError;
use crate::db::key_pages::{KeyPage, next_page, page_upto};
use crate::db::layout::{Layout, TableLayout, version_keys};
use crate::db::sql::quote;
use crate::model::batch::Value;
use crate::model::ids::Hlc;
use crate::model::planted_bugs::{Bug, planted};
use crate::store::change_log::publish_rows;
use crate::store::sites::IS_OWN;
use rusqlite::{Connection, params_from_iter};

/// The result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkStep {
    /// The number of logged rows.
    pub rows: u64,
    /// The bytes of their values, about.
    pub bytes: u64,
    /// The tables that were looked at.
    pub tables: u64,
    /// The walk is complete.
    pub finished: bool,
}

/// The bounds of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepBounds {
    /// The most examined rows; each table counts as some besides.
    pub rows_max: u64,
    /// The most bytes of logged rows. A single row may have more.
    pub bytes_max: u64,
}

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

    /// Continues inside the caller's write transaction, until the bounds are reached or the walk is
    /// complete. Starts again if the schema has changed.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn step(
        &mut self,
        db: &Connection,
        layout: &Layout,
        bounds: StepBounds,
    ) -> Result<WalkStep, DatabaseError> {
        if self.schema_version != layout.schema_version {
            (self.schema_version, self.table, self.after) = (layout.schema_version, 0, None);
            self.unversioned = self.since_ms.is_none();
        }
        let (mut logged, mut rows_left) = (Logged::default(), bounds.rows_max);
        let mut tables = 0;
        while let Some(table) = layout.tables.get(self.table) {
            let bytes_left = bounds.bytes_max.saturating_sub(logged.bytes);
            if bytes_left == 0 || rows_left == 0 {
                break;
            }
            let left = StepBounds { rows_max: rows_left, bytes_max: bytes_left };
            let page = self.page(db, table, left)?;
            tables += 1;
            rows_left = rows_left.saturating_sub(page.page.rows_read + TABLE_ROWS);
            let rows = self.log(db, table, &page.page)?;
            logged.rows += rows;
            logged.bytes += page.bytes;
            self.after = page.page.end;
            if self.after.is_some() {
                break;
            }
            if !self.unversioned && self.since_ms == Some(0) {
                self.unversioned = true;
            } else {
                (self.table, self.unversioned) = (self.table + 1, self.since_ms.is_none());
            }
        }
        self.rows += logged.rows;
        let finished = self.table >= layout.tables.len();
        Ok(WalkStep { rows: logged.rows, bytes: logged.bytes, tables, finished })
    }

    /// Returns the next page of a table: as many rows as the bounds allow, and at least one.
    fn page(
        &self,
        db: &Connection,
        table: &TableLayout,
        bounds: StepBounds,
    ) -> Result<SizedPage, DatabaseError> {
        let (from, keys) = self.source(table);
        let after = self.after.as_deref();
        let page = next_page(db, &from, &keys, after, bounds.rows_max)?;
        let read = self.sized_rows(table, &page);
        let fit = rows_that_fit(db, &read, &page.values, keys.len(), bounds.bytes_max)?;
        let Some(end) = fit.end else { return Ok(SizedPage { page, bytes: fit.bytes }) };
        Ok(SizedPage { page: page_upto(&keys, after, end), bytes: fit.bytes })
    }

    /// Returns the FROM clause of the rows to examine, and the expressions of their keys.
    fn source(&self, table: &TableLayout) -> (String, Vec<String>) {
        if self.unversioned {
            let keys = table.schema.key.iter().map(|k| format!("t.{}", quote(&k.name))).collect();
            (format!("main.{} AS t", quote(table.name())), keys)
        } else {
            let keys = version_keys(&table.schema).iter().map(|k| format!("v.{k}")).collect();
            (format!("main.{} AS v", quote(&table.version_table())), keys)
        }
    }

    /// Returns the condition on the version of a row, beside that on its key.
    fn recent(&self) -> String {
        let own =
            if planted(Bug::OwnRowsOnly) { format!(" AND v.{IS_OWN}") } else { String::new() };
        format!("v.hlc >= {}{own}", Hlc::from_ms(self.since_ms.unwrap_or(0)))
    }

    /// Returns the statement that reads key and size of the rows of a page that are to be logged,
    /// in key order.
    fn sized_rows(&self, table: &TableLayout, page: &KeyPage) -> String {
        let (from, keys) = self.source(table);
        let columns = keys.join(", ");
        let sizes: Vec<String> = table
            .batch_columns
            .iter()
            .map(|c| format!("coalesce(octet_length(t.{}), 1)", quote(c)))
            .collect();
        let (size, condition) = (sum(&sizes), &page.condition);
        if self.unversioned {
            let from = unversioned(table);
            return format!("SELECT {columns}, {size} {from} AND {condition} ORDER BY {columns}");
        }
        format!(
            "SELECT {columns}, {size} FROM {from} LEFT JOIN main.{} AS t ON {} WHERE {condition} \
            AND {} ORDER BY {columns}",
            quote(table.name()),
            table.row_of_version(),
            self.recent()
        )
    }

    fn log(
        &self,
        db: &Connection,
        table: &TableLayout,
        page: &KeyPage,
    ) -> Result<u64, DatabaseError> {
        if self.unversioned {
            return Ok(baseline_rows(db, table, &page.condition, &page.values)? as u64);
        }
        let (from, _) = self.source(table);
        let keys = table.key_of_version();
        let from = format!("FROM {from} WHERE {} AND {}", page.condition, self.recent());
        Ok(publish_rows(db, table.id, &keys, &from, &page.values)? as u64)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Logged {
    rows: u64,
    bytes: u64,
}

/// A page, and the bytes of its rows that are to be logged.
struct SizedPage {
    page: KeyPage,
    bytes: u64,
}

/// The first rows of a page that fit into a bound.
struct Fit {
    bytes: u64,
    /// The key of the last row that fits; None if all rows do.
    end: Option<Vec<Value>>,
}

/// What a table costs under the write lock, in rows: its statements are prepared.
const TABLE_ROWS: u64 = 20;

/// What a row costs beside its values.
const ROW_BYTES: u64 = 32;

/// Reads keys and sizes until the next row would exceed the bound. The first row always fits. It
/// reads the head of each row only: `octet_length` does not read overflow pages.
fn rows_that_fit(
    db: &Connection,
    read: &str,
    values: &[Value],
    keys: usize,
    bytes_max: u64,
) -> Result<Fit, DatabaseError> {
    let mut read = db.prepare_cached(read)?;
    let mut rows = read.query(params_from_iter(values))?;
    let (mut bytes, mut end) = (0, None);
    while let Some(row) = rows.next()? {
        let size = row.get::<_, i64>(keys)?.cast_unsigned() + ROW_BYTES;
        if end.is_some() && bytes + size > bytes_max {
            return Ok(Fit { bytes, end });
        }
        bytes += size;
        let key = (0..keys).map(|i| row.get_ref(i).map(Value::from));
        end = Some(key.collect::<rusqlite::Result<_>>()?);
    }
    Ok(Fit { bytes, end: None })
}

/// Returns a sum as a balanced tree: SQLite bounds the depth of an expression, and a table may have
/// more columns than that.
fn sum(terms: &[String]) -> String {
    match terms {
        [] => "0".to_owned(),
        [one] => one.clone(),
        _ => {
            let (left, right) = terms.split_at(terms.len() / 2);
            format!("({} + {})", sum(left), sum(right))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::install::install;
    use crate::model::ids::Site;
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
            let bounds = StepBounds { rows_max, bytes_max: u64::MAX };
            if walk.step(db, layout, bounds).unwrap().finished {
                return walk.rows();
            }
        }
        panic!("the walk does not end");
    }

    /// Rows of all tables together, and tables, count against the bound: each step holds the write
    /// lock.
    #[test]
    fn a_step_is_bounded_over_many_small_tables() {
        let (db, _) = database();
        for i in 0..40 {
            db.execute_batch(&format!(
                "CREATE TABLE s{i} (id INTEGER PRIMARY KEY); INSERT INTO s{i} SELECT id FROM a"
            ))
            .unwrap();
        }
        let (layout, _) = install(&db, &TableFilter::with_rowids(), 0).unwrap();
        let (mut walk, mut rows) = (Walk::unversioned(), Vec::new());
        let bounds = StepBounds { rows_max: 100, bytes_max: u64::MAX };
        while rows.len() < 100 {
            let step = walk.step(&db, &layout, bounds).unwrap();
            rows.push(step.rows);
            if step.finished {
                break;
            }
        }
        assert!(rows.iter().all(|rows| *rows <= 100), "{rows:?}");
        assert!((14..100).contains(&rows.len()), "43 tables in steps of three: {rows:?}");
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
                count("SELECT count(*) FROM __harmonylite__b_version WHERE hlc = 1 AND site = -1"),
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
        let bounds = StepBounds { rows_max: 5, bytes_max: u64::MAX };
        assert!(!walk.step(&db, &layout, bounds).unwrap().finished);
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

    /// 40 rows of 1,000 bytes between small ones, and one that is larger than any step.
    #[test]
    fn a_step_has_no_more_bytes_than_its_bound_and_at_least_one_row() {
        for (walk, versions) in [(Walk::unversioned(), false), (Walk::since(5), true)] {
            let db = Connection::open_in_memory().unwrap();
            db.execute_batch("CREATE TABLE t (a TEXT COLLATE NOCASE, b, v, PRIMARY KEY (a, b))")
                .unwrap();
            create_tables(&db, std::path::Path::new(":memory:")).unwrap();
            begin_site(&db, Site(7), 0).unwrap();
            let (layout, _) = install(&db, &TableFilter::with_rowids(), 0).unwrap();
            db.execute_batch(
                "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 79)
                 INSERT INTO t SELECT 'K' || i / 9, i, zeroblob(CASE WHEN i = 50 THEN 9000 WHEN \
                 i % 2 THEN 1000 ELSE 1 END) FROM n",
            )
            .unwrap();
            if versions {
                let hlc = Hlc::from_ms(9);
                db.execute_batch(&format!(
                    "INSERT INTO __harmonylite__t_version (key0, key1, hlc, site) SELECT lower(a), \
                     b, {hlc}, 7 FROM t"
                ))
                .unwrap();
            }
            db.execute_batch("DELETE FROM __harmonylite__change_log").unwrap();
            let mut walk = walk;
            let (mut rows, mut steps) = (0, 0);
            loop {
                let bounds = StepBounds { rows_max: 100, bytes_max: 5_000 };
                let step = walk.step(&db, &layout, bounds).unwrap();
                assert!(step.bytes <= 5_000 || (step.rows == 1 && step.bytes > 9_000), "{step:?}");
                (rows, steps) = (rows + step.rows, steps + 1);
                if step.finished {
                    break;
                }
            }
            assert_eq!((rows, steps > 9), (80, true), "in {steps} steps");
        }
    }
}
