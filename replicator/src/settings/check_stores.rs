//! Checks where snapshots go. Opens no connection.

use super::check::{Checked, REPLICAS_MAX, Wrong, one_of, range, readable, subject};
use super::{Secret, SnapshotS3Settings, SnapshotSettings, SnapshotSftpSettings, StoreSettings};
use harmonylite_snapshot::stores::{SftpOptions, WebDavOptions};

/// The stores for snapshots.
const STORES: [&str; 5] = ["nats", "dir", "s3", "webdav", "sftp"];
/// What S3 knows as server-side encryption.
const SSE: [&str; 4] = ["", "AES256", "aws:kms", "aws:kms:dsse"];

/// Checks all stores; returns the first failure.
pub(super) fn check(s: &SnapshotSettings) -> Checked {
    let stores = s.stores();
    for (index, store) in stores.iter().enumerate() {
        // The first one is in [snapshot] itself, the others are entries of [[snapshot.also]].
        one(store, s.enabled || index > 0).map_err(|(key, reason)| match index {
            0 => (key, reason),
            _ => {
                let key = key.trim_start_matches("snapshot.");
                ("snapshot.also", format!("entry {index}: {key} {reason}"))
            }
        })?;
        if stores[..index].iter().any(|other| other.name == store.name) {
            let reason = format!(
                "entry {index}: the name {:?} is that of another store: set name",
                store.name
            );
            return Err(("snapshot.also", reason));
        }
    }
    Ok(())
}

fn one(s: &StoreSettings, is_used: bool) -> Checked {
    one_of("snapshot.store", &s.store, &STORES)?;
    range("snapshot.nats.replicas", s.nats.replicas as u64, 1, REPLICAS_MAX as u64)?;
    if !s.nats.bucket.is_empty() {
        subject("snapshot.nats.bucket", &s.nats.bucket, false)?;
    }
    if !is_used {
        return Ok(());
    }
    // A variable of the environment stays where nobody needs the secret.
    let stays = |url: &Secret| url.reveal().contains("${");
    match s.store.as_str() {
        "webdav" if stays(&s.webdav.url) => Ok(()),
        "sftp" if stays(&s.sftp.url) => Ok(()),
        "dir" if s.dir.path.as_os_str().is_empty() => Err(missing("snapshot.dir.path")),
        "s3" => s3(&s.s3),
        "webdav" => match WebDavOptions::parse(s.webdav.url.reveal()) {
            Err(reason) => Err(("snapshot.webdav.url", reason.to_owned())),
            Ok(_) => Ok(()),
        },
        "sftp" => sftp(&s.sftp),
        _ => Ok(()),
    }
}

fn missing(key: &'static str) -> Wrong {
    (key, "is empty, and the store needs it".to_owned())
}

fn s3(s: &SnapshotS3Settings) -> Checked {
    for (key, is_missing) in [
        ("snapshot.s3.endpoint", s.endpoint.is_empty()),
        ("snapshot.s3.bucket", s.bucket.is_empty()),
        ("snapshot.s3.access_key", s.access_key.is_empty()),
        ("snapshot.s3.secret", s.secret.is_empty()),
    ] {
        if is_missing {
            return Err(missing(key));
        }
    }
    let host = s.endpoint.trim_start_matches("http://").trim_start_matches("https://");
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || "/?#@".contains(c)) {
        let reason = "is not of the form host:port; the bucket has a key of its own";
        return Err(("snapshot.s3.endpoint", reason.to_owned()));
    }
    one_of("snapshot.s3.sse", &s.sse, &SSE)
}

fn sftp(s: &SnapshotSftpSettings) -> Checked {
    let read = SftpOptions::parse(s.url.reveal(), "".into(), "".into());
    read.map_err(|reason| ("snapshot.sftp.url", reason.to_owned()))?;
    readable("snapshot.sftp.key_file", &s.key_file.to_string_lossy())?;
    readable("snapshot.sftp.known_hosts_file", &s.known_hosts_file.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(change: impl Fn(&mut SnapshotSettings)) -> Wrong {
        let mut settings = SnapshotSettings::default();
        change(&mut settings);
        check(&settings).unwrap_err()
    }

    fn key(change: impl Fn(&mut SnapshotSettings)) -> &'static str {
        wrong(change).0
    }

    fn s3(change: impl Fn(&mut SnapshotS3Settings)) -> &'static str {
        key(|s| {
            s.store = "s3".to_owned();
            s.s3.endpoint = "minio:9000".to_owned();
            s.s3.bucket = "b".to_owned();
            s.s3.access_key = "a".to_owned();
            s.s3.secret = Secret::new("s");
            change(&mut s.s3);
        })
    }

    #[test]
    fn each_check_names_its_key() {
        assert_eq!(check(&SnapshotSettings::default()), Ok(()));
        assert_eq!(key(|s| s.store = "ftp".into()), "snapshot.store");
        assert_eq!(key(|s| s.nats.replicas = 0), "snapshot.nats.replicas");
        assert_eq!(key(|s| s.nats.bucket = "a.b".into()), "snapshot.nats.bucket");
        assert_eq!(key(|s| s.store = "dir".into()), "snapshot.dir.path");
        assert_eq!(key(|s| s.store = "s3".into()), "snapshot.s3.endpoint");
        assert_eq!(s3(|s| s.bucket = String::new()), "snapshot.s3.bucket");
        assert_eq!(s3(|s| s.secret = Secret::default()), "snapshot.s3.secret");
        assert_eq!(s3(|s| s.endpoint = "https://host/bucket".into()), "snapshot.s3.endpoint");
        assert_eq!(s3(|s| s.sse = "des".into()), "snapshot.s3.sse");
        assert_eq!(key(|s| s.store = "webdav".into()), "snapshot.webdav.url");
        assert_eq!(key(|s| s.store = "sftp".into()), "snapshot.sftp.url");
        let sftp = |change: fn(&mut SnapshotSftpSettings)| {
            key(|s| {
                s.store = "sftp".to_owned();
                s.sftp.url = Secret::new("sftp://a:b@host/x");
                change(&mut s.sftp);
            })
        };
        assert_eq!(sftp(|s| s.key_file = "/no/such".into()), "snapshot.sftp.key_file");
        assert_eq!(sftp(|s| s.url = Secret::new("sftp://a:b@host")), "snapshot.sftp.url");
        assert_eq!(
            sftp(|s| s.known_hosts_file = "/no/such".into()),
            "snapshot.sftp.known_hosts_file"
        );
    }

    #[test]
    fn further_stores_are_checked_and_named() {
        let dir = |name: &str, path: &str| StoreSettings {
            name: name.to_owned(),
            store: "dir".to_owned(),
            dir: super::super::SnapshotDirSettings { path: path.into() },
            ..StoreSettings::default()
        };
        let settings =
            |also: Vec<StoreSettings>| SnapshotSettings { also, ..SnapshotSettings::default() };
        let two = settings(vec![dir("", "/a"), dir("b", "/b")]);
        assert_eq!(check(&two), Ok(()));
        let names: Vec<_> = two.stores().into_iter().map(|store| store.name).collect();
        assert_eq!(names, ["nats", "dir", "b"]);
        let (key, reason) = wrong(|s| s.also = vec![dir("", "/a"), dir("", "/b")]);
        assert_eq!(key, "snapshot.also");
        assert!(reason.contains("entry 2") && reason.contains("\"dir\""), "{reason}");
        let (_, reason) = wrong(|s| s.also = vec![dir("a", "")]);
        assert_eq!(reason, "entry 1: dir.path is empty, and the store needs it");
    }
}
