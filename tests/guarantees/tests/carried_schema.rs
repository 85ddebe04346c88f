//! DDL of one node is made on the others, in the transaction of the rows that it belongs to.
//!
//! Goal: with `schema.replicate`, a migration that runs on one node arrives whole, its bookkeeping
//! row included, whatever it changes; two nodes that make the same change agree; what contradicts
//! is held with its reason, and no row is lost. The story: people who run two copies of an
//! application want to deploy on one.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use harmonylite_guarantees::{Cluster, Node, eventually, number, rows};
use std::sync::atomic::{AtomicBool, Ordering};

const ALL: &str = "[schema]\nreplicate = \"all\"";
const ADDITIVE: &str = "[schema]\nreplicate = \"additive\"";

const SCHEMA: &str = "CREATE TABLE c (id TEXT PRIMARY KEY, v, email UNIQUE);
    CREATE TABLE gone (id INTEGER PRIMARY KEY, v);
    CREATE TABLE django_migrations (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT);
    INSERT INTO c VALUES ('a', 1, 'x'), ('b', 1, 'y'); INSERT INTO gone VALUES (1, 'kept');";

#[track_caller]
fn run(node: &Node, sql: &str) {
    node.app().execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

#[track_caller]
fn settled(cluster: &Cluster) {
    cluster.converge();
    for node in &cluster.nodes {
        let status = node.status().unwrap();
        assert_eq!(status["held"].to_string(), "[]", "node {}", node.id);
        assert_eq!(status["quarantine"], 0, "node {}", node.id);
    }
}

#[track_caller]
fn holds(node: &Node, reason: &str) {
    eventually(&format!("node {} holds because of {reason}", node.id), || {
        node.status().is_some_and(|s| s["held"].to_string().contains(reason))
    });
}

/// Objects of the application, without ours.
fn objects(node: &Node) -> Vec<Vec<String>> {
    rows(
        &node.app(),
        "SELECT type, lower(name), lower(tbl_name) FROM sqlite_schema WHERE name NOT GLOB \
        '__harmonylite__*' AND name NOT GLOB 'sqlite_*' ORDER BY 1, 2",
    )
}

/// Every kind of change, each a transaction of one node with rows of its own.
const MIGRATIONS: [&str; 9] = [
    "CREATE TABLE extra (id TEXT PRIMARY KEY, c_id REFERENCES c (id)); CREATE INDEX by_c ON extra \
    (c_id); INSERT INTO extra VALUES ('e', 'a'); INSERT INTO django_migrations (name) VALUES ('1')",
    "ALTER TABLE c ADD COLUMN added TEXT NOT NULL DEFAULT 'd'; UPDATE c SET added = 'new' WHERE \
    id = 'a'; INSERT INTO django_migrations (name) VALUES ('2')",
    "ALTER TABLE c RENAME COLUMN v TO w; UPDATE c SET w = 7 WHERE id = 'a'",
    "ALTER TABLE extra RENAME TO \"more of it\"; INSERT INTO \"more of it\" VALUES ('f', 'b')",
    "CREATE TABLE new_c (id TEXT PRIMARY KEY, w TEXT NOT NULL DEFAULT '', email UNIQUE, added); \
    INSERT INTO new_c SELECT id, coalesce(w, 'was null'), email, added FROM c; DROP TABLE c; \
    ALTER TABLE new_c RENAME TO c; UPDATE c SET email = 'z' WHERE id = 'b'",
    "CREATE VIEW both AS SELECT id FROM c; CREATE TRIGGER on_both INSTEAD OF INSERT ON both BEGIN \
    INSERT INTO c (id) VALUES (NEW.id); END; INSERT INTO both VALUES ('by view')",
    "CREATE UNIQUE INDEX by_added ON c (lower(added)) WHERE added <> 'd'; REPLACE INTO c VALUES \
    ('q', 'w', 'mail', 'NEW')",
    "DROP INDEX by_added; ALTER TABLE c DROP COLUMN added; INSERT INTO c VALUES ('r', 'w', 'm2')",
    "DROP TABLE gone; INSERT INTO django_migrations (name) VALUES ('9')",
];

#[test]
fn every_kind_of_change_arrives_with_its_rows() {
    let mut cluster = Cluster::with(3, SCHEMA, ALL);
    cluster.run();
    for (i, migration) in MIGRATIONS.iter().enumerate() {
        // Each on another node: whoever got a change can make the next.
        let node = &cluster.nodes[i % 3];
        run(node, &format!("PRAGMA foreign_keys = OFF; BEGIN IMMEDIATE; {migration}; COMMIT"));
        let expected = objects(node);
        for other in &cluster.nodes {
            eventually(&format!("node {} has made {migration}", other.id), || {
                objects(other) == expected
            });
        }
        settled(&cluster);
    }
    let db = cluster.nodes[1].app();
    assert_eq!(
        rows(&db, "SELECT id, w, email FROM c ORDER BY id"),
        [
            ["\"b\"", "\"1\"", "\"z\""],
            ["\"by view\"", "\"\"", "Null"],
            ["\"q\"", "\"w\"", "\"mail\""],
            ["\"r\"", "\"w\"", "\"m2\""],
        ]
    );
    assert_eq!(number(&db, "SELECT count(*) FROM django_migrations"), 3);
    // What another node dropped is kept for a while where it was dropped by somebody else.
    let kept = rows(
        &cluster.nodes[0].app(),
        "SELECT name FROM sqlite_schema WHERE name GLOB '__harmonylite__dropped_*_gone'",
    );
    assert_eq!(kept.len(), 1, "{kept:?}");
}

/// The row and the table come in one transaction: no moment shows one without the other.
#[test]
fn a_migration_is_seen_whole_or_not_at_all() {
    let mut cluster = Cluster::with(2, SCHEMA, ALL);
    cluster.run();
    let stop = AtomicBool::new(false);
    let halves = std::thread::scope(|scope| {
        let seen = scope.spawn(|| {
            let db = cluster.nodes[1].app();
            let mut halves = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let both = "SELECT (SELECT count(*) FROM django_migrations), (SELECT count(*) \
                    FROM sqlite_schema WHERE type = 'table' AND name GLOB 'made_*')";
                let found = rows(&db, both);
                if found[0][0] != found[0][1] {
                    halves.push(found);
                }
            }
            halves
        });
        for i in 0..10 {
            run(
                &cluster.nodes[0],
                &format!(
                    "BEGIN IMMEDIATE; INSERT INTO django_migrations (name) VALUES ('{i}'); CREATE \
                    TABLE made_{i} (id TEXT PRIMARY KEY); COMMIT"
                ),
            );
        }
        let db = cluster.nodes[1].app();
        eventually("the last migration arrives", || {
            number(&db, "SELECT count(*) FROM django_migrations") == 10
        });
        stop.store(true, Ordering::Relaxed);
        seen.join().unwrap()
    });
    assert!(halves.is_empty(), "{halves:?}");
    settled(&cluster);
}

#[test]
fn the_same_change_on_two_nodes_is_one_and_different_ones_are_held() {
    let mut cluster = Cluster::with(2, SCHEMA, ALL);
    cluster.run();
    let [one, two] = &cluster.nodes[..] else { unreachable!() };
    one.pause();
    run(
        two,
        "BEGIN; ALTER TABLE c ADD COLUMN n INTEGER; CREATE TABLE t2 (id TEXT PRIMARY KEY); INSERT \
        INTO c VALUES ('2', 2, 'two', 2); COMMIT",
    );
    run(
        one,
        "BEGIN; ALTER TABLE c ADD COLUMN n  integer; CREATE TABLE t1 (id TEXT PRIMARY KEY); INSERT \
        INTO c VALUES ('1', 1, 'one', 1); COMMIT",
    );
    one.signal("CONT");
    eventually("both have both tables", || objects(one) == objects(two) && objects(one).len() >= 5);
    settled(&cluster);
    assert_eq!(number(&one.app(), "SELECT count(*) FROM c WHERE n IN (1, 2)"), 2);

    one.pause();
    run(two, "ALTER TABLE c ADD COLUMN m TEXT; INSERT INTO c VALUES ('3', 2, '3', 3, 'text')");
    run(one, "ALTER TABLE c ADD COLUMN m BLOB; INSERT INTO c VALUES ('4', 2, '4', 4, x'00')");
    one.signal("CONT");
    holds(one, "column m of c exists here, but is another one");
    holds(two, "column m of c exists here, but is another one");
    // A person decides: both columns, on both nodes.
    run(two, "ALTER TABLE c RENAME COLUMN m TO m_text; ALTER TABLE c ADD COLUMN m BLOB");
    run(one, "ALTER TABLE c ADD COLUMN m_text TEXT");
    // The order of the columns differs, so the tables are compared by name.
    let all = "SELECT id, v, email, n, m, m_text FROM c ORDER BY id";
    eventually("both nodes have all rows under both columns", || {
        let (a, b) = (rows(&one.app(), all), rows(&two.app(), all));
        a == b && a.len() == 6
    });
    for node in [one, two] {
        eventually("nobody is held", || {
            node.status().unwrap()["held"].as_array().is_some_and(Vec::is_empty)
        });
    }
    let both = rows(&one.app(), "SELECT m, m_text FROM c WHERE id IN ('3', '4') ORDER BY id");
    assert_eq!(both, [["Null", "\"text\""], ["Blob([0])", "Null"]]);
}

#[test]
fn additive_carries_what_is_new_and_holds_the_rest() {
    let mut cluster = Cluster::with(2, SCHEMA, ADDITIVE);
    cluster.run();
    let [one, two] = &cluster.nodes[..] else { unreachable!() };
    run(one, "CREATE TABLE extra (id TEXT PRIMARY KEY, v); INSERT INTO extra VALUES ('e', 1)");
    cluster.converge();
    run(one, "ALTER TABLE extra RENAME COLUMN v TO w; INSERT INTO extra VALUES ('f', 2)");
    holds(two, "waits until you rename column v of table extra to w");
    assert_eq!(objects(one), objects(two));
    run(two, "ALTER TABLE extra RENAME COLUMN v TO w");
    settled(&cluster);
}

/// The statement fails at the peer because of its rows: nothing of the batch is there, and status
/// says which statement and why.
#[test]
fn a_change_that_fails_leaves_nothing() {
    let mut cluster = Cluster::with(2, SCHEMA, ALL);
    cluster.run();
    let [one, two] = &cluster.nodes[..] else { unreachable!() };
    one.pause();
    run(two, "INSERT INTO c VALUES ('p', 'same', 'p'), ('q', 'same', 'q')");
    let make = "BEGIN; CREATE TABLE extra (id TEXT PRIMARY KEY); CREATE UNIQUE INDEX u ON c (v) \
        WHERE v = 'same'; INSERT INTO extra VALUES ('e'); COMMIT";
    run(one, make);
    one.signal("CONT");
    holds(two, "UNIQUE constraint failed");
    holds(two, "CREATE UNIQUE INDEX u");
    assert!(!objects(two).iter().any(|o| o[1].contains("extra")), "{:?}", objects(two));
    // Nothing but a row has to change: the batch is tried again by itself.
    run(two, "DELETE FROM c WHERE id = 'q'");
    eventually("the batch is applied once it can be", || {
        objects(two).iter().any(|o| o[1].contains("extra"))
    });
    settled(&cluster);
}

/// Waits until the reasons of a node that is degraded contain all of these, and nobody is held.
#[track_caller]
fn lacks(node: &Node, parts: &[&str]) {
    eventually(&format!("node {} lacks {parts:?}", node.id), || {
        let Some(status) = node.status() else { return false };
        let reasons = status["degraded"].to_string();
        parts.iter().all(|part| reasons.contains(part)) && is_empty(&status["held"])
    });
}

/// Views, triggers and plain indexes decide nothing about rows, so a batch does not wait for them.
/// What is missing stays in `status`, over a restart, until it is there or its origin drops it.
#[test]
fn a_view_that_cannot_be_made_is_shown_until_it_is_there_or_dropped() {
    let settings = format!("{ALL}\n[tables]\nexclude = [\"report*\"]");
    let mut cluster = Cluster::with(2, SCHEMA, &settings);
    run(&cluster.nodes[1], "CREATE TABLE report (x); CREATE TABLE report_2 (x)");
    cluster.run();
    run(
        &cluster.nodes[0],
        "BEGIN; CREATE TABLE extra (id TEXT PRIMARY KEY); CREATE VIEW report AS SELECT id FROM \
        extra; CREATE TRIGGER on_report INSTEAD OF INSERT ON report BEGIN INSERT INTO extra VALUES \
        (NEW.id); END; INSERT INTO extra VALUES ('e'); COMMIT",
    );
    let view = ["a migration of node 1", "create view report", "table report already exists"];
    lacks(&cluster.nodes[1], &view);
    lacks(&cluster.nodes[1], &["create trigger on_report on report"]);
    assert_eq!(
        number(&cluster.nodes[1].app(), "SELECT count(*) FROM extra"),
        1,
        "the rest is here"
    );
    let check = cluster.nodes[1].cli(&["status", "--check"]);
    assert_eq!(check.status.code(), Some(10), "{}", String::from_utf8_lossy(&check.stdout));

    cluster.nodes[1].stop();
    let text = cluster.nodes[1].cli(&["status"]).stdout;
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.contains("create view report: table report already exists"), "{text}");
    cluster.nodes[1].run();
    lacks(&cluster.nodes[1], &view);

    let [one, two] = &cluster.nodes[..] else { unreachable!() };
    run(two, "DROP TABLE report");
    eventually("view and trigger are made", || {
        objects(two).iter().any(|o| o[1] == "\"on_report\"")
    });
    run(two, "INSERT INTO report VALUES ('f')");
    eventually("the row arrives", || number(&one.app(), "SELECT count(*) FROM report") == 2);
    let is_well = || two.status().is_some_and(|s| is_empty(&s["unmade_objects"]));
    eventually("nothing is missing", is_well);

    run(one, "CREATE VIEW report_2 AS SELECT id FROM c");
    lacks(two, &["create view report_2"]);
    run(one, "DROP VIEW report_2");
    eventually("what its origin dropped is not missing", is_well);
    assert_eq!(number(&two.app(), "SELECT count(*) FROM report_2"), 0, "the table is still there");
    settled_rows(&cluster);
}

/// Nobody is held, nothing is in quarantine, no reason is left.
#[track_caller]
fn settled_rows(cluster: &Cluster) {
    for node in &cluster.nodes {
        eventually(&format!("node {} is healthy", node.id), || {
            node.status().is_some_and(|s| is_empty(&s["degraded"]))
        });
    }
}

fn is_empty(list: &serde_json::Value) -> bool {
    list.as_array().is_some_and(Vec::is_empty)
}

/// What was not published yet follows its table to the new name, and what the other node still
/// writes under the old one arrives in it.
#[test]
fn a_table_is_renamed_while_the_broker_is_away() {
    for settings in ["", ALL] {
        let mut cluster = Cluster::with(2, SCHEMA, settings);
        cluster.run();
        cluster.converge();
        cluster.broker.kill();
        let [one, two] = &cluster.nodes[..] else { unreachable!() };
        run(one, "UPDATE c SET v = 2 WHERE id = 'a'; INSERT INTO c VALUES ('one', 1, 'm1')");
        run(two, "DELETE FROM c WHERE id = 'b'; INSERT INTO c VALUES ('two', 1, 'm2')");
        run(one, "ALTER TABLE c RENAME TO k; UPDATE k SET v = 3 WHERE id = 'one'");
        run(one, "INSERT INTO k VALUES ('gone', 1, 'm3')");
        run(two, "INSERT INTO c VALUES ('later', 1, 'm4')");
        if settings.is_empty() {
            run(two, "ALTER TABLE c RENAME TO k; UPDATE k SET v = 4 WHERE id = 'two'");
        } else {
            run(two, "UPDATE c SET v = 4 WHERE id = 'two'");
        }
        run(one, "DELETE FROM k WHERE id = 'gone'");
        cluster.broker.run();
        let expected = [
            ["\"a\"", "Integer(2)"],
            ["\"later\"", "Integer(1)"],
            ["\"one\"", "Integer(3)"],
            ["\"two\"", "Integer(4)"],
        ];
        let here = |node: &Node| {
            let is_renamed =
                number(&node.app(), "SELECT count(*) FROM sqlite_schema WHERE name = 'k'") == 1;
            is_renamed && rows(&node.app(), "SELECT id, v FROM k ORDER BY id") == expected
        };
        for node in &cluster.nodes {
            eventually(&format!("node {} has all, {settings:?}", node.id), || here(node));
        }
        cluster.converge();
        settled_rows(&cluster);
    }
}

/// Rows that the broker lost are republished, and changes of the schema come before them. What they
/// made was changed, renamed and dropped since, on some nodes by hand.
#[test]
fn changes_that_come_again_undo_nothing() {
    for settings in [ALL, ADDITIVE] {
        let mut cluster = Cluster::with(2, SCHEMA, settings);
        cluster.run();
        let changes = [
            "CREATE TABLE n (id TEXT PRIMARY KEY, v); CREATE INDEX by_v ON n (v)",
            "INSERT INTO n VALUES ('x', 1); ALTER TABLE n ADD COLUMN w",
            "DROP TABLE gone",
            "CREATE TABLE gone (id INTEGER PRIMARY KEY, v); INSERT INTO gone VALUES (2, 'new')",
            "ALTER TABLE n RENAME COLUMN v TO u",
            "ALTER TABLE n RENAME TO m; DROP INDEX by_v",
        ];
        for change in changes {
            let is_additive = !change.contains("DROP") && !change.contains("RENAME");
            let both = if settings == ALL || is_additive { 1 } else { 2 };
            for node in &cluster.nodes[..both] {
                run(node, &format!("BEGIN IMMEDIATE; {change}; COMMIT"));
            }
            let expected = objects(&cluster.nodes[0]);
            eventually(change, || objects(&cluster.nodes[1]) == expected);
            // A table that is dropped and created soon after counts as rebuilt.
            let is_followed = |node: &Node| {
                let count = |sql| number(&node.app(), sql);
                count("SELECT count(*) FROM sqlite_schema WHERE name = 'gone'")
                    == count(
                        "SELECT count(*) FROM __harmonylite__table WHERE name = 'gone' AND hash IS \
                        NOT NULL",
                    )
            };
            eventually("the sidecars see it", || cluster.nodes.iter().all(is_followed));
            cluster.converge();
            settled_rows(&cluster);
        }
        run(&cluster.nodes[1], "INSERT INTO m VALUES ('y', 2, 2); INSERT INTO gone VALUES (3, 3)");
        cluster.converge();
        settled_rows(&cluster);
        let expected = objects(&cluster.nodes[0]);
        cluster.broker.kill();
        std::fs::remove_dir_all(cluster.broker.store()).unwrap();
        run(&cluster.nodes[1], "INSERT INTO m VALUES ('z', 3, 3)");
        cluster.broker.run();
        for node in &cluster.nodes {
            eventually("the loss is noticed", || node.counter("losses") > 0);
        }
        cluster.converge();
        settled_rows(&cluster);
        for node in &cluster.nodes {
            assert_eq!(objects(node), expected, "node {}, {settings}", node.id);
            assert_eq!(number(&node.app(), "SELECT count(*) FROM m"), 3);
            assert_eq!(number(&node.app(), "SELECT sum(id) FROM gone"), 5);
        }
    }
}
