//! Checks the statements of docs/ids.md about ids.
//!
//! Goal: the recommended ids keep every row of two nodes that write at the same time. The ids that
//! the page warns about lose rows, though not without a trace. Method: two applications run the
//! page's own SQL.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, Node, eventually, rows};

const PAGE: &str = include_str!("../../../docs/ids.md");

/// Returns the page's statement with this start.
fn sql(begin: &str) -> &'static str {
    let blocks = PAGE.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks
        .filter(|block| block.starts_with(begin))
        .max()
        .unwrap_or_else(|| panic!("docs/ids.md has no statement {begin}"))
}

fn count(node: &Node, table: &str) -> String {
    rows(&node.app(), &format!("SELECT count(*) FROM {table}"))[0][0].clone()
}

#[test]
fn ids_as_recommended_keep_every_row() {
    const EACH: usize = 200;
    let tables =
        [sql("CREATE TABLE customer"), sql("CREATE TABLE picture"), sql("CREATE TABLE visit")]
            .concat();
    let orders = "CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, item TEXT); INSERT \
        INTO orders VALUES (41, 'before');";
    let mut cluster = Cluster::new(2, &(tables + orders));
    cluster.run();
    std::thread::scope(|scope| {
        for node in &cluster.nodes {
            scope.spawn(move || {
                let insert = sql("INSERT INTO \
                    orders")
                .replace("3000000000", &format!("{}000000000", node.id));
                let insert = insert.replace("4000000000", &format!("{}000000000", node.id + 1));
                let db = node.app();
                for _ in 0..EACH {
                    db.execute_batch(
                        "INSERT INTO customer (name) VALUES ('c'); INSERT INTO \
                        picture (image) VALUES (x'00')",
                    )
                    .unwrap();
                    db.execute_batch("INSERT INTO visit (page) VALUES ('/')").unwrap();
                    db.execute_batch(&insert).unwrap();
                    assert_eq!(db.last_insert_rowid() / 1_000_000_000, node.id as i64);
                }
            });
        }
    });
    cluster.converge();
    for node in &cluster.nodes {
        for table in ["customer", "picture", "visit"] {
            assert_eq!(
                count(node, table),
                format!("Integer({})", 2 * EACH),
                "{table} at node {}",
                node.id
            );
        }
        assert_eq!(count(node, "orders"), format!("Integer({})", 2 * EACH + 1));
        assert_eq!(node.status().unwrap()["conflicts"], 0);
        let plan = rows(&node.app(), &format!("EXPLAIN QUERY PLAN {}", sql("INSERT INTO orders")));
        assert!(
            plan[0].last().unwrap().contains("SEARCH orders"),
            "the range is found by the index: {plan:?}"
        );
    }
}

/// Of two people with the same id the later one stays. The other is in the journal, every node says
/// so until somebody has looked at it, and it can get an id of its own.
#[test]
fn the_same_id_for_two_rows_is_reported_and_the_lost_one_gets_another_id() {
    let mut cluster =
        Cluster::new(2, "CREATE TABLE person (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT)");
    cluster.run();
    cluster.nodes.iter().for_each(|node| node.pause());
    for (node, name) in cluster.nodes.iter().zip(["anna", "bert"]) {
        node.app().execute("INSERT INTO person (name) VALUES (?1)", [name]).unwrap();
    }
    cluster.nodes.iter().for_each(|node| node.signal("CONT"));
    cluster.converge();
    let (one, two) = (&cluster.nodes[0], &cluster.nodes[1]);
    assert_eq!(count(one, "person"), "Integer(1)");
    for node in [one, two] {
        eventually("the node reports the lost person", || {
            let status = node.status().unwrap();
            let degraded = status["degraded"].to_string();
            status["inserted_twice"] == serde_json::json!([["person", 1]])
                && degraded.contains("person (1)")
                && degraded.contains("docs/ids.md")
        });
        assert!(node.output().contains("two nodes inserted different rows under one key"));
    }
    let id = rows(&one.app(), "SELECT id FROM __harmonylite__conflict")[0][0].clone();
    let id = id.trim_start_matches("Integer(").trim_end_matches(')').to_owned();
    let restored = one.cli(&["conflicts", "restore", &id, "--new-id"]);
    assert!(restored.status.success(), "{restored:?}");
    cluster.converge();
    let (one, two) = (&cluster.nodes[0], &cluster.nodes[1]);
    let people = "SELECT group_concat(name) FROM (SELECT name FROM person ORDER BY name)";
    assert_eq!(rows(&two.app(), people)[0][0], "\"anna,bert\"");
    assert!(two.cli(&["conflicts", "clear"]).status.success());
    for node in [one, two] {
        assert_eq!(node.status().unwrap()["inserted_twice"], serde_json::json!([]));
    }
}

/// With `ids.ranges` the ids that SQLite chooses differ from node to node: at once, in bulk, cut
/// off from each other, after SIGKILL, and after a rebuild of the table.
#[test]
fn ranges_keep_the_ids_of_autoincrement_tables_apart() {
    const EACH: usize = 100;
    let schema = "CREATE TABLE \"or der\" (id INTEGER PRIMARY KEY AUTOINCREMENT, item TEXT);
        INSERT INTO \"or der\" VALUES (41, 'before');";
    let mut cluster = Cluster::with(3, schema, "[ids]\nranges = true\nblock = 200\n");
    cluster.run();
    let insert = |node: &Node, count: usize| {
        let db = node.app();
        for _ in 0..count {
            db.execute("INSERT INTO \"or der\" (item) VALUES (?1)", [node.id as i64]).unwrap();
        }
    };
    std::thread::scope(|scope| {
        for node in &cluster.nodes {
            scope.spawn(move || {
                insert(node, EACH);
                let bulk = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n \
                    WHERE i < 100) INSERT INTO \"or der\" (item) SELECT 'bulk' FROM n";
                node.app().execute_batch(bulk).unwrap();
            });
        }
    });
    cluster.converge();
    cluster.broker.kill();
    cluster.nodes.iter().for_each(|node| insert(node, EACH));
    cluster.nodes[2].kill();
    cluster.broker.run();
    cluster.nodes[2].run();
    cluster.converge();
    let rebuild = "BEGIN; CREATE TABLE \"new\" (id INTEGER PRIMARY KEY AUTOINCREMENT, item TEXT, \
        more TEXT); INSERT INTO \"new\" (id, item) SELECT id, item FROM \"or der\"; DROP TABLE \
        \"or der\"; ALTER TABLE \"new\" RENAME TO \"or der\"; COMMIT;";
    for node in &cluster.nodes {
        node.app().execute_batch(rebuild).unwrap();
        let sequence = "SELECT (seq / 200) % 16 + 1 FROM sqlite_sequence WHERE name = 'or der'";
        eventually("the rebuilt table counts in a block of its node", || {
            rows(&node.app(), sequence)[0][0] == format!("Integer({})", node.id)
        });
    }
    cluster.nodes.iter().for_each(|node| node.pause());
    cluster.nodes.iter().for_each(|node| insert(node, EACH));
    cluster.nodes.iter().for_each(|node| node.signal("CONT"));
    cluster.converge();
    for node in &cluster.nodes {
        assert_eq!(count(node, "\"or der\""), format!("Integer({})", 1 + 3 * 4 * EACH));
        assert_eq!(node.status().unwrap()["conflicts"], 0);
    }
}

#[test]
fn an_offset_in_sqlite_sequence_does_not_last() {
    let mut cluster = Cluster::new(
        2,
        "CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, item TEXT); INSERT INTO \
        orders (item) VALUES ('x')",
    );
    let update = sql("UPDATE sqlite_sequence");
    for node in &cluster.nodes {
        node.app()
            .execute_batch(&update.replace("3000000000", &format!("{}000000000", node.id)))
            .unwrap();
    }
    cluster.run();
    let insert = |node: &Node| {
        let db = node.app();
        db.execute_batch("INSERT INTO orders (item) VALUES ('x')").unwrap();
        db.last_insert_rowid()
    };
    assert_eq!(
        (insert(&cluster.nodes[0]), insert(&cluster.nodes[1])),
        (1_000_000_001, 2_000_000_001)
    );
    cluster.converge();
    // Both continue from the highest id in the table.
    cluster.nodes.iter().for_each(|node| node.pause());
    assert_eq!(
        (insert(&cluster.nodes[0]), insert(&cluster.nodes[1])),
        (2_000_000_002, 2_000_000_002)
    );
    cluster.nodes.iter().for_each(|node| node.signal("CONT"));
    cluster.converge();
    assert_eq!(count(&cluster.nodes[0], "orders"), "Integer(4)");
}
