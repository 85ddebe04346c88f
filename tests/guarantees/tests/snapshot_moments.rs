//! `snapshot restore --at` gives the state of a moment, or names the nearest ones.
//!
//! Goal: the file has what the nodes had at the moment, transaction by transaction; a node that
//! starts on it goes on to the present. Nothing is written to the broker. What cannot be built
//! exactly (messages are gone, another schema, a batch that nobody can apply) is an error that
//! names moments which can be, and no file is left. Method: write, note the time and the content
//! of a node, write on; later restore each moment and compare. Two streams, large batches in
//! parts, deletes, rows that move between nodes.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{
    Cluster, Node, Rows, contents, eventually, number, on_jetstream, open, sound,
};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

const SCHEMA: &str = "CREATE TABLE entry (id INTEGER PRIMARY KEY, body, by INTEGER);
    CREATE TABLE tag (name TEXT PRIMARY KEY, n INTEGER UNIQUE)";

fn settings(store: &Path, more: &str) -> String {
    format!("snapshot.store = \"dir\"\nsnapshot.dir.path = {:?}\n{more}", store.to_str().unwrap())
}

#[allow(clippy::disallowed_methods)]
fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.as_millis() as i64
}

/// A moment between two milliseconds of which nothing is written.
fn moment() -> i64 {
    let at = now_ms();
    eventually("time passes", || now_ms() > at + 1);
    at + 1
}

/// `--at` for a moment.
fn at(ms: i64) -> String {
    let (s, ms) = (ms / 1_000, ms % 1_000);
    let (days, s) = (s / 86_400, s % 86_400);
    // As SQLite knows the calendar.
    let db = open(Path::new(":memory:"));
    let sql = format!("SELECT date({} , 'unixepoch')", days * 86_400);
    let date: String = db.query_row(&sql, [], |r| r.get(0)).unwrap();
    format!("{date}T{:02}:{:02}:{:02}.{ms:03}Z", s / 3_600, s / 60 % 60, s % 60)
}

struct Seen {
    at_ms: i64,
    content: Vec<(String, Rows)>,
}

/// What all nodes have now.
fn see(cluster: &Cluster) -> Seen {
    cluster.converge();
    let content = contents(&cluster.nodes[0].app());
    Seen { at_ms: moment(), content }
}

fn restore(node: &Node, at_ms: i64, more: &[&str]) -> (Value, PathBuf) {
    let to = node.db.with_file_name(format!("at-{at_ms}.db"));
    let at = at(at_ms);
    let command = ["snapshot", "restore", "--at", &at, "--to", to.to_str().unwrap()];
    (node.json(&[&command, more].concat()), to)
}

/// A restore that must be refused. Returns its lines.
#[track_caller]
fn refused(node: &Node, at: &str) -> (Option<i32>, String) {
    let to = node.db.with_file_name("refused.db");
    let out = node.cli(&["snapshot", "restore", "--at", at, "--to", to.to_str().unwrap()]);
    let error = String::from_utf8(out.stderr).unwrap();
    assert!(!out.status.success() && error.contains("hint: "), "{at}: {error}");
    assert!(!to.exists(), "{error}");
    let folder = std::fs::read_dir(to.parent().unwrap()).unwrap().flatten();
    let left: Vec<_> = folder.map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.starts_with(".harmonylite-snapshot")), "{left:?}");
    (out.status.code(), error)
}

/// The entries of the registry, with their revisions. Those of stopped nodes end after a while.
fn entries(url: &str) -> BTreeSet<(String, u64)> {
    on_jetstream(url, async |jetstream| {
        use futures_util::TryStreamExt as _;
        let registry = jetstream.get_key_value("harmonylite-schema-registry").await.unwrap();
        let keys: Vec<String> = registry.keys().await.unwrap().try_collect().await.unwrap();
        let mut all = BTreeSet::new();
        for key in keys {
            let entry = registry.entry(key.as_str()).await.unwrap();
            all.extend(entry.map(|entry| (key, entry.revision)));
        }
        all
    })
}

/// What the broker has: the last position of every stream but the registry's.
fn stored(url: &str) -> Vec<(String, u64)> {
    on_jetstream(url, async |jetstream| {
        use futures_util::StreamExt as _;
        let mut streams = jetstream.streams();
        let mut all = Vec::new();
        while let Some(info) = streams.next().await {
            let info = info.unwrap();
            if !info.config.name.starts_with("KV_") {
                all.push((info.config.name, info.state.last_sequence));
            }
        }
        all.sort();
        all
    })
}

/// Writes in steps, and notes each state.
fn history(cluster: &Cluster) -> Vec<Seen> {
    let mut seen = Vec::new();
    for step in 0..6 {
        for node in &cluster.nodes {
            let (id, by) = (step * 100, node.id);
            let sql = format!(
                "BEGIN; INSERT INTO entry VALUES ({id} + {by}, 'new', {by}), ({id} + 10 + {by}, \
                'x', {by}); UPDATE entry SET body = body || '{step}' WHERE by = {by}; DELETE FROM \
                entry WHERE id = {id} - 90 + {by}; INSERT OR REPLACE INTO tag VALUES ('last', \
                {step}); COMMIT"
            );
            node.app().execute_batch(&sql).unwrap();
        }
        if step == 3 {
            // A batch in parts.
            let large = "INSERT INTO entry SELECT 5000 + value, randomblob(500000), 1 FROM \
                json_each('[1,2,3,4,5,6]')";
            cluster.nodes[0].app().execute_batch(large).unwrap();
        }
        seen.push(see(cluster));
    }
    seen
}

#[test]
fn every_moment_after_a_snapshot_is_as_it_was() {
    let store = tempfile::tempdir().unwrap();
    let more = "replication_log.shards = 2\nsnapshot.keep = 10";
    let mut cluster = Cluster::with(3, SCHEMA, &settings(store.path(), more));
    cluster.run();
    let early = moment();
    cluster.nodes[0].app().execute_batch("INSERT INTO entry VALUES (99, 'first', 1)").unwrap();
    let first = see(&cluster);
    cluster.nodes[0].json(&["snapshot", "save"]);
    let mut seen = vec![see(&cluster)];
    seen.extend(history(&cluster));
    cluster.nodes[1].json(&["snapshot", "save"]);
    seen.push(see(&cluster));
    seen.extend(history_again(&cluster));
    let last = seen.last().unwrap();
    let listed = cluster.nodes[2].json(&["snapshot", "list"]);
    let (from, to) = (&listed["reachable"]["from_ms"], &listed["reachable"]["to_ms"]);
    let oldest = &listed["snapshots"][1];
    assert!(from.as_i64() >= oldest["created_ms"].as_i64(), "{listed}");
    assert!(from.as_i64() <= Some(seen[0].at_ms) && to.as_i64() >= Some(last.at_ms), "{listed}");
    cluster.nodes.iter_mut().for_each(Node::stop);

    let url = cluster.broker.url();
    let (before, registry) = (stored(&url), entries(&url));
    let mut messages = Vec::new();
    for moment in &seen {
        let plan = restore(&cluster.nodes[2], moment.at_ms, &["--dry-run"]);
        assert!(plan.0["restored"] == false && !plan.1.exists(), "{}", plan.0);
        let (done, file) = restore(&cluster.nodes[2], moment.at_ms, &[]);
        assert_eq!(done["messages"], plan.0["messages"]);
        messages.push(done["messages"].as_u64().unwrap());
        let restored = open(&file);
        assert!(contents(&restored) == moment.content, "{done}: another content");
        sound(&restored);
    }
    assert_eq!(before, stored(&url), "nothing is written to the broker");
    assert!(entries(&url).is_subset(&registry), "{:?}, not only {registry:?}", entries(&url));
    assert!(messages[6] > 20 && messages[7] < messages[6], "{messages:?}: the second snapshot");

    // A moment in the middle of a batch in parts has none of it.
    let part = on_jetstream(&cluster.broker.url(), async |jetstream| {
        let stream = jetstream.get_stream("harmonylite-changes-batch-2").await.unwrap();
        let mut seq = 1;
        loop {
            let message = stream.get_raw_message(seq).await.unwrap();
            let header = |name: &str| message.headers.get(name).unwrap().as_str().to_owned();
            if header("Harmonylite-Parts") != "1" && header("Harmonylite-Part") == "1" {
                let next = stream.get_raw_message(seq + 1).await.unwrap();
                let ms = |m: &async_nats::jetstream::message::StreamMessage| {
                    (m.time.unix_timestamp_nanos() / 1_000_000) as i64
                };
                return (ms(&message), ms(&next));
            }
            seq += 1;
        }
    });
    if part.0 < part.1 {
        let (_, file) = restore(&cluster.nodes[2], part.0, &[]);
        assert_eq!(number(&open(&file), "SELECT count(*) FROM entry WHERE id > 5000"), 0);
        assert_eq!(
            number(&open(&file), "SELECT count(*) FROM entry WHERE body = 'x3' AND by = 1"),
            1
        );
    }

    // Before the first snapshot, in the future, and no time at all.
    for at_ms in [early, first.at_ms - 1] {
        let (_, error) = refused(&cluster.nodes[2], &at(at_ms));
        assert!(error.contains("is later") && error.contains("after it, each from"), "{error}");
    }
    let (status, error) = refused(&cluster.nodes[2], &at(now_ms() + 60_000));
    assert!(status == Some(2) && error.contains("is in the future"), "{error}");
    let (status, error) = refused(&cluster.nodes[2], "yesterday");
    assert!(status == Some(2) && error.contains("is no time"), "{error}");

    // A node that starts on an old state goes on to the present.
    let (_, file) = restore(&cluster.nodes[2], seen[3].at_ms, &["--force"]);
    let db = cluster.nodes[2].db.clone();
    std::fs::rename(&file, &db).unwrap();
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(db.with_file_name(format!("app.db{suffix}")));
    }
    cluster.run();
    cluster.nodes[2].app().execute_batch("INSERT INTO entry VALUES (9000, 'later', 3)").unwrap();
    cluster.converge();
    assert_eq!(number(&cluster.nodes[0].app(), "SELECT count(*) FROM entry WHERE id = 9000"), 1);
}

/// In the middle of traffic nobody knows what a moment had. But snapshots of different nodes,
/// taken at different times, lead to the same.
#[test]
fn two_snapshots_lead_to_the_same_state_in_the_middle_of_traffic() {
    let store = tempfile::tempdir().unwrap();
    let more = "replication_log.shards = 2\nsnapshot.keep = 10";
    let mut cluster = Cluster::with(3, SCHEMA, &settings(store.path(), more));
    cluster.run();
    let stop = AtomicBool::new(false);
    let mut moments = Vec::new();
    let ids = std::thread::scope(|scope| {
        for node in &cluster.nodes {
            let stop = &stop;
            scope.spawn(move || {
                let app = node.app();
                for i in 0_i64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let (id, by) = (i * 7 % 40, node.id);
                    let sql = format!(
                        "BEGIN IMMEDIATE; INSERT OR REPLACE INTO entry VALUES ({id}, '{i}', {by}); \
                        DELETE FROM entry WHERE id = {id} + 3; INSERT OR REPLACE INTO tag VALUES \
                        ('{}', {}); COMMIT",
                        i % 11,
                        i % 13
                    );
                    app.execute_batch(&sql).unwrap();
                }
            });
        }
        let mut ids = Vec::new();
        for node in &cluster.nodes[..2] {
            let before = node.status().unwrap()["streams"][0]["cursor"].as_u64().unwrap();
            let advanced = |by| {
                let now = node.status().map(|s| s["streams"][0]["cursor"].as_u64());
                now.flatten().is_some_and(|now| now > before + by)
            };
            eventually("there is traffic", || advanced(40));
            ids.push(node.json(&["snapshot", "save"])["snapshot"].as_str().unwrap().to_owned());
            // What it had not sent is sent then.
            eventually("there is traffic", || advanced(200));
        }
        for _ in 0..4 {
            let at = moment();
            moments.push(at);
            eventually("time passes", || now_ms() > at + 50);
        }
        stop.store(true, Ordering::Relaxed);
        ids
    });
    let last = see(&cluster);
    moments.push(last.at_ms);
    let node = &cluster.nodes[2];
    let mut states = Vec::new();
    for at_ms in moments {
        let of = |id: &String| {
            let (done, file) = restore(node, at_ms, &["--snapshot", id, "--force"]);
            sound(&open(&file));
            (done["messages"].as_u64().unwrap(), contents(&open(&file)))
        };
        let (first, second) = (of(&ids[0]), of(&ids[1]));
        assert!(first.0 > second.0 && second.0 > 0, "{} and {} messages", first.0, second.0);
        assert!(first.1 == second.1, "at {at_ms}: {:?}\n{:?}", first.1, second.1);
        states.push(first.1);
    }
    assert!(states[0] != states[3], "the moments differ");
    assert!(states[4] == last.content);
}

/// Further writes with other ids.
fn history_again(cluster: &Cluster) -> Vec<Seen> {
    let mut seen = Vec::new();
    for step in 0..2 {
        for node in &cluster.nodes {
            let sql = format!("UPDATE entry SET body = 'again {step}' WHERE by = {}", node.id);
            node.app().execute_batch(&sql).unwrap();
        }
        seen.push(see(cluster));
    }
    seen
}

#[test]
fn a_moment_whose_messages_are_gone_is_refused_with_the_nearest_ones() {
    let store = tempfile::tempdir().unwrap();
    let few = "replication_log.max_entries = 20\nsnapshot.leader_ttl = 3000\n\
        snapshot.verify_interval = \"0s\"";
    let mut cluster = Cluster::with(1, SCHEMA, &settings(store.path(), few));
    cluster.run();
    let node = &cluster.nodes[0];
    let old = node.json(&["snapshot", "save"])["snapshot"].as_str().unwrap().to_owned();
    let write = |from: i64| {
        for i in from..from + 30 {
            let sql = format!("INSERT INTO entry VALUES ({i}, 'x', 1)");
            node.app().execute_batch(&sql).unwrap();
            eventually("it is sent", || node.status().is_some_and(|s| s["pending_rows"] == 0));
        }
    };
    write(1);
    let lost = moment();
    write(100);
    let (_, error) = refused(node, &at(lost));
    for part in ["any more", old.as_str(), "--snapshot", "nothing after it"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let listed = node.json(&["snapshot", "list"]);
    assert_eq!(listed["reachable"]["from_ms"], Value::Null, "{listed}");
    let second = node.json(&["snapshot", "save"]);
    let (_, error) = refused(node, &at(lost));
    assert!(error.contains("after it, each from"), "{error}");
    let listed = node.json(&["snapshot", "list"]);
    assert_eq!(listed["reachable"]["from_ms"], second["created_ms"], "{listed}");
    let from = second["created_ms"].as_i64().unwrap();
    let (_, file) = restore(node, from, &[]);
    assert_eq!(number(&open(&file), "SELECT count(*) FROM entry"), 60);

    // Nothing is left in the stream, and nothing of it is needed: the listed moments are those.
    on_jetstream(&cluster.broker.url(), async |jetstream| {
        let stream = jetstream.get_stream("harmonylite-changes-batch-1").await.unwrap();
        stream.purge().await.unwrap();
    });
    let third = node.json(&["snapshot", "save"]);
    let purged = moment();
    let listed = node.json(&["snapshot", "list"]);
    assert_eq!(listed["reachable"]["from_ms"], second["created_ms"], "{listed}");
    for at_ms in [from + 1, third["created_ms"].as_i64().unwrap(), purged] {
        let (_, file) = restore(node, at_ms, &[]);
        assert_eq!(number(&open(&file), "SELECT count(*) FROM entry"), 60);
    }
}

/// The stream lacks a message in the middle, which nobody expects.
#[test]
fn a_lost_message_is_named() {
    let store = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::with(2, SCHEMA, &settings(store.path(), ""));
    cluster.run();
    cluster.nodes[0].json(&["snapshot", "save"]);
    for i in 0..5 {
        let sql = format!("INSERT INTO entry VALUES ({i}, 'x', 1)");
        cluster.nodes[0].app().execute_batch(&sql).unwrap();
        cluster.converge();
    }
    let all = see(&cluster);
    cluster.nodes.iter_mut().for_each(Node::stop);
    on_jetstream(&cluster.broker.url(), async |jetstream| {
        let stream = jetstream.get_stream("harmonylite-changes-batch-1").await.unwrap();
        let info = stream.cached_info().state.clone();
        stream.delete_message(info.last_sequence - 2).await.unwrap();
    });
    let (_, error) = refused(&cluster.nodes[0], &at(all.at_ms));
    assert!(error.contains("are missing") && error.contains("--snapshot"), "{error}");
    // The last one: no later message shows the hole.
    on_jetstream(&cluster.broker.url(), async |jetstream| {
        let stream = jetstream.get_stream("harmonylite-changes-batch-1").await.unwrap();
        stream.purge().await.unwrap();
    });
    let (_, error) = refused(&cluster.nodes[0], &at(all.at_ms));
    assert!(error.contains("any more"), "{error}");
}

#[test]
fn another_schema_stops_the_replay_and_the_moment_before_it_is_named() {
    let store = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::with(2, SCHEMA, &settings(store.path(), ""));
    cluster.run();
    cluster.nodes[0].json(&["snapshot", "save"]);
    cluster.nodes[0].app().execute_batch("INSERT INTO entry VALUES (1, 'x', 1)").unwrap();
    let before = see(&cluster);
    for node in &cluster.nodes {
        node.app()
            .execute_batch("ALTER TABLE entry ADD COLUMN more TEXT NOT NULL DEFAULT ''")
            .unwrap();
    }
    let sql = "INSERT INTO entry VALUES (2, 'x', 1, 'new column')";
    cluster.nodes[1].app().execute_batch(sql).unwrap();
    cluster.nodes[0].app().execute_batch("DELETE FROM entry WHERE id = 1").unwrap();
    let after = see(&cluster);
    let node = &cluster.nodes[0];
    let (status, error) = refused(node, &at(after.at_ms));
    assert!(status == Some(8) && error.contains("of node "), "{error}");
    let named = error.split("--at ").nth(1).unwrap().split(['\n', ';', ' ']).next().unwrap();
    let to = node.db.with_file_name("named.db");
    node.json(&["snapshot", "restore", "--at", named, "--to", to.to_str().unwrap()]);
    assert!(contents(&open(&to)) == before.content);
    // A later snapshot has the schema.
    node.json(&["snapshot", "save"]);
    let later = see(&cluster);
    let (_, file) = restore(node, later.at_ms, &[]);
    assert!(contents(&open(&file)) == after.content);
}

#[test]
fn a_migration_that_travels_is_made_in_the_file_too() {
    let store = tempfile::tempdir().unwrap();
    let all = settings(store.path(), "schema.replicate = \"all\"");
    let mut cluster = Cluster::with(2, SCHEMA, &all);
    cluster.run();
    cluster.nodes[0].json(&["snapshot", "save"]);
    cluster.nodes[0].app().execute_batch("INSERT INTO entry VALUES (1, 'x', 1)").unwrap();
    let before = see(&cluster);
    let sql = "BEGIN; ALTER TABLE entry ADD COLUMN more TEXT; CREATE TABLE later (id INTEGER \
        PRIMARY KEY, a); INSERT INTO later VALUES (1, 'new table'); UPDATE entry SET more = 'y'; \
        COMMIT";
    cluster.nodes[1].app().execute_batch(sql).unwrap();
    let after = see(&cluster);
    cluster.nodes[0].app().execute_batch("ALTER TABLE entry RENAME COLUMN more TO much").unwrap();
    cluster.nodes[0].app().execute_batch("INSERT INTO entry VALUES (2, 'x', 1, 'z')").unwrap();
    let last = see(&cluster);
    for seen in [before, after, last] {
        let (done, file) = restore(&cluster.nodes[1], seen.at_ms, &[]);
        let db = open(&file);
        assert!(contents(&db) == seen.content, "{done}: {:?}", contents(&db));
        sound(&db);
    }
}

#[test]
fn a_batch_that_nobody_can_apply_is_named() {
    let store = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::with(1, SCHEMA, &settings(store.path(), ""));
    cluster.run();
    let node = &cluster.nodes[0];
    node.json(&["snapshot", "save"]);
    node.app().execute_batch("INSERT INTO entry VALUES (1, 'x', 1)").unwrap();
    let before = see(&cluster);
    on_jetstream(&cluster.broker.url(), async |jetstream| {
        let sent = jetstream.publish("harmonylite-change-log-1.77", "nonsense".into()).await;
        sent.unwrap().await.unwrap();
    });
    eventually("it is in quarantine", || node.status().is_some_and(|s| s["quarantine"] == 1));
    let after = moment();
    let (status, error) = refused(node, &at(after));
    assert!(status == Some(8) && error.contains("node 77") && error.contains("--at "), "{error}");
    let (_, file) = restore(node, before.at_ms, &[]);
    assert!(contents(&open(&file)) == before.content);
}

/// The streams are in the embedded server, of a node that runs, and of one that does not.
#[test]
fn the_embedded_server_is_used_and_started() {
    let store = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::new(dir.path(), 1, &settings(store.path(), ""));
    node.app().execute_batch(SCHEMA).unwrap();
    node.run();
    node.json(&["snapshot", "save"]);
    node.app().execute_batch("INSERT INTO entry VALUES (1, 'x', 1)").unwrap();
    eventually("it is sent", || node.status().is_some_and(|s| s["pending_rows"] == 0));
    let first = moment();
    node.app().execute_batch("DELETE FROM entry").unwrap();
    eventually("it is sent", || node.status().is_some_and(|s| s["pending_rows"] == 0));
    let second = moment();
    for round in 0..2 {
        for (at_ms, rows) in [(first, 1), (second, 0)] {
            let (_, file) = restore(&node, at_ms, &[]);
            assert_eq!(number(&open(&file), "SELECT count(*) FROM entry"), rows, "round {round}");
            std::fs::remove_file(file).unwrap();
        }
        if round == 0 {
            node.stop();
        }
    }
    // To the database itself, whose old file stays.
    let done = node.json(&["snapshot", "restore", "--at", &at(first), "--force"]);
    assert!(Path::new(done["kept_as"].as_str().unwrap()).exists(), "{done}");
    assert_eq!(number(&node.app(), "SELECT count(*) FROM entry"), 1);
}
