//! The changes of every client are captured, with any settings.
//!
//! Goal: the triggers need no feature that an old SQLite, a foreign driver or a strict connection
//! lacks. Method: the stock `sqlite3` shell and Python's driver write with `trusted_schema` off and
//! recursive triggers on and off: REPLACE that displaces a row, a key that moves by the name
//! `rowid`, deletes; the peer ends equal. Another application registers functions and collations. A
//! table that cannot be written without them stays on its node and is named, and everything else
//! replicates. The story: a table with an index over such a function ended every node that received
//! a row of it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use harmonylite_guarantees::{Cluster, Node, eventually, number, python, rows};
use std::process::Command;

const SCHEMA: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, u TEXT UNIQUE, v); CREATE TABLE p \
    (a, b, v, PRIMARY KEY (a, b)) WITHOUT ROWID;";

fn script(recursive: &str, offset: i64) -> String {
    format!(
        "PRAGMA trusted_schema = OFF; PRAGMA recursive_triggers = {recursive};
         INSERT INTO t VALUES ({o} + 1, 'a{o}', 1), ({o} + 2, 'b{o}', 2);
         INSERT OR REPLACE INTO t VALUES ({o} + 3, 'a{o}', 3);
         UPDATE t SET rowid = {o} + 9 WHERE id = {o} + 2;
         UPDATE OR REPLACE t SET u = 'b{o}' WHERE id = {o} + 3;
         INSERT INTO p VALUES ({o}, 'x', 1), ({o}, 'y', 2);
         UPDATE p SET b = 'z' WHERE a = {o} AND b = 'x';
         DELETE FROM p WHERE a = {o} AND b = 'y';",
        o = offset
    )
}

/// Runs the shell with a busy timeout. Without one it waits for no lock, but an application next to
/// a sidecar has to wait, as with any other writer.
fn shell(node: &Node, sql: &str) {
    let out = Command::new("sqlite3")
        .args(["-bail", "-cmd", ".timeout 20000"])
        .arg(&node.db)
        .arg(sql)
        .output()
        .expect("the sqlite3 shell (scripts/test-tools.sh installs it)");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_strict_connection_of_any_client_is_captured() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    let node = &cluster.nodes[0];
    shell(node, &script("ON", 100));
    shell(node, &script("OFF", 200));
    let program = "import sqlite3, sys; d = sqlite3.connect(sys.argv[1], timeout=20); \
        d.executescript(sys.argv[2]); d.commit(); d.close()";
    python(program, &[node.db.to_str().unwrap(), &script("ON", 300)]);
    python(program, &[node.db.to_str().unwrap(), &script("OFF", 400)]);
    cluster.converge();
    let peer = cluster.nodes[1].app();
    for o in [100, 200, 300, 400] {
        // 1 was displaced by 3, 2 became 9, and 9 was displaced by 3.
        let found =
            rows(&peer, &format!("SELECT id, u, v FROM t WHERE id BETWEEN {o} AND {o} + 99"));
        assert_eq!(
            found,
            [[format!("Integer({})", o + 3), format!("\"b{o}\""), "Integer(3)".to_owned()]],
            "writes from {o} on"
        );
        assert_eq!(
            rows(&peer, &format!("SELECT b, v FROM p WHERE a = {o}")),
            [["\"z\"".to_owned(), "Integer(1)".to_owned()]]
        );
    }
}

/// An application with its own function and collation.
const OWN_FUNCTIONS: &str = "
import sqlite3, sys
d = sqlite3.connect(sys.argv[1], timeout=20)
d.create_function('fold', 1, lambda s: s.casefold(), deterministic=True)
d.create_collation('german', lambda a, b: (a > b) - (a < b))
d.executescript(sys.argv[2])
d.close()";

#[test]
fn what_only_the_application_knows_stays_local_and_harms_nobody() {
    let mut cluster = Cluster::new(2, SCHEMA);
    let run = |node: &Node, sql: &str| python(OWN_FUNCTIONS, &[node.db.to_str().unwrap(), sql]);
    for node in &cluster.nodes {
        run(
            node,
            "CREATE TABLE by_expression (id INTEGER PRIMARY KEY, v TEXT); CREATE INDEX folded ON \
            by_expression (fold(v));
             CREATE TABLE by_collation (id INTEGER PRIMARY KEY, v TEXT COLLATE german); CREATE \
             INDEX collated ON by_collation (v);
             CREATE TABLE generated (id INTEGER PRIMARY KEY, v TEXT, f TEXT AS (fold(v)) STORED);
             CREATE TABLE checked (id INTEGER PRIMARY KEY, v TEXT CHECK (fold(v) = v));",
        );
    }
    cluster.run();
    let insert = "BEGIN; INSERT INTO by_expression VALUES (1, 'a'); INSERT INTO by_collation \
        VALUES (1, 'a');
                  INSERT INTO generated VALUES (1, 'a'); INSERT INTO checked VALUES (1, 'a'); \
                  INSERT INTO t VALUES (1, 'a', 1); COMMIT;";
    run(&cluster.nodes[0], insert);
    let peer = cluster.nodes[1].app();
    eventually("the others arrive", || {
        number(&peer, "SELECT (SELECT count(*) FROM t) + (SELECT count(*) FROM checked)") == 2
    });
    assert_eq!(
        number(
            &peer,
            "SELECT (SELECT count(*) FROM by_expression) + (SELECT count(*) FROM by_collation) + \
            (SELECT count(*) FROM generated)"
        ),
        0
    );
    for node in &mut cluster.nodes {
        assert!(node.is_running());
        let skipped = node.status().unwrap()["skipped"].to_string();
        for (table, why) in [
            ("by_expression", "function: fold()"),
            ("by_collation", "sequence: german"),
            ("generated", "function: fold()"),
        ] {
            assert!(skipped.contains(table) && skipped.contains(why), "{skipped}");
        }
        assert_eq!(node.counter("quarantined"), 0);
    }

    // Without the index it is an ordinary table.
    for node in &cluster.nodes {
        run(node, "DROP INDEX folded");
    }
    eventually("it replicates", || {
        number(&peer, "SELECT count(*) FROM by_expression WHERE v = 'a'") == 1
    });
}
