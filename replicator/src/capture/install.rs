//! Installs the triggers that log the application's row changes, and follows its DDL.
//!
//! Arrives: a write transaction on a database whose schema may have changed. Leaves: triggers,
//! version tables and hashes that fit the schema, and the [`Layout`]. Owns: after the commit of
//! this transaction, every change of a replicated row is logged. A crash before the commit leaves
//! the previous triggers; the next start compares them with the schema.

use super::lineage::{self, TableTriggers};
use super::triggers::{triggers, version_table_sql, view_sql};
use crate::db::connection::DatabaseError;
use crate::db::layout::{History, Layout, TableLayout, version_table};
use crate::db::row_digest::RowDigest;
use crate::db::schema::{OWN_PREFIX, Schema, TableSchema, inspect};
use crate::db::shape::{Lineage, Shape};
use crate::db::sql::{literal, quote};
use crate::model::batch::{Digest, Value};
use crate::model::table_filter::TableFilter;
use crate::store::change_log;
use crate::store::comparisons::{self, Comparison, Kind};
use crate::store::install::FIXED_TABLES;
use crate::store::kept_tables;
use crate::store::meta;
use crate::store::schema_history::{self, KeptShape};
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

fn layout_of(db: &Connection, version: i64, schema: Schema) -> Result<Layout, DatabaseError> {
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

fn table_layout(
    db: &Connection,
    id: i64,
    schema: TableSchema,
) -> Result<TableLayout, DatabaseError> {
    let mut kept = schema_history::read(db, id)?;
    let present = kept.iter().position(|kept| kept.hash == schema.hash);
    let Some(present) = present.map(|at| kept.swap_remove(at)) else {
        return Ok(TableLayout::first(id, schema));
    };
    let digest = RowDigest::new(&present.shape, |text, _| value_of(db, text));
    let history = History {
        shape: present.shape,
        changed_at: present.logged_upto,
        former: kept.into_iter().map(|kept| (kept.hash, kept.shape)).collect(),
    };
    Ok(TableLayout::new(id, schema, history, digest))
}

fn value_of(db: &Connection, literal: &str) -> Option<Value> {
    db.query_row(&format!("SELECT {literal}"), [], |r| Ok(r.get_ref(0)?.into())).ok()
}

/// Brings triggers, version tables and hashes in line with the schema. Inside the caller's write
/// transaction, on a connection where [`crate::store::install::create_tables`] has run.
///
/// # Errors
/// SQLite's error. The caller rolls back, and nothing has changed.
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
    let found = lineage::read(db)?;
    let guessed = lineage::follow_renames(db, &schema, &found)?;
    let joined = meta::get(db, meta::JOINED)?.unwrap_or(false);
    let mut wanted: BTreeMap<String, String> = BTreeMap::new();
    let mut followed = Vec::new();
    for table in &schema.tables {
        let registered = tables::register(db, table)?;
        let id = registered.id;
        match registered.change {
            Change::Added => done.added.push(table.name.clone()),
            Change::Schema => done.changed.push(table.name.clone()),
            Change::None => {}
        }
        let triggers_found = found.get(&table.name.to_ascii_lowercase());
        let mut comparison = follow_shape(db, table, id, triggers_found, now_ms)?;
        if let Some(comparison) = comparison.as_mut().filter(|_| guessed.contains(&table.name)) {
            comparison.kind = Kind::CompareLoosely;
        }
        followed.push((table, comparison));
        wanted.insert(version_table(&table.name), version_table_sql(table));
        wanted.extend(triggers(table, id));
        wanted.insert(format!("{OWN_PREFIX}{}_change_log", table.name), view_sql(table, id));
    }
    done.removed.extend(tables::forget_dropped(db, &schema)?);
    let kept = tables::forgotten(db)?.into_iter().filter(|name| !schema.has(name));
    let created =
        align_objects(db, &wanted, &kept.map(|n| version_table(&n)).collect(), &mut done)?;
    for (table, comparison) in followed {
        if created.contains(&version_table(&table.name)) {
            if joined && let Some(id) = tables::find(db, &table.name)? {
                let layout = table_layout(db, id, table.clone())?;
                crate::capture::baseline::baseline_table(db, &layout)?;
            }
        } else if let Some(comparison) = comparison {
            if comparison.kind != Kind::Refresh {
                done.compared.push(table.name.clone());
            }
            comparisons::note(db, comparison)?;
        }
    }
    store_hash(db, schema.hash())?;
    let version = schema_version(db)?;
    meta::set(db, meta::SCHEMA_VERSION, version)?;
    Ok((layout_of(db, version, schema)?, done))
}

/// Stores the shape that a table has now. Returns what has to be compared, if its version table is
/// one that stays.
fn follow_shape(
    db: &Connection,
    table: &TableSchema,
    table_id: i64,
    found: Option<&TableTriggers>,
    now_ms: i64,
) -> Result<Option<Comparison>, DatabaseError> {
    let logged = found.is_some_and(TableTriggers::log_every_change);
    let witness = found.and_then(|f| f.witness.as_ref()).filter(|(id, _)| *id == table_id);
    let former = schema_history::newest(db, table_id)?;
    let (mut shape, lineage) = match &former {
        Some(former) => {
            former.shape.next(table, witness.filter(|_| logged).map(|(_, names)| names.as_slice()))
        }
        None => (Shape::first(table), Lineage { new_from: 1, lost_column: true }),
    };
    settle_absent(db, &mut shape, lineage.new_from)?;
    let logged_upto = change_log::log_end(db)?;
    if former.as_ref().is_none_or(|kept| kept.hash != table.hash || kept.shape != shape) {
        let kept = KeptShape { hash: table.hash, shape, logged_upto };
        schema_history::put(db, table_id, &kept, now_ms)?;
    }
    let kind = match (logged, lineage.lost_column) {
        (true, false) => return Ok(None),
        (true, true) => Kind::Refresh,
        (false, false) => Kind::Compare,
        (false, true) => Kind::CompareLoosely,
    };
    Ok(Some(Comparison {
        table_id,
        time_ms: now_ms,
        kind,
        new_from: lineage.new_from,
        logged_upto,
    }))
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

/// Puts the value that rows really have in the place of the text of a DEFAULT: the column's
/// affinity decides what it becomes.
fn settle_absent(db: &Connection, shape: &mut Shape, new_from: u32) -> Result<(), DatabaseError> {
    for column in shape.columns.iter_mut().filter(|c| c.id >= new_from) {
        let Some(text) = &column.absent else { continue };
        db.execute_batch(&format!(
            "CREATE TEMP TABLE __harmonylite__default (x {} DEFAULT ({text})); INSERT INTO \
            temp.__harmonylite__default DEFAULT VALUES",
            if column.declared.is_empty() { String::new() } else { quote(&column.declared) }
        ))?;
        let value: Value = db.query_row("SELECT x FROM temp.__harmonylite__default", [], |r| {
            Ok(r.get_ref(0)?.into())
        })?;
        db.execute_batch("DROP TABLE temp.__harmonylite__default")?;
        column.absent = (value != Value::Null).then(|| literal(&value));
    }
    Ok(())
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

/// Drops objects that are neither wanted nor kept or have another text, and creates missing ones.
/// Returns the names of the created objects.
fn align_objects(
    db: &Connection,
    wanted: &BTreeMap<String, String>,
    kept: &HashSet<String>,
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
        // A dropped table may come back: then its versions show what is gone.
        if kept.contains(&name) || kept_tables::is_kept(&name) {
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
