//! A migration tool that commits in the middle of a rebuild harms nobody.
//!
//! Goal: Alembic with Python's driver, Laravel and others fill a copy, drop the table and rename
//! the copy, each in a transaction of its own. The copy is never replicated, the table never counts
//! as dropped, and a renamed table with a unique index does not end the node. Method: such
//! rebuilds, one after the other on both nodes, while both write; `tests/applications` does it with
//! Alembic.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, Node, eventually, rows};

const ROUNDS: usize = 10;

fn insert(node: &Node, table: &str, round: usize) {
    let sql = format!("INSERT INTO {table} (id, sku, a) VALUES (?1, ?1, ?2)");
    let key = format!("{}-{round}", node.id);
    node.app().execute(&sql, (key, round as i64)).unwrap();
}

/// Each statement is a transaction of its own.
fn rebuild(node: &Node, column: &str) {
    let db = node.app();
    for statement in [
        &format!("CREATE TABLE _alembic_tmp_item (id TEXT PRIMARY KEY, sku UNIQUE, a, {column})"),
        "INSERT INTO _alembic_tmp_item (id, sku, a) SELECT id, sku, a FROM item",
        "DROP TABLE item",
        "ALTER TABLE _alembic_tmp_item RENAME TO item",
    ] {
        db.execute_batch(statement).unwrap();
    }
}

#[test]
fn rebuilds_that_commit_in_between_lose_nothing() {
    let mut cluster = Cluster::new(2, "CREATE TABLE item (id TEXT PRIMARY KEY, sku UNIQUE, a)");
    cluster.run();
    for round in 0..ROUNDS {
        for node in &cluster.nodes {
            cluster.nodes.iter().for_each(|n| insert(n, "item", round * 10 + node.id as usize));
            rebuild(node, &format!("more_{round}"));
        }
    }
    cluster.converge();
    for node in &cluster.nodes {
        node.app().execute_batch("ALTER TABLE item RENAME TO article").unwrap();
        insert(node, "article", 1_000);
    }
    cluster.converge();
    let all = format!("Integer({})", 2 * (2 * ROUNDS + 1));
    for node in &mut cluster.nodes {
        assert_eq!(rows(&node.app(), "SELECT count(*) FROM article")[0][0], all);
        let copies = "SELECT count(*) FROM __harmonylite__table WHERE name LIKE '\\_alembic%' \
            ESCAPE '\\'";
        assert_eq!(rows(&node.app(), copies)[0][0], "Integer(0)", "the copy was replicated");
        assert!(node.is_running(), "{}", node.output());
        eventually("nothing is held", || node.status().unwrap()["held"] == serde_json::json!([]));
        let status = node.status().unwrap();
        assert_eq!((&status["conflicts"], &status["quarantine"]), (&0.into(), &0.into()));
    }
}
