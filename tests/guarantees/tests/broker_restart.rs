//! The broker may be killed, lose its store, or go back in time: no commit is lost (faults 8, 9,
//! 11).
//!
//! Goal: when the broker is back, all nodes are equal and hold every committed write, also those
//! that the broker had acknowledged and then lost. Method: kill nats-server with SIGKILL under
//! load; delete its store while it is down; restore an old copy of its store, so that other writes
//! reuse sequence numbers. The story: Jepsen on NATS 2.12.1 lost acknowledged messages at a power
//! cut, so an acknowledgement is not durability.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, eventually, number, sound};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

const SCHEMA: &str =
    "CREATE TABLE entry (node INTEGER, n INTEGER, pad TEXT, PRIMARY KEY (node, n));";

fn insert(cluster: &Cluster, node: usize, from: i64, to: i64) {
    let db = cluster.nodes[node].app();
    for n in from..=to {
        db.execute("INSERT INTO entry VALUES (?1, ?2, hex(randomblob(20)))", (node as i64 + 1, n))
            .unwrap();
    }
}

/// Waits until all nodes hold this number of rows and have sent all changes.
#[track_caller]
fn all_hold(cluster: &Cluster, rows: i64) {
    for node in &cluster.nodes {
        let db = node.app();
        eventually(&format!("node {} holds {rows} rows", node.id), || {
            number(&db, "SELECT count(*) FROM entry") == rows
        });
    }
    cluster.converge();
    cluster.nodes.iter().for_each(|node| sound(&node.app()));
}

/// Adds a node. The rows that it gets are in the broker.
fn a_new_node_gets(cluster: &mut Cluster, rows: i64) {
    cluster.add(SCHEMA, "").run();
    all_hold(cluster, rows);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_broker_killed_under_load_loses_nothing() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    let (commits, stop) = ([const { AtomicI64::new(0) }; 2], AtomicBool::new(false));
    let applications: Vec<_> =
        cluster.nodes.iter().map(harmonylite_guarantees::Node::app).collect();
    let go_on = |more: i64| {
        let from: Vec<i64> = commits.iter().map(|c| c.load(Ordering::Relaxed)).collect();
        eventually("the applications go on", || {
            commits.iter().zip(&from).all(|(c, from)| c.load(Ordering::Relaxed) >= from + more)
        });
    };
    std::thread::scope(|scope| {
        for (i, db) in applications.into_iter().enumerate() {
            let (commits, stop) = (&commits[i], &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let n = commits.load(Ordering::Relaxed) + 1;
                    db.execute(
                        "INSERT INTO entry VALUES (?1, ?2, hex(randomblob(20)))",
                        (i as i64 + 1, n),
                    )
                    .unwrap();
                    commits.store(n, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..4 {
            go_on(100);
            cluster.broker.kill();
            go_on(100);
            cluster.broker.run();
        }
        go_on(100);
        stop.store(true, Ordering::Relaxed);
    });
    all_hold(&cluster, commits.iter().map(|c| c.load(Ordering::Relaxed)).sum::<i64>());
    assert!(
        cluster.nodes.iter().all(|n| n.counter("losses") == 0),
        "a killed server lost nothing, and nobody believes it did"
    );
}

#[test]
fn a_broker_that_lost_its_store_gets_everything_again() {
    let mut cluster = Cluster::new(3, SCHEMA);
    insert(&cluster, 0, 1, 20);
    cluster.run();
    insert(&cluster, 1, 1, 30);
    all_hold(&cluster, 50);
    cluster.broker.kill();
    std::fs::remove_dir_all(cluster.broker.store()).unwrap();
    insert(&cluster, 2, 1, 40);
    cluster.broker.run();
    all_hold(&cluster, 90);
    for node in &cluster.nodes {
        eventually("each node notices", || node.counter("losses") > 0);
    }
    all_hold(&cluster, 90);
    a_new_node_gets(&mut cluster, 90);
}

#[test]
fn an_acknowledged_tail_that_the_broker_lost_is_published_again() {
    let mut cluster = Cluster::new(3, SCHEMA);
    cluster.run();
    insert(&cluster, 0, 1, 30);
    all_hold(&cluster, 30);
    cluster.broker.stop();
    let old = cluster.dir.path().join("old store");
    copy(&cluster.broker.store(), &old);
    cluster.broker.run();
    cluster.nodes.iter_mut().for_each(harmonylite_guarantees::Node::ready);
    // The tail is acknowledged and applied by nodes 1 and 2, while node 3 is down. Then it is lost.
    cluster.nodes[2].stop();
    insert(&cluster, 0, 31, 60);
    insert(&cluster, 1, 1, 30);
    let one = cluster.nodes[0].app();
    eventually("the tail is acknowledged", || {
        number(&one, "SELECT count(*) FROM entry") == 90
            && (0..2).all(|i| cluster.nodes[i].status().is_some_and(|s| s["pending_rows"] == 0))
    });
    cluster.broker.kill();
    std::fs::remove_dir_all(cluster.broker.store()).unwrap();
    copy(&old, &cluster.broker.store());
    // Node 3 has lost nothing. Its writes take the positions of the lost messages in the stream.
    insert(&cluster, 2, 1, 10);
    cluster.broker.run();
    cluster.nodes[2].run();
    all_hold(&cluster, 100);
    for node in &cluster.nodes[..2] {
        eventually("who saw the tail notices", || node.counter("losses") > 0);
    }
    all_hold(&cluster, 100);
    a_new_node_gets(&mut cluster, 100);
}
