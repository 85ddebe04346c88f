//! The view of an application on a database.

use rusqlite::Connection;
use rusqlite::types::Value;
use std::path::Path;
use std::time::Duration;

/// Rows of SQL literals.
pub type Rows = Vec<Vec<String>>;

/// Opens a database like an ordinary application.
pub fn open(path: &Path) -> Connection {
    let db = Connection::open(path).unwrap();
    db.busy_timeout(Duration::from_secs(20)).unwrap();
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON",
    )
    .unwrap();
    db
}

/// Returns the rows of a query, each value with its storage class, so that 1, 1.0, '1' and X'31'
/// differ.
pub fn rows(db: &Connection, sql: &str) -> Rows {
    let mut statement = db.prepare(sql).unwrap();
    let columns = statement.column_count();
    let mut found = statement.query([]).unwrap();
    let mut out = Vec::new();
    while let Some(row) = found.next().unwrap() {
        out.push((0..columns).map(|i| literal(row.get_ref(i).unwrap())).collect());
    }
    out
}

/// Returns the single number of a query.
#[track_caller]
pub fn number(db: &Connection, sql: &str) -> i64 {
    db.query_row(sql, [], |r| r.get(0)).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Waits until the clock of the change log has advanced, so that the next write has a later time
/// than all earlier ones.
#[track_caller]
pub fn later(db: &Connection) {
    let now =
        || number(db, "SELECT CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER)");
    let before = now();
    crate::eventually("time passes", || now() > before + 1);
}

/// Fails if SQLite's integrity check fails.
#[track_caller]
pub fn sound(db: &Connection) {
    assert_eq!(rows(db, "PRAGMA integrity_check"), [["\"ok\""]]);
}

fn literal(value: rusqlite::types::ValueRef<'_>) -> String {
    match value {
        rusqlite::types::ValueRef::Text(t) => {
            std::str::from_utf8(t).map_or_else(|_| format!("text {t:02x?}"), |t| format!("{t:?}"))
        }
        // The bits: -0.0 is not 0.0.
        rusqlite::types::ValueRef::Real(r) => format!("real {:016x} {r:?}", r.to_bits()),
        other => format!("{:?}", Value::try_from(other).unwrap()),
    }
}

/// Returns the content of all tables of the application, table by table, in key order. Without the
/// bookkeeping of Django's migrations, which each node has for itself.
pub fn contents(db: &Connection) -> Vec<(String, Rows)> {
    let tables = rows(
        db,
        "SELECT name, wr FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name \
        NOT GLOB '__harmonylite__*' AND name NOT GLOB 'sqlite_*' AND name <> 'django_migrations' \
        ORDER BY name",
    );
    tables
        .into_iter()
        .map(|table| {
            let name: String = table[0].trim_matches('"').replace("\\\"", "\"");
            let quoted = name.replace('"', "\"\"");
            let mut found = rows(db, &format!("SELECT * FROM \"{quoted}\""));
            found.sort();
            (name, found)
        })
        .collect()
}
