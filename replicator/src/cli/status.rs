//! `harmonylite status`: what the node of a database is doing, or, if none runs, what the database tells.

use super::exit::{Exit, Failure};
use super::{control, database, show};
use anyhow::{Context, Result};
use harmonylite::cursor::Cursor;
use harmonylite::database::Meta;
use harmonylite::lockfile::{Owner, Sidecar, sidecar};
use harmonylite::settings::Settings;
use harmonylite::status::{HeldStatus, Status, StreamStatus};
use harmonylite::{clock, journal, quarantine};
use rusqlite::Connection;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

const WATCH: Duration = Duration::from_secs(1);
/// Moves the cursor home and clears what is below.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// The status as JSON: what the node says of itself, and whether it runs.
#[derive(serde::Serialize)]
struct Shown<'a> {
    running: bool,
    #[serde(flatten)]
    status: &'a Status,
}

/// Prints the status; ends with 1 if no node runs.
pub(crate) fn run(settings: &Settings, json: bool, watch: bool) -> Result<ExitCode> {
    loop {
        let (running, status) = look(&settings.db_path)?;
        let text = match json {
            true => serde_json::to_string(&Shown { running, status: &status })? + "\n",
            false => text(running, &status),
        };
        show::print(&if watch && !json { format!("{CLEAR}{text}") } else { text });
        if !watch {
            return Ok(if running { ExitCode::SUCCESS } else { Exit::General.into() });
        }
        control::pause(WATCH)?;
    }
}

fn look(db: &Path) -> Result<(bool, Status)> {
    match sidecar(db)? {
        Sidecar::Running(owner) => Ok((true, ask(owner.as_ref())?)),
        Sidecar::Stopped => Ok((false, offline(db)?)),
    }
}

fn ask(owner: Option<&Owner>) -> Result<Status> {
    let answer = control::ask(owner, "GET", "/status")?;
    if answer.status != 200 {
        return Err(
            Failure::new(Exit::General, format!("the node answers {}: {}", answer.status, answer.body), "its log tells more").into()
        );
    }
    serde_json::from_str(&answer.body).context("the node's answer cannot be read: is it another version of harmonylite?")
}

/// What the database tells without its node.
fn offline(path: &Path) -> Result<Status> {
    let db = database::open_installed(path)?;
    read(&db, path).with_context(|| path.display().to_string())
}

fn read(db: &Connection, path: &Path) -> Result<Status> {
    let meta = Meta::read(db)?;
    let count = |sql: &str| db.query_row(sql, [], |r| r.get::<_, i64>(0)).map(|n| n.max(0).cast_unsigned());
    let (pending_rows, oldest_pending_ms) =
        db.query_row("SELECT count(*), coalesce(min(time), 0) FROM main.__harmonylite__change_log WHERE id > ?1", [meta.published], |r| {
            Ok((r.get::<_, i64>(0)?.cast_unsigned(), r.get(1)?))
        })?;
    Ok(Status {
        node_id: meta.node.0,
        db_path: path.display().to_string(),
        now_ms: clock::unix_ms(),
        site: meta.site.0,
        joined: meta.joined,
        tables: texts(db, "SELECT name FROM main.__harmonylite__table WHERE hash IS NOT NULL ORDER BY name")?,
        streams: streams(db)?,
        pending_rows,
        oldest_pending_ms,
        held: held(db)?,
        conflicts: journal::count(db)?.cast_unsigned(),
        quarantine: quarantine::count(db)?.cast_unsigned(),
        open_gaps: count("SELECT count(*) FROM main.__harmonylite__gap")?,
        ..Status::default()
    })
}

fn texts(db: &Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
    db.prepare(sql)?.query_map([], |r| r.get(0))?.collect()
}

fn streams(db: &Connection) -> Result<Vec<StreamStatus>> {
    let shards: Vec<u32> = db
        .prepare("SELECT DISTINCT shard FROM main.__harmonylite__cursor ORDER BY shard")?
        .query_map([], |r| r.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let one = |shard| Ok(StreamStatus { shard, cursor: Cursor::read(db, shard)?.seq().0, ..StreamStatus::default() });
    shards.into_iter().map(one).collect()
}

fn held(db: &Connection) -> rusqlite::Result<Vec<HeldStatus>> {
    let mut read = db.prepare("SELECT node, shard, since, reason FROM main.__harmonylite__held ORDER BY node, shard")?;
    let rows = read.query_map([], |r| {
        Ok(HeldStatus { node_id: r.get::<_, i64>(0)?.cast_unsigned(), shard: r.get(1)?, since_ms: r.get(2)?, reason: r.get(3)? })
    })?;
    rows.collect()
}

fn text(running: bool, s: &Status) -> String {
    let mut out = String::new();
    let node = match running {
        true => {
            format!("{}: running for {} (process {}, harmonylite {})", s.node_id, show::span(s.now_ms - s.started_ms), s.pid, s.version)
        }
        false => format!("{}: NOT RUNNING; what follows is what the database holds", s.node_id),
    };
    show::line(&mut out, "node", &node);
    let skipped = if s.skipped.is_empty() { String::new() } else { format!(", {} not (harmonylite doctor)", s.skipped.len()) };
    show::line(
        &mut out,
        "database",
        &format!("{}: {} tables replicated{skipped}{}", s.db_path, s.tables.len(), if s.joined { "" } else { "; has not joined yet" }),
    );
    if running {
        show::line(&mut out, "broker", &broker(s));
        for (off, what) in
            [(s.publish, "publish = false: local changes are not sent"), (s.replicate, "replicate = false: remote changes are not applied")]
        {
            if !off {
                show::line(&mut out, "one-way", what);
            }
        }
    }
    for stream in &s.streams {
        let of = if running { format!(" of {}, lag {}", stream.last, show::span(stream.lag_ms)) } else { String::new() };
        show::line(&mut out, &format!("stream {}", stream.shard), &format!("applied up to {}{of}", stream.cursor));
    }
    let oldest = if s.oldest_pending_ms > 0 { format!(", the oldest {}", show::ago(s.oldest_pending_ms, s.now_ms)) } else { String::new() };
    show::line(&mut out, "pending", &format!("{} changes not yet published{oldest}", s.pending_rows));
    for held in &s.held {
        let since = show::ago(held.since_ms, s.now_ms);
        show::line(&mut out, "paused", &format!("node {} (stream {}), since {since}: {}", held.node_id, held.shard, held.reason));
    }
    show::line(&mut out, "conflicts", &counted(s.conflicts, "harmonylite conflicts list"));
    show::line(&mut out, "quarantine", &counted(s.quarantine, "harmonylite quarantine list"));
    if s.open_gaps > 0 {
        show::line(&mut out, "gaps", &format!("{} being repaired", s.open_gaps));
    }
    if running {
        activity(&mut out, s);
    }
    for reason in &s.degraded {
        show::line(&mut out, "DEGRADED", reason);
    }
    out
}

fn broker(s: &Status) -> String {
    let b = &s.broker;
    let kind = if b.embedded { "embedded " } else { "" };
    match (b.connected, b.linked) {
        (true, true) => format!("{kind}{}: connected (nats-server {})", b.url, b.server_version),
        (true, false) => format!("{kind}{}: connected (nats-server {}), being compared with the cursor", b.url, b.server_version),
        (false, _) if b.last_error.is_empty() => format!("{kind}{}: not connected", b.url),
        (false, _) => format!("{kind}{}: not connected after {} attempts: {}", b.url, b.failed_attempts, b.last_error),
    }
}

fn counted(n: u64, command: &str) -> String {
    if n == 0 { "none".to_owned() } else { format!("{n} ({command})") }
}

fn activity(out: &mut String, s: &Status) {
    let (c, w) = (&s.counters, &s.wake);
    let last = |ms| if ms == 0 { String::new() } else { format!("; last {}", show::ago(ms, s.now_ms)) };
    show::line(
        out,
        "published",
        &format!(
            "{} batches, {} rows, {}{}",
            c.batches_published,
            c.rows_published,
            show::bytes(c.bytes_published),
            last(s.last_published_ms)
        ),
    );
    show::line(
        out,
        "applied",
        &format!(
            "{} batches, {} rows ({} older than ours), {}{}",
            c.batches_applied,
            c.rows_applied,
            c.rows_skipped,
            show::bytes(c.bytes_applied),
            last(s.last_applied_ms)
        ),
    );
    let mut wakes =
        format!("{} (bell {}, watcher {}, poll {})", if w.last.is_empty() { "nothing yet" } else { &w.last }, w.bell, w.watcher, w.poll);
    for (what, (median, most)) in [
        ("commit to wake", w.commit_to_wake_us),
        ("wake to published", w.wake_to_published_us),
        ("published to applied", w.published_to_applied_us),
    ] {
        if most > 0 {
            let _ = write!(wakes, "; {what} {} ms, p99 {} ms", ms(median), ms(most));
        }
    }
    show::line(out, "woken by", &wakes);
    if c.busy > 0 {
        show::line(out, "waited", &format!("{} times for another program's lock", c.busy));
    }
}

/// Microseconds as milliseconds with two digits.
fn ms(us: u64) -> String {
    format!("{}.{:02}", us / 1_000, us % 1_000 / 10)
}

#[cfg(test)]
mod tests {
    use super::super::control::fake_node;
    use super::*;
    use harmonylite::lockfile::Lock;
    use harmonylite::status::BrokerStatus;

    fn database(dir: &Path) -> std::path::PathBuf {
        let path = dir.join("app.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, a)").unwrap();
        harmonylite::database::create_tables(&db, &path).unwrap();
        harmonylite::database::set(&db, "node", 4).unwrap();
        harmonylite::capture::install(&db, &Default::default(), 1).unwrap();
        db.execute_batch(
            "INSERT INTO t VALUES (1, 1), (2, 2);
             INSERT INTO __harmonylite__cursor (shard, seq, created, time, node, site, batch, lowest) VALUES (1, 17, 0, 0, 1, 1, 1, 0);
             INSERT INTO __harmonylite__held VALUES (9, 1, 5, 1000, 'column x is missing');",
        )
        .unwrap();
        path
    }

    #[test]
    fn a_stopped_node_still_tells_what_the_database_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = database(dir.path());
        let (running, status) = look(&path).unwrap();
        assert!(!running);
        assert_eq!((status.node_id, status.pending_rows, status.streams[0].cursor), (4, 2, 17));
        let text = text(running, &status);
        for part in ["NOT RUNNING", "1 tables", "applied up to 17", "2 changes", "node 9", "column x is missing", "conflicts    none"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let settings = Settings { db_path: path, ..Settings::default() };
        assert_eq!(run(&settings, true, false).unwrap(), ExitCode::from(1));
    }

    #[test]
    fn a_running_node_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let path = database(dir.path());
        let mut lock = Lock::acquire(&path).unwrap();
        assert!(look(&path).unwrap_err().to_string().contains("starting"));
        let socket = dir.path().join("s");
        lock.announce(&Owner { pid: 5, node_id: 4, socket: socket.clone() }).unwrap();
        let status = Status {
            node_id: 4,
            publish: true,
            started_ms: 1,
            now_ms: 65_001,
            broker: BrokerStatus { connected: true, linked: true, url: "nats://a".into(), ..Default::default() },
            degraded: vec!["the disk is nearly full".into()],
            ..Status::default()
        };
        let node = fake_node(&socket, 200, serde_json::to_string(&status).unwrap());
        let (running, got) = look(&path).unwrap();
        assert!(running && got == status);
        assert_eq!(node.join().unwrap(), "GET /status HTTP/1.1");
        let text = text(running, &got);
        for part in ["running for 1 min 5 s", "nats://a: connected", "one-way", "DEGRADED     the disk"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_database_that_was_never_replicated_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plain.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
        let failure = Failure::of(&look(&path).unwrap_err());
        assert!(failure.exit == Exit::General && failure.what.contains("never been replicated"), "{failure:?}");
    }
}
