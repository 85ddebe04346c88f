//! Running nodes keep snapshots by themselves: one of them saves, and proves what it saved.
//!
//! Goal: of several nodes one takes the snapshots, at the configured interval; another one takes
//! over when it stops, is killed or falls behind. Each snapshot stays as good as it was, also while
//! saves fail; a failure is a reason for DEGRADED with what to do, and ends when it ends. The
//! newest snapshot is restored and checked, and every node shows how old both are. Before a stream
//! drops messages, a snapshot covers them. Method: real nodes, short intervals, a store that is
//! taken away and damaged.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::stores::s3;
use harmonylite_guarantees::{Cluster, Node, eventually, number};
use serde_json::Value;
use std::path::{Path, PathBuf};

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT)";

fn settings(store: &Path, more: &str) -> String {
    format!(
        "snapshot.store = \"dir\"\nsnapshot.dir.path = {:?}\nsnapshot.leader_ttl = 3000\n{more}",
        store.to_str().unwrap()
    )
}

fn snapshots(node: &Node) -> Option<Value> {
    node.status().map(|status| status["snapshots"].clone())
}

fn leads(node: &Node) -> bool {
    snapshots(node).is_some_and(|seen| seen["leads"] == true)
}

fn manifests(store: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(store.join("manifest")).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.path()).collect();
    names.sort();
    names
}

fn load(node: &Node, from: i64, count: i64) {
    node.app()
        .execute(
            "INSERT INTO note WITH RECURSIVE n(i) AS (VALUES (?1) UNION ALL SELECT i + 1 FROM n \
            WHERE i < ?2) SELECT i, hex(randomblob(100)) FROM n",
            [from, from + count - 1],
        )
        .unwrap();
}

/// The reasons why the node is degraded.
fn degraded(node: &Node) -> String {
    node.status().map_or(String::new(), |status| status["degraded"].to_string())
}

#[test]
fn one_node_saves_and_proves_and_is_replaced_when_it_is_gone() {
    let store = tempfile::tempdir().unwrap();
    let every = "snapshot.interval = 1000\nsnapshot.verify_interval = \"1s\"";
    let mut cluster = Cluster::with(3, SCHEMA, &settings(store.path(), every));
    cluster.run();
    load(&cluster.nodes[0], 1, 500);
    cluster.converge();
    eventually("every node shows a verified snapshot", || {
        cluster.nodes.iter().all(|node| {
            snapshots(node).is_some_and(|s| {
                s["saved_ms"].as_i64() > Some(0) && s["verified_ms"].as_i64() > Some(0)
            })
        })
    });
    assert_eq!(cluster.nodes.iter().filter(|node| leads(node)).count(), 1);
    eventually("old ones go", || manifests(store.path()).len() == 3);
    let text = String::from_utf8(cluster.nodes[0].cli(&["status"]).stdout).unwrap();
    assert!(text.contains("the newest from") && text.contains("takes them"), "{text}");

    for stop in [Node::kill as fn(&mut Node), Node::stop] {
        let leader = cluster.nodes.iter().position(leads).unwrap();
        stop(&mut cluster.nodes[leader]);
        let before = manifests(store.path()).last().unwrap().clone();
        load(&cluster.nodes[(leader + 1) % 3], 10_000 + leader as i64 * 1_000, 50);
        eventually("another one leads", || {
            cluster.nodes.iter().enumerate().any(|(i, node)| i != leader && leads(node))
        });
        eventually("and saves", || manifests(store.path()).last() > Some(&before));
        cluster.nodes[leader].run();
        cluster.converge();
    }
    assert_eq!(cluster.nodes.iter().filter(|node| leads(node)).count(), 1);
}

#[test]
fn a_save_that_fails_is_a_reason_and_replaces_nothing() {
    let store = tempfile::tempdir().unwrap();
    let path = store.path().join("s");
    let every = "snapshot.interval = 1000\nsnapshot.verify_interval = \"1s\"";
    let mut cluster = Cluster::with(1, SCHEMA, &settings(&path, every));
    cluster.run();
    let node = &cluster.nodes[0];
    load(node, 1, 100);
    eventually("one is verified", || {
        snapshots(node).is_some_and(|s| s["verified_ms"].as_i64() > Some(0))
    });

    // The store is away, and a file is in its place.
    let away = store.path().join("away");
    std::fs::rename(&path, &away).unwrap();
    std::fs::write(&path, "in the way").unwrap();
    let kept = manifests(&away);
    eventually("the failure is a reason", || degraded(node).contains("no snapshot could be saved"));
    assert!(degraded(node).contains(path.to_str().unwrap()), "{}", degraded(node));
    assert_eq!(manifests(&away), kept);
    std::fs::remove_file(&path).unwrap();
    std::fs::rename(&away, &path).unwrap();
    eventually("it works again", || degraded(node) == "[]");
    load(node, 1_000, 100);
    let newest = manifests(&path).last().unwrap().clone();
    eventually("and saves", || manifests(&path).last() > Some(&newest));

    // A damaged chunk is found by the check, and sent again by itself.
    let folders = std::fs::read_dir(path.join("chunk")).unwrap().flatten();
    let mut chunks = Vec::new();
    for entry in folders {
        match entry.file_type().unwrap().is_dir() {
            true => chunks.extend(std::fs::read_dir(entry.path()).unwrap().flatten()),
            false => chunks.push(entry),
        }
    }
    for chunk in &chunks {
        let _ = std::fs::write(chunk.path(), b"damaged");
    }
    eventually("the damage is found", || {
        node.output().contains("the newest snapshot is not verified")
    });
    eventually("and repaired", || {
        let seen = snapshots(node).unwrap_or_default();
        degraded(node) == "[]" && seen["verified"] == seen["saved"]
    });
    let out = node.cli(&["snapshot", "verify"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

fn files(store: &Path, folder: &str) -> usize {
    let count = |path: &Path| std::fs::read_dir(path).map_or(0, Iterator::count);
    let folders = std::fs::read_dir(store.join(folder)).into_iter().flatten().flatten();
    folders.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
}

/// SIGKILL at each step of a save and of a check: the store always has sound snapshots only, the
/// disk is not filled by what is left, and the next process goes on (fault 6).
#[test]
fn a_node_that_is_killed_while_it_saves_leaves_sound_snapshots() {
    let store = tempfile::tempdir().unwrap();
    let path = store.path();
    let every = "snapshot.interval = 1000\nsnapshot.verify_interval = \"1s\"\nsnapshot.keep = 2";
    let mut cluster = Cluster::with(1, SCHEMA, &settings(path, every));
    let node = &mut cluster.nodes[0];
    load(node, 1, 60_000);
    node.run();
    eventually("one is verified", || {
        snapshots(node).is_some_and(|s| s["verified_ms"].as_i64() > Some(0))
    });
    let scratch = node.db.with_file_name("app.db-harmonylite-snapshots");
    for round in 0..12 {
        node.app()
            .execute("UPDATE note SET body = hex(randomblob(100)) WHERE id % 12 = ?1", [round])
            .unwrap();
        let (chunks, saved) = (files(path, "chunk"), manifests(path).last().cloned());
        eventually("it is in the middle of it", || match round % 4 {
            0 => files(path, "saving") > 0,
            1 => files(path, "chunk") != chunks,
            2 => manifests(path).last().cloned() != saved,
            _ => std::fs::read_dir(&scratch).is_ok_and(|entries| entries.count() > 0),
        });
        node.kill();
        let all = manifests(path);
        assert!(!all.is_empty(), "round {round}");
        for manifest in &all {
            let id = manifest.file_stem().unwrap().to_str().unwrap();
            let out = node.cli(&["snapshot", "verify", id]);
            let error = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "round {round}, {id}: {error}");
        }
        node.run();
    }
    let last = manifests(path).last().cloned();
    eventually("it saves and proves again", || {
        let seen = snapshots(node).unwrap_or_default();
        manifests(path).last().cloned() > last && seen["verified"] == seen["saved"]
    });
    assert_eq!(degraded(node), "[]");
    node.stop();
    assert!(!scratch.exists(), "what the killed processes left is gone");
}

/// Without an interval a snapshot is taken when half of what the stream holds is in none.
#[test]
fn what_a_stream_will_drop_is_in_a_snapshot() {
    let store = tempfile::tempdir().unwrap();
    let few = "replication_log.max_entries = 40\nsnapshot.verify_interval = \"0s\"";
    let mut cluster = Cluster::with(2, SCHEMA, &settings(store.path(), few));
    cluster.run();
    load(&cluster.nodes[0], 1, 10);
    cluster.converge();
    assert_eq!(manifests(store.path()), Vec::<PathBuf>::new(), "nothing is due");
    let app = cluster.nodes[1].app();
    for i in 0..60 {
        app.execute("INSERT INTO note VALUES (?1, 'x')", [1_000 + i]).unwrap();
        eventually("it is sent", || {
            cluster.nodes[1].status().is_some_and(|s| s["pending_rows"] == 0)
        });
    }
    eventually("a snapshot is there", || manifests(store.path()).len() == 1);
    let seen = |node: &Node| snapshots(node).unwrap_or_default();
    eventually("both nodes know it", || {
        cluster.nodes.iter().all(|node| seen(node)["saved_ms"].as_i64() > Some(0))
    });
    assert_eq!(seen(&cluster.nodes[0])["verified_ms"], 0, "verify_interval = \"0s\"");
    assert_eq!(number(&app, "SELECT count(*) FROM note"), 70);
}

/// The first snapshots of databases with nothing or hardly anything in them are proved too.
#[test]
fn empty_tiny_and_wal_only_databases_are_saved_and_verified() {
    for schema in ["", "CREATE TABLE t (a INTEGER PRIMARY KEY)", "CREATE TABLE u (a)"] {
        let store = tempfile::tempdir().unwrap();
        let every = "snapshot.interval = 60000";
        let mut cluster = Cluster::with(1, schema, &settings(store.path(), every));
        // Its content stays in the WAL.
        let app = cluster.nodes[0].app();
        app.execute_batch("PRAGMA wal_autocheckpoint = 0; CREATE TABLE w (a)").unwrap();
        cluster.run();
        eventually("it is verified", || {
            snapshots(&cluster.nodes[0])
                .is_some_and(|s| s["saved_ms"].as_i64() > Some(0) && s["verified"] == s["saved"])
        });
    }
}

/// The work that `status` shows, if it is counted and not at its end.
fn work(node: &Node, what: &str) -> Option<Value> {
    let works = snapshots(node)?["works"].as_array()?.clone();
    let is_counted = |w: &Value| w["done"].as_u64() > Some(0) && w["done"] != w["total"];
    works.into_iter().find(|w| w["what"] == what && is_counted(w))
}

/// A store stops answering in the middle of a save, of a check, and of a fetch.
#[test]
fn status_shows_how_far_a_work_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = s3(dir.path());
    let every = "snapshot.interval = 1000\nsnapshot.verify_interval = \"1s\"\n\
        snapshot.leader_ttl = 3000";
    let lines = store.settings.lines().map(|line| format!("snapshot.{line}\n"));
    let mut cluster = Cluster::with(1, SCHEMA, &format!("{}{every}", lines.collect::<String>()));
    let node = &mut cluster.nodes[0];
    load(node, 1, 40_000);
    store.faults.stall_chunks_after(2);
    node.run();
    let shown = |what: &str| {
        eventually(what, || work(node, what).is_some_and(|w| w["done"].as_u64() > Some(1 << 20)));
        let work = work(node, what).unwrap();
        let (done, total) = (work["done"].as_u64().unwrap(), work["total"].as_u64().unwrap());
        assert!(total > 4 << 20 && done < total, "{work}");
        assert_eq!((&work["store"], &work["unit"]), (&"s3".into(), &"bytes".into()));
        let text = String::from_utf8(node.cli(&["status"]).stdout).unwrap();
        let line =
            text.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{text}"));
        for part in ["(store s3): ", " MB of ", " a second"] {
            assert!(line.contains(part), "{line}");
        }
    };
    shown("saving a snapshot");
    store.faults.heal();
    eventually("it is saved", || snapshots(node).is_some_and(|s| s["saved_ms"] != 0));
    store.faults.stall_chunks_after(3);
    // What is saved meanwhile has no new chunk.
    shown("verifying a snapshot");
    store.faults.heal();
    eventually("nothing is shown", || {
        snapshots(node).is_some_and(|s| s["verified"] != "" && s["works"] == Value::Array(vec![]))
    });

    // A node without a file fetches before it runs; then its log tells it.
    let settings = std::fs::read_to_string(&cluster.nodes[0].config).unwrap();
    let urls = format!("urls = [\"{}\"]", cluster.broker.url());
    assert!(settings.contains(&urls), "{settings}");
    let store_lines = settings.lines().filter(|line| line.starts_with("snapshot."));
    let text = store_lines.map(|line| format!("{line}\n")).collect::<String>();
    let mut new = Node::new(cluster.dir.path(), 2, &format!("{text}[nats]\n{urls}"));
    store.faults.stall_chunks_after(2);
    new.start();
    eventually("the log tells it", || new.output().contains("left=\"not known\""));
    store.faults.heal();
    new.ready();
    assert_eq!(number(&new.app(), "SELECT count(*) FROM note"), 40_000);
}

#[test]
fn a_node_without_snapshots_takes_none() {
    let store = tempfile::tempdir().unwrap();
    let off = "snapshot.interval = 1000";
    let text = settings(store.path(), off);
    let mut cluster = Cluster::with(1, SCHEMA, &format!("{text}\nsnapshot.enabled = false"));
    let node = cluster.add(SCHEMA, &text);
    node.run();
    cluster.nodes[0].run();
    eventually("the other one saves", || !manifests(store.path()).is_empty());
    let seen = snapshots(&cluster.nodes[0]).unwrap();
    assert_eq!((&seen["enabled"], &seen["leads"]), (&Value::Bool(false), &Value::Bool(false)));
    assert!(!cluster.nodes[0].output().contains("saved a snapshot"));
}

#[test]
fn a_further_store_gets_each_snapshot_and_one_that_fails_is_named_and_tried_again() {
    let stores = tempfile::tempdir().unwrap();
    let (near, far) = (stores.path().join("near"), stores.path().join("far"));
    std::fs::write(&far, "in the way").unwrap();
    let more = format!(
        "snapshot.interval = 1000\nsnapshot.also = [{{ name = \"far\", store = \"dir\", \
        dir.path = {:?} }}]",
        far.to_str().unwrap()
    );
    let mut cluster = Cluster::with(1, SCHEMA, &settings(&near, &more));
    cluster.run();
    let node = &cluster.nodes[0];
    load(node, 1, 100);
    eventually("the first one has a snapshot", || !manifests(&near).is_empty());
    eventually("the further one is named", || degraded(node).contains("store far"));
    std::fs::remove_file(&far).unwrap();
    eventually("it gets one", || !manifests(&far).is_empty());
    eventually("it works again", || degraded(node) == "[]");
    let newest = manifests(&far).last().unwrap().clone();
    load(node, 1_000, 100);
    eventually("and the next one", || manifests(&far).last() > Some(&newest));
}
