//! Checks what the application's own triggers do on other nodes.
//!
//! For each table it prepares (never runs) an insert, an update and a delete, while an authorizer
//! records the tables that triggers write to.

use super::report::{Level, Report};
use crate::db::schema::{OWN_PREFIX, Schema};
use crate::db::sql::quote;
use anyhow::Result;
use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// The tables that each trigger writes to.
type Writes = BTreeMap<String, BTreeSet<String>>;

/// Adds the findings.
pub(super) fn check(db: &mut Connection, schema: &Schema, report: &mut Report) -> Result<()> {
    let replicated: Vec<&str> = schema.tables.iter().map(|t| t.name.as_str()).collect();
    let (writes, broken) = compile(db, &replicated)?;
    for (table, error) in broken {
        let text = format!("{table}: harmonylite cannot compile a write to it: {error}");
        let hint = "the application registers that function, collation or module, so triggers \
            here that maintain an index ignore remote rows";
        report.add(Level::Warning, "trigger", text, hint);
    }
    let is_replicated = |name: &str| replicated.iter().any(|r| r.eq_ignore_ascii_case(name));
    for (trigger, targets) in writes {
        let (theirs, local): (Vec<String>, Vec<String>) =
            targets.into_iter().partition(|t| is_replicated(t));
        match (theirs.is_empty(), local.is_empty()) {
            (true, true) => {}
            (true, false) => {
                let text = format!(
                    "trigger {trigger} writes to {}, not replicated: it also fires for rows from \
                    other nodes",
                    local.join(", ")
                );
                report.add(Level::Note, "trigger", text, "");
            }
            (false, true) => {
                let text = format!(
                    "trigger {trigger} writes to {}, replicated: it fires on the node that \
                    writes, and its effects are replicated as rows",
                    theirs.join(", ")
                );
                report.add(
                    Level::Note,
                    "trigger",
                    text,
                    "a sum kept by triggers (x = x + 1) is one row: of two concurrent updates \
                    only the later survives",
                );
            }
            (false, false) => {
                let text = format!(
                    "trigger {trigger} writes to replicated tables ({}) and to others ({}): \
                    remote rows do not update the others",
                    theirs.join(", "),
                    local.join(", ")
                );
                report.add(Level::Warning, "trigger", text, "split it into two triggers");
            }
        }
    }
    Ok(())
}

fn compile(db: &mut Connection, tables: &[&str]) -> Result<(Writes, Vec<(String, String)>)> {
    let sink = Arc::new(Mutex::new(RefCell::new(Writes::new())));
    let listener = Arc::clone(&sink);
    db.authorizer(Some(move |context: AuthContext<'_>| {
        let written = match context.action {
            AuthAction::Insert { table_name }
            | AuthAction::Delete { table_name }
            | AuthAction::Update { table_name, .. } => Some(table_name),
            _ => None,
        };
        if let (Some(trigger), Some(table)) =
            (context.accessor.filter(|t| !t.starts_with(OWN_PREFIX)), written)
        {
            let all = listener.lock().unwrap_or_else(PoisonError::into_inner);
            all.borrow_mut().entry(trigger.to_owned()).or_default().insert(table.to_owned());
        }
        Authorization::Allow
    }))?;
    let mut broken = Vec::new();
    for table in tables {
        if let Err(error) = prepare_writes(db, table) {
            broken.push(((*table).to_owned(), error.to_string()));
        }
    }
    db.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)?;
    let writes = sink.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok((writes, broken))
}

fn prepare_writes(db: &Connection, table: &str) -> rusqlite::Result<()> {
    let mut read =
        db.prepare("SELECT name FROM pragma_table_xinfo(?1, 'main') WHERE hidden = 0")?;
    let columns: Vec<String> =
        read.query_map([table], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?;
    let all: Vec<String> =
        columns.iter().map(|c| format!("{name} = {name}", name = quote(c))).collect();
    let name = quote(table);
    db.prepare(&format!("DELETE FROM main.{name}"))?;
    db.prepare(&format!("UPDATE main.{name} SET {}", all.join(", ")))?;
    db.prepare(&format!("INSERT INTO main.{name} DEFAULT VALUES"))?;
    Ok(())
}
