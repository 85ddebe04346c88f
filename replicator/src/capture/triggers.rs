//! The SQL text of all objects that are installed for one table: triggers and version table.
//!
//! Arrives: a [`TableSchema`] and the table's number. Leaves: SQL. Pure. Owns: the triggers run in
//! a stock shell and in every driver, back to SQLite 3.24, with `trusted_schema` off. They cost the
//! application one small insert for each changed row.

use super::displaced;
use super::lineage::witness_sql;
use crate::db::layout::{version_keys, version_table};
use crate::db::schema::{KeyKind, OWN_PREFIX, TableSchema};
use crate::db::sql::{key_columns, quote};
use crate::store::change_log;

pub(super) fn version_table_sql(table: &TableSchema) -> String {
    let name = quote(&version_table(&table.name));
    if table.key_kind != KeyKind::Columns {
        return format!(
            "CREATE TABLE main.{name} (key0 INTEGER PRIMARY KEY, hlc INTEGER NOT NULL, site \
            INTEGER NOT NULL, digest INTEGER)"
        );
    }
    let keys = version_keys(table);
    let columns: Vec<String> = table
        .key
        .iter()
        .zip(&keys)
        .map(|(k, name)| {
            let declared = if k.declared.is_empty() {
                String::new()
            } else {
                format!(" {}", quote(&k.declared))
            };
            format!("{name}{declared} COLLATE {}", k.collation.name())
        })
        .collect();
    format!(
        "CREATE TABLE main.{name} ({}, hlc INTEGER NOT NULL, site INTEGER NOT NULL, digest \
        INTEGER, PRIMARY KEY ({})) WITHOUT ROWID",
        columns.join(", "),
        keys.join(", ")
    )
}

const ON: &str = "_change_log_on_";

pub(super) fn trigger_name(table: &str, event: &str) -> String {
    format!("{OWN_PREFIX}{table}{ON}{event}")
}

/// Returns the name that a table had when this trigger was made for it; None for any other trigger.
pub fn table_of_trigger(trigger: &str) -> Option<&str> {
    Some(trigger.strip_prefix(OWN_PREFIX)?.rsplit_once(ON)?.0)
}

/// The beginning of a statement that logs a key. The log's own default gives the time: every
/// connection reads the text of every trigger before its first statement, so each word of them
/// costs.
pub(super) fn log_key(table: &TableSchema) -> String {
    let keys = key_columns(table.key.len());
    format!("INSERT INTO {} (table_id, {})", change_log::NAME, keys.join(", "))
}

pub(super) fn key_of(table: &TableSchema, row: &str) -> String {
    let keys: Vec<String> = table.key.iter().map(|k| format!("{row}.{}", quote(&k.name))).collect();
    keys.join(", ")
}

/// Returns every name under which an UPDATE can set the key. OF compares texts, so the names of the
/// rowid are listed too.
fn key_names(table: &TableSchema) -> String {
    let mut names: Vec<String> = table.key.iter().map(|k| quote(&k.name)).collect();
    if table.key_kind != KeyKind::Columns {
        names.extend(["rowid", "_rowid_", "oid"].map(quote));
    }
    names.join(", ")
}

/// Returns the condition that rows `a` and `b` (`OLD.` and `NEW.`, or a row of the table and one of
/// them) have the same key.
pub(super) fn same_key(table: &TableSchema, a: &str, b: &str) -> String {
    let parts: Vec<String> = table
        .key
        .iter()
        .map(|k| {
            format!("{a}{name} COLLATE {} IS {b}{name}", k.collation.name(), name = quote(&k.name))
        })
        .collect();
    parts.join(" AND ")
}

pub(super) fn triggers(table: &TableSchema, id: i64) -> Vec<(String, String)> {
    let insert = log_key(table);
    let entry = |row: &str| format!("{insert} VALUES ({id}, {});", key_of(table, row));
    let mut all = Vec::new();
    let mut add = |event: &str, when: &str, condition: &str, body: String| {
        let name = trigger_name(&table.name, event);
        let sql = format!(
            "CREATE TRIGGER main.{} {when} ON {} {condition}BEGIN {body} END",
            quote(&name),
            quote(&table.name)
        );
        all.push((name, sql));
    };
    add("insert", "AFTER INSERT", "", entry("NEW"));
    add("update", "AFTER UPDATE", "", entry("NEW"));
    // Apart from the other, so that an update of other columns pays nothing for it.
    add(
        "key_change",
        &format!("AFTER UPDATE OF {}", key_names(table)),
        &format!("WHEN NOT ({}) ", same_key(table, "OLD.", "NEW.")),
        entry("OLD"),
    );
    add("delete", "AFTER DELETE", "", entry("OLD"));
    if let Some(body) = displaced::body(table, id, "NEW.") {
        add("insert_displaced", "BEFORE INSERT", "", body);
    }
    if let Some(body) = displaced::body(table, id, "OLD.") {
        add("update_displaced", &format!("BEFORE UPDATE{}", displaced::update_of(table)), "", body);
    }
    for (event, when, own) in [
        ("insert_rowid", "BEFORE INSERT", "NEW."),
        ("update_rowid", "BEFORE UPDATE OF rowid, _rowid_, oid", "OLD."),
    ] {
        if let Some(body) = displaced::by_rowid(table, id, own) {
            add(event, when, "", body);
        }
    }
    all.push(witness_sql(table, id));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_names_the_table_that_it_was_made_for() {
        // The last is no part of the first, though its name begins like one of its triggers.
        for table in ["a", "", "odd \"name", "a_change_log_on_b"] {
            for event in ["insert", "update_displaced"] {
                assert_eq!(table_of_trigger(&trigger_name(table, event)), Some(table));
            }
        }
        assert_eq!(table_of_trigger("audit_change_log_on_insert"), None, "the application's");
        assert_eq!(table_of_trigger("__harmonylite__a"), None);
    }
}
