//! Nodes that only receive, and nodes that only send.
//!
//! Goal: with `publish = false` local changes stay local and remote ones arrive; of two writes of a
//! row the later one wins there too. With `replicate = false` a node sends and receives nothing.
//! Method: nodes of all three kinds write, and an ordinary node shows the result.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, eventually, later, number, rows};

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT);";

#[test]
fn a_node_that_does_not_publish_keeps_its_changes_and_receives() {
    let mut cluster = Cluster::new(1, SCHEMA);
    cluster
        .add(SCHEMA, "publish = false")
        .app()
        .execute_batch("INSERT INTO note VALUES (2, 'was here before')")
        .unwrap();
    cluster.run();
    let (open, silent) = (cluster.nodes[0].app(), cluster.nodes[1].app());
    silent.execute_batch("INSERT INTO note VALUES (20, 'local'), (1, 'earlier')").unwrap();
    eventually("local changes do not pile up", || {
        cluster.nodes[1].status().is_some_and(|s| s["pending_rows"] == 0)
    });
    later(&silent);
    open.execute_batch("INSERT INTO note VALUES (1, 'later'), (10, 'from afar')").unwrap();
    eventually("the remote rows arrive, the later write over the earlier", || {
        number(&silent, "SELECT count(*) FROM note WHERE text IN ('later', 'from afar')") == 2
    });
    later(&open);
    silent.execute_batch("UPDATE note SET text = 'local again' WHERE id = 10").unwrap();
    eventually("that is absorbed too", || {
        cluster.nodes[1].status().is_some_and(|s| s["pending_rows"] == 0)
    });
    // Both have consumed the end of the stream, so nothing of node 2 can be in transit.
    open.execute_batch("INSERT INTO note VALUES (11, 'marker')").unwrap();
    eventually("the marker arrives", || {
        number(&silent, "SELECT count(*) FROM note WHERE id = 11") == 1
    });
    assert_eq!(cluster.nodes[1].counter("batches_published"), 0);
    assert_eq!(
        rows(&open, "SELECT id FROM note ORDER BY id"),
        [["Integer(1)"], ["Integer(10)"], ["Integer(11)"]]
    );
    assert_eq!(
        rows(&silent, "SELECT id, text FROM note WHERE id NOT IN (1, 11) ORDER BY id"),
        [
            ["Integer(2)", "\"was here before\""],
            ["Integer(10)", "\"local again\""],
            ["Integer(20)", "\"local\""]
        ]
    );
}

#[test]
fn a_node_that_does_not_replicate_sends_and_takes_nothing() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.add(SCHEMA, "replicate = false");
    cluster.run();
    let (one, two, deaf) = (cluster.nodes[0].app(), cluster.nodes[1].app(), cluster.nodes[2].app());
    one.execute_batch("INSERT INTO note VALUES (1, 'one')").unwrap();
    eventually("node 2 has it", || number(&two, "SELECT count(*) FROM note") == 1);
    deaf.execute_batch("INSERT INTO note VALUES (3, 'three')").unwrap();
    for db in [&one, &two] {
        eventually("the sender's row arrives", || {
            number(db, "SELECT count(*) FROM note WHERE id = 3") == 1
        });
    }
    cluster.nodes[2].stop();
    cluster.nodes[2].run();
    deaf.execute_batch("INSERT INTO note VALUES (4, 'four')").unwrap();
    eventually("it still sends after a restart", || {
        number(&one, "SELECT count(*) FROM note WHERE id = 4") == 1
    });
    assert_eq!(rows(&deaf, "SELECT id FROM note ORDER BY id"), [["Integer(3)"], ["Integer(4)"]]);
    assert_eq!(cluster.nodes[2].counter("batches_applied"), 0);
}
