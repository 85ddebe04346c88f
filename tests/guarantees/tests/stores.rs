//! The stores for snapshots, with real servers: s3s-fs, dav-server, OpenSSH.
//!
//! Goal: each store saves, lists, sends only what changed, verifies, restores and prunes; an object
//! is whole or not there; wrong credentials, a full store, an unknown host key and a broken
//! connection are named, with the setting and what to do. Method: the trait first, directly; then
//! the commands of the binary against each server.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use harmonylite_guarantees::stores::{HttpStore, PASSWORD, Sshd, s3, webdav};
use harmonylite_guarantees::{Cluster, Node, number};
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
    denied(key, &other, &["is not the one in line 2", "other"]).await;
}
