//! Every row has the same version and the same digest on all nodes.
//!
//! Goal: a row that differs between nodes only in its version is a silent difference: the next
//! conflict about it would end differently. Method: an application writes, replaces, ignores and
//! deletes faster than the sidecar absorbs, so the log is absorbed in pieces while it is published,
//! and then the versions that its writer and the peer have stored are compared.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, eventually, number, rows};
use rusqlite::Connection;

const SCHEMA: &str = "
    CREATE TABLE item (id INTEGER PRIMARY KEY, code UNIQUE, note TEXT);
    CREATE TABLE tag (id TEXT PRIMARY KEY, n INTEGER);";

/// Writes a transaction of so many statements. Most rows are appended; others clash with one in the
/// table, so that triggers have to note what REPLACE may have removed.
fn write(db: &Connection, random: &mut u64, statements: u64) {
    let mut below = |n: i64| {
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (*random >> 33).cast_signed() % n
    };
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut last = number(db, "SELECT coalesce(max(id), 1) FROM item");
    for _ in 0..statements {
        let (sql, id, code) = match below(20) {
            0..11 => {
                last += 2;
                ("INSERT OR REPLACE INTO item VALUES (?1, ?2, 'new')", last, last)
            }
            11..13 => ("INSERT OR REPLACE INTO item VALUES (?1, ?2, 'other')", 0, 0),
            13 => ("INSERT OR IGNORE INTO item VALUES (?1, ?2, 'or not')", 0, 0),
            14 => ("DELETE FROM item WHERE id BETWEEN ?1 AND ?1 + 1 AND ?2 > 0", 0, 0),
            15..17 => ("UPDATE OR IGNORE item SET code = ?2 WHERE id = ?1", 0, 0),
            _ => ("INSERT OR REPLACE INTO tag VALUES ('tag ' || (?1 % 900), ?2)", 0, 0),
        };
        let (id, code) = if id > 0 { (id, code) } else { (below(last) + 1, below(last) + 1) };
        db.prepare_cached(sql).unwrap().execute([id, code]).unwrap();
    }
    db.execute_batch("COMMIT").unwrap();
}

fn versions(db: &Connection) -> Vec<Vec<Vec<String>>> {
    let read = |table: &str, key: &str| {
        let sql = format!(
            "SELECT v.{key}, v.hlc, n.site, v.digest FROM __harmonylite__{table}_version AS v JOIN \
            __harmonylite__site_number AS n ON n.number = v.site ORDER BY 1"
        );
        rows(db, &sql)
    };
    vec![read("item", "key0"), read("tag", "packed0")]
}

#[test]
fn a_log_absorbed_in_pieces_while_it_is_published_gives_both_nodes_the_same_versions() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    let mut random = 7;
    let (writer, peer) = (cluster.nodes[0].app(), cluster.nodes[1].app());
    let pieces = "SELECT coalesce(max(value), 0) FROM __harmonylite__meta WHERE key = 'pieces'";
    // What gathers meanwhile is more than one piece.
    cluster.nodes[0].stop();
    (0..45).for_each(|_| write(&writer, &mut random, 400));
    cluster.nodes[0].run();
    eventually("a piece is absorbed beside the application", || {
        write(&writer, &mut random, 200);
        number(&writer, pieces) > 0
    });
    (0..20).for_each(|_| write(&writer, &mut random, 100));
    cluster.converge();
    let (mut here, mut there) = (Vec::new(), Vec::new());
    eventually("every version is stored", || {
        let log = "SELECT count(*) FROM __harmonylite__change_log";
        (here, there) = (versions(&writer), versions(&peer));
        number(&writer, log) <= 1 && here[0].len() == there[0].len()
    });
    let kept = number(&writer, "SELECT count(*) FROM item");
    assert!(kept > 5_000 && here[0].len() > usize::try_from(kept).unwrap(), "{kept} rows");
    for (here, there) in here.iter().flatten().zip(there.iter().flatten()) {
        assert_eq!(here, there);
    }
    assert_eq!(here[1].len(), there[1].len());
}
