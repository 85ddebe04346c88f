//! A sidecar that is killed loses no committed write.
//!
//! Goal: each node in turn is killed with SIGKILL at any moment under load. Afterwards every
//! committed write is on every node exactly once, and the databases are sound. Method: each
//! application counts its own commits (inserts, and increments of its own counters). The totals on
//! all nodes must equal these counts.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, Node, eventually, number, sound};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

const SCHEMA: &str =
    "CREATE TABLE entry (node INTEGER, n INTEGER, pad TEXT, PRIMARY KEY (node, n));
     CREATE TABLE counter (node INTEGER PRIMARY KEY, n INTEGER NOT NULL);
     CREATE TABLE shared (id INTEGER PRIMARY KEY, text TEXT);";

/// Runs one application, which counts its commits, until `stop` is set.
fn write(db: &rusqlite::Connection, id: u64, commits: &AtomicI64, stop: &AtomicBool) {
    let id = i64::try_from(id).unwrap();
    while !stop.load(Ordering::Relaxed) {
        let n = commits.load(Ordering::Relaxed) + 1;
        db.execute_batch("BEGIN IMMEDIATE").unwrap();
        db.execute("INSERT INTO entry VALUES (?1, ?2, hex(randomblob(20)))", [id, n]).unwrap();
        db.execute(
            "INSERT INTO counter VALUES (?1, 1) ON CONFLICT (node) DO UPDATE SET n = n + 1",
            [id],
        )
        .unwrap();
        db.execute("INSERT OR REPLACE INTO shared VALUES (?1, ?2)", (n % 10, format!("{id} {n}")))
            .unwrap();
        db.execute_batch("COMMIT").unwrap();
        commits.store(n, Ordering::Relaxed);
    }
}

/// Waits until every application has made this many more commits.
fn go_on(commits: &[AtomicI64], more: i64) {
    let from: Vec<i64> = commits.iter().map(|c| c.load(Ordering::Relaxed)).collect();
    eventually("the applications go on", || {
        commits.iter().zip(&from).all(|(c, from)| c.load(Ordering::Relaxed) >= from + more)
    });
}

#[test]
fn each_node_killed_under_load_loses_nothing() {
    let mut cluster = Cluster::new(3, SCHEMA);
    cluster.run();
    let (commits, stop) = ([const { AtomicI64::new(0) }; 3], AtomicBool::new(false));
    let applications: Vec<_> = cluster.nodes.iter().map(Node::app).collect();
    std::thread::scope(|scope| {
        for (i, db) in applications.into_iter().enumerate() {
            let (commits, stop) = (&commits[i], &stop);
            scope.spawn(move || write(&db, i as u64 + 1, commits, stop));
        }
        for i in [0, 1, 2, 0] {
            go_on(&commits, 40);
            cluster.nodes[i].kill();
            go_on(&commits, 40);
            cluster.nodes[i].run();
        }
        go_on(&commits, 40);
        stop.store(true, Ordering::Relaxed);
    });
    let committed: Vec<i64> = commits.iter().map(|c| c.load(Ordering::Relaxed)).collect();
    for node in &cluster.nodes {
        let db = node.app();
        eventually(&format!("node {} has all of {committed:?}", node.id), || {
            number(&db, "SELECT count(*) FROM entry") == committed.iter().sum::<i64>()
        });
    }
    cluster.converge();
    for node in &cluster.nodes {
        let db = node.app();
        sound(&db);
        for (id, n) in (1..).zip(&committed) {
            assert_eq!(
                number(&db, &format!("SELECT count(*) FROM entry WHERE node = {id} AND n <= {n}")),
                *n
            );
            assert_eq!(
                number(&db, &format!("SELECT n FROM counter WHERE node = {id}")),
                *n,
                "an increment of node {id} was lost or repeated"
            );
        }
    }
}
