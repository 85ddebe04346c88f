//! Makes user triggers fire on apply if they write only to tables that are not replicated.
//!
//! Arrives: the writing connection, on which ordinary triggers are off. Leaves: TEMP copies of such
//! triggers, which always fire. Owns: an index that the application maintains by triggers (FTS)
//! also contains remote rows. The writes of a trigger to replicated tables are not repeated,
//! because they arrive as rows.

use crate::db::connection::DatabaseError;
use crate::db::schema::OWN_PREFIX;
use crate::db::sql::quote;
use crate::db::temp_triggers;
use parking_lot::Mutex;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The tables that each trigger writes, as SQLite's compiler reports them.
type Writes = BTreeMap<String, Vec<String>>;

/// A trigger that cannot fire here, and why.
pub type SilentTrigger = (String, String);

/// Replaces the TEMP copies. Returns the names of the copied triggers, and those that cannot be
/// compiled here because they call a function of the application.
///
/// # Errors
/// SQLite's error, except for the triggers themselves.
pub fn copy_to_temp(
    db: &mut Connection,
    replicated: &dyn Fn(&str) -> bool,
) -> Result<(Vec<String>, Vec<SilentTrigger>), DatabaseError> {
    drop_copies(db)?;
    let mut made = Vec::new();
    let mut failed = Vec::new();
    let (writes, broken) = observe_writes(db)?;
    for (name, table, sql) in user_triggers(db)? {
        let lower = name.to_ascii_lowercase();
        if let Some(why) = broken.get(&table) {
            failed.push((name, why.clone()));
            continue;
        }
        let Some(targets) = writes.get(&lower) else { continue };
        if targets.iter().any(|t| replicated(t)) {
            continue;
        }
        match copy(db, &sql) {
            Ok(()) => made.push(name),
            Err(error) => failed.push((name, reason(error))),
        }
    }
    Ok((made, failed))
}

/// Drops the copies, because they can name what is about to be renamed or dropped. Returns the
/// names of their triggers.
///
/// # Errors
/// SQLite's error.
pub fn drop_copies(db: &Connection) -> Result<Vec<String>, DatabaseError> {
    let mut names: Vec<String> = db
        .prepare("SELECT name FROM temp.sqlite_schema WHERE type = 'trigger'")?
        .query_map([], |r| r.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    names.retain(|name| !name.starts_with(OWN_PREFIX));
    for name in &names {
        temp_triggers::drop(db, name)?;
    }
    Ok(names)
}

/// Makes the copies of these triggers again, as far as they still exist, until the next
/// [`copy_to_temp`] decides about all triggers.
///
/// # Errors
/// SQLite's error.
pub fn copy_again(db: &Connection, names: &[String]) -> Result<(), DatabaseError> {
    for (name, _, sql) in user_triggers(db)?.iter().filter(|(name, ..)| names.contains(name)) {
        if let Err(error) = copy(db, sql) {
            tracing::warn!(trigger = name, %error, "this trigger does not fire for remote rows");
        }
    }
    Ok(())
}

/// The text in `sqlite_schema` has no TEMP, IF NOT EXISTS or schema before the name.
fn copy(db: &Connection, sql: &str) -> rusqlite::Result<()> {
    let rest = sql.get("CREATE TRIGGER".len()..).unwrap_or_default();
    db.execute_batch(&format!("CREATE TEMP TRIGGER{rest}"))
}

fn user_triggers(db: &Connection) -> Result<Vec<(String, String, String)>, DatabaseError> {
    let mut read = db.prepare(
        "SELECT name, tbl_name, sql FROM main.sqlite_schema WHERE type = 'trigger' AND \
        substr(name, 1, length(?1)) <> ?1
         AND tbl_name IN (SELECT name FROM main.sqlite_schema WHERE type = 'table')",
    )?;
    let rows = read.query_map([OWN_PREFIX], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Compiles an insert, update and delete of every table with triggers, with triggers on, and
/// records the writes that the authorizer reports.
fn observe_writes(
    db: &mut Connection,
) -> Result<(Writes, BTreeMap<String, String>), DatabaseError> {
    let writes: Arc<Mutex<Writes>> = Arc::default();
    let sink = Arc::clone(&writes);
    let mut broken = BTreeMap::new();
    let tables: std::collections::BTreeSet<String> =
        user_triggers(db)?.into_iter().map(|(_, table, _)| table).collect();
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true)?;
    db.authorizer(Some(move |context: AuthContext<'_>| {
        if let (Some(trigger), Some(table)) = (context.accessor, written_table(&context.action)) {
            sink.lock().entry(trigger.to_ascii_lowercase()).or_default().push(table.to_owned());
        }
        Authorization::Allow
    }))?;
    for table in tables {
        if let Err(error) = compile_writes(db, &table) {
            broken.insert(table, reason(error));
        }
    }
    db.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    let writes = std::mem::take(&mut *writes.lock());
    Ok((writes, broken))
}

/// SQLite's words, without the statement of ours that it could not compile.
fn reason(error: rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqlInputError { msg, .. } => msg,
        error => error.to_string(),
    }
}

fn written_table<'a>(action: &AuthAction<'a>) -> Option<&'a str> {
    match action {
        AuthAction::Insert { table_name }
        | AuthAction::Delete { table_name }
        | AuthAction::Update { table_name, .. } => Some(table_name),
        _ => None,
    }
}

fn compile_writes(db: &Connection, table: &str) -> rusqlite::Result<()> {
    let columns: Vec<String> = db
        .prepare("SELECT name FROM pragma_table_xinfo(?1, 'main') WHERE hidden = 0")?
        .query_map([table], |r| r.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let quoted = quote(table);
    let all: Vec<String> =
        columns.iter().map(|c| format!("{name} = {name}", name = quote(c))).collect();
    db.prepare(&format!("DELETE FROM main.{quoted}"))?;
    db.prepare(&format!("UPDATE main.{quoted} SET {}", all.join(", ")))?;
    db.prepare(&format!("INSERT INTO main.{quoted} DEFAULT VALUES"))?;
    Ok(())
}
