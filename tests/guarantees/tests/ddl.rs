//! The schema changes while nodes run, without a restart or a lost write (fault 30).
//!
//! Goal: a migration runs on one node after another, under load. Meanwhile the other nodes hold the
//! origins with a newer schema and report why, and apply the changes of all others. After the local
//! migration the held changes are applied without a restart. Excluded tables stay local. An FTS
//! index that the application's triggers maintain is searchable at the peer. A trigger that writes
//! to replicated tables fires once in the cluster, not once on each node. The story: in HarmonyLite
//! (Go) the pause never triggered, and an ALTER followed by a restart broke the application's
//! writes.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use harmonylite_guarantees::{Cluster, Node, eventually, number, rows, sound};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

const SCHEMA: &str = "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT);
     CREATE TABLE load (node INTEGER, n INTEGER, PRIMARY KEY (node, n));
     CREATE TABLE old (id INTEGER PRIMARY KEY, v TEXT);";

/// Returns the reason why a node holds an origin; None if it does not.
fn held(node: &Node, origin: u64) -> Option<String> {
    let status = node.status()?;
    let held = status["held"].as_array()?.iter().find(|h| h["node_id"] == origin)?;
    Some(held["reason"].as_str()?.to_owned())
}

#[track_caller]
fn holds(node: &Node, origin: u64, name: &str) {
    let mut reason = None;
    eventually(&format!("node {} holds origin {origin} because of {name}", node.id), || {
        reason = held(node, origin);
        reason.as_ref().is_some_and(|r| r.contains(name))
    });
    let status = node.status().unwrap();
    assert!(
        status["degraded"].to_string().contains(name),
        "health reports it too: {}",
        status["degraded"]
    );
}

/// Runs a migration at a node, and returns how long the held rows then took to arrive.
#[track_caller]
fn migrate(node: &Node, sql: &str, arrived: &str) -> Duration {
    let db = node.app();
    db.execute_batch(sql).unwrap();
    let begin = Instant::now();
    eventually(&format!("after {sql:?} node {} gets {arrived:?}", node.id), || {
        number(&db, arrived) > 0
    });
    begin.elapsed()
}

#[test]
fn a_migration_runs_on_one_node_after_the_other_under_load() {
    let mut cluster = Cluster::new(3, SCHEMA);
    cluster.run();
    let (commits, stop) = ([const { AtomicI64::new(0) }; 3], AtomicBool::new(false));
    let applications: Vec<_> = cluster.nodes.iter().map(Node::app).collect();
    let mut resumed = Vec::new();
    std::thread::scope(|scope| {
        for (i, db) in applications.into_iter().enumerate() {
            let (commits, stop) = (&commits[i], &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let n = commits.load(Ordering::Relaxed) + 1;
                    db.execute("INSERT INTO load VALUES (?1, ?2)", (i as i64 + 1, n)).unwrap();
                    commits.store(n, Ordering::Relaxed);
                    // Write as fast as a busy application, not as fast as the disk.
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
        }
        let [one, two, three] = &cluster.nodes[..] else { unreachable!() };
        let others_go_on = |what: &str| {
            let n = commits[2].load(Ordering::Relaxed);
            let db = two.app();
            eventually(&format!("{what}: node 2 gets what node 3 writes"), || {
                number(&db, "SELECT max(n) FROM load WHERE node = 3") > n
            });
        };

        // ADD COLUMN
        one.app().execute_batch("ALTER TABLE item ADD COLUMN price REAL DEFAULT 1.5").unwrap();
        one.app().execute_batch("INSERT INTO item VALUES (1, 'with price', 9.5)").unwrap();
        holds(two, 1, "price");
        holds(three, 1, "price");
        two.app().execute_batch("INSERT INTO item VALUES (2, 'without')").unwrap();
        let (at_one, at_three) = (one.app(), three.app());
        eventually("a row of the old schema is taken by the new one", || {
            number(&at_one, "SELECT count(*) FROM item WHERE id = 2 AND price = 1.5") == 1
        });
        eventually("and by the others", || {
            number(&at_three, "SELECT count(*) FROM item WHERE id = 2") == 1
        });
        others_go_on("while origin 1 waits");
        let column = "ALTER TABLE item ADD COLUMN price REAL DEFAULT 1.5";
        for node in [two, three] {
            resumed.push(migrate(
                node,
                column,
                "SELECT count(*) FROM item WHERE id = 1 AND price = 9.5",
            ));
            eventually("nothing is held any more", || held(node, 1).is_none());
        }

        // CREATE TABLE, with rows from the start
        let table = r#"CREATE TABLE "new one" (id INTEGER PRIMARY KEY, v)"#;
        one.app()
            .execute_batch(&format!(
                r#"BEGIN; {table};
                INSERT INTO "new one" VALUES (1, 'in the same transaction'); COMMIT"#
            ))
            .unwrap();
        eventually("node 1 captures the new table", || {
            one.status().is_some_and(|s| s["tables"].to_string().contains("new one"))
        });
        one.app().execute_batch(r#"INSERT INTO "new one" VALUES (2, 'later')"#).unwrap();
        holds(two, 1, "new one");
        others_go_on("while a table is missing");
        for node in [two, three] {
            resumed.push(migrate(node, table, r#"SELECT count(*) FROM "new one" WHERE id = 2"#));
        }

        // CREATE UNIQUE INDEX
        let index = "CREATE UNIQUE INDEX item_name ON item (name)";
        one.app().execute_batch(index).unwrap();
        one.app().execute_batch("INSERT INTO item VALUES (3, 'under the index', 0)").unwrap();
        holds(two, 1, "item");
        for node in [two, three] {
            resumed.push(migrate(node, index, "SELECT count(*) FROM item WHERE id = 3"));
        }

        // DROP TABLE
        for node in [one, two, three] {
            node.app().execute_batch("DROP TABLE old").unwrap();
            others_go_on("while a table goes");
        }
        stop.store(true, Ordering::Relaxed);
    });
    let written: i64 = commits.iter().map(|c| c.load(Ordering::Relaxed)).sum();
    for node in &cluster.nodes {
        let db = node.app();
        eventually(
            &format!(
                "node {} has every row of the load; held: {:?}",
                node.id,
                node.status().map(|s| s["held"].clone())
            ),
            || number(&db, "SELECT count(*) FROM load") == written,
        );
    }
    cluster.converge();
    for node in &cluster.nodes {
        let status = node.status().unwrap();
        assert_eq!(status["held"], serde_json::json!([]), "node {}", node.id);
        assert_eq!(status["quarantine"], 0, "node {}", node.id);
        assert_eq!(
            status["counters"]["gaps"],
            0,
            "node {} believes that messages were lost: {}",
            node.id,
            node.output()
        );
        sound(&node.app());
    }
    let db = cluster.nodes[2].app();
    assert_eq!(
        rows(&db, r#"SELECT id FROM "new one" ORDER BY id"#),
        [["Integer(1)"], ["Integer(2)"]]
    );
    resumed.sort();
    println!("resumed after {resumed:?}");
    assert!(
        resumed[resumed.len() / 2] < Duration::from_secs(1),
        "origins resume slowly: {resumed:?}"
    );
}

/// This was `-schema-status-cluster` in HarmonyLite (Go).
#[test]
fn the_schemas_of_all_nodes_are_compared_from_one() {
    let mut cluster = Cluster::with(3, SCHEMA, "");
    let compared =
        |node: &Node| String::from_utf8(node.cli(&["-schema-status-cluster"]).stdout).unwrap();
    let refused = cluster.nodes[0].cli(&["-schema-status-cluster"]);
    assert!(
        !refused.status.success()
            && String::from_utf8_lossy(&refused.stderr).contains("no node runs"),
        "{refused:?}"
    );
    cluster.run();
    let state = |text: &str, id: u64| {
        text.lines().find(|line| line.starts_with(&format!("{id} "))).unwrap_or_default().to_owned()
    };
    let shows = |node: &Node, states: [&str; 3]| {
        let mut text = String::new();
        eventually(&format!("{states:?}"), || {
            text = compared(node);
            (1..).zip(states).all(|(id, part)| state(&text, id).contains(part))
        });
    };
    shows(&cluster.nodes[0], ["this node", "same", "same"]);
    cluster.nodes[1].app().execute_batch("CREATE TABLE only_here (id TEXT PRIMARY KEY)").unwrap();
    shows(&cluster.nodes[0], ["this node", "one migration ahead", "same"]);
    shows(&cluster.nodes[1], ["one migration behind", "this node", "one migration behind"]);
}

#[test]
fn excluded_tables_stay_local() {
    let schema = "CREATE TABLE shared (id INTEGER PRIMARY KEY); CREATE TABLE cache_a (id INTEGER \
        PRIMARY KEY); CREATE TABLE session (id INTEGER PRIMARY KEY);";
    let settings = "tables.exclude = [\"cache_*\", \"session\"]";
    let mut cluster = Cluster::with(1, schema, settings);
    // The peer excludes fewer tables. The others skip its changes to their excluded tables.
    cluster.add(schema, "tables.exclude = [\"cache_*\"]");
    cluster.run();
    let (one, two) = (cluster.nodes[0].app(), cluster.nodes[1].app());
    one.execute_batch(
        "INSERT INTO cache_a VALUES (1); INSERT INTO session VALUES (1); INSERT \
        INTO shared VALUES (1)",
    )
    .unwrap();
    two.execute_batch(
        "INSERT INTO cache_a VALUES (2); INSERT INTO session VALUES (2); INSERT \
        INTO shared VALUES (2)",
    )
    .unwrap();
    for db in [&one, &two] {
        eventually("shared rows arrive", || number(db, "SELECT count(*) FROM shared") == 2);
    }
    for (db, id) in [(&one, 1), (&two, 2)] {
        let all = format!(
            "SELECT count(*) = 2 AND sum(id) = {} FROM (SELECT id FROM cache_a UNION ALL SELECT \
            id FROM session)",
            2 * id
        );
        assert_eq!(number(db, &all), 1, "an excluded table was replicated");
    }
    assert_eq!(cluster.nodes[0].status().unwrap()["held"], serde_json::json!([]));
}

#[test]
fn a_search_index_kept_by_triggers_is_searchable_at_the_peer() {
    let schema = "CREATE TABLE product (id INTEGER PRIMARY KEY, name TEXT, about TEXT);
        CREATE VIRTUAL TABLE product_index USING fts5 (name, about, content = 'product', \
        content_rowid = 'id');
        CREATE TRIGGER product_ai AFTER INSERT ON product BEGIN
            INSERT INTO product_index (rowid, name, about) VALUES (NEW.id, NEW.name, NEW.about); \
            END;
        CREATE TRIGGER product_ad AFTER DELETE ON product BEGIN
            INSERT INTO product_index (product_index, rowid, name, about) VALUES ('delete', \
            OLD.id, OLD.name, OLD.about); END;
        CREATE TRIGGER product_au AFTER UPDATE ON product BEGIN
            INSERT INTO product_index (product_index, rowid, name, about) VALUES ('delete', \
            OLD.id, OLD.name, OLD.about);
            INSERT INTO product_index (rowid, name, about) VALUES (NEW.id, NEW.name, NEW.about); \
            END;";
    let mut cluster = Cluster::new(2, schema);
    cluster.run();
    let (one, two) = (cluster.nodes[0].app(), cluster.nodes[1].app());
    one.execute_batch(
        "INSERT INTO product VALUES (1, 'lamp', 'bright'), (2, 'chair', 'soft'), \
        (3, 'table', 'round')",
    )
    .unwrap();
    eventually("the rows arrive", || number(&two, "SELECT count(*) FROM product") == 3);
    one.execute_batch(
        "UPDATE product SET about = 'dim' WHERE id = 1; DELETE FROM product WHERE id = 2",
    )
    .unwrap();
    eventually("the changes arrive", || {
        number(&two, "SELECT count(*) FROM product WHERE id = 2 OR about = 'bright'") == 0
    });
    for db in [&one, &two] {
        let search = |word: &str| {
            number(
                db,
                &format!("SELECT count(*) FROM product_index WHERE product_index MATCH '{word}'"),
            )
        };
        assert_eq!(
            (search("dim"), search("table"), search("bright"), search("chair")),
            (1, 1, 0, 0)
        );
        db.execute_batch(
            "INSERT INTO product_index (product_index, rank) VALUES ('integrity-check', 1)",
        )
        .unwrap();
    }
    // Now in the other direction, from the node whose index the sidecar has filled so far.
    two.execute_batch("UPDATE product SET name = 'desk' WHERE id = 3").unwrap();
    eventually("the peer finds it", || {
        number(&one, "SELECT count(*) FROM product_index WHERE product_index MATCH 'desk'") == 1
    });
}

#[test]
fn a_trigger_that_writes_replicated_rows_fires_once_in_the_cluster() {
    let schema = "CREATE TABLE item (id INTEGER PRIMARY KEY, n INTEGER);
        CREATE TABLE audit (id TEXT PRIMARY KEY DEFAULT (hex(randomblob(16))), item INTEGER, what \
        TEXT);
        CREATE TABLE total (id INTEGER PRIMARY KEY, n INTEGER); INSERT INTO total VALUES (1, 0);
        CREATE TRIGGER item_ai AFTER INSERT ON item BEGIN
            INSERT INTO audit (item, what) VALUES (NEW.id, 'insert'); UPDATE total SET n = n + \
            NEW.n WHERE id = 1; END;
        CREATE TRIGGER item_au AFTER UPDATE ON item BEGIN INSERT INTO audit (item, what) VALUES \
        (NEW.id, 'update'); END;";
    let mut cluster = Cluster::new(3, schema);
    cluster.run();
    let db = cluster.nodes[0].app();
    for id in 0..20 {
        db.execute("INSERT INTO item VALUES (?1, 5)", [id]).unwrap();
    }
    cluster.converge();
    cluster.nodes[1].app().execute_batch("UPDATE item SET n = 6 WHERE id < 7").unwrap();
    let peer = cluster.nodes[2].app();
    eventually("the updates arrive", || {
        number(&peer, "SELECT count(*) FROM item WHERE n = 6") == 7
    });
    cluster.converge();
    assert_eq!(
        rows(&peer, "SELECT what, count(*) FROM audit GROUP BY what"),
        [["\"insert\"", "Integer(20)"], ["\"update\"", "Integer(7)"]]
    );
    assert_eq!(number(&peer, "SELECT n FROM total"), 100);
}

/// A table created without a connection to the broker is captured from the first wake on. Triggers
/// do not wait for a connection.
#[test]
fn a_table_made_during_an_outage_is_captured() {
    let mut cluster = Cluster::new(2, "CREATE TABLE item (id INTEGER PRIMARY KEY);");
    cluster.run();
    cluster.broker.kill();
    eventually("the nodes know", || {
        cluster.nodes.iter().all(|n| n.status().is_some_and(|s| s["broker"]["connected"] == false))
    });
    let table = "CREATE TABLE late (id INTEGER PRIMARY KEY, v TEXT)";
    for node in &cluster.nodes {
        let db = node.app();
        db.execute_batch(table).unwrap();
        eventually("triggers are there", || {
            number(
                &db,
                "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'late'",
            ) > 0
        });
        db.execute("INSERT INTO late VALUES (?1, 'x')", [node.id as i64]).unwrap();
        db.execute("INSERT INTO late VALUES (100, ?1)", [format!("written at {}", node.id)])
            .unwrap();
        harmonylite_guarantees::later(&db);
    }
    cluster.broker.run();
    let db = cluster.nodes[0].app();
    eventually("the rows come together, the later write wins", || {
        number(&db, "SELECT count(*) FROM late WHERE id < 3 OR v = 'written at 2'") == 3
    });
    cluster.converge();
}

#[test]
fn a_search_index_that_cannot_follow_is_named() {
    let schema = "CREATE TABLE book (id TEXT PRIMARY KEY, title TEXT);
        CREATE VIRTUAL TABLE book_index USING fts5 (id, title);
        CREATE TRIGGER book_ai AFTER INSERT ON book BEGIN
            INSERT INTO book_index VALUES (NEW.id, title_sort(NEW.title)); END;";
    let mut cluster = Cluster::new(2, schema);
    cluster.run();
    let one = cluster.nodes[0].app();
    // The application registers the function; this connection is another program without it.
    one.execute_batch("DROP TRIGGER book_ai; INSERT INTO book VALUES ('a', 'abc')").unwrap();
    let two = cluster.nodes[1].app();
    eventually("the row arrives", || number(&two, "SELECT count(*) FROM book") == 1);
    assert_eq!(number(&two, "SELECT count(*) FROM book_index"), 0);
    let status = String::from_utf8(cluster.nodes[1].cli(&["status"]).stdout).unwrap();
    let log = cluster.nodes[1].output();
    for text in [&status, &log] {
        assert!(text.contains("book_ai") && text.contains("title_sort"), "{text}");
    }
    eventually("the dropped trigger is not named any more", || {
        let status = String::from_utf8(cluster.nodes[0].cli(&["status"]).stdout).unwrap();
        !status.contains("book_ai")
    });
}
