//! An application holds locks for a long time, and another shares the database with heavy incoming
//! load (fault 24).
//!
//! Goal: a write lock held for seconds, or a reader that never ends, delays replication and loses
//! nothing, and `status` counts it. The sidecar's write transactions are short enough that an
//! application with an ordinary busy timeout never gets `database is locked`. A node that only
//! writes seldom meets them. Method: real connections hold real locks. The test measures the worst
//! commit latency of an application, and counts the sidecar's transactions.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use harmonylite_guarantees::{Cluster, eventually, number, sound};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SCHEMA: &str = "CREATE TABLE entry (id INTEGER PRIMARY KEY, pad TEXT); CREATE TABLE own (id \
    INTEGER PRIMARY KEY, n INTEGER);";

fn fill(db: &rusqlite::Connection, rows: i64) {
    db.execute_batch(&format!(
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {rows})
         INSERT INTO entry SELECT NULL, hex(randomblob(20)) FROM c"
    ))
    .unwrap();
}

#[test]
fn a_write_lock_held_for_long_is_waited_for() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    let (one, two) = (cluster.nodes[0].app(), cluster.nodes[1].app());
    two.execute_batch("BEGIN IMMEDIATE; INSERT INTO own VALUES (1, 1)").unwrap();
    fill(&one, 500);
    let begin = Instant::now();
    eventually("the sidecar meets the lock, for seconds, and reports it", || {
        begin.elapsed() > Duration::from_secs(2) && cluster.nodes[1].counter("busy") > 10
    });
    assert!(cluster.nodes[1].is_running());
    two.execute_batch("INSERT INTO own VALUES (2, 2); COMMIT").unwrap();
    eventually("what came meanwhile is applied", || {
        number(&two, "SELECT count(*) FROM entry") == 500
    });
    eventually("what was locked is sent", || number(&one, "SELECT count(*) FROM own") == 2);
    cluster.converge();
}

#[test]
fn a_reader_that_does_not_end_holds_nothing_up() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    let (one, two, reader) =
        (cluster.nodes[0].app(), cluster.nodes[1].app(), cluster.nodes[1].app());
    fill(&one, 10);
    cluster.converge();
    reader.execute_batch("BEGIN").unwrap();
    assert_eq!(number(&reader, "SELECT count(*) FROM entry"), 10);
    for n in 0..20 {
        fill(&one, 200);
        two.execute("INSERT INTO own VALUES (?1, 0)", [n]).unwrap();
    }
    eventually("writes go both ways below an old reader", || {
        number(&two, "SELECT count(*) FROM entry") == 4_010
            && number(&one, "SELECT count(*) FROM own") == 20
    });
    assert_eq!(number(&reader, "SELECT count(*) FROM entry"), 10, "the reader's snapshot stands");
    reader.execute_batch("COMMIT").unwrap();
    assert_eq!(number(&reader, "SELECT count(*) FROM entry"), 4_010);
    cluster.converge();
    sound(&two);
}

#[test]
fn heavy_incoming_load_does_not_starve_the_application() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    let (one, two, stop) = (cluster.nodes[0].app(), cluster.nodes[1].app(), AtomicBool::new(false));
    two.busy_timeout(Duration::from_millis(5_000)).unwrap();
    let (mut worst, mut commits) = (Duration::ZERO, 0_i64);
    std::thread::scope(|scope| {
        let stop = &stop;
        let sender = scope.spawn(move || {
            for _ in 0..60 {
                fill(&one, 1_000);
            }
            stop.store(true, Ordering::Relaxed);
            one
        });
        while !stop.load(Ordering::Relaxed) || number(&two, "SELECT count(*) FROM entry") < 60_000 {
            let begin = Instant::now();
            let written = two.execute("INSERT INTO own VALUES (NULL, ?1)", [commits]);
            worst = worst.max(begin.elapsed());
            assert!(
                written.is_ok(),
                "the application was refused after {commits} commits: {written:?}"
            );
            commits += 1;
        }
        let one = sender.join().unwrap();
        eventually("the application's own rows arrive", || {
            number(&one, "SELECT count(*) FROM own") == commits
        });
    });
    println!("{commits} commits beside 60,000 incoming rows, the slowest took {worst:?}");
    assert!(commits > 20, "the application came through only {commits} times: it proves nothing");
    assert!(worst < Duration::from_millis(2_500), "a commit of the application took {worst:?}");
    cluster.converge();
}

#[test]
fn own_commits_cost_few_write_transactions_of_the_sidecar() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    let one = cluster.nodes[0].app();
    let before = cluster.nodes[0].counter("write_transactions");
    let begin = Instant::now();
    let mut commits = 0;
    while begin.elapsed() < Duration::from_millis(1_000) {
        one.execute("INSERT INTO own VALUES (NULL, ?1)", [commits]).unwrap();
        commits += 1;
    }
    cluster.converge();
    let taken = cluster.nodes[0].counter("write_transactions") - before;
    let most = u64::try_from(begin.elapsed().as_millis()).unwrap() / 5;
    println!(
        "{taken} write transactions beside {commits} commits and {} batches",
        cluster.nodes[0].counter("batches_published")
    );
    assert!(taken <= most, "{taken} write transactions of the sidecar, {most} at most");
}

#[test]
fn a_lock_that_is_not_given_up_is_a_reason_that_names_both_pragmas() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    let (one, two) = (cluster.nodes[0].app(), cluster.nodes[1].app());
    two.execute_batch("BEGIN IMMEDIATE; INSERT INTO own VALUES (1, 1)").unwrap();
    fill(&one, 5);
    eventually("status names both", || {
        let status = cluster.nodes[1].status();
        let reasons = status.map_or(String::new(), |s| s["degraded"].to_string());
        reasons.contains("locking_mode = EXCLUSIVE") && reasons.contains("journal_mode")
    });
    two.execute_batch("COMMIT").unwrap();
    cluster.converge();
}

/// Such an application locks the sidecar out for as long as it runs. One that comes later gets
/// `database is locked` itself.
#[test]
fn an_exclusive_application_is_named_with_both_pragmas() {
    let mut cluster = Cluster::new(1, SCHEMA);
    let exclusive = "PRAGMA locking_mode = EXCLUSIVE; INSERT INTO own VALUES (NULL, 1)";
    let node = &mut cluster.nodes[0];
    let application = node.app();
    application.execute_batch("PRAGMA journal_mode = WAL").unwrap();
    application.execute_batch(exclusive).unwrap();
    node.start();
    assert_eq!(node.ended(), 3, "{}", node.output());
    let log = node.output();
    assert!(log.contains("locking_mode = EXCLUSIVE") && log.contains("journal_mode"), "{log}");
    drop(application);
    node.run();
    let application = node.app();
    application.busy_timeout(Duration::ZERO).unwrap();
    assert!(application.execute_batch(exclusive).is_err());
    assert!(node.is_running());
}
