//! A reader at a peer never sees half a transaction.
//!
//! Method: one application moves money in transactions of many rows, and keeps the sum over many
//! accounts constant. A reader at the other node sums continuously, and must see only that sum.
//! Transactions above the broker's largest message are sent in parts, and are still atomic.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, eventually};

#[test]
fn a_reader_at_a_peer_sees_whole_transactions() {
    let mut cluster = Cluster::new(
        2,
        "CREATE TABLE account (id INTEGER PRIMARY KEY, amount INTEGER NOT NULL); CREATE TABLE \
        round (n INTEGER PRIMARY KEY);",
    );
    let writer = cluster.nodes[0].app();
    writer
        .execute_batch(
            "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 500) INSERT \
            INTO account SELECT i, 100 FROM c",
        )
        .unwrap();
    cluster.run();
    cluster.converge();
    let reader = cluster.nodes[1].app();
    let (mut looks, mut seen) = (0, std::collections::BTreeSet::new());
    let rounds = 200_i64;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for n in 0..rounds {
                writer.execute_batch("BEGIN IMMEDIATE").unwrap();
                writer
                    .execute(
                        "UPDATE account SET amount = amount + CASE WHEN id % 2 = 0 THEN ?1 \
                    ELSE -?1 END",
                        [n % 7],
                    )
                    .unwrap();
                writer.execute("INSERT INTO round VALUES (?1)", [n]).unwrap();
                writer.execute_batch("COMMIT").unwrap();
            }
        });
        eventually("the last round arrives", || {
            let sql = "SELECT sum(amount), count(*), (SELECT coalesce(max(n), -1) FROM round), \
                (SELECT count(*) FROM round) FROM account";
            let (sum, count, last, all): (i64, i64, i64, i64) = reader
                .query_row(sql, [], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)))
                .unwrap();
            assert_eq!(
                (sum, count, all),
                (50_000, 500, last + 1),
                "half a transaction is visible after round {last}"
            );
            looks += 1;
            seen.insert(last);
            last == rounds - 1
        });
    });
    assert!(
        seen.len() > 2,
        "the reader looked {looks} times and saw only {seen:?}: it proves nothing"
    );
    cluster.converge();
}

#[test]
fn a_transaction_far_above_the_largest_message_is_one() {
    let mut cluster = Cluster::new(
        2,
        "CREATE TABLE page (id INTEGER PRIMARY KEY, body BLOB NOT NULL); CREATE TABLE done (id \
        INTEGER PRIMARY KEY);",
    );
    cluster.run();
    let (writer, reader) = (cluster.nodes[0].app(), cluster.nodes[1].app());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            writer.execute_batch("BEGIN IMMEDIATE").unwrap();
            for id in 0..200_i64 {
                writer.execute("INSERT INTO page VALUES (?1, randomblob(60000))", [id]).unwrap();
            }
            writer.execute_batch("INSERT INTO done VALUES (1); COMMIT").unwrap();
        });
        eventually("the transaction arrives", || {
            let (pages, done): (i64, i64) = reader
                .query_row(
                    "SELECT (SELECT count(*) FROM page), (SELECT count(*) FROM done)",
                    [],
                    |r| Ok((r.get(0)?, r.get(1)?)),
                )
                .unwrap();
            assert!(
                (pages, done) == (0, 0) || (pages, done) == (200, 1),
                "half a transaction: {pages} pages, {done} done"
            );
            done == 1
        });
    });
    let published =
        cluster.nodes[0].status().unwrap()["counters"]["bytes_published"].as_u64().unwrap();
    assert!(
        published > 10_000_000,
        "12 MB of random bytes went out in several messages, not {published} bytes"
    );
    cluster.converge();
}
