//! Three nodes write the same rows at the same time, and end up equal.
//!
//! Goal: nodes end up with the same rows, in whatever order they see each other's writes, and every
//! losing write is in the conflict journal. Method: three applications write conflicting rows
//! through ordinary connections, as fast as they can, to tables with every kind of key.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, contents, rows};

const SCHEMA: &str = "
    CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, qty INTEGER);
    CREATE TABLE pair (a TEXT COLLATE NOCASE, b INTEGER, v, PRIMARY KEY (a, b)) WITHOUT ROWID;
    CREATE TABLE \"odd \"\"table\" (\"select\" TEXT PRIMARY KEY, \"a b\" BLOB) STRICT;";

#[test]
fn three_writers_of_the_same_rows_end_up_equal() {
    let mut cluster = Cluster::new(3, SCHEMA);
    cluster.run();
    std::thread::scope(|scope| {
        for node in &cluster.nodes {
            scope.spawn(move || {
                let db = node.app();
                for i in 0..300_i64 {
                    let key = i % 20;
                    db.execute(
                        "INSERT INTO item VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE SET name \
                        = excluded.name, qty = qty + 1",
                        (key, format!("node {} write {i}", node.id), i),
                    )
                    .unwrap();
                    let letter = if i % 2 == 0 { "k" } else { "K" };
                    db.execute(
                        "INSERT OR REPLACE INTO pair VALUES (?1, ?2, \
                        ?3)",
                        (letter, key, i * 10 + node.id as i64),
                    )
                    .unwrap();
                    if i % 7 == 0 {
                        db.execute("DELETE FROM item WHERE id = ?1", [(key + 3) % 20]).unwrap();
                    }
                    db.execute(
                        "INSERT OR REPLACE INTO \"odd \"\"table\" VALUES (?1, \
                        ?2)",
                        (format!("{key}"), vec![node.id as u8; 9]),
                    )
                    .unwrap();
                }
            });
        }
    });
    cluster.converge();
    let db = cluster.nodes[0].app();
    assert_eq!(rows(&db, "SELECT count(*) FROM \"odd \"\"table\"")[0][0], "Integer(20)");
    assert_eq!(contents(&db).len(), 3, "all three tables were compared");
    let conflicts: i64 =
        cluster.nodes.iter().map(|n| n.status().unwrap()["conflicts"].as_i64().unwrap()).sum();
    assert!(conflicts > 0, "concurrent writes lost without a trace");
}

/// All of them find no stream and make it; the quickest one wins.
#[test]
fn nodes_that_start_at_once_agree_on_the_streams_without_a_word() {
    let mut cluster = Cluster::new(4, SCHEMA);
    cluster.run();
    cluster.nodes[0].app().execute_batch("INSERT INTO item VALUES (1, 'x', 1)").unwrap();
    cluster.converge();
    let logs: Vec<String> = cluster.nodes.iter().map(|node| node.output()).collect();
    assert!(logs.iter().all(|log| !log.contains("WARN")), "{logs:#?}");
    let made = logs.iter().filter(|log| log.contains("created the stream")).count();
    assert_eq!(made, 1, "{logs:#?}");
}
