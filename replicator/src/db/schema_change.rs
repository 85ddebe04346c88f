//! One step from a schema to another, as data: what it does in words, and the SQL that does it.
//!
//! Arrives: steps that `schema_diff` has found, or that another node has sent. Leaves: statements
//! and words. Every statement is built here, apart from the text of a whole object, which
//! `schema_run` checks before it runs. Pure.

use crate::db::objects::{Kind, starts_with_words};
use crate::db::schema::OWN_PREFIX;
use crate::db::sql::quote;
use crate::db::table_text::{TableText, TextError};
use serde::{Deserialize, Serialize};

/// The name of a rebuilt table until it takes the place of the old one. Nobody sees it, because it
/// is there only within a transaction.
pub fn rebuild_name() -> String {
    format!("{OWN_PREFIX}rebuild")
}

/// A change of one object of the schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchemaChange {
    /// A new table.
    CreateTable {
        /// Its name.
        name: String,
        /// Its CREATE TABLE.
        sql: String,
    },
    /// A table goes, with its rows, indexes and triggers.
    DropTable {
        /// Its name.
        name: String,
    },
    /// A table gets another name.
    RenameTable {
        /// Its name before.
        from: String,
        /// Its name after.
        to: String,
    },
    /// A column at the end of a table.
    AddColumn {
        /// The table.
        table: String,
        /// The column's name.
        column: String,
        /// The column as CREATE TABLE has it, name first.
        definition: String,
    },
    /// A column goes.
    DropColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// A column gets another name.
    RenameColumn {
        /// The table.
        table: String,
        /// The column's name before.
        from: String,
        /// Its name after.
        to: String,
    },
    /// A table is made anew and its rows are copied. Its indexes and triggers are gone afterwards.
    Rebuild {
        /// The table.
        table: String,
        /// Its new CREATE TABLE.
        sql: String,
        /// The columns to copy: old name, new name.
        columns: Vec<(String, String)>,
        /// The old columns whose values are lost.
        lost: Vec<String>,
        /// New columns that must not be NULL and have no default, with the SQL literal that every
        /// row gets.
        #[serde(default)]
        filled: Vec<(String, String)>,
    },
    /// A new index.
    CreateIndex {
        /// Its name.
        name: String,
        /// Its table.
        table: String,
        /// Its CREATE INDEX.
        sql: String,
    },
    /// A new view.
    CreateView {
        /// Its name.
        name: String,
        /// Its CREATE VIEW.
        sql: String,
    },
    /// A new trigger.
    CreateTrigger {
        /// Its name.
        name: String,
        /// Its table or view.
        table: String,
        /// Its CREATE TRIGGER.
        sql: String,
    },
    /// An index goes.
    DropIndex {
        /// Its name.
        name: String,
    },
    /// A view goes.
    DropView {
        /// Its name.
        name: String,
    },
    /// A trigger goes.
    DropTrigger {
        /// Its name.
        name: String,
    },
}

/// Changes that a node noticed together. They are sent again when rows were lost, so they have an
/// identity: who has made them must not judge them again, because what they made can have been
/// changed, renamed or dropped since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeSet(
    /// The incarnation that noticed them, their entry in its log, and when, unix milliseconds.
    /// Together they come once.
    pub (i64, i64, i64),
    /// The changes, in order.
    pub Vec<SchemaChange>,
);

/// An object that decides nothing about rows: an index that is not unique, a view, a trigger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainObject<'a> {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: &'a str,
    /// Its table or view; its own name if it is a view.
    pub table: &'a str,
}

impl SchemaChange {
    /// The object that it creates, if rows fit with and without it.
    pub fn plain_object(&self) -> Option<PlainObject<'_>> {
        let (kind, name, table) = match self {
            Self::CreateIndex { sql, .. }
                if starts_with_words(sql, ["create", "unique", "index"]) =>
            {
                return None;
            }
            Self::CreateIndex { name, table, .. } => (Kind::Index, name, table),
            Self::CreateView { name, .. } => (Kind::View, name, name),
            Self::CreateTrigger { name, table, .. } => (Kind::Trigger, name, table),
            _ => return None,
        };
        Some(PlainObject { kind, name, table })
    }

    /// Whether it only adds: nothing that is there is changed. A unique index counts as added, and
    /// may fail because of the rows.
    pub fn is_additive(&self) -> bool {
        match self {
            Self::CreateTable { .. }
            | Self::AddColumn { .. }
            | Self::CreateIndex { .. }
            | Self::CreateView { .. }
            | Self::CreateTrigger { .. } => true,
            Self::DropTable { .. }
            | Self::RenameTable { .. }
            | Self::DropColumn { .. }
            | Self::RenameColumn { .. }
            | Self::Rebuild { .. }
            | Self::DropIndex { .. }
            | Self::DropView { .. }
            | Self::DropTrigger { .. } => false,
        }
    }

    /// Whether values of rows are lost by it.
    pub fn loses_values(&self) -> bool {
        match self {
            Self::DropTable { .. } | Self::DropColumn { .. } => true,
            Self::Rebuild { lost, .. } => !lost.is_empty(),
            _ => false,
        }
    }

    /// Whether it alters or drops a table: other nodes that do not make it have to wait for it.
    pub fn alters_tables(&self) -> bool {
        match self {
            Self::DropTable { .. }
            | Self::RenameTable { .. }
            | Self::DropColumn { .. }
            | Self::RenameColumn { .. }
            | Self::Rebuild { .. } => true,
            Self::CreateTable { .. }
            | Self::AddColumn { .. }
            | Self::CreateIndex { .. }
            | Self::CreateView { .. }
            | Self::CreateTrigger { .. }
            | Self::DropIndex { .. }
            | Self::DropView { .. }
            | Self::DropTrigger { .. } => false,
        }
    }

    /// The SQL that makes the change, in order.
    ///
    /// # Errors
    /// The text of a rebuilt table cannot be read.
    pub fn statements(&self) -> Result<Vec<String>, TextError> {
        let drop = |kind: &str, name: &str| format!("DROP {kind} main.{}", quote(name));
        let alter = |table: &str, what: String| format!("ALTER TABLE main.{} {what}", quote(table));
        Ok(vec![match self {
            Self::CreateTable { sql, .. }
            | Self::CreateIndex { sql, .. }
            | Self::CreateView { sql, .. }
            | Self::CreateTrigger { sql, .. } => sql.clone(),
            Self::DropTable { name } => drop("TABLE", name),
            Self::DropIndex { name } => drop("INDEX", name),
            Self::DropView { name } => drop("VIEW", name),
            Self::DropTrigger { name } => drop("TRIGGER", name),
            Self::RenameTable { from, to } => alter(from, format!("RENAME TO {}", quote(to))),
            Self::AddColumn { table, definition, .. } => {
                alter(table, format!("ADD COLUMN {definition}"))
            }
            Self::DropColumn { table, column } => {
                alter(table, format!("DROP COLUMN {}", quote(column)))
            }
            Self::RenameColumn { table, from, to } => {
                alter(table, format!("RENAME COLUMN {} TO {}", quote(from), quote(to)))
            }
            Self::Rebuild { table, sql, columns, filled, .. } => {
                return rebuild(table, sql, columns, filled);
            }
        }])
    }

    /// One line for people.
    pub fn words(&self) -> String {
        match self {
            Self::CreateTable { name, .. } => format!("create table {name}"),
            Self::DropTable { name } => format!("drop table {name}, with its rows"),
            Self::RenameTable { from, to } => format!("rename table {from} to {to}"),
            Self::AddColumn { table, definition, .. } => {
                let line: Vec<&str> = definition.split_whitespace().collect();
                format!("add to table {table} column {}", line.join(" "))
            }
            Self::DropColumn { table, column } => {
                format!("drop column {column} of table {table}, with its values")
            }
            Self::RenameColumn { table, from, to } => {
                format!("rename column {from} of table {table} to {to}")
            }
            Self::Rebuild { table, lost, .. } if lost.is_empty() => {
                format!("rebuild table {table}, with its rows")
            }
            Self::Rebuild { table, lost, .. } => {
                let columns = lost.join(", ");
                format!("rebuild table {table}, with its rows, but without column {columns}")
            }
            Self::CreateIndex { name, table, .. } => format!("create index {name} on {table}"),
            Self::CreateView { name, .. } => format!("create view {name}"),
            Self::CreateTrigger { name, table, .. } => {
                format!("create trigger {name} on {table}")
            }
            Self::DropIndex { name } => format!("drop index {name}"),
            Self::DropView { name } => format!("drop view {name}"),
            Self::DropTrigger { name } => format!("drop trigger {name}"),
        }
    }
}

fn rebuild(
    table: &str,
    sql: &str,
    columns: &[(String, String)],
    filled: &[(String, String)],
) -> Result<Vec<String>, TextError> {
    let new = rebuild_name();
    let names = columns.iter().map(|(_, new)| new).chain(filled.iter().map(|(name, _)| name));
    let names: Vec<String> = names.map(|name| quote(name)).collect();
    let values = columns.iter().map(|(old, _)| quote(old));
    let values: Vec<String> = values.chain(filled.iter().map(|(_, text)| text.clone())).collect();
    let mut statements = vec![TableText::parse(sql)?.sql_as(&new)];
    if !names.is_empty() {
        // ABORT overrides a constraint that would replace or leave out rows.
        statements.push(format!(
            "INSERT OR ABORT INTO main.{} ({}) SELECT {} FROM main.{}",
            quote(&new),
            names.join(", "),
            values.join(", "),
            quote(table)
        ));
    }
    statements.push(format!("DROP TABLE main.{}", quote(table)));
    statements.push(format!("ALTER TABLE main.{} RENAME TO {}", quote(&new), quote(table)));
    Ok(statements)
}
