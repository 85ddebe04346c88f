//! The application: its schema, and transactions that are as unpleasant as users write them.

use crate::plan::Work;
use crate::rng::Rng;
use harmonylite::batch::Value;
use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// A replicated table: its name, its key columns, all its columns.
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// Its key.
    pub key: &'static [&'static str],
    /// All columns.
    pub columns: &'static str,
    /// Text keys compare without case.
    pub nocase: bool,
    /// It has a UNIQUE column beside the key.
    pub unique: bool,
}

/// The tables.
pub const TABLES: &[Table] = &[
    Table { name: "item", key: &["id"], columns: "id, v, n", nocase: false, unique: false },
    Table { name: "link", key: &["a", "b"], columns: "a, b, v", nocase: false, unique: false },
    Table { name: "pair", key: &["id"], columns: "id, token", nocase: false, unique: false },
    Table { name: "person", key: &["name"], columns: "name, mail, v", nocase: true, unique: true },
];

/// Their schema.
pub const SCHEMA: &str = "
    CREATE TABLE item (id INTEGER PRIMARY KEY, v TEXT, n INTEGER);
    CREATE TABLE link (a, b TEXT, v, PRIMARY KEY (a, b)) WITHOUT ROWID;
    CREATE TABLE pair (id INTEGER PRIMARY KEY, token TEXT);
    CREATE TABLE person (name TEXT COLLATE NOCASE PRIMARY KEY, mail TEXT UNIQUE, v TEXT);
";

/// Lets the triggers of this connection read the node's clock instead of the machine's.
///
/// # Errors
/// What SQLite says.
pub fn use_clock(db: &Connection, shown: Arc<AtomicI64>) -> rusqlite::Result<()> {
    db.create_scalar_function("julianday", 1, FunctionFlags::SQLITE_UTF8, move |_| {
        Ok(shown.load(Ordering::Relaxed) as f64 / 86_400_000.0 + 2_440_587.5)
    })
}

/// One key as text that is equal exactly for equal keys.
pub fn canonical(table: &Table, key: &[Value]) -> String {
    let mut out = String::new();
    for value in key {
        match value {
            Value::Integer(i) => out.push_str(&format!("{i},")),
            Value::Text(t) if table.nocase => out.push_str(&format!("'{}',", String::from_utf8_lossy(t).to_ascii_lowercase())),
            Value::Text(t) => out.push_str(&format!("'{}',", String::from_utf8_lossy(t))),
            other => out.push_str(&format!("{other:?},")),
        }
    }
    out
}

/// Runs one transaction. Single statements may fail (a UNIQUE column), as an application that ignores errors has it; a few
/// transactions are rolled back. Returns what was done, for the trace.
///
/// # Errors
/// What SQLite says beside constraints.
pub fn transaction(db: &Connection, work: &Work, rng: &mut Rng, tag: &str) -> rusqlite::Result<String> {
    let mut said = String::new();
    db.execute_batch("BEGIN IMMEDIATE")?;
    for i in 0..=rng.below(work.statements_max) {
        let sql = statement(work, rng, &format!("{tag}.{i}"));
        match db.execute_batch(&sql) {
            Ok(()) => said.push_str(&format!(" {sql};")),
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) => {
                said.push_str(&format!(" ({sql}: refused);"));
            }
            Err(error) => return Err(error),
        }
    }
    if rng.chance(5) {
        db.execute_batch("ROLLBACK")?;
        said.push_str(" rolled back");
    } else {
        db.execute_batch("COMMIT")?;
    }
    Ok(said)
}

fn statement(work: &Work, rng: &mut Rng, tag: &str) -> String {
    let total = work.statements.iter().sum();
    let mut at = rng.below(total);
    let mut kind = 0;
    for (i, weight) in work.statements.iter().enumerate() {
        kind = i;
        if at < *weight {
            break;
        }
        at -= weight;
    }
    let key = rng.below(work.keys);
    let other = rng.below(work.keys);
    let filler = if work.filler > 0 { "x".repeat(rng.index(usize::try_from(work.filler).unwrap_or(0))) } else { String::new() };
    let value = format!("'{tag}{filler}'");
    let name = |rng: &mut Rng, n: u64| if rng.chance(30) { format!("'P{n}'") } else { format!("'p{n}'") };
    let mail = rng.below(work.values);
    match kind {
        0 => format!("INSERT INTO item VALUES ({key}, {value}, 0) ON CONFLICT (id) DO UPDATE SET v = excluded.v, n = n + 1"),
        1 => format!("DELETE FROM item WHERE id = {key}"),
        2 => format!("UPDATE OR IGNORE item SET id = {other}, v = {value} WHERE id = {key}"),
        3 => format!("UPDATE item SET v = {value} WHERE id >= {key}"),
        4 => format!("INSERT OR REPLACE INTO link VALUES ({key}, 'b{}', {value})", rng.below(2)),
        5 => format!("DELETE FROM link WHERE a = {key}"),
        6 => {
            let (a, b) = (key * 2, key * 2 + 1);
            if rng.chance(15) {
                format!("DELETE FROM pair WHERE id IN ({a}, {b})")
            } else {
                format!("INSERT OR REPLACE INTO pair VALUES ({a}, {value}), ({b}, {value})")
            }
        }
        7 => {
            let name = name(rng, key);
            format!(
                "INSERT INTO person VALUES ({name}, 'm{mail}', {value}) ON CONFLICT (name) DO UPDATE SET mail = excluded.mail, v = excluded.v"
            )
        }
        8 => {
            let name = name(rng, key);
            if rng.chance(40) {
                format!("DELETE FROM person WHERE name = {name}")
            } else {
                format!("INSERT OR REPLACE INTO person VALUES ({name}, 'm{mail}', {value})")
            }
        }
        _ => {
            // Two rows swap a unique value, by way of NULL.
            let (a, b) = (name(rng, key), name(rng, other));
            format!(
                "CREATE TEMP TABLE IF NOT EXISTS swap (x, y); DELETE FROM swap; \
                 INSERT INTO swap SELECT (SELECT mail FROM person WHERE name = {a}), (SELECT mail FROM person WHERE name = {b}); \
                 UPDATE person SET mail = NULL WHERE name IN ({a}, {b}); \
                 UPDATE person SET mail = (SELECT y FROM swap), v = {value} WHERE name = {a}; \
                 UPDATE OR IGNORE person SET mail = (SELECT x FROM swap), v = {value} WHERE name = {b}"
            )
        }
    }
}
