//! Deferred transactions of an application beside a sidecar.
//!
//! Goal: a write of the sidecar between the SELECT and the INSERT of a deferred transaction makes
//! that transaction fail, and no busy timeout helps. So the sidecar does not write while the other
//! nodes are idle, and waits for a moment without snapshots while they write. What it puts off is
//! written after a second of quiet and at the stop, and a SIGKILL before it loses nothing. Method:
//! real transactions with a think time, one after the other, count their failures.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use harmonylite_guarantees::{Cluster, eventually, number};
use rusqlite::{Connection, ErrorCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SCHEMA: &str = "CREATE TABLE mine (id INTEGER PRIMARY KEY, n INTEGER); CREATE TABLE theirs \
    (id INTEGER PRIMARY KEY, n INTEGER);";
/// The acknowledged entries whose mark is not written.
const UNMARKED: &str = "SELECT (SELECT count(*) FROM __harmonylite__change_log WHERE id > \
    coalesce((SELECT value FROM __harmonylite__meta WHERE key = 'published'), 0))";

/// Returns how many of `count` deferred transactions fail. `think` is the time between SELECT and
/// INSERT, `rest` the time after the transaction, both in milliseconds.
fn failures(db: &Connection, count: i64, think: u64, rest: u64) -> i64 {
    let mut failed = 0;
    for n in 0..count {
        db.execute_batch("BEGIN").unwrap();
        number(db, "SELECT count(*) FROM mine");
        std::thread::sleep(Duration::from_millis(think));
        let written = db
            .execute("INSERT OR REPLACE INTO mine VALUES (?1, ?2)", [n % 300, n])
            .and_then(|_| db.execute_batch("COMMIT"));
        match written {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                failed += 1;
                db.execute_batch("ROLLBACK").unwrap();
            }
            written => written.unwrap(),
        }
        std::thread::sleep(Duration::from_millis(rest));
    }
    failed
}

#[test]
fn no_deferred_transaction_fails_while_the_peer_is_idle() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    let (one, two) = (cluster.nodes[0].app(), cluster.nodes[1].app());
    let failed: i64 = [0, 2, 5].into_iter().map(|rest| failures(&one, 200, 5, rest)).sum();
    // An application that gets no processor for a second looks like a quiet one. The exact figure,
    // 0 of 10,000, is that of `harmonylite bench --only deferred`.
    assert!(failed <= 1, "{failed} of 600");
    eventually("the last change arrives", || {
        number(&two, "SELECT coalesce(max(n), 0) FROM mine") == 199
    });
    let status = cluster.nodes[0].status().unwrap();
    assert_eq!(status["pending_rows"], 0, "published is not pending: {status}");
    cluster.converge();
    assert_eq!(number(&one, UNMARKED), 0, "marked after a second of quiet");
}

/// Returns how many of 200 transactions of node 1 fail beside a peer with 20 commits a second of so
/// many rows. `rest` is that of [`failures`].
fn failures_beside_a_peer(politeness: &str, rows: i64, rest: u64) -> i64 {
    let mut cluster = Cluster::with(2, SCHEMA, politeness);
    cluster.run();
    let (one, two, stop) = (cluster.nodes[0].app(), cluster.nodes[1].app(), AtomicBool::new(false));
    let failed = std::thread::scope(|scope| {
        let stop = &stop;
        let peer = scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                two.execute(
                    "WITH RECURSIVE r (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < ?1) \
                    INSERT INTO theirs SELECT NULL, i FROM r",
                    [rows],
                )
                .unwrap();
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let failed = failures(&one, 200, 8, rest);
        stop.store(true, Ordering::Relaxed);
        peer.join().unwrap();
        failed
    });
    cluster.converge();
    assert!(number(&one, "SELECT count(*) FROM theirs") > 20, "it proves nothing");
    failed
}

fn waiting_spares_more_than_half(rows: i64, rest: u64) {
    let polite = failures_beside_a_peer("politeness = 200", rows, rest);
    let rude = failures_beside_a_peer("politeness = 0", rows, rest);
    println!("{polite} of 200 fail, and {rude} if rows do not wait");
    assert!(polite * 2 < rude, "{polite} of 200 fail, and {rude} if rows do not wait");
}

/// On a busy machine a transaction can open its snapshot while remote rows are written, so the
/// number is compared with that of the same machine without waiting. The figure on an idle machine
/// is that of `harmonylite bench --only deferred`.
#[test]
fn remote_rows_wait_for_open_transactions() {
    waiting_spares_more_than_half(1, 4);
}

/// A batch that is not cheap to apply again is applied again too, a few times.
#[test]
fn many_remote_rows_wait_for_open_transactions() {
    waiting_spares_more_than_half(1_000, 12);
}

/// A reader that never ends delays each write for the configured time only. Once its snapshot is
/// stale it delays nothing.
#[test]
fn an_open_snapshot_is_met_after_the_bounded_wait_and_counted() {
    let mut cluster = Cluster::with(2, SCHEMA, "politeness = 300");
    cluster.run();
    let (one, two, reader) =
        (cluster.nodes[0].app(), cluster.nodes[1].app(), cluster.nodes[0].app());
    reader.execute_batch("BEGIN").unwrap();
    number(&reader, "SELECT count(*) FROM mine");
    let begin = Instant::now();
    two.execute("INSERT INTO theirs VALUES (1, 1)", []).unwrap();
    eventually("the row arrives", || number(&one, "SELECT count(*) FROM theirs") == 1);
    assert!(begin.elapsed() >= Duration::from_millis(250), "it waited: {:?}", begin.elapsed());
    assert_eq!(cluster.nodes[0].counter("snapshots_met"), 1);
    two.execute("INSERT INTO theirs VALUES (2, 1)", []).unwrap();
    eventually("the next row arrives", || number(&one, "SELECT count(*) FROM theirs") == 2);
    assert_eq!(cluster.nodes[0].counter("snapshots_met"), 1, "a stale snapshot cannot be harmed");
    reader.execute_batch("COMMIT").unwrap();
    cluster.converge();
}

#[test]
fn what_was_put_off_is_written_at_the_stop() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    let (one, two) = (cluster.nodes[0].app(), cluster.nodes[1].app());
    one.execute("INSERT INTO mine VALUES (1, 1)", []).unwrap();
    eventually("the row arrives", || number(&two, "SELECT count(*) FROM mine") == 1);
    let begin = Instant::now();
    cluster.nodes[0].stop();
    assert!(begin.elapsed() < Duration::from_millis(1_500), "{:?}", begin.elapsed());
    assert_eq!(number(&one, UNMARKED), 0);
    let batch = "SELECT value FROM __harmonylite__meta WHERE key = 'batch'";
    assert!(number(&one, batch) > 0, "the number of the batch is stored");
}

/// A process that ends before it has written acknowledgements finds its batches in the stream. It
/// neither sends them again nor takes the database for one that went back in time.
#[test]
fn a_kill_before_the_acknowledgement_is_written_loses_nothing() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    let site = "SELECT value FROM __harmonylite__meta WHERE key = 'site'";
    let (one, two) = (cluster.nodes[0].app(), cluster.nodes[1].app());
    let before = number(&one, site);
    for round in 1..=3 {
        for n in 1..=5 {
            let id = round * 10 + n;
            one.execute("INSERT INTO mine VALUES (?1, ?1)", [id]).unwrap();
            eventually("the row arrives", || {
                number(&two, &format!("SELECT count(*) FROM mine WHERE id = {id}")) == 1
            });
        }
        cluster.nodes[0].kill();
        assert!(number(&one, UNMARKED) > 0, "the acknowledgements were written: it proves nothing");
        one.execute("INSERT INTO mine VALUES (?1, ?1)", [round * 10 + 9]).unwrap();
        cluster.nodes[0].run();
        cluster.converge();
        assert_eq!(number(&two, "SELECT count(*) FROM mine"), round * 6);
        assert_eq!(number(&one, site), before, "no new incarnation");
        assert_eq!(cluster.nodes[0].counter("rows_published"), 1, "only what was new was sent");
        assert_eq!(cluster.nodes[0].counter("losses"), 0);
    }
    let log = cluster.nodes[0].output();
    assert!(log.contains("published just before it ended"), "{log}");
    assert!(!log.contains("went back in time"), "{log}");
}
