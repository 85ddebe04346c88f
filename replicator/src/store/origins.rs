//! The table `__harmonylite__origin`: the last applied batch of every foreign or former site.

use super::meta;
use crate::db::connection::DatabaseError;
use crate::model::ids::{BatchNo, NodeId, Site};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::HashMap;

/// The last applied batch of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The site.
    pub site: Site,
    /// Its node.
    pub node: NodeId,
    /// The number of the batch.
    pub batch: BatchNo,
    /// When the batch was made, unix milliseconds.
    pub created_ms: i64,
}

/// Returns the number of the last applied batch of a site; 0 if none is known.
///
/// # Errors
/// SQLite's error.
pub fn known_batch(db: &Connection, site: Site) -> Result<BatchNo, DatabaseError> {
    let known = db
        .prepare_cached("SELECT batch FROM main.__harmonylite__origin WHERE site = ?1")?
        .query_row([site], |r| r.get(0))
        .optional()?;
    Ok(known.unwrap_or(BatchNo(0)))
}

/// Stores the last applied batch of a site.
///
/// # Errors
/// SQLite's error.
pub fn put(db: &Connection, origin: &Origin) -> Result<(), DatabaseError> {
    db.prepare_cached(
        "INSERT INTO main.__harmonylite__origin (site, node, batch, created) VALUES (?1, ?2, ?3, \
        ?4)
         ON CONFLICT (site) DO UPDATE SET node = excluded.node, batch = excluded.batch, created = \
         excluded.created",
    )?
    .execute(params![origin.site, origin.node, origin.batch, origin.created_ms])?;
    Ok(())
}

/// Returns the last applied batch of every site, in the order of the sites.
///
/// # Errors
/// SQLite's error.
pub fn all(db: &Connection) -> Result<Vec<Origin>, DatabaseError> {
    let mut read = db.prepare(
        "SELECT site, node, batch, created FROM main.__harmonylite__origin ORDER BY site",
    )?;
    let origin = |r: &rusqlite::Row<'_>| {
        Ok(Origin { site: r.get(0)?, node: r.get(1)?, batch: r.get(2)?, created_ms: r.get(3)? })
    };
    Ok(read.query_map([], origin)?.collect::<rusqlite::Result<_>>()?)
}

/// Returns every node with an applied batch, and when its newest one was made, unix milliseconds.
///
/// # Errors
/// SQLite's error.
pub fn newest_by_node(db: &Connection) -> Result<HashMap<NodeId, i64>, DatabaseError> {
    let mut read = db.prepare(
        "SELECT node, max(created) FROM main.__harmonylite__origin WHERE node <> 0 GROUP BY node",
    )?;
    let rows = read.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Adds the present site of this database as a former one, with its last published batch as
/// applied. Does nothing if there is no present site.
///
/// # Errors
/// SQLite's error.
pub fn add_former(db: &Connection, now_ms: i64) -> Result<(), DatabaseError> {
    if let Some(present) = present(db, now_ms)?.filter(|present| present.site.0 != 0) {
        let Origin { site, node, batch, created_ms } = present;
        db.execute(
            "INSERT OR IGNORE INTO main.__harmonylite__origin (site, node, batch, created) VALUES \
            (?1, ?2, ?3, ?4)",
            params![site, node, batch, created_ms],
        )?;
    }
    Ok(())
}

/// The present site of this database, with the last of its batches that is known to be published:
/// the acknowledgement of one that the node has read already may not be stored yet. None without a
/// site.
///
/// # Errors
/// SQLite's error.
pub fn present(db: &Connection, created_ms: i64) -> Result<Option<Origin>, DatabaseError> {
    let (Some(site), Some(node), Some(acknowledged)) =
        (meta::get(db, meta::SITE)?, meta::get(db, meta::NODE)?, meta::get(db, meta::BATCH)?)
    else {
        return Ok(None);
    };
    let read: BatchNo = db.query_row(
        "SELECT coalesce(max(batch), 0) FROM main.__harmonylite__cursor WHERE site = ?1",
        [site],
        |r| r.get(0),
    )?;
    Ok(Some(Origin { site, node, batch: acknowledged.max(read), created_ms }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::test_database;

    fn origin(site: i64, node: u64, batch: u64, created_ms: i64) -> Origin {
        Origin { site: Site(site), node: NodeId(node), batch: BatchNo(batch), created_ms }
    }

    /// Its own echo can be read before the acknowledgement is stored.
    #[test]
    fn the_present_site_has_published_what_was_read_of_it() {
        let db = test_database();
        assert_eq!(present(&db, 5).unwrap(), None);
        add_former(&db, 5).unwrap();
        assert_eq!(all(&db).unwrap(), []);
        meta::set(&db, meta::SITE, Site(9)).unwrap();
        meta::set(&db, meta::NODE, NodeId(3)).unwrap();
        meta::set(&db, meta::BATCH, BatchNo(54)).unwrap();
        assert_eq!(present(&db, 5).unwrap(), Some(origin(9, 3, 54, 5)));
        db.execute_batch(
            "INSERT INTO __harmonylite__cursor (shard, seq, created, time, node, site, batch, \
            lowest) VALUES (1, 70, 0, 0, 3, 9, 55, 0), (1, 71, 0, 0, 4, 8, 99, 0)",
        )
        .unwrap();
        add_former(&db, 5).unwrap();
        assert_eq!(all(&db).unwrap(), [origin(9, 3, 55, 5)]);
    }

    #[test]
    fn the_last_batch_of_a_site_is_known() {
        let db = test_database();
        assert_eq!(known_batch(&db, Site(1)).unwrap(), BatchNo(0));
        put(&db, &origin(1, 7, 3, 10)).unwrap();
        put(&db, &origin(1, 7, u64::MAX, 11)).unwrap();
        assert_eq!(known_batch(&db, Site(1)).unwrap(), BatchNo(u64::MAX));
        assert_eq!(known_batch(&db, Site(2)).unwrap(), BatchNo(0));
        assert_eq!(all(&db).unwrap(), [origin(1, 7, u64::MAX, 11)]);
    }

    #[test]
    fn a_node_is_as_new_as_the_newest_of_its_sites() {
        let db = test_database();
        for each in [origin(1, 7, 1, 10), origin(2, 7, 1, 30), origin(3, u64::MAX, 1, 20)] {
            put(&db, &each).unwrap();
        }
        put(&db, &origin(4, 0, 1, 99)).unwrap();
        let newest = newest_by_node(&db).unwrap();
        assert_eq!(newest, HashMap::from([(NodeId(7), 30), (NodeId(u64::MAX), 20)]));
    }
}
