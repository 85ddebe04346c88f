//! A node that was stopped for longer than the broker keeps messages gets everything, and so does a
//! new node (fault 12).
//!
//! Goal: other nodes republish the rows that the stream has dropped. Deleted rows stay deleted,
//! also at the node that still had them. That node's own writes are not lost, and older changes do
//! not replace them. Method: with a stream that keeps 20 messages, stop one node and write many
//! times that number at the others. Then it returns with edits of its own, and a fourth node joins.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, Node, eventually, later, number, sound};

const SCHEMA: &str = "CREATE TABLE entry (id INTEGER PRIMARY KEY, body TEXT)";
const KEEPS: &str = "replication_log.max_entries = 20";

/// Runs transactions one after another. Each is a batch, also on a busy machine: else the stream
/// would keep them all.
fn write(node: &Node, sql: impl Fn(i64) -> String, count: i64) {
    let db = node.app();
    for i in 1..=count {
        db.execute_batch(&sql(i)).unwrap();
        eventually("it is sent", || node.status().is_some_and(|s| s["pending_rows"] == 0));
    }
}

fn body(node: &Node, id: i64) -> String {
    node.app().query_row("SELECT body FROM entry WHERE id = ?1", [id], |r| r.get(0)).unwrap()
}

#[test]
fn a_node_that_was_away_for_too_long_and_a_new_one_get_everything() {
    let mut cluster = Cluster::with(3, SCHEMA, KEEPS);
    cluster.run();
    write(&cluster.nodes[0], |i| format!("INSERT INTO entry VALUES ({i}, 'first')"), 50);
    cluster.converge();

    cluster.nodes[2].stop();
    cluster.nodes[2]
        .app()
        .execute_batch(
            "UPDATE entry SET body = 'away' WHERE id IN (2, 3); INSERT INTO entry \
            VALUES (900, 'away')",
        )
        .unwrap();
    later(&cluster.nodes[2].app());
    write(
        &cluster.nodes[0],
        |i| {
            format!(
                "DELETE FROM entry WHERE id = {}; INSERT INTO entry VALUES ({}, 'new')",
                i * 4,
                1000 + i
            )
        },
        60,
    );
    write(
        &cluster.nodes[1],
        |i| format!("UPDATE entry SET body = 'later' WHERE id = {}", i * 2),
        40,
    );

    cluster.nodes[2].run();
    cluster.add(SCHEMA, KEEPS).run();
    eventually("all rows are everywhere", || {
        cluster
            .nodes
            .iter()
            .all(|n| number(&n.app(), "SELECT count(*) FROM entry") == 50 - 12 + 60 + 1)
    });
    cluster.converge();
    for node in &cluster.nodes {
        assert_eq!(
            number(&node.app(), "SELECT count(*) FROM entry WHERE id <= 50 AND id % 4 = 0"),
            0,
            "what was deleted stays deleted"
        );
        assert_eq!(
            (body(node, 2), body(node, 3), body(node, 900)),
            ("later".to_owned(), "away".to_owned(), "away".to_owned())
        );
        sound(&node.app());
        eventually("no hole is left", || node.status().is_some_and(|s| s["open_gaps"] == 0));
    }
    assert!(cluster.nodes[2].counter("gaps") > 0, "the stream had dropped what it needed");
}
