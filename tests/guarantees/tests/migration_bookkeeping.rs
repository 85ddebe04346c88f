//! The bookkeeping of a migration tool stays on its node, so that the migration runs on every node.
//!
//! Goal: node 1 migrates as Django and Knex do, with a row in the tool's own table in the same
//! transaction. Node 2 must not receive that row, or its `migrate` would answer "No migrations to
//! apply" and node 1 would be held for ever. `tables.include` brings such a table back. The story:
//! with seven real applications the row arrived at the other node before the column did.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, Node, eventually, number};

const SCHEMA: &str = "CREATE TABLE item (id TEXT PRIMARY KEY, name TEXT);
     CREATE TABLE django_migrations (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL);
     CREATE TABLE knex_migrations_lock (\"index\" INTEGER PRIMARY KEY, is_locked INTEGER);
     CREATE TABLE migrations (id INTEGER PRIMARY KEY, migration TEXT, batch INTEGER);
     CREATE TABLE Migration (id TEXT PRIMARY KEY, bird TEXT);
     INSERT INTO knex_migrations_lock VALUES (1, 0);";

/// What the framework's `migrate` does. False: it finds nothing to do.
fn migrate(node: &Node) -> bool {
    let db = node.app();
    if number(&db, "SELECT count(*) FROM django_migrations WHERE name = '0002_price'") > 0 {
        return false;
    }
    db.execute_batch(
        "BEGIN IMMEDIATE; ALTER TABLE item ADD COLUMN price INTEGER; INSERT INTO django_migrations \
        (name) VALUES ('0002_price'); INSERT INTO migrations VALUES (1, '0002_price', 1); COMMIT",
    )
    .unwrap();
    true
}

fn output(node: &Node, arguments: &[&str]) -> String {
    String::from_utf8(node.cli(arguments).stdout).unwrap()
}

#[track_caller]
fn names(node: &Node, arguments: &[&str], parts: &[&str]) {
    let text = output(node, arguments);
    for part in parts {
        assert!(text.contains(part), "{part} in {arguments:?}: {text}");
    }
}

#[test]
fn the_same_migration_runs_on_every_node() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    let [one, two] = &cluster.nodes[..] else { unreachable!() };
    let (db_one, db_two) = (one.app(), two.app());

    // Knex takes its lock while a migration runs.
    db_one.execute_batch("UPDATE knex_migrations_lock SET is_locked = 1").unwrap();
    assert!(migrate(one));
    db_one
        .execute_batch(
            "INSERT INTO item (id, name, price) VALUES ('a', 'with price', 5); INSERT INTO \
            Migration VALUES ('b', 'stork')",
        )
        .unwrap();
    eventually("node 2 waits for the column", || {
        two.status().is_some_and(|s| s["held"].to_string().contains("price"))
    });
    assert_eq!(number(&db_two, "SELECT count(*) FROM django_migrations"), 0);
    assert_eq!(number(&db_two, "SELECT count(*) FROM migrations"), 0);
    assert_eq!(number(&db_two, "SELECT is_locked FROM knex_migrations_lock"), 0);

    assert!(migrate(two), "node 2 finds its migration to run");
    eventually("what waited is applied", || {
        number(&db_two, "SELECT coalesce(sum(price), 0) FROM item") == 5
    });
    eventually("a table of the application with a tool's name is replicated", || {
        number(&db_two, "SELECT count(*) FROM Migration") == 1
    });
    db_one.execute_batch("UPDATE knex_migrations_lock SET is_locked = 0").unwrap();
    db_two
        .execute_batch("INSERT INTO item (id, name, price) VALUES ('c', 'of node 2', 6)")
        .unwrap();
    cluster.converge();
    assert_eq!(number(&db_one, "SELECT coalesce(sum(price), 0) FROM item"), 11);
    for node in &cluster.nodes {
        let status = node.status().unwrap();
        assert_eq!(status["held"], serde_json::json!([]), "node {}", node.id);
        assert_eq!(status["quarantine"], 0, "node {}", node.id);
    }
}

#[test]
fn bookkeeping_is_named_with_its_reason() {
    let mut cluster = Cluster::new(1, SCHEMA);
    cluster.run();
    let node = &mut cluster.nodes[0];
    let django = "django_migrations: bookkeeping of Django: run `manage.py migrate` on every node";
    let parts =
        [django, "knex_migrations_lock: bookkeeping of Knex", "migrations: bookkeeping of Lar"];
    names(node, &["status"], &parts);
    names(node, &["doctor"], &parts);
    names(node, &["-schema-status"], &parts);
    node.stop();
    names(node, &["status"], &parts);
}

#[test]
fn a_pattern_that_names_bookkeeping_brings_it_back() {
    let settings = "tables.include = [\"*\", \"django_*\"]";
    let mut cluster = Cluster::with(2, SCHEMA, settings);
    cluster.add(SCHEMA, "");
    cluster.run();
    let [one, two, three] = &cluster.nodes[..] else { unreachable!() };
    one.app()
        .execute_batch(
            "UPDATE knex_migrations_lock SET is_locked = 1; INSERT INTO django_migrations (name) \
            VALUES ('0001_initial')",
        )
        .unwrap();
    let db_two = two.app();
    eventually("the row travels to a node that includes the table", || {
        number(&db_two, "SELECT count(*) FROM django_migrations") == 1
    });
    one.app().execute_batch("INSERT INTO item VALUES ('later', '')").unwrap();
    for node in [two, three] {
        let db = node.app();
        eventually("what follows arrives everywhere", || {
            number(&db, "SELECT count(*) FROM item") == 1
        });
        assert_eq!(
            number(&db, "SELECT is_locked FROM knex_migrations_lock"),
            0,
            "a pattern of wildcards alone brings nothing back"
        );
    }
    assert_eq!(number(&three.app(), "SELECT count(*) FROM django_migrations"), 0);
    assert_eq!(three.status().unwrap()["held"], serde_json::json!([]));
}
