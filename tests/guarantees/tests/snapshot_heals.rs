//! A node that misses messages which no stream holds any more gets them from a snapshot, while its
//! application goes on (faults 6, 7 and 12).
//!
//! Goal: no other node has to republish, or even to run. The application's connections stay valid,
//! its unpublished writes stay and leave, deleted rows stay deleted, and what is newer here wins.
//! It works also if the node is killed at any moment of it. A snapshot that does not have what is
//! missing is not used, and the other nodes are asked as ever. Method: a stream that keeps few
//! messages, a node that is away, a snapshot, and then its return: with the others stopped; with an
//! application that writes; with SIGKILL again and again.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, Node, eventually, number, sound};
use std::path::Path;

const SCHEMA: &str = "CREATE TABLE entry (id INTEGER PRIMARY KEY, body TEXT);
    CREATE TABLE tag (name TEXT PRIMARY KEY, entry INTEGER UNIQUE)";

fn settings(store: &Path) -> String {
    format!(
        "replication_log.max_entries = 20\nsnapshot.store = \"dir\"\nsnapshot.dir.path = {:?}\n\
        snapshot.leader_ttl = 3000",
        store.to_str().unwrap()
    )
}

/// Runs transactions one after another. Each is a batch.
fn write(node: &Node, count: i64, sql: impl Fn(i64) -> String) {
    let db = node.app();
    for i in 1..=count {
        db.execute_batch(&sql(i)).unwrap();
        eventually("it is sent", || node.status().is_some_and(|s| s["pending_rows"] == 0));
    }
}

fn fill(node: &Node, from: i64, count: i64) {
    node.app()
        .execute(
            "INSERT INTO entry WITH RECURSIVE n(i) AS (VALUES (?1) UNION ALL SELECT i + 1 FROM n \
            WHERE i < ?2) SELECT i, hex(randomblob(200)) FROM n",
            [from, from + count - 1],
        )
        .unwrap();
}

#[allow(clippy::disallowed_methods)]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

#[track_caller]
fn save(node: &Node) {
    let out = node.cli(&["snapshot", "save"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

fn without_gaps(node: &Node) -> bool {
    node.status().is_some_and(|s| s["open_gaps"] == 0 && s["broker"]["linked"] == true)
}

/// Three nodes, of which the third is away until the stream has dropped what it needs. It has rows
/// that it has not published, and one that was deleted meanwhile.
fn one_away(store: &Path, rows: i64) -> Cluster {
    let mut cluster = Cluster::with(3, SCHEMA, &settings(store));
    cluster.run();
    fill(&cluster.nodes[0], 1, 50);
    write(&cluster.nodes[0], 1, |_| "INSERT INTO tag VALUES ('a', 1), ('b', 2)".to_owned());
    cluster.converge();
    cluster.nodes[2].stop();
    cluster.nodes[2]
        .app()
        .execute_batch(
            "UPDATE entry SET body = 'away' WHERE id IN (2, 3);
             INSERT INTO entry VALUES (900000, 'away')",
        )
        .unwrap();
    harmonylite_guarantees::later(&cluster.nodes[2].app());
    fill(&cluster.nodes[0], 1_000, rows);
    write(&cluster.nodes[1], 40, |i| {
        format!(
            "DELETE FROM entry WHERE id = {i} + 10; UPDATE entry SET body = 'later' WHERE id = 2;
             UPDATE tag SET entry = entry + 100"
        )
    });
    let all: Vec<&Node> = cluster.nodes[..2].iter().collect();
    harmonylite_guarantees::converge(&all);
    cluster
}

fn check(cluster: &Cluster, rows: i64) {
    cluster.converge();
    for node in &cluster.nodes {
        let db = node.app();
        assert_eq!(number(&db, "SELECT count(*) FROM entry"), 10 + rows + 1);
        assert_eq!(number(&db, "SELECT count(*) FROM entry WHERE id BETWEEN 11 AND 50"), 0);
        assert_eq!(number(&db, "SELECT count(*) FROM entry WHERE body = 'away'"), 2);
        assert_eq!(number(&db, "SELECT sum(entry) FROM tag"), 8_003);
        sound(&db);
    }
}

#[test]
fn a_snapshot_fills_the_gap_although_no_other_node_runs() {
    let store = tempfile::tempdir().unwrap();
    let mut cluster = one_away(store.path(), 500);
    save(&cluster.nodes[0]);
    // What comes later is in the stream.
    write(&cluster.nodes[0], 3, |i| format!("UPDATE tag SET name = name WHERE entry <> {i}"));
    cluster.nodes[0].stop();
    cluster.nodes[1].stop();
    let open = cluster.nodes[2].app();
    assert_eq!(number(&open, "SELECT count(*) FROM entry WHERE id >= 1000"), 1);
    cluster.nodes[2].run();
    eventually("the gap is filled", || {
        without_gaps(&cluster.nodes[2]) && number(&open, "SELECT count(*) FROM entry") == 511
    });
    open.execute_batch("INSERT INTO entry VALUES (900001, 'the connection is valid')").unwrap();
    open.execute_batch("DELETE FROM entry WHERE id = 900001").unwrap();
    let log = cluster.nodes[2].output();
    assert!(log.contains("the gap is filled"), "{log}");
    assert_eq!(log.matches("merging its rows").count(), 1, "{log}");
    assert!(cluster.nodes[2].counter("gaps") > 0);
    cluster.nodes[0].run();
    cluster.nodes[1].run();
    check(&cluster, 500);
    for node in &cluster.nodes {
        assert_eq!(node.counter("rows_republished"), 0, "nobody had to republish");
    }
    let left = std::fs::read_dir(cluster.nodes[2].db.parent().unwrap()).unwrap().flatten();
    let left: Vec<_> = left.map(|e| e.file_name().into_string().unwrap()).collect();
    let scratch = |name: &String| name.contains("-harmonylite-snapshots");
    eventually("the scratch files go", || {
        let folder = cluster.nodes[2].db.with_file_name("app.db-harmonylite-snapshots");
        std::fs::read_dir(folder).map_or(0, Iterator::count) == 0
    });
    assert!(left.iter().filter(|name| scratch(name)).count() <= 1, "{left:?}");
}

/// The writes of an application beside the merge are never lost, and never wait long.
#[test]
fn the_application_writes_while_a_snapshot_is_merged() {
    let store = tempfile::tempdir().unwrap();
    let mut cluster = one_away(store.path(), 30_000);
    save(&cluster.nodes[1]);
    let app = cluster.nodes[2].app();
    cluster.nodes[2].start();
    let (mut written, mut slowest) = (0, std::time::Duration::ZERO);
    eventually("the gap is filled", || {
        let begin = now();
        app.execute("INSERT INTO entry VALUES (?1, 'mine')", [500_000 + written]).unwrap();
        let took = begin.elapsed();
        slowest = slowest.max(took);
        written += 1;
        cluster.nodes[2].output().contains("the gap is filled")
    });
    // A fraction of the merge; generous, because the machine may be busy with other tests.
    assert!(slowest.as_millis() < 4_000, "a write waited {slowest:?}");
    cluster.converge();
    for node in &cluster.nodes {
        let db = node.app();
        assert_eq!(number(&db, "SELECT count(*) FROM entry WHERE body = 'mine'"), written);
        assert_eq!(number(&db, "SELECT count(*) FROM entry"), 10 + 30_000 + 1 + written);
    }
}

/// Killed again and again at other moments, it begins again, and ends equal.
#[test]
fn a_node_that_is_killed_while_it_merges_ends_equal() {
    let store = tempfile::tempdir().unwrap();
    let mut cluster = one_away(store.path(), 20_000);
    save(&cluster.nodes[0]);
    let mut seen = Vec::new();
    for round in 0..12 {
        cluster.nodes[2].start();
        // The moments: before the fetch, in it, and at growing numbers of merged rows.
        let db = cluster.nodes[2].app();
        let before = number(&db, "SELECT count(*) FROM entry");
        let goal = before + 400 * round;
        eventually("it has come so far", || match round {
            0 => cluster.nodes[2].output().contains("messages are missing"),
            1 => cluster.nodes[2].output().contains("merging its rows"),
            _ => {
                number(&db, "SELECT count(*) FROM entry") > goal || without_gaps(&cluster.nodes[2])
            }
        });
        cluster.nodes[2].kill();
        seen.push(number(&db, "SELECT count(*) FROM entry"));
        sound(&db);
        db.execute("INSERT INTO entry VALUES (?1, 'between')", [700_000 + round]).unwrap();
    }
    assert!(seen.windows(2).any(|pair| pair[0] < pair[1]), "{seen:?}");
    cluster.nodes[2].run();
    eventually("the gap is filled", || without_gaps(&cluster.nodes[2]));
    cluster.converge();
    for node in &cluster.nodes {
        let db = node.app();
        assert_eq!(number(&db, "SELECT count(*) FROM entry WHERE body = 'between'"), 12);
        assert_eq!(number(&db, "SELECT count(*) FROM entry"), 10 + 20_000 + 1 + 12);
        sound(&db);
    }
}

/// The node that takes the snapshots saves one although nothing else makes it due, and not again
/// and again.
#[test]
fn the_leader_is_asked_for_a_snapshot_that_has_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let few = "\nsnapshot.verify_interval = \"0s\"";
    let mut cluster = Cluster::with(2, SCHEMA, &(settings(&store) + few).replace("= 20", "= 2000"));
    cluster.run();
    fill(&cluster.nodes[0], 1, 50);
    cluster.converge();
    cluster.nodes[1].stop();
    write(&cluster.nodes[0], 10, |i| format!("INSERT INTO entry VALUES (1000 + {i}, 'new')"));
    harmonylite_guarantees::on_jetstream(&cluster.broker.url(), async |jetstream| {
        let stream = jetstream.get_stream("harmonylite-changes-batch-1").await.unwrap();
        stream.purge().await.unwrap();
    });
    let manifests = || std::fs::read_dir(store.join("manifest")).map_or(0, Iterator::count);
    assert_eq!(manifests(), 0);
    // The other node cannot answer, so that the gap stays.
    cluster.nodes[0].pause();
    cluster.nodes[1].run();
    eventually("the leader is asked", || {
        cluster.nodes[1].status().is_some_and(|s| s["snapshots"]["wanted"] == true)
    });
    let text = String::from_utf8(cluster.nodes[1].cli(&["status"]).stdout).unwrap();
    assert!(text.contains("no snapshot has what is missing"), "{text}");
    cluster.nodes[0].signal("CONT");
    eventually("it saves", || {
        cluster.nodes[0].output().contains("a node misses messages that are in no snapshot")
    });
    assert_eq!(manifests(), 1);
    cluster.converge();
    eventually("the gap is filled", || {
        without_gaps(&cluster.nodes[1])
            && cluster.nodes[1].status().is_some_and(|s| s["snapshots"]["wanted"] == false)
    });
    assert_eq!(number(&cluster.nodes[1].app(), "SELECT count(*) FROM entry"), 60);
    assert_eq!(manifests(), 1, "one is enough");
}

/// A snapshot from before the loss, or from the lost time itself, does not end a gap.
#[test]
fn a_snapshot_that_lacks_what_is_missing_is_not_used() {
    let store = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::with(2, SCHEMA, &settings(store.path()));
    cluster.run();
    fill(&cluster.nodes[0], 1, 50);
    cluster.converge();
    save(&cluster.nodes[0]);
    cluster.nodes[1].stop();
    // Else it leads, and saves a further one before the stream drops what node 2 will miss.
    cluster.nodes[0].stop();
    let settings = std::fs::read_to_string(&cluster.nodes[0].config).unwrap();
    let settings = settings.replacen("snapshot.", "snapshot.enabled = false\nsnapshot.", 1);
    std::fs::write(&cluster.nodes[0].config, settings).unwrap();
    cluster.nodes[0].run();
    write(&cluster.nodes[0], 60, |i| format!("INSERT INTO entry VALUES (1000 + {i}, 'new')"));
    cluster.nodes[1].run();
    cluster.converge();
    assert_eq!(number(&cluster.nodes[1].app(), "SELECT count(*) FROM entry"), 110);
    let log = cluster.nodes[1].output();
    assert!(log.contains("no snapshot has what is missing here"), "{log}");
    assert!(cluster.nodes[0].counter("rows_republished") > 0, "the other node was asked");
}
