//! A node is given the schema of another one by a command, while both run.
//!
//! Goal: `schema diff` names what the other node has, `schema apply` makes it in one transaction,
//! the rows that waited for it arrive, and `status` reports no difference any more. Nothing is
//! dropped unasked, and what fails leaves nothing.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use harmonylite_guarantees::{Cluster, Node, eventually, number, rows};

const SCHEMA: &str = "CREATE TABLE c (id INTEGER PRIMARY KEY, v TEXT);
    INSERT INTO c VALUES (1, 'a'), (2, 'a');
    CREATE TABLE alembic_version (version_num); INSERT INTO alembic_version VALUES ('1');";

#[track_caller]
fn run(node: &Node, sql: &str) {
    node.app().execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Runs a command of the node and returns whether it succeeded, with all that it printed.
fn cli(node: &Node, arguments: &[&str]) -> (bool, String) {
    let output = node.cli(arguments);
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.success(), text.concat())
}

/// Waits until the node has seen the other's schema in which this word stands.
#[track_caller]
fn diff_shows(node: &Node, arguments: &[&str], word: &str) -> String {
    let mut last = String::new();
    eventually(&format!("schema diff shows {word:?}"), || {
        let (done, text) = cli(node, &[&["schema", "diff"], arguments].concat());
        last = text;
        done && last.contains(word)
    });
    last
}

fn differences(node: &Node) -> usize {
    node.status().map_or(usize::MAX, |s| s["schema_differences"].as_array().unwrap().len())
}

#[test]
fn held_rows_arrive_once_the_other_schema_is_applied() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    let [one, two] = &cluster.nodes[..] else { unreachable!() };
    assert!(diff_shows(two, &["1"], "nothing to change").contains("compared with node 1"));

    run(
        one,
        "ALTER TABLE c ADD COLUMN w TEXT DEFAULT 'x'; CREATE TABLE n (id TEXT PRIMARY KEY, c \
        REFERENCES c (id)); CREATE INDEX c_w ON c (w); CREATE VIEW all_n AS SELECT * FROM n; \
        CREATE TRIGGER t AFTER DELETE ON c BEGIN DELETE FROM n WHERE c = old.id; END; \
        INSERT INTO n VALUES ('n1', 1); UPDATE c SET w = 'new' WHERE id = 1; \
        CREATE INDEX local ON alembic_version (version_num);",
    );
    eventually("node 2 holds node 1", || {
        two.status().is_some_and(|s| !s["held"].as_array().unwrap().is_empty())
    });
    eventually("status names the difference", || differences(two) == 1 && differences(one) == 1);

    let text = diff_shows(two, &["1"], "all_n");
    for expected in [
        "add to table c column w TEXT DEFAULT 'x'",
        "create table n",
        "create index c_w on c",
        "ALTER TABLE main.\"c\" ADD COLUMN w TEXT DEFAULT 'x';",
        "harmonylite schema apply --from 1",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(!text.contains("alembic") && !text.contains("__harmonylite__"), "{text}");
    let text = diff_shows(one, &["2"], "drop column w of table c");
    assert!(text.contains("node 2 lacks") && text.contains("loses values"), "{text}");

    // Node 1 is ahead: taking over the older schema would lose values.
    let (done, text) = cli(one, &["schema", "apply", "--from", "2", "--yes"]);
    assert!(!done && text.contains("nothing was changed") && text.contains("--drop"), "{text}");
    // There is no terminal to ask on.
    let (done, text) = cli(two, &["schema", "apply", "--from", "1"]);
    assert!(!done && text.contains("--yes"), "{text}");
    assert_eq!(number(&two.app(), "SELECT count(*) FROM sqlite_schema WHERE name = 'n'"), 0);

    let (done, text) = cli(two, &["schema", "apply", "--from", "1", "--yes"]);
    assert!(done && text.contains("in one transaction"), "{text}");
    let db = two.app();
    eventually("the held rows arrive", || {
        number(&db, "SELECT count(*) FROM n, c WHERE n.c = c.id AND w = 'new'") == 1
    });
    eventually("status reports no difference", || differences(one) == 0 && differences(two) == 0);
    cluster.converge();
    run(two, "DELETE FROM c WHERE id = 1");
    cluster.converge();
    assert_eq!(rows(&one.app(), "SELECT id FROM c"), [["Integer(2)"]]);
    assert_eq!(number(&one.app(), "SELECT count(*) FROM n"), 0);
    for node in [one, two] {
        assert_eq!(node.status().unwrap()["quarantine"], 0);
    }
}

#[test]
fn a_rename_and_a_rebuild_keep_the_rows_and_a_failure_leaves_nothing() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    let [one, two] = &cluster.nodes[..] else { unreachable!() };
    run(
        one,
        "ALTER TABLE c RENAME COLUMN v TO w; BEGIN; CREATE TABLE new (id INTEGER PRIMARY KEY, w \
        TEXT NOT NULL); INSERT INTO new SELECT * FROM c; DROP TABLE c; ALTER TABLE new RENAME TO \
        c; CREATE UNIQUE INDEX one ON c (w, id); UPDATE c SET w = 'b' WHERE id = 2; COMMIT",
    );
    diff_shows(two, &["1", "--rename", "c.v=w"], "rename column v of table c to w");
    let apply = ["schema", "apply", "--from", "1", "--yes", "--rename", "c.v=w"];

    // A row that does not fit: the whole transaction is rolled back.
    run(two, "INSERT INTO c VALUES (7, NULL)");
    let before = rows(&two.app(), "SELECT name, sql FROM sqlite_schema ORDER BY name");
    let (done, text) = cli(two, &apply);
    assert!(!done && text.contains("NOT NULL constraint failed"), "{text}");
    assert!(text.contains("rolled back") && text.contains("INSERT OR ABORT INTO main"), "{text}");
    assert_eq!(rows(&two.app(), "SELECT name, sql FROM sqlite_schema ORDER BY name"), before);

    run(two, "UPDATE c SET v = 'late' WHERE id = 7");
    let (done, text) = cli(two, &apply);
    assert!(done, "{text}");
    cluster.converge();
    let expected = [["Integer(1)", "\"a\""], ["Integer(2)", "\"b\""], ["Integer(7)", "\"late\""]];
    eventually("all rows are at both nodes", || {
        [one, two].iter().all(|n| rows(&n.app(), "SELECT id, w FROM c ORDER BY id") == expected)
    });
    eventually("status reports no difference", || differences(one) == 0 && differences(two) == 0);
}

#[test]
fn the_commands_show_this_node_and_all_nodes() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    let one = &cluster.nodes[0];
    let (done, text) = cli(one, &["schema"]);
    assert!(done && text.contains("replicated"), "{text}");
    assert!(text.contains("not replicated: alembic_version: bookkeeping of Alembic"), "{text}");
    eventually("both nodes are listed as equal", || {
        let (done, text) = cli(one, &["schema", "--cluster"]);
        done && text.contains("this node") && text.contains("same")
    });
    let (done, text) = cli(one, &["schema", "diff", "9"]);
    assert!(!done && text.contains("node 9 has not published its schema"), "{text}");
    let (done, text) = cli(one, &["schema", "diff", "1"]);
    assert!(!done && text.contains("node 1 is this node"), "{text}");
}
