//! Rows that clash on a secondary UNIQUE index end the same way on all nodes, and the loser can be
//! restored.
//!
//! Goal: the rows that a REPLACE displaces disappear on every node. If two disconnected nodes give
//! the same unique value to different rows, they converge, and the losing row is in the conflict
//! journal. Two rows that swap their values in one transaction are no conflict. Method: write
//! through ordinary connections, and kill the broker to disconnect the nodes. The story:
//! HarmonyLite (Go) applied with INSERT OR REPLACE, which deleted clashing rows without a trace.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, eventually, later, number, rows};

const SCHEMA: &str = "CREATE TABLE account (id INTEGER PRIMARY KEY, email TEXT COLLATE NOCASE \
    UNIQUE, phone TEXT, name TEXT);
     CREATE UNIQUE INDEX by_phone ON account (phone) WHERE phone IS NOT NULL;";

#[track_caller]
fn no_conflicts(cluster: &Cluster, why: &str) {
    for node in &cluster.nodes {
        let found = rows(&node.app(), "SELECT * FROM __harmonylite__conflict");
        assert!(found.is_empty(), "{why}, but node {} has {found:?}", node.id);
    }
}

#[test]
fn replace_takes_the_rows_that_it_displaces_with_it() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    let (one, two) = (cluster.nodes[0].app(), cluster.nodes[1].app());
    one.execute_batch(
        "INSERT INTO account VALUES (1, 'a', '1', 'x'), (2, 'b', '2', 'x'), (3, \
        'c', '3', 'x'), (4, 'd', NULL, 'x')",
    )
    .unwrap();
    cluster.converge();
    two.execute_batch(
        "INSERT OR REPLACE INTO account VALUES (10, 'A', '3', 'displaces 1 by email \
        and 3 by phone')",
    )
    .unwrap();
    two.execute_batch("UPDATE OR REPLACE account SET email = 'D' WHERE id = 2").unwrap();
    eventually("the displaced rows are gone at the peer", || {
        number(&one, "SELECT count(*) FROM account") == 2
    });
    cluster.converge();
    assert_eq!(
        rows(&one, "SELECT id, email FROM account ORDER BY id"),
        [["Integer(2)", "\"D\""], ["Integer(10)", "\"A\""]]
    );
    no_conflicts(&cluster, "nothing was concurrent");
}

#[test]
fn two_rows_swap_their_values_in_one_transaction() {
    let mut cluster = Cluster::new(3, SCHEMA);
    cluster.run();
    let db = cluster.nodes[0].app();
    db.execute_batch(
        "INSERT INTO account VALUES (1, 'a', '1', 'x'), (2, 'b', '2', 'x'), (3, 'c', '3', 'x')",
    )
    .unwrap();
    cluster.converge();
    // Three rows rotate their values, through a value that no committed state has.
    db.execute_batch(
        "BEGIN; UPDATE account SET email = 'free', phone = NULL WHERE id = 1; UPDATE account SET \
        email = 'a', phone = '1' WHERE id = 2;
         UPDATE account SET email = 'b', phone = '2' WHERE id = 3; UPDATE account SET email = \
         'c', phone = '3' WHERE id = 1; COMMIT;",
    )
    .unwrap();
    let peer = cluster.nodes[2].app();
    eventually("the swap arrives", || {
        number(&peer, "SELECT count(*) FROM account WHERE id = 1 AND email = 'c'") == 1
    });
    cluster.converge();
    assert_eq!(
        rows(&peer, "SELECT id, email, phone FROM account ORDER BY id"),
        [
            ["Integer(1)", "\"c\"", "\"3\""],
            ["Integer(2)", "\"a\"", "\"1\""],
            ["Integer(3)", "\"b\"", "\"2\""]
        ]
    );
    no_conflicts(&cluster, "a swap is no conflict");
}

#[test]
fn the_loser_of_a_clash_is_in_the_journal_and_comes_back() {
    let mut cluster = Cluster::new(3, SCHEMA);
    cluster.run();
    let (one, two) = (cluster.nodes[0].app(), cluster.nodes[1].app());
    cluster.broker.kill();
    two.execute("INSERT INTO account VALUES (2, 'same', NULL, 'the earlier')", []).unwrap();
    later(&two);
    one.execute("INSERT INTO account VALUES (1, 'SAME', NULL, 'the later')", []).unwrap();
    cluster.broker.run();
    for db in [&one, &two] {
        eventually("the later write stays alone", || {
            rows(db, "SELECT id, name FROM account") == [["Integer(1)", "\"the later\""]]
        });
    }
    cluster.converge();

    let listed = |node: &harmonylite_guarantees::Node| -> Vec<serde_json::Value> {
        let out = node.cli(&["conflicts", "list", "--json"]);
        assert!(out.status.success(), "{out:?}");
        serde_json::from_slice(&out.stdout).unwrap()
    };
    let (node, conflict) = cluster
        .nodes
        .iter()
        .find_map(|n| {
            listed(n)
                .into_iter()
                .find(|c| c["content"].as_str().is_some_and(|t| t.contains("the earlier")))
                .map(|c| (n, c))
        })
        .expect("the loser is in the journal of some node");
    let id = conflict["id"].to_string();
    let text = String::from_utf8(node.cli(&["conflicts", "list"]).stdout).unwrap();
    assert!(text.contains("account") && text.contains("the earlier"), "{text}");

    // The value is already used, so nothing is restored, and the journal entry stays.
    let refused = node.cli(&["conflicts", "restore", &id]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("account.email"), "{refused:?}");
    assert!(listed(node).iter().any(|c| c["id"].as_i64() == id.parse().ok()));

    one.execute("UPDATE account SET email = 'another' WHERE id = 1", []).unwrap();
    cluster.converge();
    let restored = node.cli(&["conflicts", "restore", &id]);
    assert!(restored.status.success(), "{restored:?}");
    for db in [&one, &two] {
        eventually("the restored row is everywhere", || {
            number(
                db,
                "SELECT count(*) FROM account WHERE id = 2 AND email = 'same' AND name = 'the \
                earlier'",
            ) == 1
        });
    }
    cluster.converge();
    assert!(
        listed(node).iter().all(|c| c["id"].as_i64() != id.parse().ok()),
        "a restored conflict leaves the journal"
    );
}

/// Row 3 beats row 1 by its mail, and then row 2 beats row 3 by its phone: row 1 need not go. It
/// does (docs/ids.md), on all nodes alike, and can be restored.
#[test]
fn a_chain_of_clashes_ends_alike_and_its_losers_are_in_the_journal() {
    let mut cluster = Cluster::new(3, SCHEMA);
    cluster.run();
    cluster.nodes[2].stop();
    cluster.broker.kill();
    let [one, two, three] = [0, 1, 2].map(|i| cluster.nodes[i].app());
    one.execute("INSERT INTO account VALUES (1, 'mail', NULL, 'first')", []).unwrap();
    later(&one);
    two.execute("INSERT INTO account VALUES (3, 'mail', '7', 'second')", []).unwrap();
    later(&two);
    three.execute("INSERT INTO account VALUES (2, 'other', '7', 'third')", []).unwrap();
    cluster.broker.run();
    for db in [&one, &two] {
        eventually("row 3 stays alone", || {
            rows(db, "SELECT name FROM account") == [["\"second\""]]
        });
    }
    cluster.nodes[2].run();
    for db in [&one, &two, &three] {
        eventually("row 2 stays alone", || rows(db, "SELECT name FROM account") == [["\"third\""]]);
    }
    cluster.converge();

    let find = |name: &str| {
        cluster.nodes.iter().find_map(|node| {
            let listed = node.json(&["conflicts", "list"]);
            let of =
                |c: &&serde_json::Value| c["content"].as_str().is_some_and(|t| t.contains(name));
            listed
                .as_array()
                .and_then(|all| all.iter().find(of).map(|c| (node, c["id"].to_string())))
        })
    };
    assert!(find("second").is_some(), "row 3 is in a journal");
    let (node, id) = find("first").expect("row 1 is in a journal");
    let restored = node.cli(&["conflicts", "restore", &id]);
    assert!(restored.status.success(), "{restored:?}");
    for db in [&one, &two, &three] {
        eventually("row 1 is back", || number(db, "SELECT count(*) FROM account") == 2);
    }
    cluster.converge();
}

/// What the override of a collation leaves behind: an index in another order.
#[test]
fn an_index_that_does_not_find_its_rows_is_a_reason() {
    let mut cluster =
        Cluster::new(1, "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT UNIQUE COLLATE BINARY)");
    let node = &mut cluster.nodes[0];
    node.app()
        .execute_batch(
            "INSERT INTO t VALUES (1, 'aé'), (2, 'Bé'), (3, 'cé'); PRAGMA writable_schema = ON; \
            UPDATE sqlite_schema SET sql = replace(sql, 'BINARY', 'NOCASE')",
        )
        .unwrap();
    cluster.run();
    let node = &cluster.nodes[0];
    eventually("status names index and table", || {
        let status = node.json(&["status"]);
        status["degraded"].as_array().is_some_and(|reasons| {
            reasons.iter().filter_map(|reason| reason.as_str()).any(|reason| {
                reason.contains("the index sqlite_autoindex_t_1 of t does not find")
                    && reason.contains("the collation NOCASE")
                    && reason.contains("REINDEX")
            })
        })
    });
    // A change of the schema is a reason to look again.
    node.app().execute_batch("REINDEX; CREATE TABLE other (id INTEGER PRIMARY KEY)").unwrap();
    eventually("the reason is gone", || {
        !node.json(&["status"])["degraded"].to_string().contains("does not find")
    });
}

/// The rowid is not the key here, so a REPLACE by rowid removes a row of another key.
#[test]
fn replace_by_rowid_takes_the_rows_that_it_displaces_with_it() {
    let mut cluster = Cluster::new(2, "CREATE TABLE t (id TEXT PRIMARY KEY, v)");
    cluster.run();
    let (one, two) = (cluster.nodes[0].app(), cluster.nodes[1].app());
    one.execute_batch("INSERT INTO t(rowid, id) VALUES (1, 'a'), (2, 'b'), (3, 'c')").unwrap();
    cluster.converge();
    one.execute_batch(
        "REPLACE INTO t(rowid, id) VALUES (1, 'd'); UPDATE OR REPLACE t SET rowid = 2 WHERE id = \
        'd'; UPDATE t SET v = 1 WHERE id = 'c'",
    )
    .unwrap();
    cluster.converge();
    assert_eq!(rows(&two, "SELECT id FROM t ORDER BY id"), [["\"c\""], ["\"d\""]]);
    no_conflicts(&cluster, "nothing was concurrent");
}

#[test]
fn replace_through_an_expression_is_no_conflict_of_a_node_with_itself() {
    let mut cluster = Cluster::new(
        2,
        "CREATE TABLE t (id INTEGER PRIMARY KEY, mail TEXT); CREATE UNIQUE INDEX by_mail ON t \
        (lower(mail))",
    );
    cluster.run();
    let (one, two) = (cluster.nodes[0].app(), cluster.nodes[1].app());
    one.execute_batch("INSERT INTO t VALUES (1, 'A'), (2, 'B'), (3, 'C')").unwrap();
    cluster.converge();
    for writes in [
        "REPLACE INTO t VALUES (4, 'a')",
        "REPLACE INTO t VALUES (1, 'a')",
        "BEGIN; REPLACE INTO t VALUES (5, 'a'); REPLACE INTO t VALUES (1, 'b'); COMMIT",
        "UPDATE OR REPLACE t SET mail = 'B' WHERE id = 3",
        "BEGIN; DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (6, 'b'); COMMIT",
    ] {
        one.execute_batch(writes).unwrap();
        cluster.converge();
    }
    let expected = [["Integer(5)", "\"a\""], ["Integer(6)", "\"b\""]];
    assert_eq!(rows(&two, "SELECT id, mail FROM t ORDER BY id"), expected);
    no_conflicts(&cluster, "one node alone has written");
}
