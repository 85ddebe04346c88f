//! A node that never had a former schema gets everything all the same.
//!
//! Goal: batches that were written before a migration do not hold their origin at a node that joins after it, nor at one that dropped a
//! table earlier than the others. Method: migrate, join, compare. The story: the new node waited for a schema that nobody has any
//! more, silently correct and useless, until the batches expired.

#![allow(clippy::unwrap_used)]
use harmonylite_guarantees::{Cluster, eventually, number};

#[test]
fn a_new_node_joins_after_a_migration() {
    let mut cluster = Cluster::new(2, "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT); CREATE TABLE old (id INTEGER PRIMARY KEY);");
    cluster.run();
    let (one, two) = (cluster.nodes[0].app(), cluster.nodes[1].app());
    one.execute_batch("INSERT INTO item VALUES (1, 'a'); INSERT INTO old VALUES (1)").unwrap();
    cluster.converge();
    for db in [&one, &two] {
        for i in 0..2 {
            db.execute_batch(&format!("ALTER TABLE item ADD COLUMN c{i}")).unwrap();
        }
    }
    one.execute_batch("INSERT INTO item VALUES (2, 'b', 1, 1)").unwrap();
    cluster.converge();
    cluster.add("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, c0, c1); CREATE TABLE old (id INTEGER PRIMARY KEY);", "").run();
    let three = cluster.nodes[2].app();
    eventually("the new node has all", || number(&three, "SELECT count(*) FROM item") == 2);
    cluster.converge();
}

#[test]
fn a_new_node_joins_after_a_drop() {
    let mut cluster = Cluster::new(2, "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT); CREATE TABLE old (id INTEGER PRIMARY KEY);");
    cluster.run();
    let (one, two) = (cluster.nodes[0].app(), cluster.nodes[1].app());
    one.execute_batch("INSERT INTO item VALUES (1, 'a'); INSERT INTO old VALUES (1)").unwrap();
    cluster.converge();
    for db in [&one, &two] {
        db.execute_batch("DROP TABLE old").unwrap();
    }
    one.execute_batch("INSERT INTO item VALUES (2, 'b')").unwrap();
    cluster.converge();
    cluster.add("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT)", "").run();
    let three = cluster.nodes[2].app();
    eventually("the new node has all", || number(&three, "SELECT count(*) FROM item") == 2);
    cluster.converge();
}

#[test]
fn a_table_dropped_here_and_written_there() {
    let mut cluster = Cluster::new(2, "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT); CREATE TABLE old (id INTEGER PRIMARY KEY);");
    cluster.run();
    let (one, two) = (cluster.nodes[0].app(), cluster.nodes[1].app());
    one.execute_batch("DROP TABLE old").unwrap();
    two.execute_batch("INSERT INTO old VALUES (1)").unwrap();
    two.execute_batch("DROP TABLE old").unwrap();
    two.execute_batch("INSERT INTO item VALUES (1, 'x')").unwrap();
    eventually("node 1 goes on", || number(&one, "SELECT count(*) FROM item") == 1);
    cluster.converge();
}
