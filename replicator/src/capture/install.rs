//! Installs the triggers that log which rows the application changes, and follows its DDL.
//!
//! Arrives: a write transaction on a database whose schema may have changed. Leaves: triggers,
//! version tables and hashes that fit the schema, and the [`Layout`]. Owns: from the commit of this
//! transaction on, no change of a replicated row goes unlogged. A crash before it leaves the former
//! triggers; the next start compares again.

use crate::db::connection::{self, DatabaseError};
use crate::db::layout::{Layout, TableLayout, version_table};
use crate::db::schema::{KeyKind, OWN_PREFIX, Schema, TableSchema, inspect};
use crate::db::sql::quote;
use crate::model::batch::Digest;
use crate::model::table_filter::TableFilter;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::{BTreeMap, HashSet};

/// A row changed; its key was logged by a trigger.
pub const KIND_CHANGED: i64 = 0;
/// A row clashed with one being written and may have been removed by REPLACE: counts only if it is
/// gone.
pub const KIND_DISPLACED: i64 = 1;
/// The row's version is already stored and is to be published.
pub const KIND_PUBLISH: i64 = 2;
/// A row without a log entry, found later: as if it had changed when it was found.
pub const KIND_FOUND: i64 = 3;

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
    if connection::get::<i64>(db, "schema_version")? != Some(version) {
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
    let mut read =
        db.prepare("SELECT id, previous_hash FROM main.__harmonylite__table WHERE name = ?1")?;
    let hash = schema.hash();
    let mut tables = Vec::with_capacity(schema.tables.len());
    for table in schema.tables {
        let known: Option<(i64, Option<Digest>)> =
            read.query_row([&table.name], |r| Ok((r.get(0)?, r.get(1)?))).optional()?;
        if let Some((id, previous)) = known {
            tables.push(TableLayout::new(id, table, previous));
        }
    }
    let previous = connection::get::<Digest>(db, "previous_schema_hash")?;
    Ok(Layout::new(version, tables, hash, previous, schema.skipped))
}

/// Brings triggers, version tables and hashes in line with the schema. Inside the caller's write
/// transaction, on a connection where [`connection::create_tables`] has run.
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
    widen_log(db, schema.tables.iter().map(|t| t.key.len()).max().unwrap_or(1))?;
    let joined = connection::get::<i64>(db, "joined")?.unwrap_or(0) != 0;
    let mut wanted: BTreeMap<String, String> = BTreeMap::new();
    let mut fresh = Vec::new();
    for table in &schema.tables {
        let (id, is_new, changed) = register(db, table)?;
        if is_new {
            done.added.push(table.name.clone());
        } else if changed {
            done.changed.push(table.name.clone());
        }
        wanted.insert(version_table(&table.name), version_table_sql(table));
        wanted.extend(triggers(table, id));
        wanted.insert(format!("{OWN_PREFIX}{}_change_log", table.name), view_sql(table, id));
        fresh.push((table, id));
    }
    forget_dropped(db, &schema, &mut done)?;
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
    connection::set(db, "schema_version", version)?;
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

fn register(db: &Connection, table: &TableSchema) -> Result<(i64, bool, bool), DatabaseError> {
    let known: Option<(i64, Option<Digest>)> = db
        .query_row(
            "SELECT id, hash FROM main.__harmonylite__table WHERE name = ?1",
            [&table.name],
            |r| Ok((r.get(0)?, r.get(1)?)),
        )
        .optional()?;
    match known {
        Some((id, Some(hash))) if hash == table.hash => Ok((id, false, false)),
        Some((id, hash)) => {
            db.execute(
                "UPDATE main.__harmonylite__table SET previous_hash = hash, hash = ?2, name = ?3 \
                WHERE id = ?1",
                params![id, table.hash, table.name],
            )?;
            Ok((id, hash.is_none(), true))
        }
        None => {
            db.execute(
                "INSERT INTO main.__harmonylite__table (name, hash) VALUES (?1, ?2)",
                params![table.name, table.hash],
            )?;
            Ok((db.last_insert_rowid(), true, true))
        }
    }
}

fn store_hash(db: &Connection, hash: Digest) -> Result<(), DatabaseError> {
    let known = connection::get::<Digest>(db, "schema_hash")?;
    if known != Some(hash) {
        if let Some(known) = known {
            connection::set(db, "previous_schema_hash", known)?;
        }
        connection::set(db, "schema_hash", hash)?;
    }
    Ok(())
}

fn forget_dropped(
    db: &Connection,
    schema: &Schema,
    done: &mut Installed,
) -> Result<(), DatabaseError> {
    let names: HashSet<String> =
        schema.tables.iter().map(|t| t.name.to_ascii_lowercase()).collect();
    let mut read =
        db.prepare("SELECT id, name FROM main.__harmonylite__table WHERE hash IS NOT NULL")?;
    let rows = read
        .query_map([], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?)))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    for (id, name) in rows {
        if !names.contains(&name.to_ascii_lowercase()) {
            // The number stays taken: log entries of the dropped table must never be read as
            // another's.
            db.execute(
                "UPDATE main.__harmonylite__table SET hash = NULL, previous_hash = NULL \
                WHERE id = ?1",
                [id],
            )?;
            done.removed.push(name);
        }
    }
    Ok(())
}

/// The log has one column for each part of the longest key.
fn widen_log(db: &Connection, columns: usize) -> Result<(), DatabaseError> {
    let have: usize = db.query_row(
        "SELECT count(*) FROM pragma_table_info('__harmonylite__change_log', 'main') \
            WHERE name LIKE 'key%'",
        [],
        |r| r.get::<_, i64>(0).map(|n| usize::try_from(n).unwrap_or(0)),
    )?;
    for i in have..columns {
        db.execute_batch(&format!("ALTER TABLE main.__harmonylite__change_log ADD COLUMN key{i}"))?;
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

const FIXED_TABLES: [&str; 10] = [
    "meta",
    "table",
    "change_log",
    "site",
    "origin",
    "held",
    "cursor",
    "gap",
    "conflict",
    "quarantine",
];

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
    let keys: Vec<String> = (0..table.key.len()).map(|i| format!("key{i}")).collect();
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
         FROM __harmonylite__change_log WHERE table_id = {id} \
         AND id > coalesce((SELECT value FROM __harmonylite__meta WHERE key = 'published'), 0)",
        quote(&format!("{OWN_PREFIX}{}_change_log", table.name)),
        columns.join(", ")
    )
}

fn trigger_name(table: &str, event: &str) -> String {
    format!("{OWN_PREFIX}{table}_change_log_on_{event}")
}

fn log_columns(table: &TableSchema) -> String {
    let keys: Vec<String> = (0..table.key.len()).map(|i| format!("key{i}")).collect();
    format!("INSERT INTO __harmonylite__change_log (time, table_id, kind, {})", keys.join(", "))
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
         AND NOT EXISTS (SELECT 1 FROM main.__harmonylite__change_log AS l WHERE l.table_id = \
         {id} AND {})",
        log_columns(table).replace("INTO ", "INTO main."),
        key_of(table, "t"),
        quote(&table.name),
        not_null.join(" AND "),
        quote(&version_table(&table.name)),
        joined.join(" AND "),
        logged.join(" AND ")
    );
    Ok(db.execute(&sql, [now_ms])?)
}
