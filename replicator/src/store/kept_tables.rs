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
            let kept = quote(&kept_name(name, now_ms));
            let rows = format!("CREATE TABLE main.{kept} AS SELECT * FROM main.{}", quote(name));
            Ok(db.execute_batch(&rows)?)
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
    let sql = format!(
        "CREATE TABLE main.{} AS SELECT * FROM main.{} WHERE {}",
        quote(kept),
        quote(table),
        filled.join(" OR ")
    );
    Ok(db.execute_batch(&sql)?)
}

fn kept_name(table: &str, now_ms: i64) -> String {
    format!("{OWN_PREFIX}{DROPPED}{now_ms}_{table}")
}

/// Removes the tables that were kept before this time, unix milliseconds.
///
/// # Errors
/// SQLite's error.
pub fn remove_before(db: &Connection, before_ms: i64) -> Result<(), DatabaseError> {
    let names: Vec<String> = db
        .prepare("SELECT name FROM main.sqlite_schema WHERE type = 'table'")?
        .query_map([], |r| r.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for name in names.iter().filter(|name| is_kept(name)) {
        let time = name[OWN_PREFIX.len() + DROPPED.len()..].split('_').next();
        let kept_ms = time.and_then(|text| text.parse::<i64>().ok());
        if kept_ms.is_some_and(|kept_ms| kept_ms < before_ms) {
            db.execute_batch(&format!("DROP TABLE main.{}", quote(name)))?;
            tracing::info!(name, "removed what another node had dropped");
        }
    }
    Ok(())
}
