//! The application: its schema, and transactions as unpleasant as those of real users.

use crate::plan::Work;
use crate::rng::Rng;
use harmonylite::model::batch::Value;
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
    /// It has a UNIQUE column besides the key.
    pub unique: bool,
    /// The level of the schema from which on it exists.
    pub since: i64,
    /// A migration rebuilds it.
    pub rebuilt: bool,
    /// A migration drops it and creates it with other rows.
    pub dropped: bool,
    /// Its name once a migration has renamed it.
    pub renamed: Option<&'static str>,
}

impl Table {
    /// Returns its present name.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn name_now(&self, db: &Connection) -> rusqlite::Result<&'static str> {
        Ok(match self.renamed {
            Some(renamed) if level(db)? >= RENAMED_FROM => renamed,
            _ => self.name,
        })
    }

    /// Returns whether it has this name, now or later.
    pub fn is_named(&self, name: &str) -> bool {
        self.name == name || self.renamed == Some(name)
    }
}

/// The tables.
pub const TABLES: &[Table] = &[
    Table {
        name: "item",
        key: &["id"],
        columns: "id, v, n",
        nocase: false,
        unique: false,
        since: 0,
        rebuilt: false,
        dropped: false,
        renamed: None,
    },
    Table {
        name: "link",
        key: &["a", "b"],
        columns: "a, b, v",
        nocase: false,
        unique: false,
        since: 0,
        rebuilt: true,
        dropped: false,
        renamed: Some("edge"),
    },
    Table {
        name: "pair",
        key: &["id"],
        columns: "id, token",
        nocase: false,
        unique: false,
        since: 0,
        rebuilt: true,
        dropped: false,
        renamed: None,
    },
    Table {
        name: "note",
        key: &["id"],
        columns: "id, v",
        nocase: false,
        unique: false,
        since: 2,
        rebuilt: true,
        dropped: true,
        renamed: None,
    },
    Table {
        name: "person",
        key: &["name"],
        columns: "name, mail, v",
        nocase: true,
        unique: true,
        since: 0,
        rebuilt: true,
        dropped: false,
        renamed: None,
    },
];

/// Their schema.
pub const SCHEMA: &str = "
    CREATE TABLE item (id INTEGER PRIMARY KEY, v TEXT, n INTEGER);
    CREATE TABLE link (a, b TEXT, v, PRIMARY KEY (a, b)) WITHOUT ROWID;
    CREATE TABLE pair (id INTEGER PRIMARY KEY, token TEXT);
    CREATE TABLE person (name TEXT COLLATE NOCASE PRIMARY KEY, mail TEXT UNIQUE, v TEXT);
";

/// The migrations of a node's schema, in order. `user_version` is the level of the schema.
pub const MIGRATIONS: &[&str] = &[
    "ALTER TABLE item ADD COLUMN extra TEXT DEFAULT 'd'",
    "CREATE TABLE note (id INTEGER PRIMARY KEY, v TEXT); INSERT INTO note VALUES (0, 'from the \
    migration')",
    "ALTER TABLE item RENAME COLUMN v TO label",
    // What happens after the copy is seen by no trigger.
    "CREATE TABLE new_link (a, b TEXT, v, PRIMARY KEY (a, b)) WITHOUT ROWID; INSERT INTO new_link \
    SELECT a, b, v FROM link; DROP TABLE link; ALTER TABLE new_link RENAME TO link; DELETE FROM \
    link WHERE a = 1; INSERT OR REPLACE INTO link VALUES (0, 'b0', 'rebuilt' || (SELECT site FROM \
    __harmonylite__site ORDER BY since DESC LIMIT 1)); UPDATE link SET v = v || '+' WHERE a = 2",
    "CREATE TABLE new_person (name TEXT COLLATE NOCASE PRIMARY KEY, mail TEXT UNIQUE, v TEXT, kind \
    TEXT NOT NULL); INSERT INTO new_person SELECT name, mail, v, 'k' FROM person; DROP TABLE \
    person; ALTER TABLE new_person RENAME TO person",
    "ALTER TABLE link RENAME TO edge",
    "ALTER TABLE item DROP COLUMN n",
    "DROP TABLE note; CREATE TABLE note (id INTEGER PRIMARY KEY, v TEXT); INSERT INTO note VALUES \
    (0, 'from the migration'), (1, 'anew')",
    // A node whose rows do not show the rename takes the column for another one.
    "CREATE TABLE new_pair (id INTEGER PRIMARY KEY, mark TEXT); INSERT INTO new_pair SELECT id, \
    token FROM pair; DROP TABLE pair; ALTER TABLE new_pair RENAME TO pair",
    "CREATE TABLE new_pair (id INTEGER PRIMARY KEY, mark BLOB); INSERT INTO new_pair SELECT id, \
    mark FROM pair; DROP TABLE pair; ALTER TABLE new_pair RENAME TO pair",
    "CREATE UNIQUE INDEX by_mark ON pair (mark, id)",
];

/// In the place of the rename by a rebuild where migrations travel: rows that only another node has
/// would lose their values if nothing shows the rename.
const RENAME_MARK: &str = "ALTER TABLE pair RENAME COLUMN token TO mark";

/// The levels from which on a table or column has its new name or is gone.
const LABEL_FROM: i64 = 3;
const KIND_FROM: i64 = 5;
const RENAMED_FROM: i64 = 6;
const NO_N_FROM: i64 = 7;
const MARK_FROM: i64 = 9;

/// Where any migrations travel, a row for each level, as migration tools keep them: it must never
/// be there without its migration. Elsewhere `user_version` is the level.
pub const BOOKKEEPING: &str = "CREATE TABLE level (n INTEGER PRIMARY KEY)";

/// A key that the version table holds packed.
const UUID: &str = "0123abcd-4567-89ab-cdef-0123456789ab";

fn migrations_travel(db: &Connection) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'level')")?
        .query_row([], |r| r.get(0))
}

/// Returns the level of the schema.
///
/// # Errors
/// SQLite's error.
pub fn level(db: &Connection) -> rusqlite::Result<i64> {
    let sql = if migrations_travel(db)? {
        "SELECT coalesce(max(n), 0) FROM level"
    } else {
        "PRAGMA user_version"
    };
    db.prepare_cached(sql)?.query_row([], |r| r.get(0))
}

/// Runs the next migration, if there is one.
///
/// # Errors
/// SQLite's error.
pub fn migrate(db: &Connection) -> rusqlite::Result<Option<i64>> {
    let level = level(db)?;
    let Some(sql) = usize::try_from(level).ok().and_then(|l| MIGRATIONS.get(l)) else {
        return Ok(None);
    };
    let level = level + 1;
    let sql = if level == MARK_FROM && migrations_travel(db)? { RENAME_MARK } else { sql };
    let note = if migrations_travel(db)? {
        format!("INSERT INTO level VALUES ({level})")
    } else {
        format!("PRAGMA user_version = {level}")
    };
    db.execute_batch(&format!("BEGIN IMMEDIATE; {sql}; {note}; COMMIT"))?;
    Ok(Some(level))
}

/// Notes the next migration as run without running it, and returns its level.
///
/// # Errors
/// SQLite's error.
pub fn note_migration(db: &Connection) -> rusqlite::Result<i64> {
    let level = level(db)? + 1;
    db.execute("INSERT INTO level VALUES (?)", [level])?;
    Ok(level)
}

/// Returns whether a statement does not fit the schema.
#[must_use]
pub fn is_of_schema(error: &rusqlite::Error) -> bool {
    let (rusqlite::Error::SqliteFailure(code, _)
    | rusqlite::Error::SqlInputError { error: code, .. }) = error
    else {
        return false;
    };
    code.code == rusqlite::ErrorCode::Unknown
}

/// Returns whether the sidecar has installed the triggers of the table `note`.
fn is_note_captured(db: &Connection) -> rusqlite::Result<bool> {
    db.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = \
        '__harmonylite__note_change_log_on_insert')",
    )?
    .query_row([], |r| r.get(0))
}

/// Returns a row as one SQL expression, exact to the byte, and the same at every level of the
/// schema: a column counts with its default before a migration adds it, and not at all if a
/// migration drops it.
///
/// # Errors
/// SQLite's error.
pub fn row_expression(db: &Connection, table: &Table) -> rusqlite::Result<String> {
    let level = level(db)?;
    let columns = table.columns.split(", ").filter(|c| table.name != "item" || *c != "n");
    let mut quoted: Vec<String> = columns
        .map(|c| match c {
            "v" if table.name == "item" && level >= LABEL_FROM => "quote(label)".to_owned(),
            "token" if level >= MARK_FROM => "quote(mark)".to_owned(),
            c => format!("quote({c})"),
        })
        .collect();
    if table.name == "item" {
        quoted.push(if level >= 1 { "quote(extra)" } else { "quote('d')" }.to_owned());
    }
    if table.name == "person" {
        quoted.push(if level >= KIND_FROM { "quote(kind)" } else { "quote('k')" }.to_owned());
    }
    Ok(quoted.join(" || ',' || "))
}

/// Returns the present name of an item's content.
///
/// # Errors
/// SQLite's error.
pub fn label_column(db: &Connection) -> rusqlite::Result<&'static str> {
    Ok(if level(db)? >= LABEL_FROM { "label" } else { "v" })
}

/// Returns the present name of the column that both rows of a pair share.
///
/// # Errors
/// SQLite's error.
pub fn mark_column(db: &Connection) -> rusqlite::Result<&'static str> {
    Ok(if level(db)? >= MARK_FROM { "mark" } else { "token" })
}

/// Lets the triggers of this connection read the node's clock instead of the machine's.
///
/// # Errors
/// SQLite's error.
pub fn use_clock(db: &Connection, shown: Arc<AtomicI64>) -> rusqlite::Result<()> {
    db.create_scalar_function("julianday", 0, FunctionFlags::SQLITE_UTF8, move |_| {
        Ok(shown.load(Ordering::Relaxed) as f64 / 86_400_000.0 + 2_440_587.5)
    })
}

/// Returns a key as text. Two texts are equal if and only if the keys are equal.
pub fn canonical(table: &Table, key: &[Value]) -> String {
    let mut out = String::new();
    for value in key {
        match value {
            Value::Integer(i) => out.push_str(&format!("{i},")),
            Value::Text(t) if table.nocase => {
                out.push_str(&format!("'{}',", String::from_utf8_lossy(t).to_ascii_lowercase()))
            }
            Value::Text(t) => out.push_str(&format!("'{}',", String::from_utf8_lossy(t))),
            other => out.push_str(&format!("{other:?},")),
        }
    }
    out
}

/// Runs one transaction. Single statements may fail (a UNIQUE column), as in an application that
/// ignores errors. A few transactions are rolled back. Returns the statements, for the trace.
///
/// # Errors
/// SQLite's error, constraints excepted.
pub fn transaction(
    db: &Connection,
    work: &Work,
    rng: &mut Rng,
    tag: &str,
) -> rusqlite::Result<String> {
    let mut said = String::new();
    let (level, notes) = (level(db)?, is_note_captured(db)?);
    db.execute_batch("BEGIN IMMEDIATE")?;
    for i in 0..=rng.below(work.statements_max) {
        let sql = statement(work, rng, &format!("{tag}.{i}"), level, notes);
        match db.execute_batch(&sql) {
            Ok(()) => said.push_str(&format!(" {sql};")),
            Err(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) =>
            {
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

fn statement(work: &Work, rng: &mut Rng, tag: &str, level: i64, notes: bool) -> String {
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
    let filler = if work.filler > 0 {
        "x".repeat(rng.index(usize::try_from(work.filler).unwrap_or(0)))
    } else {
        String::new()
    };
    let value = format!("'{tag}{filler}'");
    let name =
        |rng: &mut Rng, n: u64| if rng.chance(30) { format!("'P{n}'") } else { format!("'p{n}'") };
    let mail = rng.below(work.values);
    let v = if level >= LABEL_FROM { "label" } else { "v" };
    let link = if level >= RENAMED_FROM { "edge" } else { "link" };
    let kind_k = if level >= KIND_FROM { ", 'k'" } else { "" };
    match kind {
        0 if notes && key % 2 == 1 => {
            format!("INSERT OR REPLACE INTO note VALUES ({}, {value})", other)
        }
        0 => format!(
            "INSERT INTO item (id, {v}) VALUES ({key}, {value}) ON CONFLICT (id) DO UPDATE SET {v} \
            = excluded.{v}{}",
            if level < NO_N_FROM { ", n = coalesce(n, 0) + 1" } else { "" }
        ),
        1 => format!("DELETE FROM item WHERE id = {key}"),
        2 => format!("UPDATE OR IGNORE item SET id = {other}, {v} = {value} WHERE id = {key}"),
        3 if level >= 1 => {
            format!("UPDATE item SET {v} = {value}, extra = {value} WHERE id >= {key}")
        }
        3 => format!("UPDATE item SET {v} = {value} WHERE id >= {key}"),
        4 => {
            let b = ["b0", UUID][rng.below(2) as usize];
            format!("INSERT OR REPLACE INTO {link} VALUES ({key}, '{b}', {value})")
        }
        5 => format!("DELETE FROM {link} WHERE a = {key}"),
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
                "INSERT INTO person VALUES ({name}, 'm{mail}', {value}{kind_k}) ON CONFLICT (name) \
                DO UPDATE SET mail = excluded.mail, v = excluded.v"
            )
        }
        8 => {
            let name = name(rng, key);
            if rng.chance(40) {
                format!("DELETE FROM person WHERE name = {name}")
            } else {
                format!("INSERT OR REPLACE INTO person VALUES ({name}, 'm{mail}', {value}{kind_k})")
            }
        }
        _ => {
            // Two rows swap a unique value, through NULL.
            let (a, b) = (name(rng, key), name(rng, other));
            format!(
                "CREATE TEMP TABLE IF NOT EXISTS swap (x, y); DELETE FROM swap; \
                 INSERT INTO swap SELECT (SELECT mail FROM person WHERE name = {a}), (SELECT mail \
                 FROM person WHERE name = {b}); \
                 UPDATE person SET mail = NULL WHERE name IN ({a}, {b}); \
                 UPDATE person SET mail = (SELECT y FROM swap), v = {value} WHERE name = {a}; \
                 UPDATE OR IGNORE person SET mail = (SELECT x FROM swap), v = {value} WHERE name \
                 = {b}"
            )
        }
    }
}
