//! Drops TEMP triggers, also those whose table is gone.
//!
//! Arrives: a connection and the name of a TEMP trigger. Leaves: a connection without it. When
//! another connection renames or drops the trigger's table, SQLite forgets the trigger when it
//! reads the schema again (`orphanTrigger` in build.c), but its entry stays: DROP TRIGGER does not
//! find it, and every ALTER TABLE fails at it. TEMP objects end with the connection, so a crash
//! leaves none.

use crate::db::connection::DatabaseError;
use crate::db::sql::quote;
use crate::db::writable_schema::writable;
use rusqlite::Connection;

/// Drops one TEMP trigger, if it exists.
///
/// # Errors
/// SQLite's error.
pub fn drop(db: &Connection, name: &str) -> Result<(), DatabaseError> {
    db.execute_batch(&format!("DROP TRIGGER IF EXISTS temp.{}", quote(name)))?;
    let is_orphan: bool = db.query_row(
        "SELECT EXISTS (SELECT 1 FROM temp.sqlite_schema WHERE type = 'trigger' AND name = ?1)",
        [name],
        |r| r.get(0),
    )?;
    if !is_orphan {
        return Ok(());
    }
    // A trigger has no pages of its own: its entry is all there is of it.
    let delete = "DELETE FROM temp.sqlite_schema WHERE type = 'trigger' AND name = ?1";
    writable(db, || Ok(db.execute(delete, [name]).map(|_| ())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without it, the last ALTER fails with "error in trigger p: no such table: main.item".
    #[test]
    fn an_orphan_is_dropped_and_tables_can_be_altered_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        let (ours, application) =
            (Connection::open(&path).unwrap(), Connection::open(&path).unwrap());
        ours.execute_batch(
            "CREATE TABLE item (id); CREATE TABLE other (id);
             CREATE TEMP TRIGGER p AFTER DELETE ON main.item BEGIN SELECT 1; END;
             CREATE TEMP TRIGGER \"q q\" AFTER DELETE ON main.other BEGIN SELECT 1; END;",
        )
        .unwrap();
        application.execute_batch("ALTER TABLE item RENAME TO article").unwrap();
        assert!(ours.execute_batch("ALTER TABLE other RENAME TO second").is_err());
        drop(&ours, "p").unwrap();
        drop(&ours, "q q").unwrap();
        drop(&ours, "never was").unwrap();
        ours.execute_batch("ALTER TABLE other RENAME TO second").unwrap();
        let left: i64 =
            ours.query_row("SELECT count(*) FROM temp.sqlite_schema", [], |r| r.get(0)).unwrap();
        assert_eq!(left, 0);
    }
}
