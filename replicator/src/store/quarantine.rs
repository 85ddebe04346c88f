//! Keeps batches that could not be decoded or applied, with the reason, until a person decides.
//!
//! Arrives: the bytes of a batch. Leaves: an entry that people can list, retry or drop. Owns: a
//! received batch is never dropped automatically. The entry is written in the transaction that
//! moves the cursor past the batch.

use crate::db::connection::DatabaseError;
use crate::model::batch::Digest;
use crate::model::ids::{BatchNo, NodeId, Site, StreamSeq};
use rusqlite::{Connection, OptionalExtension, Row, params};
use sha2::{Digest as _, Sha256};

/// Part of the reason of a retried batch while the schema of its origin is looked up.
pub const LOOKING_UP: &str = "looking up the schema";

/// A batch in quarantine, or a message that is not part of any batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number on this node.
    pub id: i64,
    /// When it was quarantined, unix milliseconds.
    pub time_ms: i64,
    /// The stream it came from.
    pub shard: u32,
    /// The position of its first part.
    pub seq: StreamSeq,
    /// The node that published it; 0 if not known.
    pub node: NodeId,
    /// The incarnation of that node's database; 0 if not known.
    pub site: Site,
    /// The number of the batch; 0 if not known.
    pub batch: BatchNo,
    /// The reason, for people.
    pub reason: String,
    /// The received bytes.
    pub body: Vec<u8>,
    /// The digest that the message announced for its whole batch; None if it announced none, or if
    /// the entry is of an earlier version of this program.
    pub digest: Option<Digest>,
}

impl Entry {
    /// Returns whether the bytes are the whole batch as it was sent. Only then may they be applied:
    /// damaged ones can be a batch too, with other values.
    pub fn is_as_sent(&self) -> bool {
        let digest: Digest = Sha256::digest(&self.body).into();
        self.digest == Some(digest)
    }
}

/// Adds a batch, once even if it arrives several times. Returns the number of entries.
///
/// # Errors
/// SQLite's error.
pub fn add(db: &Connection, entry: &Entry) -> Result<i64, DatabaseError> {
    db.execute(
        "INSERT INTO main.__harmonylite__quarantine (time, shard, seq, node, site, batch, reason, \
        body, digest) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9
         WHERE NOT EXISTS (SELECT 1 FROM main.__harmonylite__quarantine WHERE shard = ?2 AND seq \
         = ?3 AND node = ?4 AND site = ?5 AND batch = ?6)",
        params![
            entry.time_ms,
            entry.shard,
            entry.seq,
            entry.node,
            entry.site,
            entry.batch,
            entry.reason,
            entry.body,
            entry.digest
        ],
    )?;
    count(db)
}

/// Returns the number of entries.
///
/// # Errors
/// SQLite's error.
pub fn count(db: &Connection) -> Result<i64, DatabaseError> {
    Ok(db.query_row("SELECT count(*) FROM main.__harmonylite__quarantine", [], |r| r.get(0))?)
}

/// Returns the nodes with batches in quarantine.
///
/// # Errors
/// SQLite's error.
pub fn nodes(db: &Connection) -> Result<Vec<NodeId>, DatabaseError> {
    let mut read = db.prepare_cached("SELECT DISTINCT node FROM main.__harmonylite__quarantine")?;
    let rows = read.query_map([], |r| r.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn entry(r: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        id: r.get(0)?,
        time_ms: r.get(1)?,
        shard: r.get(2)?,
        seq: r.get(3)?,
        node: r.get(4)?,
        site: r.get(5)?,
        batch: r.get(6)?,
        reason: r.get(7)?,
        body: r.get(8)?,
        // One of another length proves nothing.
        digest: r.get_ref(9)?.as_blob_or_null()?.and_then(|digest| digest.try_into().ok()),
    })
}

/// Returns all entries, oldest first, without their bytes and digests. Reads also the table of an
/// earlier version, which knows no digests.
///
/// # Errors
/// SQLite's error.
pub fn list(db: &Connection) -> Result<Vec<Entry>, DatabaseError> {
    let mut read = db.prepare(
        "SELECT id, time, shard, seq, node, site, batch, reason, X'', NULL FROM \
            main.__harmonylite__quarantine ORDER BY id",
    )?;
    let rows = read.query_map([], entry)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Reads one entry with its bytes.
///
/// # Errors
/// SQLite's error.
pub fn load(db: &Connection, id: i64) -> Result<Option<Entry>, DatabaseError> {
    let sql = "SELECT id, time, shard, seq, node, site, batch, reason, body, digest FROM \
        main.__harmonylite__quarantine WHERE id = ?1";
    Ok(db.query_row(sql, [id], entry).optional()?)
}

/// Stores a new reason.
///
/// # Errors
/// SQLite's error.
pub fn set_reason(db: &Connection, id: i64, reason: &str) -> Result<(), DatabaseError> {
    db.execute(
        "UPDATE main.__harmonylite__quarantine SET reason = ?2 WHERE id = ?1",
        params![id, reason],
    )?;
    Ok(())
}

/// Removes an entry; false if there is none.
///
/// # Errors
/// SQLite's error.
pub fn remove(db: &Connection, id: i64) -> Result<bool, DatabaseError> {
    Ok(db.execute("DELETE FROM main.__harmonylite__quarantine WHERE id = ?1", [id])? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_quarantined_once_and_listed_without_its_bytes() {
        let db = crate::store::test_database();
        let entry = Entry {
            id: 0,
            time_ms: 5,
            shard: 1,
            seq: StreamSeq(u64::MAX),
            node: NodeId(u64::MAX),
            site: Site(3),
            batch: BatchNo(4),
            reason: "a".to_owned(),
            body: vec![1, 2],
            digest: Some([7; 32]),
        };
        assert_eq!(add(&db, &entry).unwrap(), 1);
        assert_eq!(add(&db, &entry).unwrap(), 1, "the same again");
        set_reason(&db, 1, "b").unwrap();
        let stored = Entry { id: 1, reason: "b".to_owned(), ..entry };
        assert_eq!(load(&db, 1).unwrap(), Some(stored.clone()));
        assert_eq!(
            list(&db).unwrap(),
            [Entry { body: Vec::new(), digest: None, ..stored.clone() }]
        );
        let whole = Entry { digest: Some(Sha256::digest([1, 2]).into()), ..stored.clone() };
        let damaged = Entry { body: vec![1, 3], ..whole.clone() };
        let unknown = Entry { digest: None, ..stored.clone() };
        let as_sent = [whole, damaged, stored, unknown].map(|entry| entry.is_as_sent());
        assert_eq!(as_sent, [true, false, false, false]);
        assert!(remove(&db, 1).unwrap() && !remove(&db, 1).unwrap());
        assert_eq!((load(&db, 1).unwrap(), count(&db).unwrap()), (None, 0));
    }
}
