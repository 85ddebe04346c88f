//! The stores for snapshots, with real servers: s3s-fs, dav-server, OpenSSH.
//!
//! Goal: each store saves, lists, sends only what changed, verifies, restores and prunes; an object
//! is whole or not there; wrong credentials, a full store, an unknown host key and a broken
//! connection are named, with the setting and what to do. Method: the trait first, directly; then
//! the commands of the binary against each server.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use harmonylite_guarantees::stores::{HttpStore, PASSWORD, Sshd, s3, webdav, webdav_digest};
use harmonylite_guarantees::{Cluster, Node, number, open, sound};
use harmonylite_snapshot::Name;
use harmonylite_snapshot::store::{Store, StoreErrorKind};
use harmonylite_snapshot::stores::{S3, S3Options, Sftp, SftpOptions, WebDav, WebDavOptions};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

fn s3_store(server: &HttpStore, secret: &str) -> S3 {
    S3::new(S3Options {
        endpoint: format!("127.0.0.1:{}", server.port),
        bucket: "backup".to_owned(),
        path: "/shop/db/".to_owned(),
        path_style: true,
        access_key: "key".to_owned(),
        secret: secret.to_owned(),
        ..S3Options::default()
    })
}

fn webdav_store(server: &HttpStore, secret: &str) -> WebDav {
    let url = format!("http://127.0.0.1:{}/dav?dir=/shop&login=user&secret={secret}", server.port);
    WebDav::new(WebDavOptions::parse(&url).unwrap()).unwrap()
}

fn sftp_store(server: &Sshd, key: &Path, known_hosts: &Path) -> Sftp {
    let user = server.settings.split("sftp://").nth(1).unwrap().split('@').next().unwrap();
    let url = format!("sftp://{user}@127.0.0.1:{}{}", server.port, server.root.display());
    Sftp::new(SftpOptions::parse(&url, key.into(), known_hosts.into()).unwrap())
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// What every store must do.
async fn keeps_its_promises(store: &dyn Store, root: &Path) {
    assert_eq!(store.list("").await.unwrap(), []);
    let first = name("chunk/ab/ab12");
    store.delete(&first).await.unwrap();
    let missing = store.get(&first, None, 9).await.unwrap_err();
    assert_eq!(missing.kind, StoreErrorKind::NotFound, "{missing}");
    // More than a packet, an odd length, and replaced by something shorter and back.
    let large: Vec<u8> = (0..1_234_567_u32).map(|n| (n * 7 / 3) as u8).collect();
    for body in [&large[..], b"short", b"", &large[..]] {
        store.put(&first, Bytes::copy_from_slice(body)).await.unwrap();
        assert!(store.get(&first, None, 1_234_567).await.unwrap() == body);
    }
    for range in [0..5, 7..700_001, 1_234_560..1_234_567, 1_234_560..9_999_999] {
        let part = store.get(&first, Some(range.clone()), 1_234_567).await.unwrap();
        let end = (range.end as usize).min(large.len());
        assert!(part == large[range.start as usize..end], "{range:?}");
    }
    assert_eq!(store.get(&first, Some(9_999_999..9_999_999), 9).await.unwrap(), "");
    for range in [None, Some(0..1_000)] {
        let error = store.get(&first, range, 999).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::TooLarge, "{error}");
    }
    let others = ["chunk/cd/cd34", "manifest/20261128T150505.007Z-0a.json", "saving/7-1"];
    for other in others {
        store.put(&name(other), Bytes::from_static(b"abc")).await.unwrap();
    }
    let listed = async |prefix: &str| {
        let mut names: Vec<_> = store.list(prefix).await.unwrap();
        names.sort_by(|a, b| a.name.cmp(&b.name));
        names.into_iter().map(|entry| (entry.name.to_string(), entry.bytes)).collect::<Vec<_>>()
    };
    let all = listed("").await;
    assert_eq!(all.len(), 4, "{all:?}");
    assert_eq!(all[0], ("chunk/ab/ab12".to_owned(), Some(1_234_567)));
    assert_eq!(listed("chunk/").await, all[..2]);
    assert_eq!(listed("chunk/ab/ab").await, all[..1]);
    assert_eq!(listed("none/").await, []);
    // Eight at once, as a save does it; more than a page of a list.
    let many: Vec<_> = (0..1_100).map(|n| name(&format!("chunk/{:02x}/n{n}", n % 8))).collect();
    stream::iter(&many)
        .map(|one| store.put(one, Bytes::from_static(b"x")))
        .buffer_unordered(8)
        .for_each(async |done| done.unwrap())
        .await;
    assert_eq!(listed("chunk/").await.len(), 1_102);
    store.delete(&first).await.unwrap();
    let gone = store.get(&first, None, 9).await.unwrap_err();
    assert_eq!(gone.kind, StoreErrorKind::NotFound, "{gone}");
    let left = parts(root);
    assert_eq!(left, Vec::<PathBuf>::new());
}

/// The temporary files below a directory.
fn parts(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else if entry.file_name().to_str().unwrap().starts_with(".part-") {
                found.push(entry.path());
            }
        }
    }
    found
}

/// What a killed put left goes a day later, and not before.
#[allow(clippy::disallowed_methods)]
async fn old_parts_go(store: &dyn Store, root: &Path) {
    let now_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    let part = |age: Duration| {
        let file = format!("chunk/ab/.part-{}-0123", now_ms - age.as_millis());
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "half").unwrap();
        path
    };
    let (old, young) = (part(Duration::from_secs(25 * 3600)), part(Duration::from_secs(60)));
    assert_eq!(store.sweep().await.unwrap(), 1);
    assert_eq!(parts(root), [young]);
    assert!(!old.exists());
}

/// Runs a subcommand that must fail; its last two lines name all `parts`, and no password.
#[track_caller]
fn fails(node: &Node, arguments: &[&str], parts: &[&str]) {
    let out = node.cli(arguments);
    let error = String::from_utf8(out.stderr).unwrap();
    assert!(!out.status.success(), "{arguments:?}");
    for part in [&["hint: "], parts].concat() {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    for secret in [PASSWORD, "pass%20word"] {
        assert!(!error.contains(secret), "{error}");
    }
}

/// A node that does not run, with a database of `rows` rows of 4 KB, and this `[snapshot]`.
fn node(dir: &Path, snapshot: &str, rows: u32) -> Node {
    let node = Node::new(
        dir,
        1,
        &format!("[nats]\nurls = [\"nats://127.0.0.1:1\"]\n[snapshot]\n{snapshot}"),
    );
    let sql = format!(
        "PRAGMA journal_mode = WAL; CREATE TABLE note (id INTEGER PRIMARY KEY, body BLOB); INSERT \
        INTO note (body) WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i \
        < {rows}) SELECT randomblob(2500) || zeroblob(1500) FROM n"
    );
    open(&node.db).execute_batch(&sql).unwrap();
    node
}

/// The way of an operator through all commands.
fn serves_an_operator(node: &Node) {
    let first = node.json(&["snapshot", "save"]);
    assert!(first["sent_chunks"].as_u64().unwrap() >= 7, "{first}");
    open(&node.db).execute_batch("UPDATE note SET body = 'x' WHERE id = 1000").unwrap();
    let second = node.json(&["snapshot", "save"]);
    assert!(second["sent_chunks"].as_u64().unwrap() <= 3, "only what changed: {second}");
    let listed = node.json(&["snapshot", "list"]);
    assert_eq!(listed["snapshots"][0]["snapshot"], second["snapshot"], "{listed}");
    assert_eq!(listed["snapshots"][1]["snapshot"], first["snapshot"], "{listed}");
    assert_eq!(node.json(&["snapshot", "verify"])["sound"], true);
    let to = node.db.with_file_name("restored.db");
    node.json(&["snapshot", "restore", "--to", to.to_str().unwrap()]);
    assert_eq!(number(&open(&to), "SELECT count(*) FROM note WHERE body = 'x'"), 1);
    sound(&open(&to));
    // The second snapshot uses what the first one has stored.
    let pruned = node.json(&["snapshot", "prune", "--keep", "1"]);
    assert_eq!(pruned["removed"][0], first["snapshot"], "{pruned}");
    assert_eq!(node.json(&["snapshot", "verify"])["sound"], true);
    open(&node.db).execute_batch("UPDATE note SET body = randomblob(3000)").unwrap();
    node.json(&["snapshot", "save"]);
    let pruned = node.json(&["snapshot", "prune", "--keep", "1"]);
    assert_eq!(pruned["removed"][0], second["snapshot"], "{pruned}");
    assert!(pruned["chunks"].as_u64().unwrap() >= 7, "{pruned}");
    assert_eq!(node.json(&["snapshot", "verify"])["sound"], true);
}

/// A save that breaks off leaves no snapshot; the next one sends the rest. So does a restore.
fn survives_interruptions(node: &Node, server: &HttpStore) {
    open(&node.db).execute_batch("UPDATE note SET body = randomblob(4000)").unwrap();
    server.faults.fail_chunks_after(6, 507);
    fails(node, &["snapshot", "save"], &["snapshot prune"]);
    server.faults.heal();
    assert_eq!(node.json(&["snapshot", "list"])["snapshots"].as_array().unwrap().len(), 1);
    let third = node.json(&["snapshot", "save"]);
    assert!(third["sent_chunks"].as_u64() < third["chunks"].as_u64(), "{third}");
    let requests = server.faults.requests();
    node.json(&["snapshot", "verify"]);
    let all = server.faults.requests() - requests;
    server.faults.fail_after((all / 2) as u32, 403);
    let to = node.db.with_file_name("broken.db");
    let restore = ["snapshot", "restore", "--to", to.to_str().unwrap()];
    fails(node, &restore, &["cannot read chunk/", "credentials"]);
    assert!(!to.exists());
    server.faults.heal();
    node.json(&restore);
}

#[test]
fn s3_serves_an_operator() {
    let dir = tempfile::tempdir().unwrap();
    let server = s3(dir.path());
    let node = node(dir.path(), &server.settings, 2_000);
    serves_an_operator(&node);
    survives_interruptions(&node, &server);
    let text = std::fs::read_to_string(&node.config).unwrap();
    std::fs::write(&node.config, text.replace(PASSWORD, "wrong")).unwrap();
    fails(&node, &["snapshot", "list"], &["S3 bucket backup/shop/db", "snapshot.s3.secret"]);
}

#[test]
fn webdav_serves_an_operator() {
    let dir = tempfile::tempdir().unwrap();
    let server = webdav(dir.path());
    let node = node(dir.path(), &server.settings, 2_000);
    serves_an_operator(&node);
    survives_interruptions(&node, &server);
    let text = std::fs::read_to_string(&node.config).unwrap();
    std::fs::write(&node.config, text.replace("secret=pass", "secret=x")).unwrap();
    fails(&node, &["snapshot", "save"], &["WebDAV folder http://127.0", "snapshot.webdav.url"]);
}

#[test]
fn sftp_serves_an_operator() {
    let dir = tempfile::tempdir().unwrap();
    let server = Sshd::start(dir.path());
    let node = node(dir.path(), &server.settings, 2_000);
    serves_an_operator(&node);
    std::fs::write(&server.known_hosts, "").unwrap();
    fails(&node, &["snapshot", "save"], &["SFTP directory", "is not known", "ssh-keyscan"]);
}

/// One of three stores fails: the others have the snapshot, and the failure is named. A node
/// without a file starts from the first store that has one.
#[test]
fn a_snapshot_goes_into_every_store() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(1, "CREATE TABLE note (id INTEGER PRIMARY KEY, body BLOB)");
    let (s3, webdav) = (s3(dir.path()), webdav(dir.path()));
    let near = format!("{:?}", dir.path().join("near").to_str().unwrap());
    let stores = format!(
        "[snapshot]\nstore = \"dir\"\ndir.path = {near}\n[[snapshot.also]]\nname = \"far\"\n{}\
        [[snapshot.also]]\n{}",
        s3.settings, webdav.settings
    );
    let broker = std::fs::read_to_string(&cluster.nodes[0].config).unwrap();
    std::fs::write(&cluster.nodes[0].config, format!("{broker}\n{stores}")).unwrap();
    cluster.run();
    let node = &cluster.nodes[0];
    node.app().execute_batch("INSERT INTO note VALUES (1, randomblob(9))").unwrap();
    s3.faults.fail_after(0, 403);
    let out = node.cli(&["snapshot", "save", "--json"]);
    let error = String::from_utf8(out.stderr).unwrap();
    assert!(!out.status.success(), "{error}");
    for part in ["1 of 3 stores", "S3 bucket backup", "hint: "] {
        assert!(error.contains(part), "{part} in {error}");
    }
    let saved: Value = serde_json::from_slice(&out.stdout).unwrap();
    let names: Vec<_> = (0..3).map(|n| saved["stores"][n]["store"].as_str().unwrap()).collect();
    assert_eq!(names, ["dir", "far", "webdav"]);
    assert!(saved["stores"][1]["error"].as_str().unwrap().contains("cannot"), "{saved}");
    for (from, count) in [("dir", 1), ("webdav", 1), ("3", 1)] {
        let listed = node.json(&["snapshot", "list", "--from", from]);
        assert_eq!(listed["snapshots"].as_array().unwrap().len(), count, "{listed}");
    }
    s3.faults.heal();
    let all = node.json(&["snapshot", "save"]);
    assert!(all["stores"][1]["sent_chunks"].as_u64().unwrap() > 0, "{all}");
    assert_eq!(node.json(&["snapshot", "verify", "--from", "far"])["sound"], true);
    fails(node, &["snapshot", "list", "--from", "none"], &["none", "dir, far, webdav"]);

    // The first store is lost, the second one cannot be reached.
    std::fs::remove_dir_all(dir.path().join("near")).unwrap();
    s3.faults.fail_after(0, 403);
    let nats = format!("[nats]\nurls = [{:?}]\nreconnect_wait_seconds = 1\n", cluster.broker.url());
    let mut second = Node::new(cluster.dir.path(), 2, &format!("{nats}{stores}"));
    second.run();
    let log = second.output();
    assert!(log.contains("no snapshot") && log.contains("WebDAV folder"), "{log}");
    cluster.nodes.push(second);
    cluster.converge();
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_keeps_its_promises() {
    let dir = tempfile::tempdir().unwrap();
    let server = tokio::task::block_in_place(|| s3(dir.path()));
    keeps_its_promises(&s3_store(&server, PASSWORD), &server.root).await;
    let denied = s3_store(&server, "wrong").list("").await.unwrap_err();
    assert_eq!(denied.kind, StoreErrorKind::Denied, "{denied}");
    assert!(denied.reason.contains("snapshot.s3.secret"), "{denied}");
    for (status, kind) in [(503, StoreErrorKind::Passing), (507, StoreErrorKind::Full)] {
        server.faults.fail_after(0, status);
        let error = s3_store(&server, PASSWORD).put(&name("a"), Bytes::new()).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
    }
    tokio::task::block_in_place(|| drop(server));
}

#[tokio::test(flavor = "multi_thread")]
async fn webdav_keeps_its_promises() {
    let dir = tempfile::tempdir().unwrap();
    let server = tokio::task::block_in_place(|| webdav(dir.path()));
    let store = webdav_store(&server, "pass%20word@1");
    keeps_its_promises(&store, &server.root).await;
    old_parts_go(&store, &server.root).await;
    let denied = webdav_store(&server, "wrong").list("").await.unwrap_err();
    assert_eq!(denied.kind, StoreErrorKind::Denied, "{denied}");
    assert!(denied.reason.contains("snapshot.webdav.url"), "{denied}");
    for (status, kind) in [
        (503, StoreErrorKind::Passing),
        (507, StoreErrorKind::Full),
        (301, StoreErrorKind::Lasting),
    ] {
        server.faults.fail_after(0, status);
        let error = store.put(&name("a"), Bytes::new()).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
    }
    tokio::task::block_in_place(|| drop(server));
}

/// The password is never sent, and a nonce that became stale is renewed.
#[tokio::test(flavor = "multi_thread")]
async fn webdav_with_digest_keeps_its_promises() {
    let dir = tempfile::tempdir().unwrap();
    let server = tokio::task::block_in_place(|| webdav_digest(dir.path()));
    keeps_its_promises(&webdav_store(&server, "pass%20word@1"), &server.root).await;
    let denied = webdav_store(&server, "wrong").list("").await.unwrap_err();
    assert_eq!(denied.kind, StoreErrorKind::Denied, "{denied}");
    tokio::task::block_in_place(|| drop(server));
}

#[tokio::test(flavor = "multi_thread")]
async fn sftp_keeps_its_promises() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Sshd::start(dir.path());
    let store = sftp_store(&server, &server.key, &server.known_hosts);
    keeps_its_promises(&store, &server.root).await;
    old_parts_go(&store, &server.root).await;

    // The connection breaks; the next attempt opens a new one.
    server.restart();
    let broken = store.list("").await.unwrap_err();
    assert_eq!(broken.kind, StoreErrorKind::Passing, "{broken}");
    assert_eq!(store.list("saving/").await.unwrap().len(), 1);

    let denied = async |key: &Path, known_hosts: &Path, parts: &[&str]| {
        let error = sftp_store(&server, key, known_hosts).list("").await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Denied, "{error}");
        for part in parts {
            assert!(error.reason.contains(part), "{part:?} in {error}");
        }
    };
    let (key, known) = (server.key.as_path(), server.known_hosts.as_path());
    denied(&dir.path().join("sshd/host_ed25519"), known, &["refuses user", "sftp.key_file"]).await;
    denied(Path::new("/no/such/key"), known, &["/no/such/key", "sftp.key_file"]).await;
    denied(Path::new(""), known, &["sftp.url", "sftp.key_file"]).await;
    denied(key, Path::new("/no/such/file"), &["is not known", "SHA256:", "ssh-keyscan"]).await;
    let other = dir.path().join("other");
    let user = std::fs::read_to_string(server.key.with_extension("pub")).unwrap();
    std::fs::write(&other, format!("# changed\n[127.0.0.1]:{} {user}", server.port)).unwrap();
    denied(key, &other, &["is not the one in", "other", "SHA256:"]).await;
}
