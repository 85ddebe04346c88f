//! The table `__harmonylite__held`: origins whose batches wait for a matching schema.

use crate::db::connection::DatabaseError;
use crate::model::ids::{NodeId, StreamSeq};
use crate::model::status::HeldStatus;
use rusqlite::{Connection, params};
use std::collections::HashMap;

/// An origin to hold.
#[derive(Clone, Copy, Debug)]
pub struct Hold<'a> {
    /// The origin.
    pub node: NodeId,
    /// The stream.
    pub shard: u32,
    /// The position of its first held batch.
    pub seq: StreamSeq,
    /// The reason, for people.
    pub reason: &'a str,
}

/// Returns the held origins of a stream, and the position of the first held batch of each.
///
/// # Errors
/// SQLite's error.
pub fn read(db: &Connection, shard: u32) -> Result<HashMap<NodeId, StreamSeq>, DatabaseError> {
    let mut read = db.prepare("SELECT node, seq FROM main.__harmonylite__held WHERE shard = ?1")?;
    let rows = read.query_map([shard], |r| Ok((r.get(0)?, r.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Holds an origin. An origin that is already held keeps its time.
///
/// # Errors
/// SQLite's error.
pub fn put(db: &Connection, hold: Hold<'_>, now_ms: i64) -> Result<(), DatabaseError> {
    let Hold { node, shard, seq, reason } = hold;
    db.prepare_cached(
        "INSERT INTO main.__harmonylite__held (node, shard, seq, since, reason) VALUES (?1, ?2, \
        ?3, ?4, ?5)
         ON CONFLICT (node, shard) DO UPDATE SET seq = excluded.seq, reason = excluded.reason",
    )?
    .execute(params![node, shard, seq, now_ms, reason])?;
    Ok(())
}

/// Releases an origin.
///
/// # Errors
/// SQLite's error.
pub fn remove(db: &Connection, node: NodeId, shard: u32) -> Result<(), DatabaseError> {
    db.execute(
        "DELETE FROM main.__harmonylite__held WHERE node = ?1 AND shard = ?2",
        params![node, shard],
    )?;
    Ok(())
}

/// Returns all held origins, for people.
///
/// # Errors
/// SQLite's error.
pub fn list(db: &Connection) -> Result<Vec<HeldStatus>, DatabaseError> {
    let mut read = db.prepare_cached(
        "SELECT node, shard, since, reason FROM main.__harmonylite__held ORDER BY node, shard",
    )?;
    let rows = read.query_map([], |r| {
        Ok(HeldStatus {
            node_id: r.get::<_, NodeId>(0)?.0,
            shard: r.get(1)?,
            since_ms: r.get(2)?,
            reason: r.get(3)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::test_database;

    fn hold(node: u64, shard: u32, seq: u64, reason: &str) -> Hold<'_> {
        Hold { node: NodeId(node), shard, seq: StreamSeq(seq), reason }
    }

    #[test]
    fn an_origin_is_held_once_a_stream_since_the_first_time() {
        let db = test_database();
        put(&db, hold(5, 1, 10, "a"), 100).unwrap();
        put(&db, hold(5, 1, 12, "b"), 200).unwrap();
        put(&db, hold(5, 2, 3, "c"), 300).unwrap();
        assert_eq!(read(&db, 1).unwrap(), HashMap::from([(NodeId(5), StreamSeq(12))]));
        let listed = list(&db).unwrap();
        assert_eq!(listed.len(), 2);
        assert_eq!((listed[0].since_ms, listed[0].reason.as_str()), (100, "b"));
        remove(&db, NodeId(5), 1).unwrap();
        assert!(read(&db, 1).unwrap().is_empty());
        assert_eq!(list(&db).unwrap()[0].shard, 2);
    }

    #[test]
    fn a_large_node_id_is_read_back() {
        let db = test_database();
        put(&db, hold(u64::MAX, 1, u64::MAX, ""), 0).unwrap();
        assert_eq!(list(&db).unwrap()[0].node_id, u64::MAX);
        assert_eq!(read(&db, 1).unwrap()[&NodeId(u64::MAX)], StreamSeq(u64::MAX));
    }
}
