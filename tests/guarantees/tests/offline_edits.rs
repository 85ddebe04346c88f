//! Writes at a stopped or disconnected node are merged later, and deleted rows stay deleted.
//!
//! Goal: an application never needs its sidecar or the broker to write. Later the last write of
//! each row wins on all nodes, in whatever order they return. A deleted row does not come back from
//! a node that still had it. Method: stop node 2, kill node 3 and the broker; then all three
//! applications write the same rows, in a known order.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, eventually, later, number, rows};

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL);";
const FILL: &str = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 100) \
    INSERT INTO note SELECT i, 'first' FROM c";

#[test]
fn offline_edits_merge_and_deleted_rows_stay_deleted() {
    let mut cluster = Cluster::new(3, SCHEMA);
    cluster.nodes[0].app().execute_batch(FILL).unwrap();
    cluster.run();
    cluster.converge();
    let (one, two, three) =
        (cluster.nodes[0].app(), cluster.nodes[1].app(), cluster.nodes[2].app());

    cluster.nodes[1].stop();
    cluster.nodes[2].kill();
    cluster.broker.kill();
    // Node 3 first, then node 1, then node 2.
    three
        .execute_batch(
            "UPDATE note SET text = 'three' WHERE id <= 40; INSERT INTO note VALUES \
        (203, 'three'), (300, 'three')",
        )
        .unwrap();
    later(&three);
    one.execute_batch(
        "UPDATE note SET text = 'one' WHERE id BETWEEN 11 AND 30; DELETE FROM note WHERE id \
        BETWEEN 31 AND 60;
         INSERT INTO note VALUES (201, 'one'), (300, 'one')",
    )
    .unwrap();
    later(&one);
    two.execute_batch(
        "UPDATE note SET text = 'two' WHERE id BETWEEN 51 AND 55; DELETE FROM note WHERE id \
        BETWEEN 21 AND 30;
         INSERT INTO note VALUES (202, 'two')",
    )
    .unwrap();

    // They return in another order than they wrote.
    cluster.broker.run();
    cluster.nodes[1].run();
    eventually("node 2's writes arrive at node 1", || {
        number(&one, "SELECT count(*) FROM note WHERE id = 202") == 1
    });
    cluster.nodes[2].run();
    for db in [&one, &two, &three] {
        eventually("every node has every insert", || {
            number(db, "SELECT count(*) FROM note WHERE id IN (201, 202, 203)") == 3
        });
    }
    cluster.converge();

    let expected = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 300)
        SELECT i, CASE WHEN i <= 10 THEN 'three' WHEN i <= 20 THEN 'one' WHEN i <= 50 THEN NULL \
        WHEN i <= 55 THEN 'two' WHEN i <= 60 THEN NULL
                       WHEN i <= 100 THEN 'first' WHEN i = 201 THEN 'one' WHEN i = 202 THEN 'two' \
                       WHEN i = 203 THEN 'three'
                       WHEN i = 300 THEN 'one' END AS text FROM c";
    assert_eq!(
        rows(&one, "SELECT id, text FROM note ORDER BY id"),
        rows(&one, &format!("SELECT * FROM ({expected}) WHERE text IS NOT NULL ORDER BY i"))
    );

    // Rows deleted by one node and untouched by the others stay deleted, also after all nodes
    // restart and read the end of the stream again.
    for node in &mut cluster.nodes {
        node.kill();
        node.run();
    }
    three.execute("UPDATE note SET text = 'last' WHERE id = 1", []).unwrap();
    eventually("the last write arrives", || {
        number(&one, "SELECT count(*) FROM note WHERE text = 'last'") == 1
    });
    cluster.converge();
    assert_eq!(
        number(
            &two,
            "SELECT count(*) FROM note WHERE id BETWEEN 56 AND 60 OR id BETWEEN 21 AND 50"
        ),
        0,
        "deleted rows came back"
    );
    let conflicts: i64 =
        cluster.nodes.iter().map(|n| n.status().unwrap()["conflicts"].as_i64().unwrap()).sum();
    assert!(conflicts >= 30, "writes lost without a trace: {conflicts} in the journals");
}

/// README, "Worth knowing": foreign key actions run at the node of the application's write, and are
/// not repeated elsewhere.
#[test]
fn a_child_that_is_added_while_its_parent_is_deleted_elsewhere_stays_on_all_nodes() {
    let schema = "CREATE TABLE parent (id INTEGER PRIMARY KEY);
                  CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent ON \
                  DELETE CASCADE);";
    let mut cluster = Cluster::new(2, schema);
    cluster.run();
    let (one, two) = (cluster.nodes[0].app(), cluster.nodes[1].app());
    for db in [&one, &two] {
        db.execute_batch("PRAGMA foreign_keys = ON").unwrap();
    }
    one.execute_batch(
        "INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (10, 1), (20, 2)",
    )
    .unwrap();
    cluster.converge();

    cluster.broker.kill();
    one.execute_batch("DELETE FROM parent WHERE id = 1").unwrap();
    two.execute_batch("INSERT INTO child VALUES (11, 1)").unwrap();
    cluster.broker.run();
    for db in [&one, &two] {
        eventually("both have both", || {
            number(db, "SELECT (SELECT count(*) FROM parent) * 10 + (SELECT count(*) FROM child)")
                == 12
        });
    }
    cluster.converge();
    assert_eq!(
        rows(&two, "SELECT id FROM child ORDER BY id"),
        [["Integer(11)"], ["Integer(20)"]],
        "the cascade travelled, the new child stays"
    );
    assert_eq!(rows(&two, "SELECT rowid FROM pragma_foreign_key_check"), [["Integer(11)"]]);
}
