//! Databases with rows join one after another.
//!
//! Goal: equal rows are harmless, and different rows are merged. Of two contents for one key, one
//! is on all nodes and the other in a conflict journal, so nothing is lost. `on_join` = "refuse"
//! refuses before remote rows change anything, and "replace" takes the rows of the cluster; the
//! rows of the first node stay, also if its process ends while it joins. Method: start three
//! databases with equal, overlapping and different rows one by one, and kill nodes that join.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, contents, eventually, number, rows, sound};

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT);
     CREATE TABLE pair (a TEXT, b INTEGER, v, PRIMARY KEY (a, b)) WITHOUT ROWID;";

fn fill(from: i64, to: i64, text: &str) -> String {
    format!(
        "WITH RECURSIVE c(i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM c WHERE i < {to}) \
        INSERT INTO note SELECT i, '{text}' FROM c;
         INSERT INTO pair SELECT text, id, id FROM note;"
    )
}

#[test]
fn databases_with_rows_come_together() {
    let mut cluster = Cluster::new(3, SCHEMA);
    // Rows 1 to 10 are equal, 11 to 20 differ, and rows from 21 on exist only there.
    for (node, own) in cluster.nodes.iter().zip(["one", "two", "three"]) {
        let from = 100 * node.id as i64;
        node.app().execute_batch(&fill(1, 10, "equal")).unwrap();
        node.app()
            .execute_batch(&format!(
                "WITH RECURSIVE c(i) AS (SELECT 11 UNION ALL SELECT i + 1 FROM c WHERE i < 20) \
                INSERT INTO note SELECT i, '{own}' FROM c;
                 WITH RECURSIVE c(i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM c WHERE i < \
                 {from} + 9) INSERT INTO note SELECT i, '{own}' FROM c;"
            ))
            .unwrap();
    }
    for node in &mut cluster.nodes {
        node.run();
    }
    for node in &cluster.nodes {
        let db = node.app();
        eventually("all rows come together", || number(&db, "SELECT count(*) FROM note") == 50);
    }
    cluster.converge();
    let db = cluster.nodes[0].app();
    assert_eq!(number(&db, "SELECT count(*) FROM pair"), 10, "equal rows are one");
    assert_eq!(number(&db, "SELECT count(*) FROM note WHERE id <= 10 AND text = 'equal'"), 10);
    // Each losing content is in a journal.
    let winner = rows(&db, "SELECT DISTINCT text FROM note WHERE id BETWEEN 11 AND 20");
    assert_eq!(winner, [["\"one\""]], "what the cluster had stays");
    for lost in ["two", "three"] {
        let journalled: i64 = cluster
            .nodes
            .iter()
            .map(|n| {
                number(
                    &n.app(),
                    &format!(
                        "SELECT count(DISTINCT key) FROM \
                __harmonylite__conflict WHERE instr(loser, '{lost}')"
                    ),
                )
            })
            .max()
            .unwrap();
        assert_eq!(journalled, 10, "the content of {lost} is lost without a trace");
    }
    // From now on they are an ordinary cluster.
    cluster.nodes[2]
        .app()
        .execute_batch("UPDATE note SET text = 'after' WHERE id IN (1, 11, 105)")
        .unwrap();
    eventually("writes after joining arrive", || {
        number(&db, "SELECT count(*) FROM note WHERE text = 'after'") == 3
    });
    cluster.converge();
    sound(&db);
}

#[test]
fn refuse_ends_with_a_message_and_replace_takes_what_is_there() {
    let mut cluster = Cluster::new(1, SCHEMA);
    cluster.nodes[0].app().execute_batch(&fill(1, 10, "cluster")).unwrap();
    cluster.run();
    cluster.converge();

    let refused = cluster.add(SCHEMA, "on_join = \"refuse\"");
    refused.app().execute_batch(&fill(5, 15, "own")).unwrap();
    let before = contents(&refused.app());
    refused.start();
    assert_eq!(refused.ended(), 8, "{}", refused.output());
    let log = refused.output();
    assert!(log.contains("rows or more that never joined") && log.contains("on_join"), "{log}");
    assert_eq!(contents(&refused.app()), before, "the refused database was changed");
    cluster.nodes.pop();

    // The owner chooses "replace".
    let replaced = cluster.add("", "on_join = \"replace\"");
    replaced.run();
    cluster.converge();
    let db = cluster.nodes[1].app();
    assert_eq!(
        rows(&db, "SELECT count(*), min(text), max(text) FROM note"),
        [["Integer(10)", "\"cluster\"", "\"cluster\""]]
    );
    cluster.nodes[1].app().execute_batch("INSERT INTO note VALUES (50, 'joined')").unwrap();
    let one = cluster.nodes[0].app();
    eventually("it takes part now", || {
        number(&one, "SELECT count(*) FROM note WHERE id = 50") == 1
    });
    assert_eq!(number(&one, "SELECT count(*) FROM note WHERE text = 'own'"), 0);

    // A database without rows is not refused.
    let empty = cluster.add(SCHEMA, "on_join = \"refuse\"");
    empty.run();
    cluster.converge();
}

/// The log of a joining node never holds more than the rows of a few steps, and each step holds the
/// write lock only for itself. After a crash in the middle joining continues.
#[test]
fn a_large_database_joins_in_bounded_steps() {
    const ROWS: i64 = 300_000;
    let mut cluster = Cluster::new(2, SCHEMA);
    let fill = format!(
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {ROWS}) INSERT \
        INTO note SELECT i, 'was here' FROM c"
    );
    cluster.nodes[0].app().execute_batch(&fill).unwrap();
    cluster.nodes[1].run();
    cluster.nodes[0].start();
    let db = cluster.nodes[0].app();
    let versions = "SELECT count(*) FROM sqlite_schema WHERE name = '__harmonylite__note_version'";
    eventually("the tables are made", || number(&db, versions) == 1);
    let mut most = 0;
    let mut written = 0;
    let mut write_and_look = || {
        written += 1;
        db.execute("INSERT INTO note VALUES (?1, 'written meanwhile')", [ROWS + written]).unwrap();
        most = number(&db, "SELECT count(*) FROM __harmonylite__change_log").max(most);
        number(&db, "SELECT count(*) FROM __harmonylite__note_version")
    };
    eventually("a third has joined", || write_and_look() > ROWS / 3);
    let rows = cluster.nodes[0].status().map(|s| s["joining_rows"].clone());
    assert!(
        rows.as_ref().is_some_and(|r| r.as_i64() > Some(0)),
        "the status does not say how far it is: {rows:?}"
    );
    cluster.nodes[0].kill();
    assert!(write_and_look() < ROWS, "it was killed in the middle");
    cluster.nodes[0].start();
    eventually("all has joined", || write_and_look() >= ROWS);
    cluster.nodes[0].ready();
    cluster.converge();
    let peer = cluster.nodes[1].app();
    assert_eq!(number(&peer, "SELECT count(*) FROM note"), ROWS + written);
    assert!(most > 0 && most < ROWS / 4, "{most} log entries at once");
}

/// A node publishes its rows while it joins, so after a crash the stream is not empty any more. It
/// holds nothing of another node, so there is nothing to replace the rest of the rows with.
#[test]
fn the_first_node_keeps_its_rows_although_it_is_killed_while_it_joins() {
    const ROWS: i64 = 300_000;
    for on_join in ["replace", "refuse"] {
        let mut cluster = Cluster::new(0, SCHEMA);
        let node = cluster.add(SCHEMA, &format!("on_join = \"{on_join}\""));
        let db = node.app();
        let fill = format!(
            "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {ROWS}) \
            INSERT INTO note SELECT i, 'the only copy' FROM c"
        );
        db.execute_batch(&fill).unwrap();
        node.start();
        let table = "SELECT count(*) FROM sqlite_schema WHERE name = '__harmonylite__note_version'";
        eventually("the tables are made", || number(&db, table) == 1);
        let published =
            "SELECT count(*) FROM __harmonylite__meta WHERE key = 'batch' AND value > 0";
        eventually("some rows are published", || number(&db, published) == 1);
        node.kill();
        let joined = "SELECT count(*) FROM __harmonylite__note_version";
        assert!(number(&db, joined) < ROWS, "it was killed in the middle");
        node.run();
        eventually("all has joined", || number(&db, joined) >= ROWS);
        assert_eq!(number(&db, "SELECT count(*) FROM note"), ROWS, "{on_join}");
    }
}
