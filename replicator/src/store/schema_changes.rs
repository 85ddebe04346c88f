//! The table `__harmonylite__schema_change`: changes of the schema that travel in batches.
//!
//! Those that are to be sent have an entry of the log ([`super::entry_code::KIND_SCHEMA`]), which
//! decides when they are published. All others, and those of other nodes, are kept for a while: who
//! republishes rows that were lost sends them again, because they may have been lost with the rows.
//! Who has them in this table passes over them.

use super::change_log;
use crate::db::connection::DatabaseError;
use rusqlite::Connection;
use std::collections::HashSet;

/// Stores a change of this node that was noticed at `now_ms`, and logs it. `changes` gets the entry
/// of the log.
///
/// # Errors
/// SQLite's error.
pub fn add(
    db: &Connection,
    now_ms: i64,
    changes: impl FnOnce(i64) -> Vec<u8>,
) -> Result<(), DatabaseError> {
    let log_id = change_log::note_schema_change(db, now_ms)?;
    insert(db, log_id, now_ms, &changes(log_id))
}

/// Returns all that are kept: those of this node, and those of other nodes that were made here.
///
/// # Errors
/// SQLite's error.
pub fn kept(db: &Connection) -> Result<HashSet<Vec<u8>>, DatabaseError> {
    let mut read = db.prepare_cached("SELECT changes FROM main.__harmonylite__schema_change")?;
    let rows = read.query_map([], |r| r.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Stores a change of another node that is made here.
///
/// # Errors
/// SQLite's error.
pub fn add_adopted(db: &Connection, now_ms: i64, changes: &[u8]) -> Result<(), DatabaseError> {
    insert(db, 0, now_ms, changes)
}

fn insert(db: &Connection, log_id: i64, now_ms: i64, changes: &[u8]) -> Result<(), DatabaseError> {
    db.execute(
        "INSERT INTO main.__harmonylite__schema_change (log_id, time, changes) VALUES (?1, ?2, ?3)",
        (log_id, now_ms, changes),
    )?;
    Ok(())
}

/// Returns the changes that are to be sent after this entry of the log, oldest first.
///
/// # Errors
/// SQLite's error.
pub fn after(db: &Connection, log_id: i64) -> Result<Vec<Vec<u8>>, DatabaseError> {
    let mut read = db.prepare_cached(
        "SELECT changes FROM main.__harmonylite__schema_change WHERE log_id > ?1 ORDER BY id",
    )?;
    let rows = read.query_map([log_id], |r| r.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Marks the changes up to this entry of the log as sent.
///
/// # Errors
/// SQLite's error.
pub fn sent(db: &Connection, upto: i64) -> Result<(), DatabaseError> {
    db.prepare_cached(
        "UPDATE main.__harmonylite__schema_change SET log_id = 0 WHERE log_id > 0 AND log_id <= ?1",
    )?
    .execute([upto])?;
    Ok(())
}

/// Lets all kept changes be sent again, in front of rows that are republished.
///
/// # Errors
/// SQLite's error.
pub fn send_again(db: &Connection, now_ms: i64) -> Result<(), DatabaseError> {
    let any: bool =
        db.query_row("SELECT EXISTS (SELECT 1 FROM main.__harmonylite__schema_change)", [], |r| {
            r.get(0)
        })?;
    if any {
        let log_id = change_log::note_schema_change(db, now_ms)?;
        db.execute("UPDATE main.__harmonylite__schema_change SET log_id = ?1", [log_id])?;
    }
    Ok(())
}

/// Removes sent changes from before this time (unix milliseconds), and all but the newest `keep`.
///
/// # Errors
/// SQLite's error.
pub fn forget(db: &Connection, before_ms: i64, keep: u64) -> Result<(), DatabaseError> {
    db.execute(
        "DELETE FROM main.__harmonylite__schema_change WHERE log_id = 0 AND (time < ?1 OR id <= \
        (SELECT max(id) FROM main.__harmonylite__schema_change) - ?2)",
        (before_ms, i64::try_from(keep).unwrap_or(i64::MAX)),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::test_database;

    #[test]
    fn changes_are_sent_once_and_again_when_rows_were_lost() {
        let db = test_database();
        send_again(&db, 1).unwrap();
        assert_eq!(change_log::log_end(&db).unwrap(), 0, "nothing to send");
        add(&db, 10, |_| b"a".to_vec()).unwrap();
        add_adopted(&db, 20, b"b").unwrap();
        add(&db, 30, |log_id| {
            assert_eq!(log_id, 2);
            b"c".to_vec()
        })
        .unwrap();
        assert_eq!(kept(&db).unwrap(), [b"a", b"b", b"c"].map(|b| b.to_vec()).into());
        assert_eq!(after(&db, 0).unwrap(), [b"a", b"c"]);
        assert_eq!(after(&db, 1).unwrap(), [b"c"]);
        sent(&db, 1).unwrap();
        assert_eq!(after(&db, 0).unwrap(), [b"c"]);
        send_again(&db, 40).unwrap();
        let end = change_log::log_end(&db).unwrap();
        assert_eq!(after(&db, end - 1).unwrap(), [b"a", b"b", b"c"]);
        forget(&db, 25, 10).unwrap();
        assert_eq!(after(&db, 0).unwrap().len(), 3, "what is not sent stays");
        sent(&db, end).unwrap();
        forget(&db, 25, 10).unwrap();
        send_again(&db, 50).unwrap();
        assert_eq!(after(&db, 0).unwrap(), [b"c"]);
    }

    #[test]
    fn only_the_newest_are_kept() {
        let db = test_database();
        for change in [b"a", b"b", b"c"] {
            add_adopted(&db, 10, change).unwrap();
        }
        forget(&db, 0, 2).unwrap();
        send_again(&db, 50).unwrap();
        assert_eq!(after(&db, 0).unwrap(), [b"b", b"c"]);
    }
}
