//! Installs the triggers that log the application's row changes, and follows its DDL.
//!
//! Arrives: a write transaction on a database whose schema may have changed. Leaves: triggers,
//! version tables and hashes that fit the schema, and the [`Layout`]. Owns: after the commit of
//! this transaction, every change of a replicated row is logged. A crash before the commit leaves
//! the previous triggers; the next start compares them with the schema.

use super::installation::{Installation, Progress};
use super::objects::Objects;
use crate::db::connection::DatabaseError;
use crate::db::layout::{History, Layout, TableLayout};
use crate::db::row_digest::RowDigest;
use crate::db::schema::{OWN_PREFIX, Schema, TableSchema, inspect};
use crate::db::sql::quote;
use crate::model::batch::Value;
use crate::model::table_filter::TableFilter;
use crate::store::comparisons::{self, Comparison, Kind};
use crate::store::install::{FIXED_TABLES, PENDING};
use crate::store::{meta, schema_history, tables};
use rusqlite::Connection;

/// The changes that an installation made, for the log.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// Tables that are newly replicated.
    pub added: Vec<String>,
    /// Tables that are no longer replicated.
    pub removed: Vec<String>,
    /// Tables whose triggers or hashes changed.
    pub changed: Vec<String>,
    /// Tables whose rows are compared, because their triggers were away.
    pub compared: Vec<String>,
    /// Tables that cannot be replicated, and why.
    pub unable: Vec<(String, String)>,
    /// Removed objects of HarmonyLite (Go).
    pub foreign_removed: Vec<String>,
}

/// Reads the layout. None if the triggers do not fit the present schema: the writer has to install
/// them first.
///
/// # Errors
/// SQLite's error.
pub fn load(db: &Connection, filter: &TableFilter) -> Result<Option<Layout>, DatabaseError> {
    let version = schema_version(db)?;
    if meta::get(db, meta::SCHEMA_VERSION)? != Some(version) {
        return Ok(None);
    }
    let schema = inspect(db, filter)?;
    Ok(Some(layout_of(db, version, schema)?))
}

/// Reads `PRAGMA schema_version`, which changes with every DDL statement of any connection.
///
/// # Errors
/// SQLite's error.
pub fn schema_version(db: &Connection) -> Result<i64, DatabaseError> {
    Ok(db.prepare_cached("PRAGMA main.schema_version")?.query_row([], |r| r.get(0))?)
}

/// Puts the layout together, of the schema at this version.
///
/// # Errors
/// SQLite's error.
pub fn layout_of(db: &Connection, version: i64, schema: Schema) -> Result<Layout, DatabaseError> {
    let hash = schema.hash();
    let mut layouts = Vec::with_capacity(schema.tables.len());
    for table in schema.tables {
        if let Some(id) = tables::find(db, &table.name)? {
            layouts.push(table_layout(db, id, table)?);
        }
    }
    let previous = meta::get(db, meta::PREVIOUS_SCHEMA_HASH)?;
    Ok(Layout::new(version, layouts, hash, previous, schema.skipped))
}

pub(super) fn table_layout(
    db: &Connection,
    id: i64,
    schema: TableSchema,
) -> Result<TableLayout, DatabaseError> {
    let mut kept = schema_history::read(db, id)?;
    let present = kept.iter().position(|kept| kept.hash == schema.hash);
    let Some(present) = present.map(|at| kept.swap_remove(at)) else {
        return Ok(TableLayout::first(id, schema));
    };
    let digest = RowDigest::new(&present.shape.columns, |text, _| value_of(db, text));
    let history = History {
        shape: present.shape,
        changed_at: present.logged_upto,
        former: kept.into_iter().map(|kept| (kept.hash, kept.shape)).collect(),
    };
    Ok(TableLayout::new(id, schema, history, digest))
}

/// The value of an SQL literal.
pub(super) fn value_of(db: &Connection, literal: &str) -> Option<Value> {
    db.query_row(&format!("SELECT {literal}"), [], |r| Ok(r.get_ref(0)?.into())).ok()
}

/// Brings triggers, version tables and hashes in line with the schema, in one transaction: the
/// caller's write transaction, on a connection where [`crate::store::install::create_tables`] has
/// run. [`Installation`] does the same in bounded steps.
///
/// # Errors
/// SQLite's error. The caller rolls back, and nothing has changed.
pub fn install(
    db: &Connection,
    filter: &TableFilter,
    now_ms: i64,
) -> Result<(Layout, Installed), DatabaseError> {
    let mut installation = Installation::read(db, filter)?;
    loop {
        match installation.step(db, now_ms, u64::MAX)? {
            Progress::Done => break,
            Progress::More => {}
            Progress::Moved => installation = Installation::read(db, filter)?,
        }
    }
    let (schema, installed) = installation.end(db)?;
    Ok((layout_of(db, schema_version(db)?, schema)?, installed))
}

/// Notes that every table is to be compared: the log was lost, and changes in it with it.
///
/// # Errors
/// SQLite's error.
pub fn compare_all(db: &Connection, layout: &Layout, now_ms: i64) -> Result<(), DatabaseError> {
    for table in &layout.tables {
        let new_from = table.history.shape.next_id;
        comparisons::note(
            db,
            Comparison {
                table_id: table.id,
                time_ms: now_ms,
                kind: Kind::Compare,
                new_from,
                logged_upto: 0,
            },
        )?;
    }
    Ok(())
}

/// Removes all our objects from the database, inside the caller's write transaction.
///
/// # Errors
/// SQLite's error.
pub fn uninstall(db: &Connection) -> Result<Vec<String>, DatabaseError> {
    let before = schema_version(db)?;
    let mut objects = Objects::read(db)?;
    let all = objects.all();
    objects.expect(all.len());
    let mut removed = Vec::new();
    // Triggers and views come first: fewer entries are left to search for each table.
    for of_tables in [false, true] {
        for (name, _, _) in all.iter().filter(|(_, kind, _)| (kind == "table") == of_tables) {
            objects.drop(db, name)?;
            removed.push(name.clone());
        }
        objects.write_bulk(db, before)?;
    }
    let view = format!("{OWN_PREFIX}{PENDING}");
    db.execute_batch(&format!("DROP VIEW IF EXISTS main.{}", quote(&view)))?;
    for name in FIXED_TABLES.map(|name| format!("{OWN_PREFIX}{name}")) {
        if has_table(db, &name)? {
            db.execute_batch(&format!("DROP TABLE main.{}", quote(&name)))?;
            removed.push(name);
        }
    }
    Ok(removed)
}

fn has_table(db: &Connection, name: &str) -> Result<bool, DatabaseError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE name = ?1 AND type = 'table')";
    Ok(db.prepare_cached(sql)?.query_row([name], |r| r.get(0))?)
}
