//! `snapshot restore --follow` keeps a copy for reading up to date.
//!
//! Goal: the copy gets what the cluster writes, transaction by transaction, also after it was
//! killed, and after the broker was away; a reader's connection stays valid. It is no member of the
//! cluster: nothing is published, and there is no lease and no entry. What it cannot follow exactly
//! ends it with a reason and what to do. Method: real processes, an open reader, SIGKILL.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{
    Cluster, Node, Process, binary, contents, eventually, number, on_jetstream, open, sound,
};
use std::path::{Path, PathBuf};
use std::process::Command;

const SCHEMA: &str = "CREATE TABLE entry (id INTEGER PRIMARY KEY, body);
    CREATE TABLE pair (id INTEGER PRIMARY KEY, a INTEGER, b INTEGER); INSERT INTO pair
    VALUES (1, 0, 0)";

fn cluster(store: &Path) -> Cluster {
    let settings = format!(
        "replication_log.shards = 2\nsnapshot.store = \"dir\"\nsnapshot.dir.path = {:?}",
        store.to_str().unwrap()
    );
    let mut cluster = Cluster::with(2, SCHEMA, &settings);
    cluster.run();
    cluster.converge();
    cluster.nodes[0].json(&["snapshot", "save"]);
    cluster
}

/// A process that follows.
struct Follower {
    process: Process,
    log: PathBuf,
    copy: PathBuf,
}

impl Follower {
    fn start(node: &Node, more: &[&str]) -> Self {
        let (copy, log) = (node.db.with_file_name("copy.db"), node.db.with_file_name("copy.log"));
        let _ = std::fs::remove_file(&log);
        let mut command = Command::new(binary());
        command.arg("-config").arg(&node.config).args(["snapshot", "restore", "--follow", "--to"]);
        let process = Process::start(command.arg(&copy).args(more), &log);
        Self { process, log, copy }
    }

    fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    #[track_caller]
    fn is_current(&self) {
        eventually("it is current", || self.output().contains("follows the cluster"));
    }
}

fn write(cluster: &Cluster, round: i64) {
    for node in &cluster.nodes {
        let (id, by) = (round * 1_000 + node.id as i64, node.id);
        let sql = format!(
            "BEGIN; INSERT INTO entry VALUES ({id}, 'by {by}'), ({id} + 500, 'x'); UPDATE pair SET \
            a = a + 1, b = b + 1; DELETE FROM entry WHERE id = {id} - 500; COMMIT"
        );
        node.app().execute_batch(&sql).unwrap();
    }
}

#[track_caller]
fn is_equal(cluster: &Cluster, copy: &Path) {
    cluster.converge();
    let wanted = contents(&cluster.nodes[0].app());
    eventually("the copy has it", || contents(&open(copy)) == wanted);
    sound(&open(copy));
}

/// The keys of the registry.
fn keys(url: &str) -> Vec<String> {
    on_jetstream(url, async |jetstream| {
        use futures_util::TryStreamExt as _;
        let registry = jetstream.get_key_value("harmonylite-schema-registry").await.unwrap();
        let mut keys: Vec<String> = registry.keys().await.unwrap().try_collect().await.unwrap();
        keys.sort();
        keys
    })
}

#[test]
fn a_copy_follows_the_cluster_and_is_no_member_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let mut cluster = cluster(&store);
    write(&cluster, 1);
    cluster.converge();
    let mut follower = Follower::start(&cluster.nodes[1], &[]);
    follower.is_current();
    is_equal(&cluster, &follower.copy);
    let reader = open(&follower.copy);
    for round in 2..30 {
        write(&cluster, round);
        let sql = "SELECT count(*) FROM pair WHERE a <> b";
        assert_eq!(number(&reader, sql), 0, "half of a transaction");
    }
    is_equal(&cluster, &follower.copy);
    assert_eq!(number(&reader, "SELECT count(*) FROM entry WHERE id > 29000"), 4);
    let keys = keys(&cluster.broker.url());
    let of_nodes = |key: &&String| {
        key.ends_with("-1") || key.ends_with("-2") || *key == "nodes" || key.starts_with("snapshot")
    };
    assert_eq!(keys.iter().filter(of_nodes).count(), keys.len(), "it has no entry: {keys:?}");
    assert!(keys.contains(&"node-1".to_owned()), "{keys:?}");

    // A second one is refused; so is a node.
    let copy = follower.copy.to_str().unwrap().to_owned();
    let out = cluster.nodes[1].cli(&["snapshot", "restore", "--follow", "--to", &copy]);
    assert_eq!(out.status.code(), Some(4), "{}", String::from_utf8_lossy(&out.stderr));

    // Killed, and started again without the store: it goes on.
    follower.process.kill();
    drop(reader);
    write(&cluster, 30);
    std::fs::rename(&store, dir.path().join("away")).unwrap();
    follower = Follower::start(&cluster.nodes[1], &[]);
    follower.is_current();
    is_equal(&cluster, &follower.copy);

    // Another program holds the write lock of the copy.
    let other = open(&follower.copy);
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    write(&cluster, 40);
    let waits = format!("write lock of {}", follower.copy.display());
    eventually("it says that it waits", || follower.output().contains(&waits));
    other.execute_batch("ROLLBACK").unwrap();
    drop(other);
    is_equal(&cluster, &follower.copy);

    // The broker was away.
    cluster.broker.kill();
    write(&cluster, 31);
    cluster.broker.run();
    is_equal(&cluster, &follower.copy);
    assert!(follower.process.ended().is_none(), "{}", follower.output());

    follower.process.signal("TERM");
    assert_eq!(follower.process.wait().code(), Some(0), "{}", follower.output());
    is_equal(&cluster, &follower.copy);
    assert!(!follower.copy.with_file_name("copy.db-wal").exists(), "the file alone is the copy");
}

#[test]
fn a_migration_that_does_not_travel_and_a_gap_end_it_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = cluster(&dir.path().join("s"));
    let node = &cluster.nodes[0];
    // A file that is no copy is not touched.
    let copy = node.db.with_file_name("copy.db");
    std::fs::write(&copy, "mine").unwrap();
    let mut follower = Follower::start(node, &[]);
    assert_eq!(follower.process.wait().code(), Some(2), "{}", follower.output());
    assert_eq!(std::fs::read(&copy).unwrap(), b"mine");
    std::fs::remove_file(&copy).unwrap();

    let mut follower = Follower::start(node, &[]);
    follower.is_current();
    let ddl = "ALTER TABLE entry ADD COLUMN more TEXT NOT NULL DEFAULT ''";
    cluster.nodes.iter().for_each(|node| node.app().execute_batch(ddl).unwrap());
    node.app().execute_batch("INSERT INTO entry VALUES (7, 'x', 'y')").unwrap();
    cluster.converge();
    assert_eq!(follower.process.wait().code(), Some(8), "{}", follower.output());
    let error = follower.output();
    assert!(error.contains("after the migration") && error.contains("--force"), "{error}");
    node.json(&["snapshot", "save"]);
    let mut follower = Follower::start(node, &["--force"]);
    follower.is_current();
    is_equal(&cluster, &follower.copy);

    // What it misses is gone when it comes back.
    follower.process.signal("TERM");
    assert_eq!(follower.process.wait().code(), Some(0), "{}", follower.output());
    node.app().execute_batch("INSERT INTO entry VALUES (8, 'x', 'y')").unwrap();
    cluster.converge();
    on_jetstream(&cluster.broker.url(), async |jetstream| {
        for shard in 1..3 {
            let name = format!("harmonylite-changes-batch-{shard}");
            jetstream.get_stream(name).await.unwrap().purge().await.unwrap();
        }
    });
    // Also when it is started again: what is missing does not come by itself.
    for _ in 0..2 {
        let mut follower = Follower::start(node, &[]);
        assert_eq!(follower.process.wait().code(), Some(8), "{}", follower.output());
        let error = follower.output();
        assert!(error.contains("are gone") && error.contains("--force"), "{error}");
    }
}
