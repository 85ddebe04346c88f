//! Brings the tables of former formats to the present one, in the caller's transaction.

use super::former_log;
use crate::db::connection::DatabaseError;
use crate::db::layout::version_table;
use crate::db::packed_key::{PACK, packs};
use crate::db::schema::KeyColumn;
use crate::db::sql::{Collation, quote, rename_alone};
use rusqlite::Connection;

/// The name of a version table while its keys are packed. No application has such a table.
const UNPACKED: &str = "__harmonylite__unpacked_versions";

/// Does what is missing since format `found`.
///
/// # Errors
/// SQLite's error.
pub(super) fn bring_up(db: &Connection, found: i64) -> Result<(), DatabaseError> {
    if found < 2 {
        for (name, _) in with_versions(db)? {
            add_digests(db, &name)?;
        }
    }
    if found < 3 {
        for (name, sql) in with_versions(db)? {
            pack_keys(db, &name, &sql)?;
        }
    }
    if found < 5 {
        // It knows no codes; the present one is created with what else is missing.
        db.execute_batch("DROP VIEW IF EXISTS main.__harmonylite__pending")?;
        former_log::bring_up(db)?;
    }
    add_quarantine_digest(db)
}

/// The column is no new format: a program that does not know it leaves it at NULL, and then the
/// bytes are not applied.
fn add_quarantine_digest(db: &Connection) -> Result<(), DatabaseError> {
    let table = "__harmonylite__quarantine";
    let has_columns = "SELECT count(*) > 0 AND sum(name = 'digest') = 0 FROM pragma_table_info(?1)";
    if db.query_row(has_columns, [table], |r| r.get(0))? {
        db.execute_batch(&format!("ALTER TABLE main.{table} ADD COLUMN digest BLOB"))?;
    }
    Ok(())
}

/// The tables, present or dropped, that have a version table, and its text.
fn with_versions(db: &Connection) -> Result<Vec<(String, String)>, DatabaseError> {
    // The smaller table inside: with the schema inside, each table would cost a search through it.
    let mut read = db.prepare(
        "SELECT t.name, s.sql FROM main.sqlite_schema AS s CROSS JOIN main.__harmonylite__table AS \
        t ON t.name = substr(s.name, 16, length(s.name) - 23) WHERE s.type = 'table' AND s.name = \
        '__harmonylite__' || t.name || '_version'",
    )?;
    let found = read.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

/// Format 1 had no digests beside the versions. The next installation finds that the table has no
/// shape yet, and has the digests made.
fn add_digests(db: &Connection, table: &str) -> Result<(), DatabaseError> {
    let name = quote(&version_table(table));
    Ok(db.execute_batch(&format!("ALTER TABLE main.{name} ADD COLUMN digest INTEGER"))?)
}

/// Format 2 had UUIDs as text in the keys of the version tables. The copy holds the write lock for
/// a second or two for each million rows, once.
fn pack_keys(db: &Connection, table: &str, former: &str) -> Result<(), DatabaseError> {
    let name = version_table(table);
    let Some(packed) = packed_form(former, &name, &key_types(db, &name)?) else { return Ok(()) };
    tracing::info!(table, "the version table takes its short form");
    db.execute_batch(&format!(
        "{rename}; {sql}; INSERT INTO main.{name} SELECT {values}, hlc, site, digest FROM \
        main.{unpacked}; DROP TABLE main.{unpacked}",
        rename = rename_alone(&name, UNPACKED),
        unpacked = quote(UNPACKED),
        name = quote(&name),
        sql = packed.sql,
        values = packed.values.join(", ")
    ))?;
    Ok(())
}

/// The declared types of the columns `key0`, `key1`, ... of a version table.
fn key_types(db: &Connection, versions: &str) -> Result<Vec<String>, DatabaseError> {
    let mut read =
        db.prepare("SELECT type FROM pragma_table_info(?1) WHERE name LIKE 'key%' ORDER BY cid")?;
    let types = read.query_map([versions], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(types)
}

/// What makes a version table of the packed form.
struct PackedForm {
    sql: String,
    /// The values of its key, from a row of the former one.
    values: Vec<String>,
}

/// Returns the packed form of a version table of format 2; None if it needs none.
fn packed_form(former: &str, name: &str, types: &[String]) -> Option<PackedForm> {
    let (head, mut columns) = former.split_at_checked(former.find(&quote(name))? + name.len())?;
    let (mut changed, mut keys, mut values) = (String::new(), Vec::new(), Vec::new());
    let mut any = false;
    for (i, declared) in types.iter().enumerate() {
        let key = format!("key{i}");
        let column = KeyColumn {
            name: key.clone(),
            declared: declared.clone(),
            collation: Collation::Binary,
        };
        let written = format!("{key} {} COLLATE BINARY", quote(declared));
        let at = columns.find(&written).filter(|_| packs(&column));
        keys.push(if at.is_some() { format!("packed{i}") } else { key.clone() });
        values.push(if at.is_some() { format!("{PACK}({key})") } else { key.clone() });
        if let Some((before, after)) = at.and_then(|at| columns.split_at_checked(at)) {
            any = true;
            changed.push_str(before);
            changed.push_str("packed");
            columns = after.strip_prefix("key")?;
        }
    }
    let (rest, _) = columns.rsplit_once("PRIMARY KEY (")?;
    let sql = format!("{head}{changed}{rest}PRIMARY KEY ({})) WITHOUT ROWID", keys.join(", "));
    any.then_some(PackedForm { sql, values })
}
