//! Finds indexes that do not find rows of their table.
//!
//! Arrives: a connection and the names of tables. Leaves: the indexes that compare text otherwise
//! than byte by byte, and do not find rows that a scan finds. Reads only, a bounded number of rows.
//!
//! An application that overrides NOCASE or RTRIM orders an index in its own way. For every other
//! program the index is damaged: it finds other rows equal, and SQLite may refuse to write.

use crate::db::sql::quote;
use rusqlite::{Connection, ErrorCode};
use std::fmt;

/// The rows of a table that are looked at, for each index.
const ROWS_MAX: u32 = 100_000;
/// Those of them with text beyond ASCII that are looked up.
const PROBES_MAX: u32 = 2_000;
/// The indexes that are looked at.
const INDEXES_MAX: usize = 200;

/// What to do about such an index.
pub const HINT: &str = "remove the override from the application, then run REINDEX on every node \
    with the sqlite3 shell (docs/ids.md, \"Other unique columns\")";

/// An index that does not find rows of its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlindIndex {
    table: String,
    index: String,
    /// The collations that an application may have overridden.
    collations: Vec<String>,
    probed: u32,
    missed: u32,
}

impl fmt::Display for BlindIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, index, collations, probed, missed } = self;
        write!(
            f,
            "the index {index} of {table} does not find {missed} of {probed} rows with text beyond \
            ASCII that are in the table: the application overrides the collation {}, or the index \
            is damaged. Nodes then disagree about which rows are equal, and the sidecar ends with \
            \"malformed\" when it writes such a row",
            collations.join(", ")
        )
    }
}

/// Returns the indexes of these tables that do not find rows. One that only the application can
/// read, because it has a collation of its own, is left out. Stops once `goes_on` returns false.
///
/// # Errors
/// SQLite's error.
pub fn blind_indexes<'t>(
    db: &Connection,
    tables: impl IntoIterator<Item = &'t str>,
    goes_on: impl Fn() -> bool,
) -> rusqlite::Result<Vec<BlindIndex>> {
    let (mut found, mut left) = (Vec::new(), INDEXES_MAX);
    for table in tables {
        for index in indexes(db, table)? {
            if left == 0 || !goes_on() {
                return Ok(found);
            }
            left -= 1;
            let (probed, missed) = match index.probe(db, table) {
                Err(e) if e.sqlite_error_code() == Some(ErrorCode::Unknown) => continue,
                Err(rusqlite::Error::SqlInputError { .. }) => continue,
                counts => counts?,
            };
            if missed > 0 {
                let collations = index.overridable().map(|(_, c)| c.to_ascii_uppercase()).collect();
                let (table, index) = (table.to_owned(), index.name);
                found.push(BlindIndex { table, index, collations, probed, missed });
            }
        }
    }
    Ok(found)
}

/// An index over columns, without a WHERE.
struct Index {
    name: String,
    /// Each column with its collation.
    columns: Vec<(String, String)>,
}

impl Index {
    fn overridable(&self) -> impl Iterator<Item = &(String, String)> {
        let is =
            |collation: &str| ["NOCASE", "RTRIM"].iter().any(|c| c.eq_ignore_ascii_case(collation));
        self.columns.iter().filter(move |(_, collation)| is(collation))
    }

    /// Counts the rows with text beyond ASCII that a scan of the table finds, and those of them
    /// that the index does not find.
    fn probe(&self, db: &Connection, table: &str) -> rusqlite::Result<(u32, u32)> {
        let table = format!("main.{}", quote(table));
        let place = |name: &str| {
            let at = self.columns.iter().position(|(column, _)| column == name);
            format!("c{}", at.unwrap_or_default())
        };
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|(name, _)| format!("{} AS {}", quote(name), place(name)))
            .collect();
        let beyond: Vec<String> = self
            .overridable()
            .map(|(name, _)| format!("{} GLOB '*[^ -~]*'", place(name)))
            .collect();
        let equal: Vec<String> = self
            .columns
            .iter()
            .map(|(name, collation)| {
                format!("i.{} COLLATE {} IS s.{}", quote(name), quote(collation), place(name))
            })
            .collect();
        let sql = format!(
            "SELECT count(*), count(*) FILTER (WHERE NOT EXISTS (SELECT 1 FROM {table} AS i \
            INDEXED BY {} WHERE {})) FROM (SELECT * FROM (SELECT {} FROM {table} NOT INDEXED LIMIT \
            {ROWS_MAX}) WHERE {} LIMIT {PROBES_MAX}) AS s",
            quote(&self.name),
            equal.join(" AND "),
            columns.join(", "),
            beyond.join(" OR ")
        );
        db.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
    }
}

fn indexes(db: &Connection, table: &str) -> rusqlite::Result<Vec<Index>> {
    let mut read = db.prepare_cached(
        "SELECT l.name, x.name, x.coll FROM pragma_index_list(?1, 'main') AS l, \
        pragma_index_xinfo(l.name, 'main') AS x WHERE x.key AND NOT l.partial ORDER BY l.seq, \
        x.seqno",
    )?;
    let mut rows = read.query([table])?;
    let mut found: Vec<(Index, bool)> = Vec::new();
    while let Some(row) = rows.next()? {
        let (name, column): (String, Option<String>) = (row.get(0)?, row.get(1)?);
        if found.last().is_none_or(|(index, _)| index.name != name) {
            found.push((Index { name, columns: Vec::new() }, true));
        }
        let Some((index, is_of_columns)) = found.last_mut() else { continue };
        match column {
            Some(column) => index.columns.push((column, row.get(2)?)),
            None => *is_of_columns = false,
        }
    }
    let usable = |(index, is_of_columns): &(Index, bool)| {
        *is_of_columns && index.overridable().next().is_some()
    };
    Ok(found.into_iter().filter(usable).map(|(index, _)| index).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(db: &Connection) -> String {
        let found = blind_indexes(db, ["t"], || true).unwrap();
        found.iter().map(|blind| format!("{blind}\n")).collect()
    }

    const ROWS: &str = "INSERT INTO t VALUES (1, 'aé', 1), (2, 'Bé', 2), (3, 'cé ', NULL), (4, \
        'plain', 4), (5, NULL, 5)";

    #[test]
    fn an_index_in_the_order_of_a_collation_is_in_order() {
        let db = Connection::open_in_memory().unwrap();
        for ddl in [
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT UNIQUE COLLATE NOCASE, n)",
            "CREATE TABLE t (id, v TEXT COLLATE NOCASE, n, PRIMARY KEY (id, v)); CREATE INDEX i \
            ON t (n DESC, v COLLATE RTRIM); CREATE INDEX e ON t (lower(v) COLLATE NOCASE); CREATE \
            INDEX p ON t (v) WHERE n > 1",
            "CREATE TABLE t (id, v TEXT COLLATE NOCASE, n, PRIMARY KEY (id)) WITHOUT ROWID; CREATE \
            UNIQUE INDEX u ON t (v, id)",
            "CREATE TABLE t (\"id\" INT, \"v\" TEXT PRIMARY KEY COLLATE NOCASE, n)",
        ] {
            db.execute_batch(&format!("DROP TABLE IF EXISTS t; {ddl}; {ROWS}")).unwrap();
            assert_eq!(report(&db), "", "{ddl}");
        }
    }

    /// An index that was written under another order, as an application's collation does it.
    #[test]
    fn an_index_of_another_order_is_named() {
        for (ddl, index) in [
            (
                "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT UNIQUE COLLATE BINARY, n)",
                "autoindex_t_1",
            ),
            (
                "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, n); CREATE INDEX by_v ON t (v \
                COLLATE BINARY, n)",
                "by_v",
            ),
            ("CREATE TABLE t (id, v TEXT COLLATE BINARY, n, PRIMARY KEY (v, id))", "autoindex_t_1"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("app.db");
            let db = Connection::open(&path).unwrap();
            let rows = ROWS.replace(", NULL, 5)", ", 'x', 5)");
            db.execute_batch(&format!("{ddl}; {rows}")).unwrap();
            assert_eq!(report(&db), "", "{ddl}");
            db.execute_batch(
                "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, \
                'BINARY', 'NOCASE')",
            )
            .unwrap();
            let text = report(&Connection::open(&path).unwrap());
            let found = text.contains(&format!("{index} of t")) && text.contains("of 3 rows");
            assert!(found && text.contains("the collation NOCASE"), "{ddl}: {text}");
        }
    }

    #[test]
    fn an_index_that_only_the_application_can_read_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch(&format!(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT UNIQUE COLLATE BINARY, n); {ROWS}; \
            CREATE INDEX own ON t (v COLLATE NOCASE, n COLLATE BINARY); PRAGMA writable_schema = \
            ON; UPDATE sqlite_schema SET sql = replace(sql, 'BINARY', CASE type WHEN 'index' THEN \
            'theirs' ELSE 'NOCASE' END)"
        ))
        .unwrap();
        let text = report(&Connection::open(&path).unwrap());
        assert!(text.contains("autoindex_t_1 of t") && !text.contains("own of t"), "{text}");
        let none = blind_indexes(&Connection::open(&path).unwrap(), ["t"], || false).unwrap();
        assert_eq!(none, [], "somebody waits for the end");
    }
}
