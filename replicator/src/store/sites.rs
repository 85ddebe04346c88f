//! The table `__harmonylite__site`: all incarnations of this node's database, the present one
//! included.

use super::{change_log, id_ranges, meta, origins};
use crate::db::connection::DatabaseError;
use crate::model::ids::{BatchNo, NodeId, Site};
use rusqlite::{Connection, params};
use std::collections::HashSet;

/// The SQL condition that a version (column `site`) comes from this node's database.
pub const IS_OWN: &str = "site IN (SELECT site FROM main.__harmonylite__site UNION ALL SELECT \
    number FROM main.__harmonylite__site JOIN main.__harmonylite__site_number USING (site))";

/// Starts a new incarnation. The present site becomes a former one, with its last published batch
/// as applied.
///
/// # Errors
/// SQLite's error.
pub fn begin_site(db: &Connection, site: Site, now_ms: i64) -> Result<(), DatabaseError> {
    assert!(site.0 > 0, "a site is a positive number");
    db.execute(
        "INSERT OR IGNORE INTO main.__harmonylite__site (site, since) VALUES (?1, ?2)",
        params![site, now_ms],
    )?;
    origins::add_former(db, now_ms)?;
    id_ranges::forget(db)?;
    meta::set(db, meta::SITE, site)?;
    meta::set(db, meta::BATCH, BatchNo(0))
}

/// Ends the present incarnation of a database that was restored from a snapshot: the original may
/// go on elsewhere. Its first start begins another one. What it had not published stays in the log
/// and goes out then: versions make a second sending harmless. The positions in the streams stay.
///
/// # Errors
/// SQLite's error.
pub fn end_restored(db: &Connection, now_ms: i64) -> Result<(), DatabaseError> {
    origins::add_former(db, now_ms)?;
    if let Some(node) = meta::get(db, meta::NODE)? {
        meta::set(db, meta::RESTORED_NODE, node)?;
    }
    meta::remove(db, meta::NODE)?;
    meta::remove(db, meta::SITE)?;
    meta::remove(db, meta::BATCH)?;
    meta::forget_own_anchor(db)
}

/// Takes a restored database over for a node. If it was another node's, that one's incarnations are
/// not this node's. What they had absorbed and not published would then look like a row of another
/// node, which publishes it itself; but nobody else may have it.
///
/// # Errors
/// SQLite's error.
pub fn take_over_restored(db: &Connection, node: NodeId) -> Result<(), DatabaseError> {
    let Some(former) = meta::get(db, meta::RESTORED_NODE)? else { return Ok(()) };
    if former != node {
        let number = |key| meta::get(db, key).map(Option::unwrap_or_default);
        change_log::publish_absorbed(db, number(meta::PUBLISHED)?, number(meta::ABSORBED)?)?;
        db.execute("DELETE FROM main.__harmonylite__site", [])?;
    }
    meta::remove(db, meta::RESTORED_NODE)
}

/// Returns all incarnations of this node's database.
///
/// # Errors
/// SQLite's error.
pub fn own_sites(db: &Connection) -> Result<HashSet<Site>, DatabaseError> {
    let mut read = db.prepare_cached("SELECT site FROM main.__harmonylite__site")?;
    let sites = read.query_map([], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(sites)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::entry_code::{KIND, encode};
    use crate::store::test_database;

    #[test]
    fn a_new_site_makes_the_present_one_a_former_one() {
        let db = test_database();
        begin_site(&db, Site(7), 100).unwrap();
        meta::set(&db, meta::NODE, NodeId(3)).unwrap();
        assert_eq!(origins::newest_by_node(&db).unwrap().len(), 0, "there was none before");
        meta::set(&db, meta::BATCH, BatchNo(12)).unwrap();
        begin_site(&db, Site(9), 200).unwrap();
        assert_eq!(own_sites(&db).unwrap(), HashSet::from([Site(7), Site(9)]));
        assert_eq!(origins::known_batch(&db, Site(7)).unwrap(), BatchNo(12));
        assert_eq!(origins::newest_by_node(&db).unwrap()[&NodeId(3)], 200);
        let now = meta::Meta::read(&db).unwrap();
        assert_eq!((now.site, now.batch), (Site(9), BatchNo(0)));
    }

    #[test]
    fn a_restored_database_is_a_new_incarnation_of_whoever_starts_it() {
        for (node, own) in [(NodeId(3), vec![7, 9]), (NodeId(4), vec![9])] {
            let db = test_database();
            begin_site(&db, Site(7), 100).unwrap();
            meta::set(&db, meta::NODE, NodeId(3)).unwrap();
            meta::set(&db, meta::BATCH, BatchNo(12)).unwrap();
            meta::set(&db, meta::PUBLISHED, 5).unwrap();
            end_restored(&db, 200).unwrap();
            let left = meta::Meta::read(&db).unwrap();
            assert_eq!((left.node, left.site, left.batch), (NodeId(0), Site(0), BatchNo(0)));
            assert_eq!(left.published, 5, "the log stays");
            take_over_restored(&db, node).unwrap();
            begin_site(&db, Site(9), 300).unwrap();
            assert_eq!(own_sites(&db).unwrap(), own.into_iter().map(Site).collect());
            assert_eq!(origins::known_batch(&db, Site(7)).unwrap(), BatchNo(12));
            assert_eq!(meta::get(&db, meta::RESTORED_NODE).unwrap(), None);
        }
    }

    /// Found by seed 2992 of the worlds: the restored node kept the row for itself.
    #[test]
    fn what_another_node_absorbed_and_did_not_publish_goes_out() {
        for (node, kinds) in [(NodeId(3), [0, 0, 4, 0]), (NodeId(4), [0, 2, 4, 0])] {
            let db = test_database();
            begin_site(&db, Site(7), 100).unwrap();
            meta::set(&db, meta::NODE, NodeId(3)).unwrap();
            for kind in [0, 0, 4, 0] {
                let sql = "INSERT INTO __harmonylite__change_log (time, table_id) VALUES (1, ?1)";
                db.execute(sql, [encode(1, kind)]).unwrap();
            }
            meta::set(&db, meta::PUBLISHED, 1).unwrap();
            meta::set(&db, meta::ABSORBED, 3).unwrap();
            end_restored(&db, 200).unwrap();
            take_over_restored(&db, node).unwrap();
            let sql = format!("SELECT {KIND} FROM __harmonylite__change_log ORDER BY id");
            let mut read = db.prepare(&sql).unwrap();
            let found: Vec<i64> =
                read.query_map([], |r| r.get(0)).unwrap().map(Result::unwrap).collect();
            assert_eq!(found, kinds, "{node:?}");
        }
    }

    #[test]
    fn the_condition_finds_own_sites_only() {
        let db = test_database();
        begin_site(&db, Site(7), 100).unwrap();
        let sql = format!("SELECT {IS_OWN} FROM (SELECT ?1 AS site)");
        let is_own = |site| db.query_row(&sql, [Site(site)], |r| r.get::<_, bool>(0)).unwrap();
        assert!(is_own(7) && !is_own(8));
    }
}
