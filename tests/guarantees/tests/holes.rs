//! Nodes ask for a destroyed message until its publisher is back.
//!
//! Goal: if two nodes miss the same batch, their answers to each other do not end the gap. Method:
//! node 1 writes while the others are stopped, and stops too. Its message is deleted from the
//! stream. The others start and write, and both find the hole. They answer each other, keep asking,
//! and report the node that they wait for. Then node 1 returns. In the second test a new node finds
//! the list of members lost too, and must not conclude that it is the only node.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, Node, eventually, number, on_jetstream};

const SCHEMA: &str = "CREATE TABLE entry (id INTEGER PRIMARY KEY, pad TEXT);";
const STREAM: &str = "harmonylite-changes-batch-1";

/// Deletes the message that has `but` messages after it.
fn destroy_last(url: &str, but: u64) {
    on_jetstream(url, async |jetstream| {
        let mut stream = jetstream.get_stream(STREAM).await.unwrap();
        let last = stream.info().await.unwrap().state.last_sequence;
        assert!(stream.delete_message(last - but).await.unwrap());
    });
}

fn degraded(node: &Node) -> String {
    node.status().map(|s| s["degraded"].to_string()).unwrap_or_default()
}

#[test]
fn a_node_that_misses_the_same_batch_is_no_answer() {
    let mut cluster = Cluster::new(3, SCHEMA);
    cluster.run();
    cluster.nodes[1].stop();
    cluster.nodes[2].stop();
    cluster.nodes[0].app().execute_batch("INSERT INTO entry VALUES (1, 'only here')").unwrap();
    // Stopping sends the pending change.
    cluster.nodes[0].stop();
    destroy_last(&cluster.broker.url(), 0);

    cluster.nodes[1].run();
    cluster.nodes[2].run();
    cluster.nodes[1].app().execute_batch("INSERT INTO entry VALUES (2, 'later')").unwrap();
    eventually("both have republished their rows, and wait only for node 1", || {
        cluster.nodes[1..].iter().all(|n| degraded(n).contains("not answered yet by node 1\""))
    });
    cluster.nodes[0].run();
    cluster.converge();
    assert_eq!(number(&cluster.nodes[2].app(), "SELECT count(*) FROM entry WHERE id IN (1, 2)"), 2);
    eventually("nobody waits any more", || {
        cluster.nodes.iter().all(|n| n.status().is_some_and(|s| s["open_gaps"] == 0))
    });
}

#[test]
fn a_new_node_without_the_list_of_members_waits_for_the_origins_that_it_knows() {
    let mut cluster = Cluster::new(2, SCHEMA);
    let is_published =
        |node: &Node| node.status().is_some_and(|s| s["pending_rows"] == 0 && s["joined"] == true);
    cluster.nodes[0].run();
    for id in 1..=2 {
        cluster.nodes[0].app().execute("INSERT INTO entry VALUES (?1, 'only here')", [id]).unwrap();
        eventually("it is published", || is_published(&cluster.nodes[0]));
    }
    cluster.nodes[0].stop();
    destroy_last(&cluster.broker.url(), 1);
    on_jetstream(&cluster.broker.url(), async |jetstream| {
        jetstream
            .get_key_value("harmonylite-schema-registry")
            .await
            .unwrap()
            .purge("nodes")
            .await
            .unwrap();
    });

    cluster.nodes[1].run();
    eventually("it waits for node 1", || {
        degraded(&cluster.nodes[1]).contains("not answered yet by node 1\"")
    });
    cluster.nodes[0].run();
    cluster.converge();
    assert_eq!(number(&cluster.nodes[1].app(), "SELECT count(*) FROM entry"), 2);
    eventually("nobody waits any more", || {
        cluster.nodes.iter().all(|n| n.status().is_some_and(|s| s["open_gaps"] == 0))
    });
}
