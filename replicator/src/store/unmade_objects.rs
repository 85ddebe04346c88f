//! The table `__harmonylite__unmade`: indexes, views and triggers of other nodes' migrations that
//! could not be made here.
//!
//! They decide nothing about rows, so the batch that brought them was applied without them. They
//! stay here, and in `status`, until they exist or a node has dropped them.

use crate::db::connection::DatabaseError;
use crate::db::objects::Kind;
use crate::db::schema_change::{PlainObject, SchemaChange};
use crate::model::ids::NodeId;
use crate::model::status::UnmadeStatus;
use rusqlite::{Connection, params};

/// The most entries. What comes beyond is only logged.
const ENTRIES_MAX: u32 = 1_000;

/// An object that was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmade {
    /// The node whose batch brought it first.
    pub node: NodeId,
    /// When it failed first, unix milliseconds.
    pub since_ms: i64,
    /// The change that creates it.
    pub change: SchemaChange,
    /// Why it was not made, the last time.
    pub error: String,
}

/// Stores that an object was not made. One that is stored already keeps its node and its time.
/// Returns whether this is new, or its text or the error is another one.
///
/// # Errors
/// SQLite's error.
pub fn put(db: &Connection, unmade: &Unmade) -> Result<bool, DatabaseError> {
    let Some(PlainObject { kind, name, table }) = unmade.change.plain_object() else {
        return Ok(false);
    };
    let Some(bytes) = encode(&unmade.change) else { return Ok(false) };
    let stored = db
        .prepare_cached(
            "INSERT INTO main.__harmonylite__unmade (kind, name, table_name, node, since, change, \
            error) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 WHERE (SELECT count(*) FROM \
            main.__harmonylite__unmade WHERE (kind, name) <> (?1, ?2)) < ?8
             ON CONFLICT (kind, name) DO UPDATE SET table_name = excluded.table_name, change = \
            excluded.change, error = excluded.error WHERE (change, error) <> (excluded.change, \
            excluded.error)",
        )?
        .execute(params![
            kind.word(),
            name,
            table,
            unmade.node,
            unmade.since_ms,
            bytes,
            unmade.error,
            ENTRIES_MAX
        ])?;
    Ok(stored > 0)
}

/// Plain values of strings: writing them to memory cannot fail.
fn encode(change: &SchemaChange) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    match ciborium::into_writer(change, &mut bytes) {
        Ok(()) => Some(bytes),
        Err(error) => {
            tracing::error!(%error, "cannot encode a change of the schema; status lacks it");
            None
        }
    }
}

/// Forgets an object: it exists, or a node has dropped it.
///
/// # Errors
/// SQLite's error.
pub fn remove(db: &Connection, kind: Kind, name: &str) -> Result<(), DatabaseError> {
    db.prepare_cached("DELETE FROM main.__harmonylite__unmade WHERE kind = ?1 AND name = ?2")?
        .execute((kind.word(), name))?;
    Ok(())
}

/// Forgets what belongs to a table or view that a node has dropped.
///
/// # Errors
/// SQLite's error.
pub fn remove_of(db: &Connection, table: &str) -> Result<(), DatabaseError> {
    db.prepare_cached("DELETE FROM main.__harmonylite__unmade WHERE table_name = ?1")?
        .execute([table])?;
    Ok(())
}

/// Forgets all.
///
/// # Errors
/// SQLite's error.
pub fn clear(db: &Connection) -> Result<(), DatabaseError> {
    Ok(db.execute_batch("DELETE FROM main.__harmonylite__unmade")?)
}

/// Returns whether there is one.
///
/// # Errors
/// SQLite's error.
pub fn any(db: &Connection) -> Result<bool, DatabaseError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM main.__harmonylite__unmade)";
    Ok(db.prepare_cached(sql)?.query_row([], |r| r.get(0))?)
}

/// Returns all of them, in the order in which they were to be made.
///
/// # Errors
/// SQLite's error.
pub fn all(db: &Connection) -> Result<Vec<Unmade>, DatabaseError> {
    let mut read = db.prepare_cached(
        "SELECT node, since, change, error FROM main.__harmonylite__unmade ORDER BY id",
    )?;
    let mut rows = read.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let bytes: Vec<u8> = row.get(2)?;
        match ciborium::from_reader(&bytes[..]) {
            Ok(change) => found.push(Unmade {
                node: row.get(0)?,
                since_ms: row.get(1)?,
                change,
                error: row.get(3)?,
            }),
            Err(error) => tracing::error!(%error, "cannot read a stored change of the schema"),
        }
    }
    Ok(found)
}

/// Returns all of them, for people.
///
/// # Errors
/// SQLite's error.
pub fn list(db: &Connection) -> Result<Vec<UnmadeStatus>, DatabaseError> {
    let listed = |unmade: Unmade| UnmadeStatus {
        node_id: unmade.node.0,
        since_ms: unmade.since_ms,
        change: unmade.change.words(),
        statement: unmade.change.statements().map_or(String::new(), |all| all.join("; ")),
        error: unmade.error,
    };
    Ok(all(db)?.into_iter().map(listed).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::test_database;

    fn view(name: &str, sql: &str, error: &str) -> Unmade {
        let change = SchemaChange::CreateView { name: name.into(), sql: sql.into() };
        Unmade { node: NodeId(2), since_ms: 10, change, error: error.into() }
    }

    #[test]
    fn an_object_is_listed_once_until_it_is_there_or_dropped() {
        let db = test_database();
        assert!(put(&db, &view("w", "CREATE VIEW w AS SELECT 1", "first")).unwrap());
        let again = Unmade { since_ms: 20, node: NodeId(3), ..view("W", "CREATE VIEW W", "next") };
        assert!(put(&db, &again).unwrap());
        assert!(!put(&db, &again).unwrap(), "nothing is new");
        let trigger = SchemaChange::CreateTrigger {
            name: "w".into(),
            table: "w".into(),
            sql: "CREATE TRIGGER w".into(),
        };
        put(&db, &Unmade { change: trigger, ..view("", "", "no such table") }).unwrap();
        let listed = list(&db).unwrap();
        assert_eq!(listed.len(), 2);
        assert_eq!((listed[0].node_id, listed[0].since_ms), (2, 10));
        assert_eq!(
            (listed[0].error.as_str(), listed[0].statement.as_str()),
            ("next", "CREATE VIEW W")
        );
        assert_eq!(listed[1].change, "create trigger w on w");
        remove(&db, Kind::Trigger, "W").unwrap();
        assert_eq!(list(&db).unwrap().len(), 1);
        remove_of(&db, "W").unwrap();
        assert!(!any(&db).unwrap());
    }

    #[test]
    fn what_decides_about_rows_is_none_and_their_number_is_bounded() {
        let db = test_database();
        let unique = SchemaChange::CreateIndex {
            name: "u".into(),
            table: "t".into(),
            sql: "CREATE UNIQUE INDEX u ON t (a)".into(),
        };
        assert!(!put(&db, &Unmade { change: unique, ..view("", "", "") }).unwrap());
        for i in 0..=ENTRIES_MAX {
            let stored = put(&db, &view(&format!("w{i}"), "CREATE VIEW", "")).unwrap();
            assert_eq!(stored, i < ENTRIES_MAX);
        }
        assert!(put(&db, &view("w0", "CREATE VIEW", "another")).unwrap());
        clear(&db).unwrap();
        assert!(!any(&db).unwrap());
    }
}
