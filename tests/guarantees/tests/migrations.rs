//! A node that never had an earlier schema still gets everything.
//!
//! Goal: batches from before a migration do not hold up their origin at a node that joins after it,
//! or that dropped a table earlier than the others. Method: migrate, join, compare. The story: the
//! new node waited for a schema that no node had any more, until the batches expired.

#![allow(clippy::unwrap_used)]
use harmonylite_guarantees::{Cluster, eventually, number};

const BEFORE: &str = "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT); CREATE TABLE old (id \
    INTEGER PRIMARY KEY);";

/// Two nodes write, migrate, and write again. Then a third node joins with the new schema.
fn joined_after(migrations: &[&str], insert: &str, after: &str) {
    let mut cluster = Cluster::new(2, BEFORE);
    cluster.run();
    let (one, two) = (cluster.nodes[0].app(), cluster.nodes[1].app());
    one.execute_batch("INSERT INTO item VALUES (1, 'a'); INSERT INTO old VALUES (1)").unwrap();
    cluster.converge();
    for db in [&one, &two] {
        for migration in migrations {
            db.execute_batch(migration).unwrap();
        }
    }
    one.execute_batch(insert).unwrap();
    cluster.converge();
    cluster.add(after, "").run();
    let three = cluster.nodes[2].app();
    eventually("the new node has all", || number(&three, "SELECT count(*) FROM item") == 2);
    cluster.converge();
}

#[test]
fn a_new_node_joins_after_two_migrations() {
    joined_after(
        &["ALTER TABLE item ADD COLUMN c0", "ALTER TABLE item ADD COLUMN c1"],
        "INSERT INTO item VALUES (2, 'b', 1, 1)",
        "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, c0, c1); CREATE TABLE old (id \
        INTEGER PRIMARY KEY);",
    );
}

#[test]
fn a_new_node_joins_after_a_renamed_column_and_another_migration() {
    joined_after(
        &["ALTER TABLE item RENAME COLUMN name TO title", "ALTER TABLE item ADD COLUMN c1"],
        "INSERT INTO item VALUES (2, 'b', 1)",
        "CREATE TABLE item (id INTEGER PRIMARY KEY, title TEXT, c1); CREATE TABLE old (id INTEGER \
        PRIMARY KEY);",
    );
}

#[test]
fn a_new_node_joins_after_a_drop() {
    joined_after(
        &["DROP TABLE old"],
        "INSERT INTO item VALUES (2, 'b')",
        "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT)",
    );
}

#[test]
fn a_table_dropped_here_and_written_there() {
    let mut cluster = Cluster::new(2, BEFORE);
    cluster.run();
    let (one, two) = (cluster.nodes[0].app(), cluster.nodes[1].app());
    one.execute_batch("DROP TABLE old").unwrap();
    two.execute_batch("INSERT INTO old VALUES (1)").unwrap();
    two.execute_batch("DROP TABLE old").unwrap();
    two.execute_batch("INSERT INTO item VALUES (1, 'x')").unwrap();
    eventually("node 1 goes on", || number(&one, "SELECT count(*) FROM item") == 1);
    cluster.converge();
}
