//! What nodes with wrong clocks, forged messages, floods of questions and small streams do to
//! others.
//!
//! Goal: a node that is well stays well, keeps replicating, and names what it met. Method: real
//! processes and a real nats-server; a client that publishes what no node would; a log whose times
//! are of the year 5000, as a wrong clock writes them.

#![allow(clippy::unwrap_used)]

use ciborium::Value;
use harmonylite_guarantees::{Cluster, Node, eventually, number, on_jetstream, rows, within};
use std::time::Duration;

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, text)";
const STREAM: &str = "harmonylite-changes-batch-1";

fn degraded(node: &Node) -> String {
    node.status().map_or(String::new(), |s| s["degraded"].to_string())
}

fn fill(first: i64, rows: i64, bytes: i64) -> String {
    format!(
        "WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {first} + \
        {rows} - 1) INSERT INTO note SELECT i, randomblob({bytes}) FROM n"
    )
}

fn peak_kib(node: &Node) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = text.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A question of a node that misses everything since 1970.
fn question(asker: u64, gap: i64) -> Vec<u8> {
    let field = |name: &str, value: i64| (Value::Text(name.into()), Value::Integer(value.into()));
    let ask = Value::Map(vec![
        field("asker", asker as i64),
        field("gap", gap),
        field("noticed_ms", 1),
        field("origin", 0),
        field("shard", 1),
        field("upto", 1),
        field("since_ms", 0),
    ]);
    let mut bytes = Vec::new();
    let signal = Value::Map(vec![(Value::Text("Ask".into()), ask)]);
    ciborium::into_writer(&signal, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_flood_of_questions_costs_bounded_work_and_memory() {
    const ROWS: u64 = 5_000;
    let mut cluster = Cluster::new(3, SCHEMA);
    cluster.run();
    cluster.nodes[0].app().execute_batch(&fill(1, ROWS as i64, 500)).unwrap();
    cluster.converge();
    let before: Vec<u64> = cluster.nodes.iter().map(peak_kib).collect();
    on_jetstream(&cluster.broker.url(), async |jetstream| {
        let client = jetstream.client();
        for round in 0..50_000 {
            let body = question(1_000 + round % 500, round as i64);
            client.publish("harmonylite-change-log-signal", body.into()).await.unwrap();
        }
        client.flush().await.unwrap();
    });
    // Replication goes on.
    for (id, node) in cluster.nodes.iter().enumerate() {
        node.app().execute("INSERT INTO note VALUES (?1, 'meanwhile')", [-1 - id as i64]).unwrap();
    }
    within(Duration::from_secs(30), "rows written meanwhile are everywhere", || {
        cluster
            .nodes
            .iter()
            .all(|n| number(&n.app(), "SELECT count(*) FROM note WHERE text = 'meanwhile'") == 3)
    });
    for (node, before) in cluster.nodes.iter().zip(before) {
        // The kernel counts pages by thread, so a later figure can be a few pages lower.
        let grown = peak_kib(node).saturating_sub(before);
        assert!(grown < 100_000, "node {} has grown by {grown} KiB", node.id);
    }
    let republished: u64 = cluster.nodes.iter().map(|n| n.counter("rows_republished")).sum();
    assert!(republished <= 3 * (ROWS + 3), "{republished} rows were republished");
    cluster.converge();
}

/// A wrong clock writes such times. The node stops publishing and says so; its peers are well; a
/// command brings the rows back.
#[test]
fn a_node_in_the_year_5000_publishes_nothing_until_its_versions_are_reset() {
    const YEAR_5000_MS: i64 = 95_617_584_000_000;
    let schema = format!("{SCHEMA}; CREATE TABLE tag (id TEXT PRIMARY KEY)");
    let mut cluster = Cluster::new(2, &schema);
    cluster.run();
    cluster.converge();
    cluster.nodes[0].stop();
    let db = cluster.nodes[0].app();
    db.execute_batch(
        "INSERT INTO note VALUES (1, 'of the far future'); INSERT INTO tag VALUES \
        ('0123abcd-0123-4567-89ab-00000000000f')",
    )
    .unwrap();
    db.execute("UPDATE __harmonylite__change_log SET time = ?1", [YEAR_5000_MS]).unwrap();
    cluster.nodes[0].run();
    eventually("it says that it publishes nothing, and what to do", || {
        degraded(&cluster.nodes[0]).contains("harmonylite reset-versions")
    });
    cluster.nodes[1].app().execute_batch("INSERT INTO note VALUES (2, 'of today')").unwrap();
    eventually("it still receives", || number(&db, "SELECT count(*) FROM note") == 2);
    let peer = cluster.nodes[1].app();
    assert_eq!(number(&peer, "SELECT count(*) FROM note"), 1);
    let status = cluster.nodes[1].status().unwrap();
    assert_eq!((&status["quarantine"], &status["degraded"]), (&0.into(), &serde_json::json!([])));

    let reset = cluster.nodes[0].cli(&["reset-versions"]);
    assert!(reset.status.success(), "{}", String::from_utf8_lossy(&reset.stderr));
    eventually("the row arrives", || number(&peer, "SELECT count(*) FROM note WHERE id = 1") == 1);
    eventually("that with a UUID too", || number(&peer, "SELECT count(*) FROM tag") == 1);
    cluster.converge();
    eventually("nothing is wrong any more", || degraded(&cluster.nodes[0]) == "[]");
    // The peer can change the row again: its version is of today.
    peer.execute_batch("UPDATE note SET text = 'changed' WHERE id = 1").unwrap();
    eventually("the change wins", || {
        rows(&db, "SELECT text FROM note WHERE id = 1") == [["\"changed\""]]
    });
}

#[test]
fn a_full_quarantine_holds_its_origin_and_ends_no_node() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    on_jetstream(&cluster.broker.url(), async |jetstream| {
        for _ in 0..1_010 {
            let subject = "harmonylite-change-log-1.100";
            jetstream.publish(subject, "no batch".into()).await.unwrap().await.unwrap();
        }
    });
    cluster.nodes[0].app().execute_batch("INSERT INTO note VALUES (1, 'after')").unwrap();
    eventually("others are applied", || {
        number(&cluster.nodes[1].app(), "SELECT count(*) FROM note") == 1
    });
    for node in &mut cluster.nodes {
        eventually("the quarantine is full", || {
            node.status().is_some_and(|s| s["quarantine"].as_u64() >= Some(1_000))
        });
        assert!(node.is_running(), "{}", node.output());
    }
    assert!(degraded(&cluster.nodes[0]).contains("quarantine"));
}

/// The node that was away misses it, and gets its rows in smaller batches.
#[test]
fn a_transaction_larger_than_the_stream_is_said_and_arrives_in_steps() {
    let log = "[replication_log]\nmax_bytes = 16777216\n";
    let mut cluster = Cluster::with(2, SCHEMA, log);
    cluster.run();
    cluster.converge();
    cluster.nodes[1].stop();
    cluster.nodes[0].app().execute_batch(&fill(1, 3_000, 8_000)).unwrap();
    let says = |node: &Node| {
        let said = "a batch is larger than the stream holds";
        eventually(&format!("node {} says it", node.id), || degraded(node).contains(said));
    };
    says(&cluster.nodes[0]);
    // A node that reads while it is published can be faster than the stream drops.
    eventually("all is published", || {
        cluster.nodes[0].status().is_some_and(|status| status["pending_rows"] == 0)
    });
    cluster.nodes[1].start();
    says(&cluster.nodes[1]);
    within(Duration::from_secs(180), "all rows arrive", || {
        number(&cluster.nodes[1].app(), "SELECT count(*) FROM note") == 3_000
    });
    cluster.converge();
}

/// Its batch number is not one that this node has given.
#[test]
fn a_forged_message_under_the_own_subject_is_noticed_while_running() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    cluster.nodes[0].app().execute_batch("INSERT INTO note VALUES (1, 'mine')").unwrap();
    cluster.converge();
    on_jetstream(&cluster.broker.url(), async |jetstream| {
        let stream = jetstream.get_stream(STREAM).await.unwrap();
        let subject = "harmonylite-change-log-1.1";
        let last = stream.get_last_raw_message_by_subject(subject).await.unwrap();
        let mut headers = async_nats::HeaderMap::new();
        for name in ["Site", "Part", "Parts", "Bytes", "Sha256"] {
            let name = format!("Harmonylite-{name}");
            headers.insert(&name[..], last.headers.get(&name[..]).unwrap().as_str());
        }
        headers.insert("Harmonylite-Batch", "700");
        jetstream
            .publish_with_headers(subject, headers, last.payload.clone())
            .await
            .unwrap()
            .await
            .unwrap();
    });
    // Nothing is written here meanwhile: the delivery itself shows it.
    eventually("the node begins a new incarnation, or says why", || {
        let log = cluster.nodes[0].output();
        log.contains("that it has not sent") && log.contains("starts a new incarnation")
    });
    cluster.nodes[0].app().execute_batch("INSERT INTO note VALUES (2, 'mine too')").unwrap();
    eventually("its rows still arrive", || {
        number(&cluster.nodes[1].app(), "SELECT count(*) FROM note WHERE id = 2") == 1
    });
}
