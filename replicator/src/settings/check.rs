//! Checks values beyond their types. Each error names its key. Opens no connection and changes
//! nothing.

use super::address::{bind_address, server_bind};
use super::{NatsSettings, Settings, SnapshotSettings};
use globset::{Glob, GlobSet, GlobSetBuilder};
use std::fs::File;

/// The key, and the defect of its value.
pub(super) type Wrong = (&'static str, String);

type Checked = Result<(), Wrong>;

/// The streams of a cluster; each node consumes all of them.
const SHARDS_MAX: u32 = 1024;
/// Remote rows must not wait longer for a reader that never ends.
const POLITENESS_MS_MAX: u64 = 10_000;
/// Blocks of ids: with these bounds 64-bit numbers last for 900 million blocks of each node.
const ID_NODES_MAX: u64 = 10_000;
const ID_BLOCK_MAX: u64 = 1_000_000;
/// A stream must hold many parts of 900,000 bytes, or it drops them before they are read.
const STREAM_BYTES_MIN: i64 = 16 << 20;
/// JetStream's own limit.
const REPLICAS_MAX: usize = 5;
/// The stores for snapshots.
const STORES: [&str; 5] = ["nats", "dir", "s3", "webdav", "sftp"];
/// More snapshots than anybody looks through.
const KEEP_MAX: u64 = 10_000;
/// The lease is renewed six times in this time.
const LEADER_TTL_MS_MIN: u64 = 1_000;
const LEADER_TTL_MS_MAX: u64 = 86_400_000;

/// Runs all checks; returns the first failure.
pub(super) fn check(s: &Settings) -> Checked {
    if s.db_path.as_os_str().is_empty() {
        return Err(("db_path", "is empty".to_owned()));
    }
    let log = &s.replication_log;
    range("replication_log.shards", u64::from(log.shards), 1, u64::from(SHARDS_MAX))?;
    range("replication_log.replicas", log.replicas as u64, 1, REPLICAS_MAX as u64)?;
    range("snapshot.nats.replicas", s.snapshot.nats.replicas as u64, 1, REPLICAS_MAX as u64)?;
    limit("replication_log.max_entries", log.max_entries)?;
    limit("replication_log.max_bytes", log.max_bytes)?;
    if (1..STREAM_BYTES_MIN).contains(&log.max_bytes) {
        return Err((
            "replication_log.max_bytes",
            format!(
                "is {}: it must be {STREAM_BYTES_MIN} or more, or -1 for no limit; a smaller \
                stream drops large batches before the other nodes have read them",
                log.max_bytes
            ),
        ));
    }
    if log.max_age.as_ms() == 0 {
        return Err(("replication_log.max_age", "must be longer than 0".to_owned()));
    }
    if s.version_retention <= log.max_age {
        return Err((
            "version_retention",
            format!(
                "is {}: it must exceed replication_log.max_age ({}), or a late delete could be \
                lost",
                s.version_retention, log.max_age
            ),
        ));
    }
    range("ids.nodes", s.ids.nodes.into(), 1, ID_NODES_MAX)?;
    range("ids.block", s.ids.block.into(), 2, ID_BLOCK_MAX)?;
    range("ids.slot", s.ids.slot.into(), 0, s.ids.nodes.into())?;
    range("politeness", s.politeness, 0, POLITENESS_MS_MAX)?;
    globs("tables.include", &s.tables.include, |_| true)?;
    globs("tables.exclude", &s.tables.exclude, |_| true)?;
    nats(&s.nats)?;
    snapshot(&s.snapshot)?;
    one_of("logging.format", &s.logging.format, &["console", "json"])?;
    endpoints(s)
}

/// Compiles those globs of one key that are wanted. Also used to build the table filter.
pub(super) fn globs(
    key: &'static str,
    patterns: &[String],
    wanted: impl Fn(&Glob) -> bool,
) -> Result<GlobSet, Wrong> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = Glob::new(pattern).map_err(|e| {
            (key, format!("holds {pattern:?}, which is not a pattern: {}", e.kind()))
        })?;
        if wanted(&glob) {
            set.add(glob);
        }
    }
    set.build().map_err(|e| (key, format!("cannot be used: {e}")))
}

fn range(key: &'static str, value: u64, least: u64, most: u64) -> Checked {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err((key, format!("is {value}: it must be {least} to {most}")))
    }
}

/// Checks a limit: -1 means "no limit", as in NATS; 0 would keep nothing.
fn limit(key: &'static str, value: i64) -> Checked {
    if value > 0 || value == -1 {
        Ok(())
    } else {
        Err((key, format!("is {value}: it must be 1 or more, or -1 for no limit")))
    }
}

fn one_of(key: &'static str, value: &str, allowed: &[&str]) -> Checked {
    if allowed.contains(&value) {
        Ok(())
    } else {
        Err((key, format!("is {value:?}: it must be one of {}", allowed.join(", "))))
    }
}

/// Checks for what NATS accepts as a subject without wildcards, or as the name of a stream.
fn subject(key: &'static str, value: &str, dots: bool) -> Checked {
    let bad =
        |c: char| c.is_whitespace() || c.is_control() || "*>/\\".contains(c) || (!dots && c == '.');
    if value.is_empty() || value.contains(bad) || value.split('.').any(str::is_empty) {
        let dots = if dots { "" } else { ", dots" };
        return Err((
            key,
            format!("is {value:?}: NATS allows no empty name, white space, *, >, /, \\{dots}"),
        ));
    }
    Ok(())
}

fn nats(n: &NatsSettings) -> Checked {
    subject("nats.subject_prefix", &n.subject_prefix, true)?;
    subject("nats.stream_prefix", &n.stream_prefix, false)?;
    if !n.js_domain.is_empty() {
        subject("nats.js_domain", &n.js_domain, false)?;
    }
    for (i, url) in n.urls.iter().enumerate() {
        if url.starts_with("ws://") || url.starts_with("wss://") {
            let text = "is a WebSocket address, which harmonylite does not speak: write \
                nats://host:4222 or tls://host:4222, with the port for clients";
            return Err(("nats.urls", format!("entry {} {text}", i + 1)));
        }
        // The URL may contain a password, so it is not shown.
        url.parse::<async_nats::ServerAddr>().map_err(|_| {
            (
                "nats.urls",
                format!(
                    "entry {} is not a server address: write nats://host:4222 or tls://host:4222",
                    i + 1
                ),
            )
        })?;
    }
    for (key, file) in [
        ("nats.server_config", &n.server_config),
        ("nats.seed_file", &n.seed_file),
        ("nats.creds_file", &n.creds_file),
        ("nats.ca_file", &n.ca_file),
        ("nats.cert_file", &n.cert_file),
        ("nats.key_file", &n.key_file),
        ("nats.server_binary", &n.server_binary),
    ] {
        readable(key, file)?;
    }
    if n.cert_file.is_empty() != n.key_file.is_empty() {
        return Err((
            "nats.cert_file",
            "and nats.key_file belong together: set both or none".to_owned(),
        ));
    }
    if !n.creds_file.is_empty() && !n.seed_file.is_empty() {
        return Err((
            "nats.creds_file",
            "and nats.seed_file exclude each other: set one".to_owned(),
        ));
    }
    server_bind(&n.bind_address).map(drop).map_err(|reason| ("nats.bind_address", reason))
}

fn readable(key: &'static str, file: &str) -> Checked {
    if file.is_empty() {
        return Ok(());
    }
    let metadata = File::open(file)
        .and_then(|f| f.metadata())
        .map_err(|e| (key, format!("names {file:?}, which cannot be read: {e}")))?;
    if metadata.is_dir() {
        Err((key, format!("names {file:?}, which is a directory")))
    } else {
        Ok(())
    }
}

fn snapshot(s: &SnapshotSettings) -> Checked {
    one_of("snapshot.store", &s.store, &STORES)?;
    range("snapshot.keep", s.keep as u64, 1, KEEP_MAX)?;
    range("snapshot.leader_ttl", s.leader_ttl, LEADER_TTL_MS_MIN, LEADER_TTL_MS_MAX)?;
    if !s.nats.bucket.is_empty() {
        subject("snapshot.nats.bucket", &s.nats.bucket, false)?;
    }
    if !s.enabled {
        return Ok(());
    }
    let missing = |key, what: &str| Err((key, format!("{what}, and snapshot.store needs it")));
    match s.store.as_str() {
        "dir" if s.dir.path.as_os_str().is_empty() => missing("snapshot.dir.path", "is empty"),
        "s3" if s.s3.endpoint.is_empty() => missing("snapshot.s3.endpoint", "is empty"),
        "s3" if s.s3.bucket.is_empty() => missing("snapshot.s3.bucket", "is empty"),
        "webdav"
            if !["http://", "https://"].iter().any(|p| s.webdav.url.reveal().starts_with(p)) =>
        {
            missing("snapshot.webdav.url", "does not begin with https:// or http://")
        }
        "sftp" if !s.sftp.url.reveal().starts_with("sftp://") => {
            missing("snapshot.sftp.url", "does not begin with sftp://")
        }
        _ => Ok(()),
    }
}

fn endpoints(s: &Settings) -> Checked {
    bind_address(&s.prometheus.bind).map_err(|reason| ("prometheus.bind", reason))?;
    bind_address(&s.health_check.bind).map_err(|reason| ("health_check.bind", reason))?;
    if !s.health_check.path.starts_with('/') {
        return Err((
            "health_check.path",
            format!("is {:?}: it must begin with /", s.health_check.path),
        ));
    }
    for (key, word) in [
        ("prometheus.namespace", &s.prometheus.namespace),
        ("prometheus.subsystem", &s.prometheus.subsystem),
    ] {
        if word.contains(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            || word.starts_with(|c: char| c.is_ascii_digit())
        {
            return Err((
                key,
                format!("is {word:?}: Prometheus allows letters, digits and _ in names"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Span;
    use super::*;

    fn wrong(change: impl Fn(&mut Settings)) -> &'static str {
        let mut settings = Settings::default();
        change(&mut settings);
        check(&settings).unwrap_err().0
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(check(&Settings::default()), Ok(()));
    }

    #[test]
    fn each_check_names_its_key() {
        assert_eq!(wrong(|s| s.db_path = "".into()), "db_path");
        assert_eq!(wrong(|s| s.replication_log.shards = 0), "replication_log.shards");
        assert_eq!(wrong(|s| s.replication_log.shards = 1025), "replication_log.shards");
        assert_eq!(wrong(|s| s.replication_log.replicas = 6), "replication_log.replicas");
        assert_eq!(wrong(|s| s.snapshot.nats.replicas = 0), "snapshot.nats.replicas");
        assert_eq!(wrong(|s| s.replication_log.max_entries = 0), "replication_log.max_entries");
        assert_eq!(wrong(|s| s.replication_log.max_bytes = -2), "replication_log.max_bytes");
        assert_eq!(wrong(|s| s.replication_log.max_bytes = 9 << 20), "replication_log.max_bytes");
        assert_eq!(
            wrong(|s| s.replication_log.max_age = Span::from_secs(0)),
            "replication_log.max_age"
        );
        assert_eq!(wrong(|s| s.version_retention = Span::from_days(7)), "version_retention");
        assert_eq!(wrong(|s| s.tables.include = vec!["a[".into()]), "tables.include");
        assert_eq!(wrong(|s| s.tables.exclude = vec!["{".into()]), "tables.exclude");
        assert_eq!(wrong(|s| s.snapshot.store = "ftp".into()), "snapshot.store");
        assert_eq!(wrong(|s| s.snapshot.store = "dir".into()), "snapshot.dir.path");
        assert_eq!(wrong(|s| s.snapshot.keep = 0), "snapshot.keep");
        assert_eq!(wrong(|s| s.snapshot.leader_ttl = 999), "snapshot.leader_ttl");
        assert_eq!(wrong(|s| s.snapshot.nats.bucket = "a.b".into()), "snapshot.nats.bucket");
        assert_eq!(wrong(|s| s.snapshot.store = "s3".into()), "snapshot.s3.endpoint");
        assert_eq!(wrong(|s| s.snapshot.store = "sftp".into()), "snapshot.sftp.url");
        assert_eq!(wrong(|s| s.snapshot.store = "webdav".into()), "snapshot.webdav.url");
        assert_eq!(wrong(|s| s.logging.format = "xml".into()), "logging.format");
        assert_eq!(wrong(|s| s.prometheus.bind = "3010".into()), "prometheus.bind");
        assert_eq!(wrong(|s| s.health_check.bind = ":x".into()), "health_check.bind");
        assert_eq!(wrong(|s| s.health_check.path = "health".into()), "health_check.path");
        assert_eq!(wrong(|s| s.prometheus.namespace = "a-b".into()), "prometheus.namespace");
    }

    #[test]
    fn the_brokers_settings_are_checked() {
        for bad in ["", "a b", "a.*", "a.", ">"] {
            assert_eq!(wrong(|s| s.nats.subject_prefix = bad.into()), "nats.subject_prefix");
        }
        assert_eq!(wrong(|s| s.nats.stream_prefix = "a.b".into()), "nats.stream_prefix");
        assert_eq!(wrong(|s| s.nats.js_domain = "a.b".into()), "nats.js_domain");
        for url in ["nats://ho st", "ws://host:80", "wss://host:443"] {
            assert_eq!(wrong(|s| s.nats.urls = vec![url.into()]), "nats.urls", "{url}");
        }
        assert_eq!(wrong(|s| s.nats.bind_address = "localhost".into()), "nats.bind_address");
        assert_eq!(wrong(|s| s.nats.ca_file = "/no/such/file".into()), "nats.ca_file");
        assert_eq!(wrong(|s| s.nats.creds_file = "/tmp".into()), "nats.creds_file");
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(wrong(|s| s.nats.cert_file = path.into()), "nats.cert_file");
        assert_eq!(
            wrong(|s| (s.nats.creds_file, s.nats.seed_file) = (path.into(), path.into())),
            "nats.creds_file"
        );
    }
}
