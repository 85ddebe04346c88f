//! The table `__harmonylite__gap`: missing messages whose rows other nodes are asked to republish.

use crate::db::connection::DatabaseError;
use crate::model::ids::NodeId;
use rusqlite::{Connection, params};

/// Missing messages whose rows other nodes are asked to republish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Its number on this node.
    pub id: i64,
    /// The stream.
    pub shard: u32,
    /// The origin whose batches are missing; 0 if not known.
    pub node: NodeId,
    /// The oldest requested row time, unix milliseconds.
    pub since_ms: i64,
    /// When the gap was last noticed or renewed, unix milliseconds.
    pub noticed_ms: i64,
    /// The reason, for people.
    pub reason: String,
}

impl Gap {
    /// Returns the key that an answer has to name. An answer to an earlier key does not cover
    /// messages found missing since.
    pub fn key(&self) -> GapKey {
        (self.id, self.noticed_ms)
    }
}

/// The number of a gap, and when it was last noticed. A later time makes another question.
pub type GapKey = (i64, i64);

/// Newly noticed missing messages.
#[derive(Clone, Copy, Debug)]
pub struct Missing<'a> {
    /// The stream.
    pub shard: u32,
    /// The origin whose batches are missing; 0 if not known.
    pub node: NodeId,
    /// The oldest row time to request, unix milliseconds.
    pub since_ms: i64,
    /// The reason, for people.
    pub reason: &'a str,
}

/// Stores a gap, so that it outlives a crash. If the stream already has an open gap, renews that
/// one instead.
///
/// # Errors
/// SQLite's error.
pub fn note(db: &Connection, missing: Missing<'_>, now_ms: i64) -> Result<(), DatabaseError> {
    let Missing { shard, node, since_ms, reason } = missing;
    let renewed = db.execute(
        "UPDATE main.__harmonylite__gap SET node = iif(node = ?2, node, 0), since = min(since, \
        ?3), noticed = max(noticed + 1, ?4), reason = ?5
         WHERE shard = ?1",
        params![shard, node, since_ms, now_ms, reason],
    )?;
    if renewed == 0 {
        db.execute(
            "INSERT INTO main.__harmonylite__gap (shard, node, since, noticed, reason) VALUES \
            (?1, ?2, ?3, ?4, ?5)",
            params![shard, node, since_ms, now_ms, reason],
        )?;
    }
    Ok(())
}

/// Returns the open gaps.
///
/// # Errors
/// SQLite's error.
pub fn list(db: &Connection) -> Result<Vec<Gap>, DatabaseError> {
    let mut read = db.prepare_cached(
        "SELECT id, shard, node, since, noticed, reason FROM main.__harmonylite__gap ORDER BY id",
    )?;
    let rows = read.query_map([], |r| {
        Ok(Gap {
            id: r.get(0)?,
            shard: r.get(1)?,
            node: r.get(2)?,
            since_ms: r.get(3)?,
            noticed_ms: r.get(4)?,
            reason: r.get(5)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Returns the number of open gaps.
///
/// # Errors
/// SQLite's error.
pub fn count(db: &Connection) -> Result<u64, DatabaseError> {
    Ok(db.query_row("SELECT count(*) FROM main.__harmonylite__gap", [], |r| {
        r.get::<_, i64>(0).map(i64::cast_unsigned)
    })?)
}

/// Closes an answered gap, unless it was renewed after the question.
///
/// # Errors
/// SQLite's error.
pub fn close(db: &Connection, (id, noticed_ms): GapKey) -> Result<(), DatabaseError> {
    db.execute(
        "DELETE FROM main.__harmonylite__gap WHERE id = ?1 AND noticed = ?2",
        [id, noticed_ms],
    )?;
    Ok(())
}

/// Returns whether everything in this stream up to its cursor is applied: there is no gap, no held
/// origin and no batch in quarantine.
///
/// # Errors
/// SQLite's error.
pub fn misses_nothing(db: &Connection, shard: u32) -> Result<bool, DatabaseError> {
    Ok(db
        .prepare_cached(
            "SELECT NOT EXISTS (SELECT 1 FROM main.__harmonylite__gap WHERE shard = ?1)
             AND NOT EXISTS (SELECT 1 FROM main.__harmonylite__held WHERE shard = ?1)
             AND NOT EXISTS (SELECT 1 FROM main.__harmonylite__quarantine WHERE shard = ?1)",
        )?
        .query_row([shard], |r| r.get(0))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::test_database;

    fn missing(node: u64, since_ms: i64, reason: &str) -> Missing<'_> {
        Missing { shard: 2, node: NodeId(node), since_ms, reason }
    }

    #[test]
    fn a_second_gap_of_a_stream_renews_the_first() {
        let db = test_database();
        note(&db, missing(u64::MAX, 70, "a"), 100).unwrap();
        let first = list(&db).unwrap();
        assert_eq!((first[0].node, first[0].key()), (NodeId(u64::MAX), (1, 100)));
        note(&db, missing(u64::MAX, 50, "b"), 90).unwrap();
        let second = list(&db).unwrap();
        assert_eq!((second.len(), second[0].node, second[0].since_ms), (1, NodeId(u64::MAX), 50));
        assert_eq!(second[0].key(), (1, 101), "another question, even if the clock goes back");
        note(&db, missing(4, 60, "c"), 200).unwrap();
        let third = list(&db).unwrap();
        assert_eq!((third[0].node, third[0].since_ms), (NodeId(0), 50), "of more than one origin");
        note(&db, Missing { shard: 3, ..missing(4, 0, "d") }, 200).unwrap();
        assert_eq!(count(&db).unwrap(), 2);
    }

    #[test]
    fn only_the_answer_to_the_last_question_closes_a_gap() {
        let db = test_database();
        note(&db, missing(1, 0, "a"), 100).unwrap();
        let asked = list(&db).unwrap()[0].key();
        note(&db, missing(1, 0, "b"), 200).unwrap();
        close(&db, asked).unwrap();
        assert_eq!(count(&db).unwrap(), 1);
        close(&db, list(&db).unwrap()[0].key()).unwrap();
        assert_eq!(count(&db).unwrap(), 0);
    }

    #[test]
    fn a_gap_a_held_origin_or_a_quarantined_batch_is_something_missing() {
        for insert in [
            "INSERT INTO __harmonylite__gap (shard, node, since, noticed, reason) VALUES \
            (2, 0, 0, 0, '')",
            "INSERT INTO __harmonylite__held VALUES (1, 2, 0, 0, '')",
            "INSERT INTO __harmonylite__quarantine (time, shard, seq, node, site, batch, reason, \
            body) VALUES (0, 2, 0, 0, 0, 0, '', x'')",
        ] {
            let db = test_database();
            assert!(misses_nothing(&db, 2).unwrap());
            db.execute(insert, []).unwrap();
            assert!(!misses_nothing(&db, 2).unwrap(), "{insert}");
            assert!(misses_nothing(&db, 1).unwrap(), "another stream");
        }
    }
}
