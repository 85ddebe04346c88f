//! What a change of another node drops here is kept for a while, under a name that says when.
//!
//! Arrives: a change that is about to be made. Leaves: the table `__harmonylite__dropped_<unix
//! ms>_<table>` with the rows, or with the key and the values of a dropped column. Owns: nothing
//! that this node has is gone at once because another node dropped it. Kept tables are removed
//! after `version_retention`.

use crate::db::connection::DatabaseError;
use crate::db::objects::Objects;
use crate::db::schema::OWN_PREFIX;
use crate::db::schema_change::SchemaChange;
use crate::db::sql::quote;
use rusqlite::Connection;

/// The beginning of the names, after our prefix.
const DROPPED: &str = "dropped_";

/// Whether this is the name of a kept table.
pub fn is_kept(name: &str) -> bool {
    name.strip_prefix(OWN_PREFIX).is_some_and(|rest| rest.starts_with(DROPPED))
}

/// Copies what the change is about to drop. Nothing for a change that drops nothing.
///
/// # Errors
/// SQLite's error.
pub fn keep(
    db: &Connection,
    objects: &Objects,
    change: &SchemaChange,
    now_ms: i64,
) -> Result<(), DatabaseError> {
    match change {
        SchemaChange::DropTable { name } => {
            keep_rows(db, &kept_name(name, now_ms), &format!("FROM main.{}", quote(name)))
        }
        SchemaChange::DropColumn { table, column } => {
            let name = kept_name(&format!("{table}_{column}"), now_ms);
            keep_columns(db, &name, table, std::slice::from_ref(column))
        }
        SchemaChange::Rebuild { table, columns, .. } => {
            let Some(before) = objects.table(table) else { return Ok(()) };
            let is_copied = |name: &str| columns.iter().any(|(c, _)| c.eq_ignore_ascii_case(name));
            let all = before.text.columns.iter().filter(|c| c.generated.is_none());
            let lost: Vec<String> =
                all.map(|c| c.name.clone()).filter(|name| !is_copied(name)).collect();
            keep_columns(db, &kept_name(table, now_ms), table, &lost)
        }
        _ => Ok(()),
    }
}

/// Keeps the whole row where a column is not NULL: that names the row however it is identified.
fn keep_columns(
    db: &Connection,
    kept: &str,
    table: &str,
    columns: &[String],
) -> Result<(), DatabaseError> {
    if columns.is_empty() {
        return Ok(());
    }
    let filled: Vec<String> = columns.iter().map(|c| format!("{} IS NOT NULL", quote(c))).collect();
    keep_rows(db, kept, &format!("FROM main.{} WHERE {}", quote(table), filled.join(" OR ")))
}

/// Nothing is kept where there is nothing: a kept table means that values are gone elsewhere.
fn keep_rows(db: &Connection, kept: &str, rows: &str) -> Result<(), DatabaseError> {
    if db.query_row(&format!("SELECT EXISTS (SELECT 1 {rows})"), [], |r| r.get(0))? {
        db.execute_batch(&format!("CREATE TABLE main.{} AS SELECT * {rows}", quote(kept)))?;
    }
    Ok(())
}

fn kept_name(table: &str, now_ms: i64) -> String {
    format!("{OWN_PREFIX}{DROPPED}{now_ms}_{table}")
}

/// The kept tables, the oldest first.
///
/// # Errors
/// SQLite's error.
pub fn list(db: &Connection) -> Result<Vec<String>, DatabaseError> {
    let mut read = db.prepare_cached(
        "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND substr(name, 1, length(?1)) \
        = ?1 ORDER BY name",
    )?;
    let names = read.query_map([format!("{OWN_PREFIX}{DROPPED}")], |r| r.get(0))?;
    Ok(names.collect::<rusqlite::Result<_>>()?)
}

/// Removes the tables that were kept before this time, unix milliseconds.
///
/// # Errors
/// SQLite's error.
pub fn remove_before(db: &Connection, before_ms: i64) -> Result<(), DatabaseError> {
    for name in &list(db)? {
        let time = name[OWN_PREFIX.len() + DROPPED.len()..].split('_').next();
        let kept_ms = time.and_then(|text| text.parse::<i64>().ok());
        if kept_ms.is_some_and(|kept_ms| kept_ms < before_ms) {
            db.execute_batch(&format!("DROP TABLE main.{}", quote(name)))?;
            tracing::info!(name, "removed what another node had dropped");
        }
    }
    Ok(())
}
