//! An application's second version is deployed on one node after another, and not a row is lost.
//!
//! Goal: whatever a migration does to a table, rows that the old version of the application writes
//! meanwhile arrive with all their values, changes that no trigger saw are found, and nothing goes
//! to quarantine because of a schema. The story: with seven real applications a renamed column was
//! NULL for ever, a new NOT NULL column put 364 batches into quarantine, and of 200 updates right
//! after a rebuild 8 arrived.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use harmonylite_guarantees::{Cluster, Node, eventually, number, rows};
use std::sync::atomic::{AtomicBool, Ordering};

/// How a framework changes a table: it creates it anew, copies, drops and renames.
fn rebuild(table: &str, columns: &str, copied: &str, then: &str) -> String {
    format!(
        "BEGIN IMMEDIATE; CREATE TABLE new_{table} ({columns}); INSERT INTO new_{table} SELECT \
        {copied} FROM {table}; DROP TABLE {table}; ALTER TABLE new_{table} RENAME TO {table}; \
        {then}; COMMIT"
    )
}

#[track_caller]
fn run(node: &Node, sql: &str) {
    node.app().execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// All nodes are equal, hold nobody, and set nothing aside.
#[track_caller]
fn settled(cluster: &Cluster) {
    cluster.converge();
    eventually("nobody is held", || {
        cluster
            .nodes
            .iter()
            .all(|n| n.status().is_some_and(|s| s["held"].as_array().is_some_and(Vec::is_empty)))
    });
    cluster.converge();
    for node in &cluster.nodes {
        assert_eq!(node.status().unwrap()["quarantine"], 0, "node {}", node.id);
    }
}

#[track_caller]
fn holds(node: &Node, reason: &str) {
    eventually(&format!("node {} holds because of {reason}", node.id), || {
        node.status().is_some_and(|s| s["held"].to_string().contains(reason))
    });
}

const KV: &str = "CREATE TABLE c (id TEXT PRIMARY KEY, v);
    INSERT INTO c VALUES ('a', 1), ('b', 1);";

#[test]
fn rows_of_the_old_version_keep_the_value_of_a_renamed_column() {
    let mut cluster = Cluster::new(2, KV);
    cluster.run();
    let [one, two] = &cluster.nodes[..] else { unreachable!() };
    let rename = "ALTER TABLE c RENAME COLUMN v TO w";
    run(one, rename);
    run(two, "UPDATE c SET v = 5 WHERE id = 'a'; INSERT INTO c VALUES ('z', 7)");
    let db = one.app();
    eventually("the rows arrive under the new name", || {
        number(&db, "SELECT count(*) FROM c WHERE (id, w) IN (VALUES ('a', 5), ('z', 7))") == 2
    });
    run(one, "UPDATE c SET w = 9 WHERE id = 'b'");
    holds(two, "table c has another schema here");
    run(two, rename);
    settled(&cluster);
    assert_eq!(
        rows(&two.app(), "SELECT id, w FROM c ORDER BY id"),
        [["\"a\"", "Integer(5)"], ["\"b\"", "Integer(9)"], ["\"z\"", "Integer(7)"]]
    );
}

#[test]
fn rows_of_the_old_version_wait_for_a_column_that_must_not_be_null() {
    let mut cluster = Cluster::new(2, KV);
    cluster.run();
    let [one, two] = &cluster.nodes[..] else { unreachable!() };
    let migration =
        rebuild("c", "id TEXT PRIMARY KEY, v, s TEXT NOT NULL", "id, v, 'new of ' || id", "");
    run(one, &migration);
    run(two, "INSERT INTO c VALUES ('old', 2); UPDATE c SET v = 3 WHERE id = 'a'");
    holds(one, "column s is new here, and NOT NULL");
    run(two, &migration);
    settled(&cluster);
    assert_eq!(
        rows(&one.app(), "SELECT id, v, s FROM c WHERE id IN ('a', 'old') ORDER BY id"),
        [["\"a\"", "Integer(3)", "\"new of a\""], ["\"old\"", "Integer(2)", "\"new of old\""]]
    );
}

#[test]
fn what_happens_while_a_table_has_no_triggers_is_found() {
    let mut cluster = Cluster::new(2, KV);
    cluster.run();
    let changes = "UPDATE c SET v = 'new' WHERE id = 'a'; DELETE FROM c WHERE id = 'b'; INSERT \
        INTO c VALUES ('d', 4)";
    run(&cluster.nodes[0], &rebuild("c", "id TEXT PRIMARY KEY, v", "*", changes));
    settled(&cluster);
    let expected = [["\"a\"", "\"new\""], ["\"d\"", "Integer(4)"]];
    assert_eq!(rows(&cluster.nodes[1].app(), "SELECT * FROM c ORDER BY id"), expected);

    // Now with the sidecar stopped, and writes after the migration.
    cluster.nodes[0].stop();
    run(&cluster.nodes[0], &rebuild("c", "id TEXT PRIMARY KEY, v, x", "*, NULL", ""));
    run(
        &cluster.nodes[0],
        "UPDATE c SET v = 'later' WHERE id = 'a'; DELETE FROM c WHERE id = 'd'; INSERT INTO c \
        VALUES ('e', 5, 'x')",
    );
    run(&cluster.nodes[1], "ALTER TABLE c ADD COLUMN x");
    cluster.nodes[0].run();
    settled(&cluster);
    let expected = [["\"a\"", "\"later\"", "Null"], ["\"e\"", "Integer(5)", "\"x\""]];
    assert_eq!(rows(&cluster.nodes[1].app(), "SELECT * FROM c ORDER BY id"), expected);

    let again = "BEGIN; DROP TABLE c; CREATE TABLE c (id TEXT PRIMARY KEY, v, x); INSERT INTO c \
        VALUES ('a', 100, NULL); COMMIT";
    run(&cluster.nodes[0], again);
    settled(&cluster);
    let expected = [["\"a\"", "Integer(100)", "Null"]];
    assert_eq!(rows(&cluster.nodes[1].app(), "SELECT * FROM c ORDER BY id"), expected);
}

/// Each node fills a new column with values of its own, as `uuid4()` in a migration does.
#[test]
fn nodes_that_fill_a_column_differently_agree_in_the_end() {
    let mut cluster = Cluster::new(2, KV);
    cluster.run();
    for node in &cluster.nodes {
        let own = format!("*, 'of {}'", node.id);
        run(node, &rebuild("c", "id TEXT PRIMARY KEY, v, u TEXT NOT NULL", &own, ""));
    }
    settled(&cluster);
    assert_eq!(number(&cluster.nodes[0].app(), "SELECT count(*) FROM c"), 2);
}

#[test]
fn a_renamed_table_takes_its_unpublished_changes_along() {
    let mut cluster = Cluster::new(2, KV);
    cluster.run();
    let [one, two] = &cluster.nodes[..] else { unreachable!() };
    run(
        one,
        "UPDATE c SET v = 2 WHERE id = 'a'; ALTER TABLE c RENAME TO k; DELETE FROM k WHERE id = \
        'b'; INSERT INTO k VALUES ('d', 4)",
    );
    run(two, "INSERT INTO c VALUES ('old', 1)");
    let db = one.app();
    eventually("a row of the old table arrives in the new one", || {
        number(&db, "SELECT count(*) FROM k WHERE id = 'old'") == 1
    });
    run(two, "ALTER TABLE c RENAME TO k; UPDATE k SET v = 8 WHERE id = 'old'");
    settled(&cluster);
    assert_eq!(
        rows(&two.app(), "SELECT * FROM k ORDER BY id"),
        [["\"a\"", "Integer(2)"], ["\"d\"", "Integer(4)"], ["\"old\"", "Integer(8)"]]
    );
}

/// A migration tool that nobody knows: its row waits for the table that it made.
#[test]
fn the_row_about_a_migration_waits_for_the_migration() {
    let mut cluster =
        Cluster::new(2, "CREATE TABLE my_versions (n INTEGER PRIMARY KEY); CREATE TABLE t (id)");
    cluster.run();
    let [one, two] = &cluster.nodes[..] else { unreachable!() };
    let migration = "CREATE TABLE extra (id INTEGER PRIMARY KEY)";
    run(one, &format!("BEGIN; {migration}; INSERT INTO my_versions VALUES (1); COMMIT"));
    holds(two, "table extra does not exist here");
    assert_eq!(number(&two.app(), "SELECT count(*) FROM my_versions"), 0);
    run(two, migration);
    settled(&cluster);
    assert_eq!(number(&two.app(), "SELECT count(*) FROM my_versions"), 1);
}

/// Before any row of the table has come, and until the schemas are equal.
#[test]
fn status_names_the_tables_that_differ() {
    let mut cluster = Cluster::new(2, KV);
    cluster.run();
    let [one, two] = &cluster.nodes[..] else { unreachable!() };
    let differs = |node: &Node| node.status().unwrap()["schema_differences"].clone();
    run(one, "ALTER TABLE c ADD COLUMN x; CREATE TABLE n (id INTEGER PRIMARY KEY)");
    for (node, other) in [(one, 2), (two, 1)] {
        eventually("both report it", || {
            let found = differs(node);
            found[0]["node_id"] == other && found[0]["tables"] == serde_json::json!(["c", "n"])
        });
        let text = String::from_utf8(node.cli(&["status"]).stdout).unwrap();
        assert!(text.contains(&format!("another one than that of node {other}")), "{text}");
    }
    run(two, "ALTER TABLE c ADD COLUMN x; CREATE TABLE n (id INTEGER PRIMARY KEY)");
    for node in [one, two] {
        eventually("it is gone", || differs(node) == serde_json::json!([]));
    }
}

/// What a schema tool may do that finds tables it does not know.
#[test]
fn a_dropped_log_is_created_again_while_the_node_runs() {
    let mut cluster = Cluster::new(2, KV);
    cluster.run();
    cluster.converge();
    let [one, two] = &cluster.nodes[..] else { unreachable!() };
    let db = one.app();
    run(
        one,
        "BEGIN; INSERT INTO c VALUES ('in the log', 2); DROP TABLE __harmonylite__change_log; DROP \
        TABLE __harmonylite__conflict; COMMIT",
    );
    // SQLite does not look for a newer schema when a trigger's table is missing; a read does.
    eventually("the application can write again", || {
        number(&db, "SELECT count(*) FROM c") > 0
            && db.execute_batch("INSERT OR REPLACE INTO c VALUES ('after', 3)").is_ok()
    });
    run(two, "INSERT INTO c VALUES ('of node 2', 4)");
    settled(&cluster);
    assert_eq!(number(&db, "SELECT count(*) FROM c"), 5);
}

/// Every kind of change rolls over three nodes whose applications never stop writing.
#[test]
fn three_nodes_are_migrated_under_load() {
    let mut cluster = Cluster::new(
        3,
        "CREATE TABLE item (id TEXT PRIMARY KEY, v TEXT); CREATE TABLE other (id TEXT PRIMARY KEY)",
    );
    cluster.run();
    let migrations = [
        "ALTER TABLE item ADD COLUMN n INT NOT NULL DEFAULT 7".to_owned(),
        "ALTER TABLE item RENAME COLUMN v TO label".to_owned(),
        rebuild("item", "id TEXT PRIMARY KEY, label TEXT, n INT NOT NULL", "*", ""),
        "ALTER TABLE other RENAME TO another".to_owned(),
        "ALTER TABLE item DROP COLUMN n".to_owned(),
        rebuild("item", "id TEXT PRIMARY KEY, label TEXT, s TEXT NOT NULL", "*, 'filled'", ""),
    ];
    let stop = AtomicBool::new(false);
    let written: Vec<u64> = std::thread::scope(|scope| {
        let writers: Vec<_> = cluster
            .nodes
            .iter()
            .map(|node| {
                let (db, id, stop) = (node.app(), node.id, &stop);
                scope.spawn(move || write_all_the_time(&db, id, stop))
            })
            .collect();
        for migration in &migrations {
            for node in &cluster.nodes {
                run(node, migration);
                let before = node.status().unwrap()["counters"]["rows_published"].as_u64().unwrap();
                // The others work with the older schema for some batches.
                eventually("the node publishes in its new schema", || {
                    let status = node.status();
                    status.is_some_and(|s| {
                        s["counters"]["rows_published"].as_u64().unwrap() > before + 5
                    })
                });
            }
        }
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    settled(&cluster);
    for node in &cluster.nodes {
        let db = node.app();
        for (origin, rows) in (1..).zip(&written) {
            let sql = format!("SELECT count(*) FROM item WHERE id LIKE '{origin}-%'");
            assert_eq!(number(&db, &sql).cast_unsigned(), *rows, "node {}: {sql}", node.id);
        }
        assert_eq!(number(&db, "SELECT count(*) FROM item WHERE label IS NULL"), 0);
    }
}

/// Writes like an application that learns of the present schema at every transaction. Returns the
/// number of rows.
fn write_all_the_time(db: &rusqlite::Connection, id: u64, stop: &AtomicBool) -> u64 {
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        db.execute_batch("BEGIN IMMEDIATE").unwrap();
        let has = |column: &str| {
            number(
                db,
                &format!("SELECT count(*) FROM pragma_table_info('item') WHERE name = '{column}'"),
            ) > 0
        };
        let label = if has("label") { "label" } else { "v" };
        let (columns, values) = match () {
            () if has("s") => (", s", ", 's'"),
            () if has("n") => (", n", ", 1"),
            () => ("", ""),
        };
        db.execute_batch(&format!(
            "INSERT INTO item (id, {label}{columns}) VALUES ('{id}-{written}', 'x'{values}); \
            UPDATE item SET {label} = {label} || 'y' WHERE id = '{id}-{}'; COMMIT",
            written / 2
        ))
        .unwrap();
        written += 1;
        std::thread::sleep(std::time::Duration::from_millis(3));
    }
    written
}
