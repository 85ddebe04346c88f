//! Brings the change log of a former format to the present one, and the triggers that write it, in
//! the caller's transaction.

use super::change_log::{NAME, key_columns_present, widen};
use super::entry_code::encode;
use super::install;
use crate::db::connection::DatabaseError;
use crate::db::schema::OWN_PREFIX;
use crate::db::sql::{key_columns, rename_alone};
use crate::db::writable_schema::writable;
use rusqlite::Connection;

/// What each statement of a trigger begins with.
const INTO: &str = "INSERT INTO __harmonylite__change_log (";

/// Puts the columns `kind`, `prev_hlc` and `prev_site` of formats 1 to 4 into `table_id`. The copy
/// holds the write lock for two to three seconds for each million entries that are not published,
/// once.
///
/// # Errors
/// SQLite's error.
pub(super) fn bring_up(db: &Connection) -> Result<(), DatabaseError> {
    let has_kinds: bool = db.query_row(
        "SELECT count(*) = 1 FROM pragma_table_info(?1, 'main') WHERE name = 'kind'",
        [NAME],
        |r| r.get(0),
    )?;
    // Somebody may have dropped the log.
    if !has_kinds {
        return Ok(());
    }
    rewrite_triggers(db)?;
    let length = key_columns_present(db)?;
    db.execute_batch(&rename_alone(NAME, "__harmonylite__former_change_log"))?;
    install::create_missing(db)?;
    widen(db, length)?;
    let keys = key_columns(length).join(", ");
    Ok(db.execute_batch(&format!(
        "INSERT INTO main.{NAME} (id, time, table_id, {keys}) SELECT id, time, CASE WHEN prev_hlc \
        = -1 THEN code || ' -' WHEN prev_hlc IS NULL OR prev_site IS NULL THEN code ELSE code || \
        ' ' || prev_hlc || ' ' || prev_site END, {keys} FROM (SELECT *, CASE kind WHEN 0 THEN \
        table_id ELSE -(table_id << 3 | kind) END AS code FROM \
        main.__harmonylite__former_change_log); DROP TABLE main.__harmonylite__former_change_log"
    ))?)
}

/// They must fit the log from this moment on, also if the installation that follows takes several
/// transactions. A trigger that is not understood goes: the installation makes it anew, and
/// compares the rows of its table because it was away.
fn rewrite_triggers(db: &Connection) -> Result<(), DatabaseError> {
    let mut read = db.prepare(
        "SELECT rowid, sql FROM main.sqlite_schema WHERE type = 'trigger' AND substr(name, 1, \
        length(?1)) = ?1 AND instr(sql, 'kind')",
    )?;
    let found: Vec<(i64, String)> = read
        .query_map([OWN_PREFIX], |r| Ok((r.get(0)?, r.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    // Each DROP and CREATE would search all rows: minutes with thousands of tables.
    writable(db, || {
        let mut change = db.prepare("UPDATE main.sqlite_schema SET sql = ?2 WHERE rowid = ?1")?;
        let mut remove = db.prepare("DELETE FROM main.sqlite_schema WHERE rowid = ?1")?;
        for (rowid, former) in found {
            match rewritten(&former) {
                Some(sql) if sql == former => 0,
                Some(sql) => change.execute((rowid, sql))?,
                None => remove.execute([rowid])?,
            };
        }
        Ok(())
    })
}

/// Returns the text of a trigger with the kind in `table_id`; None if it is not understood.
fn rewritten(sql: &str) -> Option<String> {
    let mut parts = sql.split(INTO);
    let mut out = parts.next()?.to_owned();
    for part in parts {
        let (columns, values) = part.split_once(')')?;
        let mut columns: Vec<&str> = columns.split(", ").collect();
        out.push_str(INTO);
        let Some(kind) = columns.iter().position(|name| *name == "kind") else {
            out.push_str(part);
            continue;
        };
        let (word, values) = [" VALUES (", " SELECT "]
            .into_iter()
            .find_map(|word| values.strip_prefix(word).map(|values| (word, values)))?;
        let mut values: Vec<&str> = values.splitn(kind + 2, ", ").collect();
        let table = kind.checked_sub(1).filter(|table| columns[*table] == "table_id")?;
        let code = encode(values.get(table)?.parse().ok()?, values.get(kind)?.parse().ok()?);
        let code = code.to_string();
        columns.remove(kind);
        values.remove(kind);
        values[table] = &code;
        out.push_str(&format!("{}){word}{}", columns.join(", "), values.join(", ")));
    }
    Some(out)
}

#[cfg(test)]
#[path = "former_log_tests.rs"]
mod tests;
