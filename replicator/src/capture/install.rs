//! Installs the triggers that log the application's row changes, and follows its DDL.
//!
//! Arrives: a write transaction on a database whose schema may have changed. Leaves: triggers,
//! version tables and hashes that fit the schema, and the [`Layout`]. Owns: after the commit of
//! this transaction, every change of a replicated row is logged. A crash before the commit leaves
//! the previous triggers; the next start compares them with the schema.

use super::triggers::{key_of, log_columns, trigger_name, triggers, version_table_sql, view_sql};
use crate::db::connection::DatabaseError;
use crate::db::layout::{Layout, TableLayout, version_table};
use crate::db::schema::{OWN_PREFIX, Schema, TableSchema, inspect};
use crate::db::sql::quote;
use crate::model::batch::Digest;
use crate::model::table_filter::TableFilter;
use crate::store::change_log::{self, KIND_FOUND};
use crate::store::install::FIXED_TABLES;
use crate::store::meta;
use crate::store::tables::{self, Change};
use rusqlite::Connection;
use std::collections::{BTreeMap, HashSet};

/// The changes that an installation made, for the log.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// Tables that are newly replicated.
    pub added: Vec<String>,
    /// Tables that are no longer replicated.
    pub removed: Vec<String>,
    /// Tables whose triggers or hashes changed.
    pub changed: Vec<String>,
    /// Rows without a version, found in tables that were rebuilt.
    pub found_rows: usize,
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

fn layout_of(db: &Connection, version: i64, schema: Schema) -> Result<Layout, DatabaseError> {
    let hash = schema.hash();
    let mut layouts = Vec::with_capacity(schema.tables.len());
    for table in schema.tables {
        if let Some(known) = tables::find(db, &table.name)? {
            layouts.push(TableLayout::new(known.id, table, known.previous_hash));
        }
    }
    let previous = meta::get(db, meta::PREVIOUS_SCHEMA_HASH)?;
    Ok(Layout::new(version, layouts, hash, previous, schema.skipped))
}

/// Brings triggers, version tables and hashes in line with the schema, inside the caller's write
/// transaction, on a connection where [`crate::store::install::create_tables`] has run.
///
/// # Errors
/// SQLite's error. The caller then rolls back, and nothing has changed.
pub fn install(
    db: &Connection,
    filter: &TableFilter,
    now_ms: i64,
) -> Result<(Layout, Installed), DatabaseError> {
    let schema = inspect(db, filter)?;
    let unable =
        schema.skipped.iter().filter(|s| s.warn).map(|s| (s.name.clone(), s.reason.clone()));
    let mut done = Installed { unable: unable.collect(), ..Installed::default() };
    change_log::widen(db, schema.tables.iter().map(|t| t.key.len()).max().unwrap_or(1))?;
    let joined = meta::get(db, meta::JOINED)?.unwrap_or(false);
    let mut wanted: BTreeMap<String, String> = BTreeMap::new();
    let mut fresh = Vec::new();
    for table in &schema.tables {
        let registered = tables::register(db, table)?;
        let id = registered.id;
        match registered.change {
            Change::Added => done.added.push(table.name.clone()),
            Change::Schema => done.changed.push(table.name.clone()),
            Change::None => {}
        }
        wanted.insert(version_table(&table.name), version_table_sql(table));
        wanted.extend(triggers(table, id));
        wanted.insert(format!("{OWN_PREFIX}{}_change_log", table.name), view_sql(table, id));
        fresh.push((table, id));
    }
    done.removed.extend(tables::forget_dropped(db, &schema)?);
    let created = align_objects(db, &wanted, &mut done)?;
    for (table, id) in fresh {
        let remade = created.contains(&trigger_name(&table.name, "insert"));
        if joined && created.contains(&version_table(&table.name)) {
            crate::capture::baseline::baseline_table(
                db,
                &TableLayout::new(id, table.clone(), None),
            )?;
        } else if joined && remade {
            done.found_rows += find_unversioned(db, table, id, now_ms)?;
        }
    }
    store_hash(db, schema.hash())?;
    let version = schema_version(db)?;
    meta::set(db, meta::SCHEMA_VERSION, version)?;
    Ok((layout_of(db, version, schema)?, done))
}

/// Removes all our objects from the database, inside the caller's write transaction.
///
/// # Errors
/// SQLite's error.
pub fn uninstall(db: &Connection) -> Result<Vec<String>, DatabaseError> {
    let mut removed = Vec::new();
    for (name, kind, _) in own_objects(db)? {
        drop_object(db, &name, &kind)?;
        removed.push(name);
    }
    Ok(removed)
}

fn store_hash(db: &Connection, hash: Digest) -> Result<(), DatabaseError> {
    let known = meta::get(db, meta::SCHEMA_HASH)?;
    if known != Some(hash) {
        if let Some(known) = known {
            meta::set(db, meta::PREVIOUS_SCHEMA_HASH, known)?;
        }
        meta::set(db, meta::SCHEMA_HASH, hash)?;
    }
    Ok(())
}

type Object = (String, String, String);

/// Returns name, type and text of every object with our prefix.
fn own_objects(db: &Connection) -> Result<Vec<Object>, DatabaseError> {
    // Triggers and views first: they name the tables.
    let mut read = db.prepare(
        "SELECT name, type, coalesce(sql, '') FROM main.sqlite_schema WHERE substr(name, 1, \
        length(?1)) = ?1 AND type IN ('table', 'view', 'trigger')
         ORDER BY type = 'table', name",
    )?;
    let rows = read.query_map([OWN_PREFIX], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn drop_object(db: &Connection, name: &str, kind: &str) -> Result<(), DatabaseError> {
    Ok(db.execute_batch(&format!("DROP {kind} IF EXISTS main.{}", quote(name)))?)
}

/// Drops objects that are not wanted or have another text, and creates missing ones. Returns the
/// names of the created objects.
fn align_objects(
    db: &Connection,
    wanted: &BTreeMap<String, String>,
    done: &mut Installed,
) -> Result<HashSet<String>, DatabaseError> {
    let mut present = HashSet::new();
    for (name, kind, sql) in own_objects(db)? {
        if kind == "table" && FIXED_TABLES.iter().any(|fixed| name[OWN_PREFIX.len()..] == **fixed) {
            continue;
        }
        // SQLite stores the text unchanged, except for the part before the name.
        if wanted.get(&name).is_some_and(|text| tail(text, &name) == tail(&sql, &name)) {
            present.insert(name);
            continue;
        }
        if !wanted.contains_key(&name)
            && name.ends_with("_change_log") | name.ends_with("_change_log_global")
            && kind == "table"
        {
            done.foreign_removed.push(name.clone());
        }
        drop_object(db, &name, &kind)?;
    }
    let mut created = HashSet::new();
    for (name, sql) in wanted {
        if !present.contains(name) {
            db.execute_batch(sql)?;
            created.insert(name.clone());
        }
    }
    Ok(created)
}

fn tail<'a>(sql: &'a str, name: &str) -> &'a str {
    let quoted = quote(name);
    sql.find(&quoted).map_or(sql, |at| &sql[at + quoted.len()..])
}

/// Logs the rows that have neither a version nor a log entry. They were written while their table
/// was rebuilt and had no triggers.
fn find_unversioned(
    db: &Connection,
    table: &TableSchema,
    id: i64,
    now_ms: i64,
) -> Result<usize, DatabaseError> {
    let not_null: Vec<String> =
        table.key.iter().map(|k| format!("t.{} IS NOT NULL", quote(&k.name))).collect();
    let joined: Vec<String> = table
        .key
        .iter()
        .enumerate()
        .map(|(i, k)| format!("v.key{i} = t.{}", quote(&k.name)))
        .collect();
    let logged: Vec<String> = table
        .key
        .iter()
        .enumerate()
        .map(|(i, k)| format!("l.key{i} = t.{} COLLATE {}", quote(&k.name), k.collation.name()))
        .collect();
    let sql = format!(
        "{} SELECT ?1, {id}, {KIND_FOUND}, {} FROM main.{} AS t WHERE {} AND NOT EXISTS (SELECT 1 \
        FROM main.{} AS v WHERE {}) \
         AND NOT EXISTS (SELECT 1 FROM main.{} AS l WHERE l.table_id = {id} AND {})",
        log_columns(table).replace("INTO ", "INTO main."),
        key_of(table, "t"),
        quote(&table.name),
        not_null.join(" AND "),
        quote(&version_table(&table.name)),
        joined.join(" AND "),
        change_log::NAME,
        logged.join(" AND ")
    );
    Ok(db.execute(&sql, [now_ms])?)
}
