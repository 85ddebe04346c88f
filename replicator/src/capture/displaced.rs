//! The statements of the triggers that log the rows which REPLACE removes by a unique index.
//!
//! Arrives: a [`TableSchema`] and the table's number. Leaves: SQL. Pure. SQLite fires no delete
//! trigger for such a row, so a BEFORE trigger looks for it with the texts of the index itself
//! ([`Probe`]).
//!
//! A trigger that names a column stops `ALTER TABLE .. DROP COLUMN`, also when the application has
//! dropped the index before, in the same transaction or while no sidecar runs. Therefore the probe
//! stands inside a SELECT over one row, called NEW as well, in which the same columns are NULL.
//! SQLite resolves a name from the inside to the outside: as long as the column exists, the names
//! mean the table's row and the trigger's NEW; once it is gone, they mean that row of NULLs, and
//! the probe finds nothing, which is right, because its index is gone too.

use super::triggers::{log_key, same_key};
use crate::db::schema::TableSchema;
use crate::db::sql::quote;
use crate::db::unique_probe::{Probe, over_row};
use crate::store::entry_code::{KIND_DISPLACED, encode};

/// Returns the statements that log the rows that clash with NEW; `own` is the row that is no other
/// (`NEW.` or `OLD.`). None for a table without unique indexes besides the key.
pub(super) fn body(table: &TableSchema, id: i64, own: &str) -> Option<String> {
    let statements: Vec<String> = probes(table).map(|probe| log(table, id, probe, own)).collect();
    (!statements.is_empty()).then(|| statements.join(" "))
}

/// Returns `OF` and the columns that the unique indexes read, so that updates of other columns cost
/// nothing. Empty if a generated column is among them.
pub(super) fn update_of(table: &TableSchema) -> String {
    let mut names: Vec<String> =
        probes(table).flat_map(|probe| &probe.columns).map(|name| quote(name)).collect();
    names.sort();
    names.dedup();
    if names.is_empty() || probes(table).any(|probe| probe.generated) {
        return String::new();
    }
    format!(" OF {}", names.join(", "))
}

/// The statement that logs the row whose rowid NEW takes, in a table with another key. SQLite gives
/// -1 for a rowid that it is still to choose, and no other row is found by that.
pub(super) fn by_rowid(table: &TableSchema, id: i64, own: &str) -> Option<String> {
    let rowid = quote(table.free_rowid?);
    let keys: Vec<String> = table.key.iter().map(|k| quote(&k.name)).collect();
    Some(format!(
        "{} SELECT {}, {} FROM {} WHERE {rowid} = NEW.{rowid} AND NOT ({});",
        log_key(table),
        encode(id, KIND_DISPLACED),
        keys.join(", "),
        quote(&table.name),
        same_key(table, "", own),
    ))
}

fn probes(table: &TableSchema) -> impl Iterator<Item = &Probe> {
    table.unique.iter().filter_map(|index| index.probe.as_ref())
}

/// The statement that logs the row that clashes on one index. It is found by its key: a row without
/// a complete key is not replicated.
fn log(table: &TableSchema, id: i64, probe: &Probe, own: &str) -> String {
    let name = quote(&table.name);
    let condition = format!("{} AND NOT ({})", clash(table, probe), same_key(table, "", own));
    let nulls: Vec<String> =
        probe.columns.iter().map(|c| format!("NULL AS {}", quote(c))).collect();
    let found: Vec<String> = table
        .key
        .iter()
        .map(|k| {
            format!(
                "{key} COLLATE {} = (SELECT (SELECT {key} FROM {name} AS {} WHERE {condition}) \
                FROM (SELECT {}) AS NEW)",
                k.collation.name(),
                quote(alias(table)),
                nulls.join(", "),
                key = quote(&k.name),
            )
        })
        .collect();
    let keys: Vec<String> = table.key.iter().map(|k| quote(&k.name)).collect();
    format!(
        "{} SELECT {}, {} FROM {name} WHERE {};",
        log_key(table),
        encode(id, KIND_DISPLACED),
        keys.join(", "),
        found.join(" AND "),
    )
}

/// The name of the table within the probe: its own, because the WHERE of an index can use it,
/// except where it would hide the trigger's rows.
fn alias(table: &TableSchema) -> &str {
    let hides = ["new", "old"].iter().any(|row| table.name.eq_ignore_ascii_case(row));
    if hides { "row" } else { &table.name }
}

/// The condition that a row of the table clashes with NEW.
fn clash(table: &TableSchema, probe: &Probe) -> String {
    let row = probe.columns.iter().map(|c| format!("NEW.{name} AS {name}", name = quote(c)));
    let row: Vec<String> = row.collect();
    let of_new = |text: &str| match probe.plain {
        true => format!("NEW.{text}"),
        false => format!("({})", over_row(text, alias(table), &row)),
    };
    let mut all: Vec<String> = probe
        .terms
        .iter()
        .map(|(term, collation)| {
            format!("({term}\n) COLLATE {} = {}", quote(collation), of_new(term))
        })
        .collect();
    if let Some(filter) = &probe.filter {
        all.push(format!("({filter}\n)"));
        all.push(of_new(filter));
    }
    all.join(" AND ")
}

#[cfg(test)]
#[path = "displaced_tests.rs"]
mod tests;
