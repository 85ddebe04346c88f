//! The table `__harmonylite__meta`: single facts under a name, each with its type.

use super::cursor::Anchor;
use crate::db::connection::DatabaseError;
use crate::model::batch::Digest;
use crate::model::ids::{BatchNo, NodeId, Site, StreamSeq};
use rusqlite::types::FromSql;
use rusqlite::{Connection, OptionalExtension, ToSql, params};
use std::fmt;
use std::marker::PhantomData;

/// The name of a fact whose value has the type `T`.
pub struct Key<T> {
    name: &'static str,
    value: PhantomData<fn() -> T>,
}

impl<T> Key<T> {
    /// Returns the key with this name.
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, value: PhantomData }
    }
}

impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The format of our tables ([`super::install::FORMAT`]).
pub const FORMAT: Key<i64> = Key::new("format");
/// The node that this database belongs to.
pub const NODE: Key<NodeId> = Key::new("node");
/// The node whose database was restored from a snapshot; only until its first start.
pub const RESTORED_NODE: Key<NodeId> = Key::new("restored_node");
/// The site (the present incarnation) of this database.
pub const SITE: Key<Site> = Key::new("site");
/// The last number that a site was given ([`super::site_numbers`]).
pub const SITE_NUMBER: Key<i64> = Key::new("site_number");
/// The last batch of this site that is known to be acknowledged.
pub const BATCH: Key<BatchNo> = Key::new("batch");
/// Log entries up to here are absorbed: their versions are stored.
pub const ABSORBED: Key<i64> = Key::new("absorbed");
/// Log entries up to here are published.
pub const PUBLISHED: Key<i64> = Key::new("published");
/// The node has joined: every row has a version.
pub const JOINED: Key<bool> = Key::new("joined");
/// The streams had no message when this database came to join. Removed when it has joined.
pub const JOINS_FIRST: Key<bool> = Key::new("joins_first");
/// `PRAGMA schema_version` for which the triggers were installed.
pub const SCHEMA_VERSION: Key<i64> = Key::new("schema_version");
/// The hash of the replicated schema.
pub const SCHEMA_HASH: Key<Digest> = Key::new("schema_hash");
/// The schema as of the last change of it that was compared, so that the next one is known
/// (`capture/schema_changes.rs`). None if schema changes are not carried.
pub const CARRIED_SCHEMA: Key<Vec<u8>> = Key::new("carried_schema");
/// The hash of the replicated schema before its last change.
pub const PREVIOUS_SCHEMA_HASH: Key<Digest> = Key::new("previous_schema_hash");
/// The stream position of the last own acknowledged batch.
pub const OWN_SEQ: Key<StreamSeq> = Key::new("own_seq");
/// When the stream of the last own acknowledged batch was created, unix nanoseconds.
pub const OWN_CREATED: Key<i64> = Key::new("own_created");
/// The number of the last own acknowledged batch.
pub const OWN_BATCH: Key<BatchNo> = Key::new("own_batch");
/// The lowest row time in own batches that are acknowledged and not consumed yet, unix
/// milliseconds.
pub const OWN_LOWEST: Key<i64> = Key::new("own_lowest");
/// Rows from this time on are still to be logged for publication, unix milliseconds.
pub const REPUBLISH: Key<i64> = Key::new("republish");
/// The bytes of the conflict journal, or more.
pub const CONFLICT_BYTES: Key<i64> = Key::new("conflict_bytes");
/// The number of write transactions of the sidecar so far.
pub const WRITES: Key<i64> = Key::new("writes");
/// How many of them only gave versions to a piece of the log, and stored acknowledgements.
pub const PIECES: Key<i64> = Key::new("pieces");

/// Reads a fact; None if it is not stored.
///
/// # Errors
/// SQLite's error.
pub fn get<T: FromSql>(db: &Connection, key: Key<T>) -> Result<Option<T>, DatabaseError> {
    Ok(db
        .prepare_cached("SELECT value FROM main.__harmonylite__meta WHERE key = ?1")?
        .query_row([key.name], |r| r.get(0))
        .optional()?)
}

/// Stores a fact.
///
/// # Errors
/// SQLite's error.
pub fn set<T: ToSql>(db: &Connection, key: Key<T>, value: T) -> Result<(), DatabaseError> {
    db.prepare_cached(
        "INSERT INTO main.__harmonylite__meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO \
        UPDATE SET value = excluded.value",
    )?
    .execute(params![key.name, value])?;
    Ok(())
}

/// Removes a fact.
///
/// # Errors
/// SQLite's error.
pub fn remove<T>(db: &Connection, key: Key<T>) -> Result<(), DatabaseError> {
    db.execute("DELETE FROM main.__harmonylite__meta WHERE key = ?1", [key.name])?;
    Ok(())
}

/// The facts that the stages need together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The node that this database belongs to.
    pub node: NodeId,
    /// Its present incarnation.
    pub site: Site,
    /// The number of the last batch known to be acknowledged.
    pub batch: BatchNo,
    /// Log entries up to here are absorbed: their versions are stored.
    pub absorbed: i64,
    /// Log entries up to here are published.
    pub published: i64,
    /// The node has joined: every row has a version.
    pub joined: bool,
    /// The number of write transactions of the sidecar so far.
    pub writes: i64,
    /// How many of them only gave versions to a piece of the log, and stored acknowledgements.
    pub pieces: i64,
}

impl Meta {
    /// Reads all of them with one statement, because collect needs them at every commit.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn read(db: &Connection) -> Result<Self, DatabaseError> {
        let mut read = db.prepare_cached(
            "SELECT key, value FROM main.__harmonylite__meta WHERE key IN ('node', 'site', \
            'batch', 'absorbed', 'published', 'joined', 'writes', 'pieces')",
        )?;
        let mut meta = Self {
            node: NodeId(0),
            site: Site(0),
            batch: BatchNo(0),
            absorbed: 0,
            published: 0,
            joined: false,
            writes: 0,
            pieces: 0,
        };
        let mut rows = read.query([])?;
        while let Some(row) = rows.next()? {
            match row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)? {
                "node" => meta.node = row.get(1)?,
                "site" => meta.site = row.get(1)?,
                "batch" => meta.batch = row.get(1)?,
                "absorbed" => meta.absorbed = row.get(1)?,
                "published" => meta.published = row.get(1)?,
                "writes" => meta.writes = row.get(1)?,
                "pieces" => meta.pieces = row.get(1)?,
                _ => meta.joined = row.get(1)?,
            }
        }
        Ok(meta)
    }
}

/// Reads the last own acknowledged batch. Its time is unknown, because an acknowledgement does not
/// contain it.
///
/// # Errors
/// SQLite's error.
pub fn read_own_anchor(db: &Connection) -> Result<Option<Anchor>, DatabaseError> {
    let meta = Meta::read(db)?;
    let Some(seq) = get(db, OWN_SEQ)? else { return Ok(None) };
    let batch = get(db, OWN_BATCH)?.unwrap_or(BatchNo(0));
    let created_ns = get(db, OWN_CREATED)?.unwrap_or(0);
    Ok(Some(Anchor { seq, created_ns, time_ns: 0, node: meta.node, site: meta.site, batch }))
}

/// Stores the last own acknowledged batch. Its node and site are those of the database.
///
/// # Errors
/// SQLite's error.
pub fn write_own_anchor(db: &Connection, anchor: &Anchor) -> Result<(), DatabaseError> {
    set(db, OWN_SEQ, anchor.seq)?;
    set(db, OWN_CREATED, anchor.created_ns)?;
    set(db, OWN_BATCH, anchor.batch)
}

/// Forgets the last own acknowledged batch, and the lowest row time with it.
///
/// # Errors
/// SQLite's error.
pub fn forget_own_anchor(db: &Connection) -> Result<(), DatabaseError> {
    db.execute("DELETE FROM main.__harmonylite__meta WHERE key GLOB 'own_*'", [])?;
    Ok(())
}

/// Stores that every row from `since_ms` on is to be logged for publication, so that a crash does
/// not lose the intention. Returns the earliest start, an unfinished earlier one included.
///
/// # Errors
/// SQLite's error.
pub fn note_republish(db: &Connection, since_ms: i64) -> Result<i64, DatabaseError> {
    let since_ms = noted_republish(db)?.unwrap_or(i64::MAX).min(since_ms.max(0));
    set(db, REPUBLISH, since_ms)?;
    Ok(since_ms)
}

/// Returns the start of the unfinished republish, if there is one.
///
/// # Errors
/// SQLite's error.
pub fn noted_republish(db: &Connection) -> Result<Option<i64>, DatabaseError> {
    get(db, REPUBLISH)
}

/// Removes the stored start: all rows are logged.
///
/// # Errors
/// SQLite's error.
pub fn republish_done(db: &Connection) -> Result<(), DatabaseError> {
    remove(db, REPUBLISH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::test_database;

    #[test]
    fn a_fact_is_stored_replaced_and_removed() {
        let db = test_database();
        assert_eq!(get(&db, WRITES).unwrap(), None);
        set(&db, WRITES, 1).unwrap();
        set(&db, WRITES, 2).unwrap();
        assert_eq!(get(&db, WRITES).unwrap(), Some(2));
        remove(&db, WRITES).unwrap();
        assert_eq!(get(&db, WRITES).unwrap(), None);
        set(&db, SCHEMA_HASH, [7; 32]).unwrap();
        assert_eq!(get(&db, SCHEMA_HASH).unwrap(), Some([7; 32]));
    }

    #[test]
    fn the_facts_of_the_stages_are_read_together() {
        let db = test_database();
        let empty = Meta::read(&db).unwrap();
        assert_eq!((empty.node, empty.site, empty.joined), (NodeId(0), Site(0), false));
        set(&db, NODE, NodeId(u64::MAX)).unwrap();
        set(&db, SITE, Site(5)).unwrap();
        set(&db, BATCH, BatchNo(6)).unwrap();
        set(&db, ABSORBED, 8).unwrap();
        set(&db, PUBLISHED, 7).unwrap();
        set(&db, JOINED, true).unwrap();
        set(&db, WRITES, 3).unwrap();
        set(&db, PIECES, 2).unwrap();
        let expected = Meta {
            node: NodeId(u64::MAX),
            site: Site(5),
            batch: BatchNo(6),
            absorbed: 8,
            published: 7,
            joined: true,
            writes: 3,
            pieces: 2,
        };
        assert_eq!(Meta::read(&db).unwrap(), expected);
        let stored = "SELECT value || typeof(value) FROM __harmonylite__meta WHERE key = 'joined'";
        let joined: String = db.query_row(stored, [], |r| r.get(0)).unwrap();
        assert_eq!(joined, "1integer", "FORMAT.md");
    }

    #[test]
    fn the_own_anchor_is_of_this_node_and_site() {
        let db = test_database();
        set(&db, NODE, NodeId(3)).unwrap();
        set(&db, SITE, Site(5)).unwrap();
        assert_eq!(read_own_anchor(&db).unwrap(), None);
        let anchor = Anchor {
            seq: StreamSeq(9),
            created_ns: 11,
            time_ns: 0,
            node: NodeId(3),
            site: Site(5),
            batch: BatchNo(4),
        };
        write_own_anchor(&db, &anchor).unwrap();
        set(&db, OWN_LOWEST, 12).unwrap();
        assert_eq!(read_own_anchor(&db).unwrap(), Some(anchor));
        forget_own_anchor(&db).unwrap();
        assert_eq!(read_own_anchor(&db).unwrap(), None);
        assert_eq!(get(&db, OWN_LOWEST).unwrap(), None);
    }

    #[test]
    fn the_earliest_start_of_a_republish_is_kept_until_it_is_done() {
        let db = test_database();
        assert_eq!(note_republish(&db, 50).unwrap(), 50);
        assert_eq!(note_republish(&db, 70).unwrap(), 50);
        assert_eq!(note_republish(&db, -1).unwrap(), 0);
        assert_eq!(noted_republish(&db).unwrap(), Some(0));
        republish_done(&db).unwrap();
        assert_eq!(noted_republish(&db).unwrap(), None);
    }
}
