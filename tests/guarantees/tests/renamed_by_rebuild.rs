//! A column that is renamed by a rebuild keeps its values on every node.
//!
//! Goal: Rails before 7, Sequelize, Laravel with doctrine/dbal and Alembic in batch mode rename a
//! column by a new table, a copy, a drop and a rename. Rows that only another node has at that
//! moment keep their values under the new name; where nothing shows that it is a rename, the values
//! are kept aside and both nodes say so. Method: such rebuilds on one node, while another has rows
//! that are not sent yet.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, Node, Rows, eventually, rows};

const ALL: &str = "[schema]\nreplicate = \"all\"";
const SCHEMA: &str = "CREATE TABLE item (id TEXT PRIMARY KEY, sku UNIQUE, name varchar(50))";
const REBUILD: &str = "BEGIN IMMEDIATE; CREATE TABLE new_item (id TEXT PRIMARY KEY, sku \
    UNIQUE, title varchar(50)); INSERT INTO new_item SELECT id, sku, name FROM item; DROP TABLE \
    item; ALTER TABLE new_item RENAME TO item; COMMIT";
const TITLES: &str = "SELECT id, title FROM item ORDER BY id";

#[track_caller]
fn run(node: &Node, sql: &str) {
    node.app().execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

fn titles(expected: &[(&str, &str)]) -> Rows {
    let row = |(id, title): &(&str, &str)| {
        let title = if *title == "NULL" { "Null".to_owned() } else { format!("{title:?}") };
        vec![format!("{id:?}"), title]
    };
    expected.iter().map(row).collect()
}

#[track_caller]
fn show(cluster: &Cluster, expected: &[(&str, &str)]) {
    for node in &cluster.nodes {
        eventually(&format!("node {} has {expected:?}", node.id), || {
            let has = "SELECT count(*) FROM pragma_table_info('item') WHERE name = 'title'";
            rows(&node.app(), has)[0][0] == "Integer(1)"
                && rows(&node.app(), TITLES) == titles(expected)
        });
    }
    cluster.converge();
    for node in &cluster.nodes {
        let status = node.status().unwrap();
        assert_eq!((&status["held"], &status["quarantine"]), (&serde_json::json!([]), &0.into()));
    }
}

/// Rows on both, and one on node 2 that node 1 does not know when it migrates.
fn prepared(settings: &str, one: &str, two: &str) -> Cluster {
    let mut cluster = Cluster::with(2, SCHEMA, settings);
    cluster.run();
    run(&cluster.nodes[0], one);
    cluster.converge();
    cluster.nodes[1].stop();
    run(&cluster.nodes[1], two);
    cluster
}

#[test]
fn it_travels_as_a_rename() {
    let one = "INSERT INTO item VALUES ('a', 1, 'first'), ('b', 2, 'second'), ('c', 3, NULL)";
    let two = "INSERT INTO item VALUES ('d', 4, 'only on 2'); UPDATE item SET name = 'newer' \
        WHERE id = 'b'";
    let mut cluster = prepared(ALL, one, two);
    run(&cluster.nodes[0], REBUILD);
    run(&cluster.nodes[0], "INSERT INTO item VALUES ('e', 5, 'after')");
    cluster.nodes[1].run();
    let all = [("a", "first"), ("b", "newer"), ("c", "NULL"), ("d", "only on 2"), ("e", "after")];
    show(&cluster, &all);
    let status = cluster.nodes[1].status().unwrap();
    assert_eq!(status["kept_tables"], serde_json::json!([]), "{status}");
}

/// With the migration on each node, what one that has not run it sends is translated.
#[test]
fn rows_of_a_node_that_has_not_migrated_are_translated() {
    let one = "INSERT INTO item VALUES ('a', 1, 'first'), ('b', 2, 'second')";
    let mut cluster = prepared("", one, "INSERT INTO item VALUES ('d', 4, 'only on 2')");
    run(&cluster.nodes[0], REBUILD);
    cluster.nodes[1].run();
    eventually("node 1 has the row under the new name", || {
        rows(&cluster.nodes[0].app(), TITLES)
            == titles(&[("a", "first"), ("b", "second"), ("d", "only on 2")])
    });
    run(&cluster.nodes[1], "UPDATE item SET name = 'again' WHERE id = 'a'");
    run(&cluster.nodes[1], REBUILD);
    show(&cluster, &[("a", "again"), ("b", "second"), ("d", "only on 2")]);
}

#[test]
fn where_nothing_shows_it_the_values_are_kept_and_both_say_so() {
    let one = "INSERT INTO item VALUES ('a', 1, NULL), ('b', 2, NULL)";
    let mut cluster = prepared(ALL, one, "INSERT INTO item VALUES ('d', 4, 'only on 2')");
    run(&cluster.nodes[0], REBUILD);
    cluster.nodes[1].run();
    show(&cluster, &[("a", "NULL"), ("b", "NULL"), ("d", "NULL")]);
    let output = cluster.nodes[0].output();
    assert!(output.contains("nothing shows that one is the other"), "{output}");
    let status = cluster.nodes[1].status().unwrap();
    let kept = status["kept_tables"][0].as_str().unwrap_or_else(|| panic!("{status}")).to_owned();
    let values = format!("SELECT id, name FROM \"{kept}\"");
    assert_eq!(rows(&cluster.nodes[1].app(), &values), titles(&[("d", "only on 2")]));
    let shown = cluster.nodes[1].cli(&["status"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains(&kept), "{shown}");
}
