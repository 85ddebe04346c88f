//! Checks the schema for what changes once several nodes write.

use super::report::{Level, Report};
use crate::db::schema::{KeyKind, NO_IDENTITY, Schema, TableSchema};
use crate::db::sql::quote;
use anyhow::Result;
use rusqlite::Connection;

/// Adds the findings on all tables.
pub(super) fn check(db: &Connection, schema: &Schema, report: &mut Report) -> Result<()> {
    for skipped in &schema.skipped {
        report.not_replicated(&skipped.name, &skipped.reason);
        if skipped.warn {
            let no_key = skipped.reason == NO_IDENTITY;
            let text = format!("{} cannot be replicated: {}", skipped.name, skipped.reason);
            report.add(if no_key { Level::Problem } else { Level::Warning }, "table", text, "");
        }
    }
    for table in &schema.tables {
        report.replicated(&table.name);
        no_primary_key(table, report);
        null_keys(db, table, report)?;
    }
    unique(schema, report);
    foreign_keys(db, schema, report)
}

fn no_primary_key(table: &TableSchema, report: &mut Report) {
    if table.key_kind == KeyKind::Rowid {
        let text = format!(
            "{}: rows are told apart by their rowid (tables.without_key = \"rowid\"), so two nodes \
            that insert at once use the same number for two rows (the later write stays), and \
            VACUUM may renumber them",
            table.name
        );
        let hint = "give the table a PRIMARY KEY, or a UNIQUE index over NOT NULL columns";
        report.add(Level::Warning, "table", text, hint);
    }
}

fn null_keys(db: &Connection, table: &TableSchema, report: &mut Report) -> Result<()> {
    let nullable: Vec<String> = table
        .key
        .iter()
        .filter(|k| {
            table.key_kind == KeyKind::Columns
                && !table.columns.iter().any(|c| c.name == k.name && c.not_null)
        })
        .map(|k| format!("{} IS NULL", quote(&k.name)))
        .collect();
    if nullable.is_empty() {
        return Ok(());
    }
    let sql =
        format!("SELECT count(*) FROM main.{} WHERE {}", quote(&table.name), nullable.join(" OR "));
    let rows: i64 = db.query_row(&sql, [], |r| r.get(0))?;
    if rows > 0 {
        let text = format!(
            "{}: {rows} {} NULL in the PRIMARY KEY; such rows have no identity and are not \
            replicated",
            table.name,
            if rows == 1 { "row has" } else { "rows have" }
        );
        report.add(Level::Warning, "table", text, "fill in the key, and declare it NOT NULL");
    }
    Ok(())
}

fn unique(schema: &Schema, report: &mut Report) {
    for table in &schema.tables {
        for index in table.unique.iter().filter(|index| index.probe.is_none()) {
            let text = format!(
                "the rows of {} that REPLACE removes by the unique index {} are not seen, because \
                its text cannot be repeated in a trigger: they stay on the other nodes",
                table.name, index.name
            );
            let hint = "write with `ON CONFLICT .. DO UPDATE`, or delete the other row first";
            report.add(Level::Problem, "table", text, hint);
        }
    }
    let names: Vec<&str> =
        schema.tables.iter().filter(|t| !t.unique.is_empty()).map(|t| t.name.as_str()).collect();
    if !names.is_empty() {
        let text = format!(
            "UNIQUE besides the key in {}: if two nodes use the same value at once, all nodes \
            keep the later row; the other row is removed and recorded in the conflict journal",
            names.join(", ")
        );
        report.add(
            Level::Note,
            "table",
            text,
            "`harmonylite conflicts list` shows the removed rows",
        );
    }
}

fn foreign_keys(db: &Connection, schema: &Schema, report: &mut Report) -> Result<()> {
    let replicated = |name: &str| schema.tables.iter().any(|t| t.name.eq_ignore_ascii_case(name));
    let mut read = db.prepare(
        "SELECT DISTINCT \"table\", on_delete, on_update FROM pragma_foreign_key_list(?1, 'main')",
    )?;
    let (mut plain, mut acting) = (Vec::new(), Vec::new());
    for table in &schema.tables {
        let mut rows = read.query([&table.name])?;
        while let Some(row) = rows.next()? {
            let (parent, actions): (String, [String; 2]) =
                (row.get(0)?, [row.get(1)?, row.get(2)?]);
            if !replicated(&parent) {
                let text = format!(
                    "{} refers to {parent}, which is not replicated: other nodes may lack the \
                    referenced rows",
                    table.name
                );
                report.add(
                    Level::Warning,
                    "foreign key",
                    text,
                    "replicate both tables, or neither",
                );
            }
            let action = actions.iter().find(|a| !matches!(a.as_str(), "NO ACTION" | "RESTRICT"));
            match action {
                Some(action) => acting.push(format!("{} -> {parent} ({action})", table.name)),
                None => plain.push(format!("{} -> {parent}", table.name)),
            }
        }
    }
    if !acting.is_empty() {
        let text = format!(
            "foreign keys that act: {}: they act on the node that writes, and their effects \
            travel as rows; a row that another node adds to a deleted parent at the same time \
            stays",
            acting.join(", ")
        );
        report.add(
            Level::Note,
            "foreign key",
            text,
            "PRAGMA foreign_key_check finds rows without a parent",
        );
    }
    if !plain.is_empty() {
        let text = format!(
            "foreign keys: {}: checked when the application writes, not when rows arrive from \
            other nodes",
            plain.join(", ")
        );
        report.add(
            Level::Note,
            "foreign key",
            text,
            "PRAGMA foreign_key_check finds rows without a parent",
        );
    }
    Ok(())
}
