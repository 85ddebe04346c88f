//! Creates our tables in the application's database, and checks their format.
//!
//! Arrives: a connection. Leaves: all tables of `tables.sql`, or an error if a later program wrote
//! them. Runs inside the caller's transaction, so a crash leaves all or none.

use super::{former_formats, meta};
use crate::db::connection::{DatabaseError, open_reader};
use crate::db::packed_key;
use crate::db::row_digest;
use crate::db::schema::OWN_PREFIX;
use crate::model::ids::NodeId;
use rusqlite::Connection;
use std::collections::HashSet;
use std::path::Path;

/// The format number of our tables. FORMAT.md explains each number.
pub const FORMAT: i64 = 5;

/// The tables of `tables.sql`, without our prefix.
pub const FIXED_TABLES: [&str; 16] = [
    "meta",
    "table",
    "schema_history",
    "comparison",
    "schema_change",
    "unmade",
    "change_log",
    "id_range",
    "site",
    "site_number",
    "origin",
    "held",
    "cursor",
    "gap",
    "conflict",
    "quarantine",
];

/// The view of `tables.sql`, without our prefix: the pending changes, for people who look.
pub const PENDING: &str = "pending";

/// Creates our missing tables.
///
/// # Errors
/// [`DatabaseError::NewerFormat`]; any other error of SQLite.
pub fn create_tables(db: &Connection, path: &Path) -> Result<(), DatabaseError> {
    row_digest::register(db)?;
    packed_key::register(db)?;
    if is_installed(db)?
        && let Some(found) = meta::get(db, meta::FORMAT)?
    {
        check_format(path, found)?;
        former_formats::bring_up(db, found)?;
    }
    create_missing(db)?;
    meta::set(db, meta::FORMAT, FORMAT)
}

/// Creates those of our fixed tables that are not there.
///
/// # Errors
/// SQLite's error.
pub(super) fn create_missing(db: &Connection) -> Result<(), DatabaseError> {
    Ok(db.execute_batch(include_str!("tables.sql"))?)
}

/// Returns the names of our tables that do not exist.
///
/// # Errors
/// SQLite's error.
pub fn missing_tables(db: &Connection) -> Result<Vec<String>, DatabaseError> {
    // One search: the schema may have many thousand entries.
    let mut read = db.prepare_cached(
        "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND substr(name, 1, length(?1)) \
        = ?1",
    )?;
    let present = read
        .query_map([OWN_PREFIX], |r| r.get::<_, String>(0))?
        .collect::<rusqlite::Result<HashSet<_>>>()?;
    let all = FIXED_TABLES.map(|name| format!("{OWN_PREFIX}{name}"));
    Ok(all.into_iter().filter(|name| !present.contains(name)).collect())
}

/// Refuses a newer format than this program supports.
///
/// # Errors
/// [`DatabaseError::NewerFormat`].
pub fn check_format(path: &Path, found: i64) -> Result<(), DatabaseError> {
    if found > FORMAT {
        return Err(DatabaseError::NewerFormat { path: path.to_owned(), found, known: FORMAT });
    }
    Ok(())
}

/// Returns whether our tables exist.
///
/// # Errors
/// SQLite's error.
pub fn is_installed(db: &Connection) -> Result<bool, DatabaseError> {
    Ok(db.query_row(
        "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE name = '__harmonylite__meta')",
        [],
        |r| r.get(0),
    )?)
}

/// Returns the node id of a database, if it ever had a sidecar. Opens and closes the database, and
/// writes nothing.
///
/// # Errors
/// SQLite's error: not a database, encrypted, locked, damaged.
pub fn stored_node(path: &Path) -> Result<Option<NodeId>, DatabaseError> {
    let db = open_reader(path)?;
    if !is_installed(&db)? {
        return Ok(None);
    }
    meta::get(&db, meta::NODE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::quarantine;

    #[test]
    fn tables_are_created_once_and_a_newer_format_is_refused() {
        let db = Connection::open_in_memory().unwrap();
        let path = Path::new("app.db");
        assert!(!is_installed(&db).unwrap());
        create_tables(&db, path).unwrap();
        assert!(is_installed(&db).unwrap());
        meta::set(&db, meta::NODE, NodeId(4)).unwrap();
        create_tables(&db, path).unwrap();
        assert_eq!(meta::get(&db, meta::NODE).unwrap(), Some(NodeId(4)), "nothing is lost");
        meta::set(&db, meta::FORMAT, FORMAT + 1).unwrap();
        let refused = create_tables(&db, path).unwrap_err();
        assert!(matches!(refused, DatabaseError::NewerFormat { found: 6, known: FORMAT, .. }));
    }

    #[test]
    fn the_view_of_a_former_format_is_made_anew() {
        let db = crate::store::test_database();
        db.execute_batch(
            "DROP VIEW __harmonylite__pending; CREATE VIEW __harmonylite__pending AS SELECT 1",
        )
        .unwrap();
        meta::set(&db, meta::FORMAT, 4).unwrap();
        create_tables(&db, Path::new("app.db")).unwrap();
        db.prepare("SELECT changed_at FROM __harmonylite__pending").unwrap();
        assert_eq!(meta::get(&db, meta::FORMAT).unwrap(), Some(FORMAT));
    }

    #[test]
    fn a_quarantine_without_digests_gets_them_and_keeps_its_entries() {
        let db = crate::store::test_database();
        db.execute_batch(
            "ALTER TABLE __harmonylite__quarantine DROP COLUMN digest;
             INSERT INTO __harmonylite__quarantine VALUES (3, 5, 1, 9, 2, 7, 4, 'a', X'01')",
        )
        .unwrap();
        assert_eq!(quarantine::list(&db).unwrap().len(), 1, "also before the upgrade");
        for _ in 0..2 {
            create_tables(&db, Path::new("app.db")).unwrap();
            let entry = quarantine::load(&db, 3).unwrap().unwrap();
            assert!(entry.body == [1] && !entry.is_as_sent());
        }
    }

    #[test]
    fn every_table_is_in_the_list() {
        let db = crate::store::test_database();
        let mut read = db
            .prepare(
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE '\\_\\_%' \
                ESCAPE '\\' ORDER BY rowid",
            )
            .unwrap();
        let names: Vec<String> =
            read.query_map([], |r| r.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(names, FIXED_TABLES.map(|name| format!("{OWN_PREFIX}{name}")));
    }

    #[test]
    fn the_node_of_a_database_is_read_from_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY)").unwrap();
        assert_eq!(stored_node(&path).unwrap(), None);
        create_tables(&db, &path).unwrap();
        assert_eq!(stored_node(&path).unwrap(), None);
        meta::set(&db, meta::NODE, NodeId(u64::MAX)).unwrap();
        assert_eq!(stored_node(&path).unwrap(), Some(NodeId(u64::MAX)));
    }
}
