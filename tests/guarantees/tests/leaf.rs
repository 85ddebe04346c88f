//! A node whose server is a leaf of a hub replicates with nodes of the hub.
//!
//! Goal: `-leaf-servers` works as in HarmonyLite (Go): the hub has the streams, the leaf passes
//! requests on, and a node waits for a missing hub. The hub needs `default_js_domain`
//! (docs/topologies.md). Method: an external hub with JetStream, one node connected to it, one node
//! behind a leaf.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Node, Server, converge, embedded, free_port, rows, timed};

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT)";

#[test]
fn a_node_behind_a_leaf_replicates_with_a_node_of_the_hub() {
    let dir = tempfile::tempdir().unwrap();
    let leaf_port = free_port();
    let mut hub = Server::new(
        dir.path(),
        &format!(
            "leafnodes {{ listen: \"127.0.0.1:{leaf_port}\" }}\ndefault_js_domain: \
            {{ \"$G\": \"\" }}"
        ),
    );
    hub.start();
    let mut at_hub = Node::new(
        dir.path(),
        1,
        &format!("[nats]\nurls = [{:?}]\nreconnect_wait_seconds = 1\n", hub.url()),
    );
    let behind = Node::new(dir.path(), 2, &embedded());
    let mut behind = behind.with(&["-leaf-servers", &format!("nats-leaf://127.0.0.1:{leaf_port}")]);
    for node in [&at_hub, &behind] {
        node.app().execute_batch(SCHEMA).unwrap();
    }
    at_hub.run();
    timed("the node behind a leaf starts -> it has joined", || behind.run());
    at_hub.app().execute_batch("INSERT INTO note VALUES (1, 'at the hub')").unwrap();
    behind.app().execute_batch("INSERT INTO note VALUES (2, 'behind the leaf')").unwrap();
    timed("rows of both are everywhere", || converge(&[&at_hub, &behind]));

    // First the hub with the streams stops, then the node behind the leaf.
    hub.kill();
    at_hub.app().execute_batch("INSERT INTO note VALUES (3, 'hub away')").unwrap();
    behind.app().execute_batch("INSERT INTO note VALUES (4, 'hub away')").unwrap();
    hub.start();
    timed("the hub is back -> both hold the same", || converge(&[&at_hub, &behind]));
    behind.kill();
    at_hub.app().execute_batch("INSERT INTO note VALUES (5, 'leaf away')").unwrap();
    behind.app().execute_batch("INSERT INTO note VALUES (6, 'leaf away')").unwrap();
    behind.start();
    timed("the leaf is back -> both hold the same", || converge(&[&at_hub, &behind]));
    assert_eq!(rows(&at_hub.app(), "SELECT count(*) FROM note")[0][0], "Integer(6)");
}
