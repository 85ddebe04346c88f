//! The table `__harmonylite__table`: the number of every table that is or was replicated, and the
//! hash of its schema.

use crate::db::connection::DatabaseError;
use crate::db::schema::{Schema, TableSchema};
use crate::model::batch::Digest;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::{HashMap, HashSet};

/// The number of a registered table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The number.
    pub id: i64,
    /// The change that registering it made.
    pub change: Change,
}

/// The change that registering a table made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The table was already replicated with this schema.
    None,
    /// Its schema changed.
    Schema,
    /// The table was not replicated before.
    Added,
}

/// Gives a table its number and stores the hash of its schema.
///
/// # Errors
/// SQLite's error.
pub fn register(db: &Connection, table: &TableSchema) -> Result<Registered, DatabaseError> {
    let known: Option<(i64, Option<Digest>)> = db
        .query_row(
            "SELECT id, hash FROM main.__harmonylite__table WHERE name = ?1",
            [&table.name],
            |r| Ok((r.get(0)?, r.get(1)?)),
        )
        .optional()?;
    match known {
        Some((id, Some(hash))) if hash == table.hash => Ok(Registered { id, change: Change::None }),
        Some((id, hash)) => {
            db.execute(
                "UPDATE main.__harmonylite__table SET hash = ?2, name = ?3 WHERE id = ?1",
                params![id, table.hash, table.name],
            )?;
            let change = if hash.is_none() { Change::Added } else { Change::Schema };
            Ok(Registered { id, change })
        }
        None => {
            db.execute(
                "INSERT INTO main.__harmonylite__table (name, hash) VALUES (?1, ?2)",
                params![table.name, table.hash],
            )?;
            Ok(Registered { id: db.last_insert_rowid(), change: Change::Added })
        }
    }
}

/// Marks tables that are no longer in the schema as not replicated, and returns their names. Their
/// numbers are not reused: log entries of a dropped table must never count for another table.
///
/// # Errors
/// SQLite's error.
pub fn forget_dropped(db: &Connection, schema: &Schema) -> Result<Vec<String>, DatabaseError> {
    let names: HashSet<String> =
        schema.tables.iter().map(|t| t.name.to_ascii_lowercase()).collect();
    let mut dropped = Vec::new();
    for (id, name) in replicated(db)? {
        if !names.contains(&name.to_ascii_lowercase()) {
            db.execute("UPDATE main.__harmonylite__table SET hash = NULL WHERE id = ?1", [id])?;
            dropped.push(name);
        }
    }
    Ok(dropped)
}

/// Returns the number of a table; None if it was never registered.
///
/// # Errors
/// SQLite's error.
pub fn find(db: &Connection, name: &str) -> Result<Option<i64>, DatabaseError> {
    let mut read = db.prepare_cached("SELECT id FROM main.__harmonylite__table WHERE name = ?1")?;
    Ok(read.query_row([name], |r| r.get(0)).optional()?)
}

/// Returns the name under which a replicated table is registered; None for a number that is not
/// replicated.
///
/// # Errors
/// SQLite's error.
pub fn name_of(db: &Connection, id: i64) -> Result<Option<String>, DatabaseError> {
    let mut read = db.prepare_cached(
        "SELECT name FROM main.__harmonylite__table WHERE id = ?1 AND hash IS NOT NULL",
    )?;
    Ok(read.query_row([id], |r| r.get(0)).optional()?)
}

/// Gives a renamed table its new name. A dropped table that had this name keeps its number under a
/// name that no table can have.
///
/// # Errors
/// SQLite's error.
pub fn rename(db: &Connection, id: i64, name: &str) -> Result<(), DatabaseError> {
    db.execute(
        "UPDATE main.__harmonylite__table SET name = 'sqlite_' || id || '_' || name, hash = NULL \
        WHERE name = ?1 AND id <> ?2",
        params![name, id],
    )?;
    db.execute("UPDATE main.__harmonylite__table SET name = ?2 WHERE id = ?1", params![id, name])?;
    Ok(())
}

/// Returns number and name of the replicated tables.
///
/// # Errors
/// SQLite's error.
pub fn replicated(db: &Connection) -> Result<Vec<(i64, String)>, DatabaseError> {
    let mut read =
        db.prepare("SELECT id, name FROM main.__harmonylite__table WHERE hash IS NOT NULL")?;
    let rows = read.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Returns number and hash of every table that is or was replicated, by its name in lower case.
///
/// # Errors
/// SQLite's error.
pub fn all(db: &Connection) -> Result<HashMap<String, (i64, Option<Digest>)>, DatabaseError> {
    let mut read = db.prepare("SELECT lower(name), id, hash FROM main.__harmonylite__table")?;
    let rows = read.query_map([], |r| Ok((r.get(0)?, (r.get(1)?, r.get(2)?))))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Returns the names of the tables that are not replicated any more.
///
/// # Errors
/// SQLite's error.
pub fn forgotten(db: &Connection) -> Result<Vec<String>, DatabaseError> {
    let mut read = db.prepare("SELECT name FROM main.__harmonylite__table WHERE hash IS NULL")?;
    let rows = read.query_map([], |r| r.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Returns the schema hash of a replicated table; None if the table is not replicated.
///
/// # Errors
/// SQLite's error.
pub fn hash(db: &Connection, name: &str) -> Result<Option<Digest>, DatabaseError> {
    let mut read =
        db.prepare_cached("SELECT hash FROM main.__harmonylite__table WHERE name = ?1")?;
    Ok(read.query_row([name], |r| r.get::<_, Option<Digest>>(0)).optional()?.flatten())
}

/// Returns the names of the replicated tables, in order.
///
/// # Errors
/// SQLite's error.
pub fn names(db: &Connection) -> Result<Vec<String>, DatabaseError> {
    let mut read = db.prepare(
        "SELECT name FROM main.__harmonylite__table WHERE hash IS NOT NULL ORDER BY name",
    )?;
    let rows = read.query_map([], |r| r.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::schema::inspect;
    use crate::model::table_filter::TableFilter;
    use crate::store::test_database;

    fn schema(db: &Connection, ddl: &str) -> Schema {
        db.execute_batch(ddl).unwrap();
        inspect(db, &TableFilter::default()).unwrap()
    }

    #[test]
    fn a_table_keeps_its_number_whatever_becomes_of_it() {
        let db = test_database();
        let first =
            schema(&db, "CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (x PRIMARY KEY)");
        let registered = |schema: &Schema| -> Vec<Registered> {
            schema.tables.iter().map(|t| register(&db, t).unwrap()).collect()
        };
        let added = |id| Registered { id, change: Change::Added };
        assert_eq!(registered(&first), [added(1), added(2)]);
        assert_eq!(registered(&first)[0].change, Change::None);
        assert_eq!(names(&db).unwrap(), ["a", "b"]);
        let hash_before = hash(&db, "A").unwrap();
        assert_eq!(hash_before, Some(first.tables[0].hash));

        let second = schema(&db, "ALTER TABLE a ADD COLUMN y; DROP TABLE b");
        assert_eq!(registered(&second), [Registered { id: 1, change: Change::Schema }]);
        assert_eq!(forget_dropped(&db, &second).unwrap(), ["b"]);
        assert_eq!(forget_dropped(&db, &second).unwrap(), [""; 0]);
        assert_eq!(find(&db, "a").unwrap(), Some(1));
        assert_ne!(hash(&db, "a").unwrap(), hash_before);
        assert_eq!((names(&db).unwrap(), hash(&db, "b").unwrap()), (vec!["a".to_owned()], None));

        let third = schema(&db, "CREATE TABLE b (x PRIMARY KEY)");
        assert_eq!(registered(&third)[1], added(2));
        assert_eq!(find(&db, "never").unwrap(), None);
    }
}
