//! Installs the triggers that log which rows the application changes, and follows its DDL.
//!
//! Arrives: a write transaction on a database whose schema may have changed. Leaves: triggers,
//! version tables and hashes that fit the schema, and the [`Layout`]. Owns: from the commit of this
//! transaction on, no change of a replicated row goes unlogged. A crash before it leaves the former
//! triggers; the next start compares again.

use crate::db::connection::DatabaseError;
use crate::db::layout::{Layout, TableLayout, version_table};
use crate::db::schema::{KeyKind, OWN_PREFIX, Schema, TableFilter, TableSchema, inspect};
use crate::db::sql::{key_columns, quote};
use crate::model::batch::Digest;
pub use crate::store::change_log::KIND_PUBLISH;
use crate::store::change_log::{self, KIND_CHANGED, KIND_DISPLACED, KIND_FOUND};
use crate::store::install::FIXED_TABLES;
use crate::store::meta;
use crate::store::tables::{self, Change};
use rusqlite::Connection;
use std::collections::{BTreeMap, HashSet};

/// Milliseconds since 1970, in SQL that SQLite 3.24 knows and that is allowed with `trusted_schema`
/// off.
const NOW_MS: &str = "CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER)";

/// What an installation did, for the log and for people.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// Tables that are replicated from now on and were not before.
    pub added: Vec<String>,
    /// Tables that are not replicated any more.
    pub removed: Vec<String>,
    /// Tables whose triggers or hashes changed.
    pub changed: Vec<String>,
    /// Rows found without a version in tables that were made over.
    pub found_rows: usize,
    /// Tables that cannot be replicated, and why.
    pub unable: Vec<(String, String)>,
    /// Objects left by HarmonyLite (Go) that were removed.
    pub foreign_removed: Vec<String>,
}

/// The layout, read anew. None if the triggers were not installed for the present schema: the
/// writer has to do that first.
///
/// # Errors
/// What SQLite says.
pub fn load(db: &Connection, filter: &TableFilter) -> Result<Option<Layout>, DatabaseError> {
    let version = schema_version(db)?;
    if meta::get(db, meta::SCHEMA_VERSION)? != Some(version) {
        return Ok(None);
    }
    let schema = inspect(db, filter)?;
    Ok(Some(layout_of(db, version, schema)?))
}

/// `PRAGMA schema_version`: changes with every DDL statement of anyone.
///
/// # Errors
/// What SQLite says.
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

/// Brings triggers, version tables and hashes in line with the schema. Inside the caller's write
/// transaction, on a connection where [`crate::store::install::create_tables`] has run.
///
/// # Errors
/// What SQLite says; then the caller rolls back and nothing has changed.
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

/// Removes everything that we ever put into the database. Inside the caller's write transaction.
///
/// # Errors
/// What SQLite says.
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

/// Name, type and text of all that carries our prefix.
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

/// Drops what is not wanted or reads otherwise, creates what is missing; returns the names of what
/// it created.
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
        // SQLite stores the text as it came, but for what stands before the name.
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

fn version_table_sql(table: &TableSchema) -> String {
    let name = quote(&version_table(&table.name));
    if table.key_kind != KeyKind::Columns {
        return format!(
            "CREATE TABLE main.{name} (key0 INTEGER PRIMARY KEY, hlc INTEGER NOT NULL, site \
            INTEGER NOT NULL)"
        );
    }
    let columns: Vec<String> = table
        .key
        .iter()
        .enumerate()
        .map(|(i, k)| {
            let declared = if k.declared.is_empty() {
                String::new()
            } else {
                format!(" {}", quote(&k.declared))
            };
            format!("key{i}{declared} COLLATE {}", k.collation.name())
        })
        .collect();
    let keys = key_columns(table.key.len());
    format!(
        "CREATE TABLE main.{name} ({}, hlc INTEGER NOT NULL, site INTEGER NOT NULL, PRIMARY KEY \
        ({})) WITHOUT ROWID",
        columns.join(", "),
        keys.join(", ")
    )
}

fn view_sql(table: &TableSchema, id: i64) -> String {
    let columns: Vec<String> = table
        .key
        .iter()
        .enumerate()
        .map(|(i, k)| format!("key{i} AS {}", quote(&k.name)))
        .collect();
    format!(
        "CREATE VIEW main.{} AS SELECT id AS change_id, datetime(time / 1000.0, 'unixepoch') AS \
        changed_at, kind AS change_kind, {} \
         FROM {} WHERE table_id = {id} \
         AND id > coalesce((SELECT value FROM __harmonylite__meta WHERE key = 'published'), 0)",
        quote(&format!("{OWN_PREFIX}{}_change_log", table.name)),
        columns.join(", "),
        change_log::NAME
    )
}

fn trigger_name(table: &str, event: &str) -> String {
    format!("{OWN_PREFIX}{table}_change_log_on_{event}")
}

fn log_columns(table: &TableSchema) -> String {
    let keys = key_columns(table.key.len());
    format!("INSERT INTO {} (time, table_id, kind, {})", change_log::NAME, keys.join(", "))
}

fn key_of(table: &TableSchema, row: &str) -> String {
    let keys: Vec<String> = table.key.iter().map(|k| format!("{row}.{}", quote(&k.name))).collect();
    keys.join(", ")
}

/// `NEW` and `OLD`, or a row and `NEW`, have the same key.
fn same_key(table: &TableSchema, a: &str, b: &str) -> String {
    let parts: Vec<String> = table
        .key
        .iter()
        .map(|k| {
            format!("{a}{name} COLLATE {} IS {b}{name}", k.collation.name(), name = quote(&k.name))
        })
        .collect();
    parts.join(" AND ")
}

fn triggers(table: &TableSchema, id: i64) -> Vec<(String, String)> {
    let insert = log_columns(table);
    let entry = |row: &str| {
        format!("{insert} VALUES ({NOW_MS}, {id}, {KIND_CHANGED}, {});", key_of(table, row))
    };
    let moved = format!(
        "{insert} SELECT {NOW_MS}, {id}, {KIND_CHANGED}, {} WHERE NOT ({});",
        key_of(table, "OLD"),
        same_key(table, "OLD.", "NEW.")
    );
    let mut all = Vec::new();
    let mut add = |event: &str, when: &str, body: String| {
        let name = trigger_name(&table.name, event);
        let sql = format!(
            "CREATE TRIGGER main.{} {when} ON {} BEGIN {body} END",
            quote(&name),
            quote(&table.name)
        );
        all.push((name, sql));
    };
    add("insert", "AFTER INSERT", entry("NEW"));
    add("update", "AFTER UPDATE", format!("{moved} {}", entry("NEW")));
    add("delete", "AFTER DELETE", entry("OLD"));
    let clashes = |own: &str| -> Vec<String> {
        table.unique.iter().filter_map(|u| displaced(table, id, u, own)).collect()
    };
    let (on_insert, on_update) = (clashes("NEW."), clashes("OLD."));
    if !on_insert.is_empty() {
        add("insert_displaced", "BEFORE INSERT", on_insert.join(" "));
        add("update_displaced", &format!("BEFORE UPDATE{}", touched(table)), on_update.join(" "));
    }
    all
}

/// The entry for rows that clash with NEW on one unique index. None for an index over an
/// expression: only the audit sees those.
fn displaced(
    table: &TableSchema,
    id: i64,
    index: &crate::db::schema::UniqueIndex,
    own: &str,
) -> Option<String> {
    let columns: Vec<&(String, String)> =
        index.columns.iter().map(Option::as_ref).collect::<Option<_>>()?;
    let clash: Vec<String> = columns
        .iter()
        .map(|(n, c)| format!("{name} COLLATE {} = NEW.{name}", quote(c), name = quote(n)))
        .collect();
    let keys: Vec<String> = table.key.iter().map(|k| quote(&k.name)).collect();
    Some(format!(
        "{} SELECT {NOW_MS}, {id}, {KIND_DISPLACED}, {} FROM {} WHERE {} AND NOT ({});",
        log_columns(table),
        keys.join(", "),
        quote(&table.name),
        clash.join(" AND "),
        same_key(table, "", own)
    ))
}

/// `OF` the unique columns, so that other updates pay nothing; empty where a generated column takes
/// part.
fn touched(table: &TableSchema) -> String {
    let names: Vec<&String> =
        table.unique.iter().flat_map(|u| u.columns.iter().flatten().map(|(n, _)| n)).collect();
    if names.iter().all(|n| table.columns.iter().any(|c| c.name.eq_ignore_ascii_case(n))) {
        let mut quoted: Vec<String> = names.into_iter().map(|n| quote(n)).collect();
        quoted.sort();
        quoted.dedup();
        format!(" OF {}", quoted.join(", "))
    } else {
        String::new()
    }
}

/// A table that was made over lost its triggers for a while: rows that have neither version nor log
/// entry came meanwhile.
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
