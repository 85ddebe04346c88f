//! Finds the rows that clash with another row on a unique index.
//!
//! Arrives: a row that cannot be written. Leaves: the keys of the rows that clash with it. It runs
//! a REPLACE and undoes it, so it supports every kind of unique index (partial, over expressions,
//! with collations). Changes nothing.

use crate::db::connection::DatabaseError;
use crate::db::layout::{Layout, TableLayout};
use crate::db::schema::OWN_PREFIX;
use crate::db::sql::{key_columns, quote};
use crate::db::temp_triggers;
use crate::model::batch::Value;
use rusqlite::Connection;

/// Creates the TEMP triggers that record displaced rows. Runs outside any transaction, once for
/// each layout.
///
/// # Errors
/// SQLite's error.
pub fn prepare(db: &Connection, layout: &Layout) -> Result<(), DatabaseError> {
    forget(db)?;
    let keys = key_columns(layout.key_columns_max.max(1));
    db.execute_batch(&format!(
        "DROP TABLE IF EXISTS temp.__harmonylite__displaced; DROP TABLE IF EXISTS \
        temp.__harmonylite__probing;
         CREATE TEMP TABLE __harmonylite__displaced ({}); CREATE TEMP TABLE \
         __harmonylite__probing (x);",
        keys.join(", ")
    ))?;
    for table in layout.tables.iter().filter(|t| !t.schema.unique.is_empty()) {
        create_trigger(db, table)?;
    }
    Ok(())
}

/// Drops the TEMP triggers. Their tables stay until the next [`prepare`].
///
/// # Errors
/// SQLite's error.
pub fn forget(db: &Connection) -> Result<(), DatabaseError> {
    let old: Vec<String> = db
        .prepare(
            "SELECT name FROM temp.sqlite_schema WHERE type = 'trigger' AND substr(name, 1, \
            length(?1)) = ?1",
        )?
        .query_map([OWN_PREFIX], |r| r.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for name in old {
        temp_triggers::drop(db, &name)?;
    }
    Ok(())
}

fn create_trigger(db: &Connection, table: &TableLayout) -> Result<(), DatabaseError> {
    let keys = key_columns(table.schema.key.len());
    let old: Vec<String> =
        table.schema.key.iter().map(|k| format!("OLD.{}", quote(&k.name))).collect();
    Ok(db.execute_batch(&format!(
        "CREATE TEMP TRIGGER {} AFTER DELETE ON main.{} WHEN EXISTS (SELECT 1 FROM \
        __harmonylite__probing)
         BEGIN INSERT INTO __harmonylite__displaced ({}) VALUES ({}); END",
        quote(&format!("{OWN_PREFIX}probe_{}", table.id)),
        quote(table.name()),
        keys.join(", "),
        old.join(", ")
    ))?)
}

/// Switches probing on or off; [`others`] needs it on. REPLACE fires delete triggers only with
/// recursive triggers on. They are switched off again, because otherwise the application's triggers
/// would behave differently here than in the application.
///
/// # Errors
/// SQLite's error.
pub fn set_probing(db: &Connection, on: bool) -> Result<(), DatabaseError> {
    Ok(db.execute_batch(if on {
        "PRAGMA recursive_triggers = ON"
    } else {
        "PRAGMA recursive_triggers = OFF"
    })?)
}

/// Returns the keys of the rows that clash with this one, its own excluded. Runs inside a
/// transaction, with [`set_probing`] on.
///
/// # Errors
/// SQLite's error, also for a row that no REPLACE can write.
pub fn others(
    db: &Connection,
    table: &TableLayout,
    columns: &[&str],
    values: &[&Value],
) -> Result<Vec<Vec<Value>>, DatabaseError> {
    db.execute_batch(
        "SAVEPOINT __harmonylite__probe; INSERT INTO temp.__harmonylite__probing VALUES (1); \
        DELETE FROM temp.__harmonylite__displaced;",
    )?;
    let found = probe(db, table, columns, values);
    db.execute_batch("ROLLBACK TO __harmonylite__probe; RELEASE __harmonylite__probe;")?;
    found
}

fn probe(
    db: &Connection,
    table: &TableLayout,
    columns: &[&str],
    values: &[&Value],
) -> Result<Vec<Vec<Value>>, DatabaseError> {
    let names: Vec<String> = columns.iter().map(|c| quote(c)).collect();
    let places: Vec<String> = (1..=columns.len()).map(|i| format!("?{i}")).collect();
    let sql = format!(
        "INSERT OR REPLACE INTO main.{} ({}) VALUES ({})",
        quote(table.name()),
        names.join(", "),
        places.join(", ")
    );
    db.prepare_cached(&sql)?.execute(rusqlite::params_from_iter(values.iter().copied()))?;
    let n = table.schema.key.len();
    let keys = key_columns(n);
    let mut read =
        db.prepare(&format!("SELECT {} FROM temp.__harmonylite__displaced", keys.join(", ")))?;
    let rows = read.query_map([], |r| {
        (0..n).map(|i| r.get_ref(i).map(Value::from)).collect::<rusqlite::Result<Vec<Value>>>()
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
