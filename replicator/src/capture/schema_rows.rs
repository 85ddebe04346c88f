//! Reads and writes rows of `sqlite_schema` itself.
//!
//! Arrives: names and texts of triggers; statements that create tables. Leaves: the rows that
//! SQLite would have written. Runs inside the caller's write transaction, so a crash leaves all or
//! none.

use crate::db::connection::DatabaseError;
use crate::db::sql::quote;
use crate::db::writable_schema::writable;
use rusqlite::types::Value;
use rusqlite::{Connection, params, params_from_iter};

/// A row of `sqlite_schema` that SQLite made for a trigger.
#[derive(Debug)]
pub(super) struct Compiled {
    name: String,
    table: String,
    sql: String,
}

/// Compiles triggers in an empty database, each beside a stand-in of its table, and returns the
/// rows of its `sqlite_schema`. `triggers`: tables with the texts of triggers on them.
///
/// # Errors
/// SQLite's error.
pub(super) fn compile(triggers: &[(String, Vec<String>)]) -> Result<Vec<Compiled>, DatabaseError> {
    let empty = Connection::open_in_memory()?;
    let mut compiled = Vec::new();
    for (table, texts) in triggers {
        // Rolled back, so that each table finds the database empty.
        empty.execute_batch(&format!("BEGIN; CREATE TABLE main.{} (x)", quote(table)))?;
        for sql in texts {
            empty.execute_batch(sql)?;
        }
        let mut read = empty.prepare_cached(
            "SELECT name, tbl_name, sql FROM main.sqlite_schema WHERE type = 'trigger' ORDER BY \
            rowid",
        )?;
        let mut rows = read.query([])?;
        while let Some(r) = rows.next()? {
            compiled.push(Compiled { name: r.get(0)?, table: r.get(1)?, sql: r.get(2)? });
        }
        drop(rows);
        empty.execute_batch("ROLLBACK")?;
    }
    Ok(compiled)
}

/// Deletes rows, given as rowid and name, and inserts others.
///
/// # Errors
/// SQLite's error.
pub(super) fn write(
    db: &Connection,
    dropped: &[(i64, String)],
    compiled: &[Compiled],
) -> Result<(), DatabaseError> {
    writable(db, || {
        let mut delete =
            db.prepare("DELETE FROM main.sqlite_schema WHERE rowid = ?1 AND name = ?2")?;
        for (rowid, name) in dropped {
            delete.execute(params![rowid, name])?;
        }
        let mut insert = db.prepare(
            "INSERT INTO main.sqlite_schema (type, name, tbl_name, rootpage, sql) VALUES \
            ('trigger', ?1, ?2, 0, ?3)",
        )?;
        for Compiled { name, table, sql } in compiled {
            insert.execute([name, table, sql])?;
        }
        Ok(())
    })
}

/// Runs `create`, which may only create tables, while the rows of `sqlite_schema` are away, and
/// puts them back in their places. SQLite searches all rows after each CREATE; what it knows of the
/// other objects it has in memory. The last row stays, so that new ones come after it.
///
/// # Errors
/// SQLite's error, or that of `create`; then the caller rolls back.
pub(super) fn without_other_rows(
    db: &Connection,
    create: impl FnOnce() -> Result<(), DatabaseError>,
) -> Result<(), DatabaseError> {
    let others = "WHERE rowid < (SELECT max(rowid) FROM main.sqlite_schema)";
    let mut read = db.prepare(&format!("SELECT rowid, * FROM main.sqlite_schema {others}"))?;
    let rows = read.query_map([], |r| (0..6).map(|i| r.get(i)).collect::<Result<Vec<Value>, _>>());
    let rows = rows?.collect::<rusqlite::Result<Vec<_>>>()?;
    writable(db, || {
        Ok(db.execute(&format!("DELETE FROM main.sqlite_schema {others}"), []).map(|_| ())?)
    })?;
    create()?;
    writable(db, || {
        let mut insert = db.prepare(
            "INSERT INTO main.sqlite_schema (rowid, type, name, tbl_name, rootpage, sql) VALUES \
            (?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        for row in &rows {
            insert.execute(params_from_iter(row))?;
        }
        Ok(())
    })
}
