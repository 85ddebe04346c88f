//! A changed primary key costs no row its history.
//!
//! Goal: where the columns of the former key are still there, rows keep their versions under the
//! new one: an older write that a node made offline does not win, a newer one does, and nothing
//! that was deleted comes back. Method: one node changes the key while another is stopped, with
//! writes that are not sent yet; in each way to migrate.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, Node, eventually, later, rows};

const SCHEMA: &str = "CREATE TABLE t (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, v)";
const REBUILD: &str = "BEGIN IMMEDIATE; CREATE TABLE new_t (id TEXT, tenant TEXT NOT NULL, v, \
    PRIMARY KEY (tenant, id)); INSERT INTO new_t SELECT * FROM t; DROP TABLE t; ALTER TABLE new_t \
    RENAME TO t; COMMIT";

#[track_caller]
fn run(node: &Node, sql: &str) {
    node.app().execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

fn play(settings: &str, migrate_both: bool) {
    let mut cluster = Cluster::with(2, SCHEMA, settings);
    cluster.run();
    let letters = ["a", "b", "c", "d"].map(|id| format!("('{id}', 'x', 'first')")).join(", ");
    run(&cluster.nodes[0], &format!("INSERT INTO t VALUES {letters}"));
    cluster.converge();
    cluster.nodes[1].stop();
    run(&cluster.nodes[1], "UPDATE t SET v = 'older, offline' WHERE id = 'a'");
    later(&cluster.nodes[1].app());
    run(&cluster.nodes[0], "UPDATE t SET v = 'newer' WHERE id = 'a'; DELETE FROM t WHERE id = 'd'");
    eventually("node 1 has published", || {
        cluster.nodes[0].status().is_some_and(|s| s["pending_rows"] == 0)
    });
    run(&cluster.nodes[0], REBUILD);
    run(&cluster.nodes[0], "UPDATE t SET v = 'after' WHERE id = 'c'");
    later(&cluster.nodes[0].app());
    run(&cluster.nodes[1], "UPDATE t SET v = 'newest, offline' WHERE id = 'b'");
    cluster.nodes[1].run();
    if migrate_both {
        // Whatever was sent in the former schema before this is held and then taken.
        run(&cluster.nodes[1], REBUILD);
    }
    let expected = "a newer, b newest, offline, c after";
    for node in &cluster.nodes {
        eventually(&format!("node {} has {expected}", node.id), || {
            let all =
                "SELECT group_concat(id || ' ' || v, ', ') FROM (SELECT * FROM t ORDER BY id)";
            rows(&node.app(), all)[0][0] == format!("{expected:?}")
        });
    }
    cluster.converge();
    for node in &cluster.nodes {
        let status = node.status().unwrap();
        assert_eq!((&status["held"], &status["quarantine"]), (&serde_json::json!([]), &0.into()));
    }
}

#[test]
fn on_each_node_by_itself() {
    play("", true);
}

#[test]
fn where_it_travels() {
    play("[schema]\nreplicate = \"all\"", false);
}
