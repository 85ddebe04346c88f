//! A batch that can never be applied leaves quarantine, because its origin sends its rows again.
//!
//! Goal: `quarantine retry` asks the origin for the rows if its schema is the one here, and else
//! names what differs and asks nobody. The entry goes only when the rows are in the stream.
//! Method: an index whose expression fails, which does not count as a difference of schemas, sends
//! a real batch to quarantine on node 1. There its bytes are damaged, so that only node 2 has the
//! row.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, Node, eventually, number};

const SCHEMA: &str = "CREATE TABLE entry (id TEXT PRIMARY KEY, n INTEGER)";
/// Fails for each row of these tests.
const REFUSES: &str = "CREATE INDEX is_json ON entry (json_extract(id, '$'))";

/// Retries the oldest entry, and returns what the command printed.
fn retry(node: &Node) -> String {
    let listed = node.json(&["quarantine", "list"]);
    let Some(id) = listed[0]["id"].as_i64() else { return String::new() };
    let output = node.cli(&["quarantine", "retry", &id.to_string()]);
    [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat()
}

#[test]
fn a_batch_that_cannot_be_read_is_replaced_by_the_rows_of_its_origin() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    let [one, two] = &cluster.nodes[..] else { unreachable!() };
    one.app().execute_batch(REFUSES).unwrap();
    two.app().execute_batch("INSERT INTO entry VALUES ('a', 20)").unwrap();
    let quarantined = |n: u64| one.status().is_some_and(|s| s["quarantine"] == n);
    eventually("the batch is in quarantine", || quarantined(1));
    one.app().execute_batch("UPDATE __harmonylite__quarantine SET body = x'00'").unwrap();

    // The schemas differ: the rows of node 2 would not fit either.
    two.app().execute_batch("ALTER TABLE entry ADD COLUMN w TEXT").unwrap();
    let mut said = String::new();
    eventually("retry names the difference", || {
        said = retry(one);
        said.contains("node 2 was not asked") && said.contains("(table entry)")
    });
    assert!(said.contains("harmonylite schema diff 2"), "{said}");
    assert!(quarantined(1), "it stays");

    one.app().execute_batch("ALTER TABLE entry ADD COLUMN w TEXT; DROP INDEX is_json").unwrap();
    eventually("node 2 is asked", || {
        said = retry(one);
        said.is_empty() || said.contains("was asked for its rows")
    });
    eventually("the row arrives", || {
        number(&one.app(), "SELECT count(*) FROM entry WHERE id = 'a' AND n = 20") == 1
    });
    eventually("quarantine is empty", || quarantined(0));
    assert!(one.output().contains("node 2: batch"), "the log names whose batch it was");
    cluster.converge();
    // The next batch of node 2 shows that batch 1 was never applied, so it is asked once more.
    eventually("nothing is missing", || {
        let degraded = one.status().map(|s| s["degraded"].to_string()).unwrap_or_default();
        !degraded.contains("quarantine") && !degraded.contains("missing")
    });
}

/// Damaged bytes can be a batch too. Nobody may get the values that they happen to have.
#[test]
fn damaged_bytes_are_never_applied_even_if_they_can_be_read() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    let [one, two] = &cluster.nodes[..] else { unreachable!() };
    one.app().execute_batch(REFUSES).unwrap();
    let quarantined = |n: u64| one.status().is_some_and(|s| s["quarantine"] == n);
    for (row, entries) in [("('a', 20)", 1), ("('b', 30)", 2)] {
        two.app().execute_batch(&format!("INSERT INTO entry VALUES {row}")).unwrap();
        eventually("the batch is in quarantine", || quarantined(entries));
    }
    let body = "SELECT body FROM __harmonylite__quarantine WHERE id = 1";
    let mut body: Vec<u8> = one.app().query_row(body, [], |r| r.get(0)).unwrap();
    // The text 'a' and the integer 20 in CBOR; so short a batch is not compressed any shorter.
    let at = body.windows(3).position(|bytes| bytes == [0x61, b'a', 20]).unwrap();
    body[at + 2] = 21;
    let update = "UPDATE __harmonylite__quarantine SET body = ?1 WHERE id = 1";
    one.app().execute(update, [&body]).unwrap();
    one.app().execute_batch("DROP INDEX is_json").unwrap();
    assert!(one.cli(&["quarantine", "retry", "2"]).status.success());
    eventually("what is as it was sent is applied", || {
        one.output().contains("applied a batch from quarantine")
            && number(&one.app(), "SELECT count(*) FROM entry WHERE n = 30") == 1
    });
    let mut said = String::new();
    eventually("node 2 is asked", || {
        said = retry(one);
        said.is_empty() || said.contains("was asked for its rows")
    });
    eventually("the row arrives", || number(&one.app(), "SELECT count(*) FROM entry") == 2);
    assert_eq!(number(&one.app(), "SELECT n FROM entry WHERE id = 'a'"), 20, "{said}");
    eventually("quarantine is empty", || quarantined(0));
    assert!(one.output().contains("so they are never applied"), "the log says why");
    cluster.converge();
}
