//! Databases as an application sees them, and the proof that two hold the same rows.

use anyhow::{Context, Result};
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use std::path::Path;
use std::time::Duration;
use xxhash_rust::xxh3::Xxh3;

/// Opens a database like an ordinary application.
pub(crate) fn open(path: &Path) -> Result<Connection> {
    let db = Connection::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    db.busy_timeout(Duration::from_secs(20))?;
    db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")?;
    Ok(db)
}

/// Opens it through the VFS, which wakes the sidecar at each commit.
pub(crate) fn open_ringing(path: &Path) -> Result<Connection> {
    let app = harmonylite_vfs::open(path)?;
    app.busy_timeout(Duration::from_secs(20))?;
    app.execute_batch("PRAGMA synchronous = NORMAL")?;
    Ok(app)
}

/// Returns the result of a count with one parameter.
pub(crate) fn count(db: &Connection, sql: &str, value: i64) -> Result<i64> {
    Ok(db.prepare_cached(sql)?.query_row([value], |r| r.get(0))?)
}

/// The rows of one table: how many, and the sum of their hashes, which no order changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) table: String,
    pub(crate) rows: u64,
    hash: u128,
}

/// Returns the content of all tables of the application.
pub(crate) fn contents(db: &Connection) -> Result<Vec<Content>> {
    tables(db)?.into_iter().map(|table| content(db, table)).collect()
}

/// Returns the number of rows of each table of the application.
pub(crate) fn counts(db: &Connection) -> Result<Vec<i64>> {
    let count = |table: String| {
        let sql = format!("SELECT count(*) FROM {}", quoted(&table));
        Ok(db.query_row(&sql, [], |r| r.get(0))?)
    };
    tables(db)?.into_iter().map(count).collect()
}

fn tables(db: &Connection) -> Result<Vec<String>> {
    let mut names = db.prepare_cached(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'
            AND name NOT LIKE '\\_\\_harmonylite\\_\\_%' ESCAPE '\\'
            AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name",
    )?;
    Ok(names.query_map([], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?)
}

fn content(db: &Connection, table: String) -> Result<Content> {
    let mut statement = db.prepare(&format!("SELECT * FROM {}", quoted(&table)))?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let (mut number, mut hash) = (0, 0_u128);
    while let Some(row) = rows.next()? {
        let mut of_row = Xxh3::new();
        for column in 0..columns {
            let mut part = |kind: u8, bytes: &[u8]| {
                of_row.update(&[kind]);
                of_row.update(&bytes.len().to_le_bytes());
                of_row.update(bytes);
            };
            match row.get_ref(column)? {
                ValueRef::Null => part(0, &[]),
                ValueRef::Integer(value) => part(1, &value.to_le_bytes()),
                ValueRef::Real(value) => part(2, &value.to_bits().to_le_bytes()),
                ValueRef::Text(bytes) => part(3, bytes),
                ValueRef::Blob(bytes) => part(4, bytes),
            }
        }
        number += 1;
        hash = hash.wrapping_add(of_row.digest128());
    }
    Ok(Content { table, rows: number, hash })
}

/// Returns the first table in which two databases differ, in words.
pub(crate) fn difference(one: &[Content], other: &[Content]) -> Option<String> {
    for content in one {
        let Some(there) = other.iter().find(|c| c.table == content.table) else {
            return Some(format!("table {} is missing", content.table));
        };
        if there != content {
            let (a, b) = (content.rows, there.rows);
            let how = if a == b { "with other values".to_owned() } else { format!("not {b}") };
            return Some(format!("table {} has {a} rows, {how}", content.table));
        }
    }
    (one.len() != other.len()).then(|| "one database has more tables".to_owned())
}

/// Returns the bytes that the pages in use fill, and those of the WAL file.
pub(crate) fn sizes(db: &Connection, path: &Path) -> Result<(i64, u64)> {
    let bytes = db.query_row(
        "SELECT (page_count - freelist_count) * page_size
            FROM pragma_page_count, pragma_freelist_count, pragma_page_size",
        [],
        |r| r.get(0),
    )?;
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    Ok((bytes, std::fs::metadata(wal).map_or(0, |m| m.len())))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(sql: &str) -> Vec<Content> {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE \"a \"\"b\" (id INTEGER PRIMARY KEY, v)").unwrap();
        db.execute_batch(sql).unwrap();
        contents(&db).unwrap()
    }

    #[test]
    fn only_the_same_rows_are_equal() {
        let one = with("INSERT INTO \"a \"\"b\" VALUES (1, 1), (2, 'x')");
        let same = with("INSERT INTO \"a \"\"b\" VALUES (2, 'x'), (1, 1)");
        assert_eq!(difference(&one, &same), None);
        let real = with("INSERT INTO \"a \"\"b\" VALUES (1, 1.0), (2, 'x')");
        assert!(difference(&one, &real).unwrap().contains("other values"));
        let blob = with("INSERT INTO \"a \"\"b\" VALUES (1, 1), (2, x'78')");
        assert!(difference(&one, &blob).is_some());
        let fewer = with("INSERT INTO \"a \"\"b\" VALUES (1, 1)");
        assert!(difference(&one, &fewer).unwrap().contains("2 rows, not 1"));
        let more = with("CREATE TABLE c (id)");
        assert!(difference(&with(""), &more).is_some() && difference(&more, &with("")).is_some());
        let ours = with("CREATE TABLE __harmonylite__meta (id)");
        assert_eq!(difference(&with(""), &ours), None, "our own tables do not count");
    }
}
