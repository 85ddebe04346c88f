//! Reads the versions that a node has stored, as FORMAT.md says.

use crate::application::{Table, canonical};
use harmonylite::db::packed_key::{Packed, pack, unpack};
use harmonylite::model::batch::Value;
use rusqlite::{Connection, OptionalExtension};
use std::collections::BTreeMap;

/// (hlc, site).
pub type Version = (i64, i64);

/// Returns the version of a row; (0, 0) if there is none.
pub fn stored_version(db: &Connection, table: &Table, key: &[Value]) -> rusqlite::Result<Version> {
    let name = version_table(db, table)?;
    let columns = version_keys(db, &name)?;
    let sql = format!("SELECT hlc, {SITE} FROM {name} AS v WHERE {}", condition(&columns, 1));
    let packed = key.iter().zip(&columns).map(|(value, column)| {
        if column.starts_with("packed") { pack(value.into()) } else { Packed::Same(value.into()) }
    });
    let found = db
        .prepare_cached(&sql)?
        .query_row(rusqlite::params_from_iter(packed), |r| Ok((r.get(0)?, r.get(1)?)))
        .optional()?;
    Ok(found.unwrap_or((0, 0)))
}

/// The site of the version `v`: as it stands there, or by its number.
const SITE: &str = "iif(v.site > 0, v.site, (SELECT n.site FROM __harmonylite__site_number AS n \
    WHERE n.number = v.site))";

/// Returns the columns of the key in a version table.
fn version_keys(db: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut read = db.prepare_cached(
        "SELECT name FROM pragma_table_info(?1) WHERE name LIKE 'key%' OR name LIKE 'packed%' \
        ORDER BY cid",
    )?;
    read.query_map([table], |r| r.get(0))?.collect()
}

/// Returns the name of a version table, which follows a rename when the sidecar does.
fn version_table(db: &Connection, table: &Table) -> rusqlite::Result<String> {
    let name = |table: &str| format!("__harmonylite__{table}_version");
    let Some(renamed) = table.renamed.map(name) else { return Ok(name(table.name)) };
    let follows: bool = db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?1)")?
        .query_row([&renamed], |r| r.get(0))?;
    Ok(if follows { renamed } else { name(table.name) })
}

/// Returns the versions of a table by key.
pub fn versions(db: &Connection, table: &Table) -> rusqlite::Result<BTreeMap<String, Version>> {
    let name = version_table(db, table)?;
    if !exists(db, table, &name)? {
        return Ok(BTreeMap::new());
    }
    let keys = version_keys(db, &name)?;
    let mut read =
        db.prepare_cached(&format!("SELECT hlc, {SITE}, {} FROM {name} AS v", keys.join(", ")))?;
    let found = read.query_map([], |r| {
        let value = |(i, column): (usize, &String)| {
            let stored = r.get_ref(i + 2)?;
            if !column.starts_with("packed") {
                return Ok(stored.into());
            }
            unpack(stored).ok_or(rusqlite::Error::InvalidQuery)
        };
        let key: Vec<Value> =
            keys.iter().enumerate().map(value).collect::<rusqlite::Result<_>>()?;
        Ok((canonical(table, &key), (r.get(0)?, r.get(1)?)))
    })?;
    found.collect()
}

/// Returns the condition for a key, with bound values.
pub fn condition(names: &[String], first: usize) -> String {
    let parts: Vec<String> =
        names.iter().enumerate().map(|(i, k)| format!("{k} = ?{}", i + first)).collect();
    parts.join(" AND ")
}

/// Returns whether a table exists that a migration creates.
pub fn exists(db: &Connection, table: &Table, name: &str) -> rusqlite::Result<bool> {
    Ok(table.since == 0
        || db
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?1)")?
            .query_row([name], |r| r.get(0))?)
}
