//! A stopping node first sends its pending changes, and does not wait for a silent broker.
//!
//! Goal: after SIGTERM directly after a burst of commits, the exit status is 0 and everything is
//! published. With a silent broker the exit status is 0 within seconds, and the pending changes are
//! sent at the next start. With `sleep_timeout` a node ends by itself with status 0 after that time
//! without replication, and not earlier.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use harmonylite_guarantees::{Cluster, eventually, number};
use std::time::{Duration, Instant};

const SCHEMA: &str = "CREATE TABLE entry (id INTEGER PRIMARY KEY, pad TEXT);";
const PENDING: &str = "SELECT count(*) FROM __harmonylite__change_log WHERE id > coalesce((SELECT \
    value FROM __harmonylite__meta WHERE key = 'published'), 0)";

#[test]
fn sigterm_sends_what_is_pending() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    let db = cluster.nodes[0].app();
    for _ in 0..20 {
        db.execute_batch(
            "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 200) INSERT \
            INTO entry SELECT NULL, 'x' || i FROM c",
        )
        .unwrap();
    }
    cluster.nodes[0].stop();
    assert_eq!(number(&db, PENDING), 0, "something was left behind");
    let peer = cluster.nodes[1].app();
    eventually("all rows are at the peer", || number(&peer, "SELECT count(*) FROM entry") == 4_000);
    // The next start has nothing to send.
    cluster.nodes[0].run();
    cluster.converge();
    assert_eq!(cluster.nodes[0].counter("batches_published"), 0, "published twice");
}

#[test]
fn a_silent_broker_does_not_hold_up_the_end() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    let db = cluster.nodes[0].app();
    cluster.broker.signal("STOP");
    db.execute_batch("INSERT INTO entry VALUES (1, 'while the broker is silent')").unwrap();
    let begin = Instant::now();
    cluster.nodes[0].stop();
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(10), "stopping took {took:?}");
    assert_eq!(number(&db, PENDING), 1);
    cluster.broker.signal("CONT");
    cluster.nodes[0].run();
    let peer = cluster.nodes[1].app();
    eventually("the row arrives after the next start", || {
        number(&peer, "SELECT count(*) FROM entry") == 1
    });
    cluster.converge();
}

#[test]
fn a_node_with_a_sleep_timeout_ends_when_nothing_happens() {
    let mut cluster = Cluster::with(1, SCHEMA, "sleep_timeout = 1500");
    cluster.run();
    let db = cluster.nodes[0].app();
    let began = Instant::now();
    let mut rows = 0;
    while began.elapsed() < Duration::from_secs(4) {
        db.execute_batch("INSERT INTO entry VALUES (NULL, 'x')").unwrap();
        rows += 1;
        // The database says so only after a second of quiet.
        eventually("the row is published", || {
            cluster.nodes[0].status().is_some_and(|status| status["pending_rows"] == 0)
        });
        assert!(cluster.nodes[0].is_running(), "it ended while rows were written");
    }
    let last = Instant::now();
    assert_eq!(cluster.nodes[0].ended(), 0, "{}", cluster.nodes[0].output());
    assert!(last.elapsed() >= Duration::from_millis(1_400), "after {:?} already", last.elapsed());
    assert_eq!(number(&db, "SELECT count(*) FROM entry"), rows);
}
