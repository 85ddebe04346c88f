//! Snapshots of real nodes: saved beside running nodes, verified, and started again.
//!
//! Goal: a node whose file is lost, and a new node without a file, begin with the rows of a
//! snapshot and read the streams from its positions on. They end equal to the others, and what they
//! write later leaves. What the captured node had not published is not lost with its disk. Method:
//! load, save, delete the files, restore, start, write everywhere, compare. With both stores, and
//! with nodes that embed their servers (the seed's own scenario, with `-save-snapshot`).

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, EmbeddedCluster, Node, eventually, number, rows, sound};
use serde_json::Value;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, node INTEGER, body TEXT);
    CREATE TABLE tag (name TEXT PRIMARY KEY, note INTEGER UNIQUE)";

/// Runs a subcommand that must be refused, and returns its two lines.
#[track_caller]
fn refused(node: &Node, arguments: &[&str]) -> String {
    let out = node.cli(arguments);
    let error = String::from_utf8(out.stderr).unwrap();
    assert!(!out.status.success(), "{arguments:?}");
    assert!(error.contains("hint: "), "{error}");
    error
}

fn load(node: &Node, from: i64, count: i64) {
    node.app()
        .execute(
            "INSERT INTO note WITH RECURSIVE n(i) AS (VALUES (?1) UNION ALL SELECT i + 1 FROM n \
            WHERE i < ?2) SELECT i, ?3, hex(randomblob(100)) FROM n",
            rusqlite::params![from, from + count - 1, node.id.cast_signed()],
        )
        .unwrap();
}

fn remove_files(node: &Node) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(node.db.with_file_name(format!("app.db{suffix}")));
    }
}

/// Every node writes, also the same rows, and all end equal.
fn write_everywhere(cluster: &Cluster, base: i64) {
    for node in &cluster.nodes {
        load(node, base + node.id.cast_signed() * 100, 20);
        node.app()
            .execute(
                "UPDATE note SET body = 'node ' || ?1 WHERE id % 7 = 0",
                [node.id.cast_signed()],
            )
            .unwrap();
    }
    cluster.converge();
    for node in &cluster.nodes {
        let db = node.app();
        for other in &cluster.nodes {
            let sql =
                format!("SELECT count(*) FROM note WHERE id >= {base} AND node = {}", other.id);
            assert_eq!(number(&db, &sql), 20, "what node {} wrote left", other.id);
        }
        sound(&db);
    }
}

fn lost_and_new_nodes_come_back(settings: impl Fn(&Path) -> String) {
    let mut cluster = Cluster::new(2, SCHEMA);
    let store = settings(cluster.dir.path());
    let configure = |node: &Node| {
        let text = std::fs::read_to_string(&node.config).unwrap();
        std::fs::write(&node.config, format!("{text}\n{store}")).unwrap();
    };
    cluster.nodes.iter().for_each(configure);
    cluster.run();
    load(&cluster.nodes[0], 1, 3_000);
    load(&cluster.nodes[1], 10_001, 3_000);
    cluster.converge();

    // Beside a running node.
    let saved = cluster.nodes[0].json(&["snapshot", "save"]);
    assert!(saved["sent_chunks"].as_u64().unwrap() > 0, "{saved}");
    let id = saved["snapshot"].as_str().unwrap().to_owned();
    let again = cluster.nodes[0].json(&["snapshot", "save"]);
    assert!(again["sent_chunks"].as_u64() <= Some(1), "only what changed: {again}");
    let sound_one = cluster.nodes[1].json(&["snapshot", "verify", &id]);
    assert!(sound_one["rows"].as_u64().unwrap() >= 6_000, "{sound_one}");
    let listed = cluster.nodes[1].json(&["snapshot", "list"]);
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 2, "{listed}");
    assert_eq!(listed["snapshots"][1]["snapshot"], id.as_str());
    assert_eq!(listed["snapshots"][1]["node"], 1);
    assert!(listed["snapshots"][1]["streams"][0]["seq"].as_u64().unwrap() > 0, "{listed}");

    // What comes after the snapshot arrives from the stream.
    load(&cluster.nodes[0], 20_001, 50);
    load(&cluster.nodes[1], 30_001, 50);
    cluster.nodes[1].app().execute_batch("DELETE FROM note WHERE id = 5").unwrap();
    cluster.converge();

    // Node 1 loses its file.
    cluster.nodes[0].kill();
    remove_files(&cluster.nodes[0]);
    load(&cluster.nodes[1], 40_001, 50);
    let db = cluster.nodes[0].db.clone();
    let to = ["snapshot", "restore", "--to", db.to_str().unwrap()];
    let restored = cluster.nodes[0].json(&to);
    assert_eq!(restored["restored"], true);
    assert_eq!(number(&cluster.nodes[0].app(), "SELECT count(*) FROM note"), 6_000);
    let exists = refused(&cluster.nodes[0], &to);
    assert!(exists.contains("exists") && exists.contains("--force"), "{exists}");
    let skipped = cluster.nodes[0].json(&[&to[..], &["--if-db-not-exists"]].concat());
    assert_eq!(skipped["restored"], false);
    // Written before its node runs: the triggers are in the image.
    load(&cluster.nodes[0], 50_001, 5);
    cluster.nodes[0].run();
    cluster.converge();
    assert_eq!(number(&cluster.nodes[0].app(), "SELECT count(*) FROM note"), 6_154);

    // Node 3 never had a file. It begins with the snapshot of another node.
    let node = Node::new(cluster.dir.path(), 3, &third(&cluster, &store));
    cluster.nodes.push(node);
    cluster.nodes[2].json(&["snapshot", "restore"]);
    assert_eq!(number(&cluster.nodes[2].app(), "SELECT count(*) FROM note"), 6_000);
    cluster.nodes[2].run();
    write_everywhere(&cluster, 60_000);
    let sites: Vec<_> = cluster.nodes.iter().map(|n| n.status().unwrap()["site"].clone()).collect();
    assert!(sites[0] != sites[1] && sites[1] != sites[2] && sites[0] != sites[2], "{sites:?}");
    let sent = cluster.nodes[2].json(&["snapshot", "prune", "--keep", "1", "--dry-run"]);
    assert_eq!(sent["removed"].as_array().unwrap().len(), 1, "{sent}");
}

/// The configuration of a third node with the cluster's broker.
fn third(cluster: &Cluster, store: &str) -> String {
    format!("[nats]\nurls = [\"{}\"]\nreconnect_wait_seconds = 1\n{store}", cluster.broker.url())
}

#[test]
fn nodes_come_back_from_a_directory() {
    lost_and_new_nodes_come_back(|dir| {
        let path = dir.join("snapshots");
        format!("[snapshot]\nstore = \"dir\"\ndir.path = {:?}\n", path.to_str().unwrap())
    });
}

#[test]
fn nodes_come_back_from_the_broker() {
    lost_and_new_nodes_come_back(|_| "[snapshot]\nstore = \"nats\"\n".to_owned());
}

/// A node without a file joins in the middle of a load: its start restores the newest snapshot.
fn a_node_without_a_file_starts_under_load(settings: impl Fn(&Path) -> String) {
    let mut cluster = Cluster::new(2, SCHEMA);
    let store = settings(cluster.dir.path());
    append(&cluster.nodes[0], &store);
    cluster.run();
    load(&cluster.nodes[0], 1, 2_000);
    cluster.converge();
    let id = cluster.nodes[0].json(&["snapshot", "save"])["snapshot"].as_str().unwrap().to_owned();
    let mut third = Node::new(cluster.dir.path(), 3, &third(&cluster, &store));
    let done = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut written = 0;
            while !done.load(Ordering::Relaxed) {
                load(&cluster.nodes[(written % 2) as usize], 10_000 + written * 10, 10);
                written += 1;
            }
            written
        });
        // The writer has to end, whatever happens here: the scope waits for it.
        let joined = std::panic::catch_unwind(AssertUnwindSafe(|| third.run()));
        done.store(true, Ordering::Relaxed);
        assert!(joined.is_ok(), "{}", third.output());
        writer.join().unwrap()
    });
    assert!(written > 0, "nothing was written beside the start");
    let log = third.output();
    assert!(log.contains("restored a snapshot") && log.contains(&id), "{log}");
    cluster.nodes.push(third);
    write_everywhere(&cluster, 900_000);
    assert_eq!(
        number(&cluster.nodes[2].app(), "SELECT count(*) FROM note"),
        2_000 + written * 10 + 60
    );

    // It has a file now, which no later start replaces.
    cluster.nodes[2].stop();
    load(&cluster.nodes[2], 800_000, 1);
    cluster.nodes[2].run();
    cluster.converge();
    assert_eq!(cluster.nodes[2].output().matches("restored a snapshot").count(), 1);
    let kept = number(&cluster.nodes[0].app(), "SELECT count(*) FROM note WHERE id = 800000");
    assert_eq!(kept, 1);
}

fn append(node: &Node, settings: &str) {
    let text = std::fs::read_to_string(&node.config).unwrap();
    std::fs::write(&node.config, format!("{text}\n{settings}")).unwrap();
}

#[test]
fn a_node_without_a_file_starts_from_a_directory() {
    a_node_without_a_file_starts_under_load(|dir| {
        let path = dir.join("snapshots");
        format!("[snapshot]\nstore = \"dir\"\ndir.path = {:?}\n", path.to_str().unwrap())
    });
}

#[test]
fn a_node_without_a_file_starts_from_the_broker() {
    a_node_without_a_file_starts_under_load(|_| String::new());
}

/// Without a snapshot, with none that is whole, with a store that cannot be reached, and if
/// snapshots are off, the start says so and creates nothing. A damaged one is passed over.
#[test]
fn a_start_without_a_file_creates_no_empty_database() {
    let mut cluster = Cluster::new(1, SCHEMA);
    let path = cluster.dir.path().join("snapshots");
    let store = format!("[snapshot]\nstore = \"dir\"\ndir.path = {:?}\n", path.to_str().unwrap());
    append(&cluster.nodes[0], &store);
    let mut second = Node::new(cluster.dir.path(), 2, &third(&cluster, &store));
    let fails = |node: &mut Node, parts: &[&str]| {
        node.start();
        assert_ne!(node.ended(), 0);
        let log = node.output();
        for part in [&["no such database", "hint: "], parts].concat() {
            assert!(log.contains(part), "{part:?} in {log}");
        }
        let left = std::fs::read_dir(node.db.parent().unwrap()).unwrap().flatten();
        let mut left: Vec<_> = left.map(|entry| entry.file_name()).collect();
        left.sort();
        assert_eq!(left, ["config.toml", "log"]);
    };
    fails(&mut second, &["no snapshot"]);
    load(&cluster.nodes[0], 1, 10);
    let older = cluster.nodes[0].json(&["snapshot", "save"])["snapshot"].clone();
    let former = chunks(&path);
    load(&cluster.nodes[0], 100, 10);
    let newer = cluster.nodes[0].json(&["snapshot", "save"])["snapshot"].clone();
    let new: Vec<_> = chunks(&path).into_iter().filter(|chunk| !former.contains(chunk)).collect();
    new.iter().for_each(|chunk| std::fs::write(chunk, b"damaged").unwrap());

    let off = format!("{store}enabled = false\n");
    fails(&mut Node::new(cluster.dir.path(), 3, &third(&cluster, &off)), &[]);
    let nats = "[nats]\nurls = [\"nats://127.0.0.1:1\"]\n[snapshot]\nstore = \"nats\"\n";
    fails(&mut Node::new(cluster.dir.path(), 4, nats), &["no snapshot restored", "127.0.0.1:1"]);

    cluster.nodes[0].run();
    second.run();
    let log = second.output();
    let (older, newer) = (older.as_str().unwrap(), newer.as_str().unwrap());
    assert!(log.contains("cannot be restored") && log.contains(newer), "{log}");
    assert!(log.contains(&format!("snapshot={older}")), "{log}");
    cluster.nodes.push(second);
    cluster.converge();
    assert_eq!(number(&cluster.nodes[1].app(), "SELECT count(*) FROM note"), 20);

    // Only the journal of a lost database is there.
    let mut widow = Node::new(cluster.dir.path(), 6, &third(&cluster, &store));
    let wal = widow.db.with_file_name("app.db-wal");
    std::fs::write(&wal, "left").unwrap();
    widow.start();
    assert_eq!(widow.ended(), 3);
    let log = widow.output();
    assert!(log.contains("app.db-wal exists") && log.contains("move that file away"), "{log}");
    assert!(!widow.db.exists() && std::fs::read(&wal).unwrap() == b"left");

    // All are damaged.
    chunks(&path).iter().for_each(|chunk| std::fs::write(chunk, b"damaged").unwrap());
    let mut last = Node::new(cluster.dir.path(), 5, &third(&cluster, &store));
    fails(&mut last, &["no snapshot restored", "damaged", newer]);
}

/// The cluster may have forgotten what was deleted since an old snapshot: a node does not begin
/// with it by itself.
#[test]
fn a_start_without_a_file_refuses_a_snapshot_that_is_older_than_the_deletes_that_are_known() {
    let short = "version_retention = \"12s\"\nreplication_log.max_age = \"11s\"\n";
    let mut cluster = Cluster::with(1, SCHEMA, short);
    let path = cluster.dir.path().join("snapshots");
    let store = format!("[snapshot]\nstore = \"dir\"\ndir.path = {:?}\n", path.to_str().unwrap());
    append(&cluster.nodes[0], &store);
    cluster.run();
    load(&cluster.nodes[0], 1, 10);
    cluster.converge();
    let saved = cluster.nodes[0].json(&["snapshot", "save"]);
    let settings = format!("{short}{}", third(&cluster, &store));
    let mut late = Node::new(cluster.dir.path(), 2, &settings);
    eventually("the snapshot is old", || {
        let listed = cluster.nodes[0].json(&["snapshot", "list"]);
        let to_ms = listed["reachable"]["to_ms"].as_i64().unwrap();
        to_ms - saved["created_ms"].as_i64().unwrap() > 9_000
    });
    late.start();
    assert_eq!(late.ended(), 8);
    let log = late.output();
    for part in ["no such database", "version_retention", "could come back", "snapshot save"] {
        assert!(log.contains(part), "{part:?} in {log}");
    }
    assert!(!late.db.exists());
    // With a new one it begins.
    cluster.nodes[0].json(&["snapshot", "save"]);
    late.run();
    assert_eq!(number(&late.app(), "SELECT count(*) FROM note"), 10);
}

/// The rows are in the snapshot and in no stream: the captured node was cut off, and its disk is
/// lost. The restored node publishes them.
#[test]
fn what_was_captured_and_never_published_leaves_with_the_restored_node() {
    let mut cluster = Cluster::new(2, SCHEMA);
    let path = cluster.dir.path().join("snapshots");
    let text = std::fs::read_to_string(&cluster.nodes[0].config).unwrap();
    let store = format!("[snapshot]\nstore = \"dir\"\ndir.path = {:?}\n", path.to_str().unwrap());
    std::fs::write(&cluster.nodes[0].config, format!("{text}\n{store}")).unwrap();
    cluster.run();
    load(&cluster.nodes[0], 1, 10);
    cluster.converge();
    cluster.nodes[0].stop();
    let app = cluster.nodes[0].app();
    app.execute_batch(
        "INSERT INTO note VALUES (500, 1, 'unpublished'); UPDATE note SET body = 'edited' WHERE id \
        = 1; DELETE FROM note WHERE id = 2; INSERT INTO tag VALUES ('a', 1)",
    )
    .unwrap();
    drop(app);
    cluster.nodes[0].json(&["snapshot", "save"]);
    remove_files(&cluster.nodes[0]);
    cluster.nodes[0].json(&["snapshot", "restore"]);
    cluster.nodes[0].run();
    cluster.converge();
    let peer = cluster.nodes[1].app();
    assert_eq!(
        rows(&peer, "SELECT id, body FROM note WHERE id IN (1, 2, 500)"),
        rows(&cluster.nodes[0].app(), "SELECT id, body FROM note WHERE id IN (1, 2, 500)")
    );
    assert_eq!(
        number(&peer, "SELECT count(*) FROM note WHERE body IN ('edited', 'unpublished')"),
        2
    );
    assert_eq!(number(&peer, "SELECT count(*) FROM note WHERE id = 2"), 0);
}

/// With `--force` over a running node's file nothing happens; over a stopped one's the old file is
/// kept, with what was only in its WAL.
#[test]
fn an_existing_database_is_replaced_only_on_request_and_kept() {
    let mut cluster = Cluster::new(1, SCHEMA);
    let path = cluster.dir.path().join("snapshots");
    let text = std::fs::read_to_string(&cluster.nodes[0].config).unwrap();
    let store = format!("[snapshot]\nstore = \"dir\"\ndir.path = {:?}\n", path.to_str().unwrap());
    std::fs::write(&cluster.nodes[0].config, format!("{text}\n{store}")).unwrap();
    let node = &mut cluster.nodes[0];
    let none = refused(node, &["snapshot", "restore", "--force"]);
    assert!(none.contains("has no snapshot"), "{none}");
    load(node, 1, 10);
    node.json(&["snapshot", "save"]);
    node.run();
    let running = refused(node, &["snapshot", "restore", "--force"]);
    assert!(running.contains("already runs"), "{running}");
    load(node, 100, 10);
    node.kill();
    let plan = node.json(&["snapshot", "restore", "--dry-run"]);
    assert_eq!(number(&node.app(), "SELECT count(*) FROM note"), 20, "{plan}");
    let done = node.json(&["snapshot", "restore", "--force"]);
    assert_eq!(number(&node.app(), "SELECT count(*) FROM note"), 10);
    let kept = harmonylite_guarantees::open(Path::new(done["kept_as"].as_str().unwrap()));
    assert_eq!(number(&kept, "SELECT count(*) FROM note"), 20);
    sound(&kept);
    let unknown = refused(node, &["snapshot", "verify", "2020"]);
    assert!(unknown.contains("it has 20"), "{unknown}");
}

/// A chunk that is gone, and one that is damaged, are named, and the older snapshot is offered.
#[test]
fn a_damaged_store_is_named() {
    let mut cluster = Cluster::new(1, SCHEMA);
    let path = cluster.dir.path().join("snapshots");
    let text = std::fs::read_to_string(&cluster.nodes[0].config).unwrap();
    let store = format!("[snapshot]\nstore = \"dir\"\ndir.path = {:?}\n", path.to_str().unwrap());
    std::fs::write(&cluster.nodes[0].config, format!("{text}\n{store}")).unwrap();
    let node = &mut cluster.nodes[0];
    load(node, 1, 10);
    let older = node.json(&["snapshot", "save"])["snapshot"].as_str().unwrap().to_owned();
    let former: Vec<_> = chunks(&path);
    load(node, 100, 10);
    node.json(&["snapshot", "save"]);
    let new = chunks(&path).into_iter().find(|chunk| !former.contains(chunk)).unwrap();
    let name = new.file_name().unwrap().to_str().unwrap();
    std::fs::write(&new, b"damaged").unwrap();
    let damaged = refused(node, &["snapshot", "verify"]);
    assert!(damaged.contains(name) && damaged.contains(&older), "{damaged}");
    std::fs::remove_file(&new).unwrap();
    let missing = refused(node, &["snapshot", "verify"]);
    assert!(missing.contains("missing") && missing.contains(name), "{missing}");
    assert!(missing.contains(&format!("--snapshot {older}")), "{missing}");
    node.json(&["snapshot", "verify", &older]);
    node.json(&["snapshot", "save", "--resend"]);
    node.json(&["snapshot", "verify"]);
}

fn chunks(store: &Path) -> Vec<std::path::PathBuf> {
    let folders = std::fs::read_dir(store.join("chunk")).unwrap().flatten();
    folders.flat_map(|f| std::fs::read_dir(f.path()).unwrap().flatten().map(|e| e.path())).collect()
}

/// The seed's own scenario: a stopped node of a cluster of embedded servers takes a snapshot with
/// `-save-snapshot` while the others run, and starts again. The running nodes give their servers to
/// commands of the same user. A node that has lost all its files joins the cluster of servers,
/// restores from there, and then starts.
#[test]
fn a_stopped_node_saves_a_snapshot_in_the_cluster_and_starts_again() {
    let mut cluster = EmbeddedCluster::new(SCHEMA, 3, |_| "snapshot.nats.replicas = 3".to_owned());
    cluster.run();
    load(&cluster.nodes[0], 1, 100);
    cluster.converge();
    let beside = cluster.nodes[2].json(&["snapshot", "list"]);
    assert_eq!(beside["snapshots"].as_array().map(Vec::len), Some(0), "{beside}");
    let first = cluster.nodes[1].json(&["snapshot", "save"]);
    let same = cluster.nodes[2].json(&["snapshot", "verify"]);
    assert_eq!((&same["sound"], &same["snapshot"]), (&Value::Bool(true), &first["snapshot"]));
    cluster.nodes[2].stop();
    let out = cluster.nodes[2].act(&["-save-snapshot"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.contains("saved snapshot"), "{text}");
    load(&cluster.nodes[0], 1_000, 100);
    cluster.nodes[2].start();
    cluster.nodes[2].ready();
    cluster.converge();
    eventually("node 3 has all rows", || {
        number(&cluster.nodes[2].app(), "SELECT count(*) FROM note") == 200
    });

    cluster.nodes[0].json(&["snapshot", "save"]);
    load(&cluster.nodes[0], 2_000, 100);
    cluster.nodes[2].stop();
    remove_files(&cluster.nodes[2]);
    std::fs::remove_dir_all(cluster.nodes[2].db.with_file_name("nats")).unwrap();
    cluster.nodes[2].start();
    cluster.nodes[2].ready();
    cluster.converge();
    let log = cluster.nodes[2].output();
    assert!(log.contains("there was no database file: restored a snapshot"), "{log}");
    assert_eq!(number(&cluster.nodes[2].app(), "SELECT count(*) FROM note"), 300);
}
