//! The status as text: one aligned line per fact.

use super::super::show;
use super::super::table::Facts;
use crate::model::status::{SnapshotWork, Status};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The state of a node in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Healthy,
    Degraded,
    Stopped,
}

/// Returns the state in one word, and as a line with the reasons.
pub(super) fn word(running: bool, s: &Status) -> (Word, String) {
    match (running, s.degraded.is_empty()) {
        (false, _) => (Word::Stopped, "STOPPED: no node runs on this database".to_owned()),
        (true, true) => (Word::Healthy, "healthy".to_owned()),
        (true, false) => (Word::Degraded, format!("DEGRADED: {}", s.degraded.join("; "))),
    }
}

/// The newest snapshot, the newest proved one, and who takes them.
fn snapshots(s: &Status) -> String {
    let seen = &s.snapshots;
    let by = match (seen.leads, seen.leader) {
        (true, _) => "this node takes them".to_owned(),
        (_, 0) => "no node takes them now".to_owned(),
        (_, node) => format!("node {node} takes them"),
    };
    let saved = match seen.saved_ms {
        0 => "none yet".to_owned(),
        at => format!("the newest from {}", show::ago(at, s.now_ms)),
    };
    let verified = match seen.verified_ms {
        0 => "none verified".to_owned(),
        at if at == seen.saved_ms => "verified".to_owned(),
        at => format!("the newest verified one from {}", show::ago(at, s.now_ms)),
    };
    format!("{saved}, {verified}; {by}")
}

/// What is done with a snapshot, and how far it is.
fn work(w: &SnapshotWork, now_ms: i64) -> String {
    let count = |n| if w.unit == "bytes" { show::bytes(n) } else { format!("{n} {}", w.unit) };
    let mut text = format!("{} (store {})", w.what, w.store);
    if w.total > 0 {
        let (done, total, rate) = (count(w.done), count(w.total), count(w.per_second));
        let _ = write!(text, ": {done} of {total}, {rate} a second");
    }
    if let Some(left_ms) = w.left_ms {
        let _ = write!(text, ", {} left", show::span(left_ms));
    }
    let _ = write!(text, ", for {}", show::span(now_ms - w.since_ms));
    text
}

/// Returns the status as text.
pub(super) fn text(running: bool, s: &Status) -> String {
    let mut out = Facts::new();
    match word(running, s).0 {
        Word::Stopped => out.alarm("STOPPED", "no node runs on this database"),
        Word::Healthy => out.line("healthy", "this node knows of nothing wrong"),
        Word::Degraded => s.degraded.iter().for_each(|reason| out.alarm("DEGRADED", reason)),
    }
    if running {
        let time = show::span(s.now_ms - s.started_ms);
        let (id, pid, version) = (s.node_id, s.pid, &s.version);
        let node = format!("{id}: running for {time} (process {pid}, harmonylite {version})");
        out.line("node", &node);
    } else {
        let what = "NOT RUNNING; the lines below show the database's content";
        out.alarm("node", &format!("{}: {what}", s.node_id));
    }
    let skipped =
        if s.skipped.is_empty() { String::new() } else { format!(", {} not", s.skipped.len()) };
    out.line(
        "database",
        &format!(
            "{}: {} replicated{skipped}{}",
            s.db_path,
            if s.tables.len() == 1 {
                "1 table".to_owned()
            } else {
                format!("{} tables", s.tables.len())
            },
            if s.joined { "" } else { "; not joined yet" }
        ),
    );
    not_replicated(&mut out, s);
    if running {
        out.line("broker", &broker(s));
        for (off, what) in [
            (s.publish, "publish = false: local changes are not published"),
            (s.replicate, "replicate = false: remote changes are not applied"),
        ] {
            if !off {
                out.line("one-way", what);
            }
        }
    }
    for stream in &s.streams {
        let of = if running {
            let lag = stream.lag_ms.map_or("not known".to_owned(), show::span);
            format!(" of {}, lag {lag}", stream.last)
        } else {
            String::new()
        };
        out.line(
            &format!("stream {}", stream.shard),
            &format!("applied up to {}{of}", stream.cursor),
        );
    }
    if running {
        other_nodes(&mut out, s);
    }
    let oldest = if s.oldest_pending_ms > 0 {
        format!(", the oldest {}", show::ago(s.oldest_pending_ms, s.now_ms))
    } else {
        String::new()
    };
    let unmarked = match s.unmarked_rows {
        0 => String::new(),
        n => format!("; {n} published, to be marked in a quiet moment"),
    };
    let pending = format!("{} changes not published yet{oldest}{unmarked}", s.pending_rows);
    out.line("pending", &pending);
    for other in &s.schema_differences {
        let tables = match other.tables.is_empty() {
            true => String::new(),
            false => format!(": {}", other.tables.join(", ")),
        };
        let lasts = show::span(s.now_ms - other.since_ms);
        out.line(
            "schema",
            &format!("for {lasts} another one than that of node {}{tables}", other.node_id),
        );
    }
    for held in &s.held {
        let lasts = show::span(s.now_ms - held.since_ms);
        out.line(
            "held",
            &format!(
                "changes of node {} (stream {}), for {lasts}: {}",
                held.node_id, held.shard, held.reason
            ),
        );
    }
    for unmade in &s.unmade_objects {
        let lasts = show::span(s.now_ms - unmade.since_ms);
        let (node, change, error) = (unmade.node_id, &unmade.change, &unmade.error);
        out.alarm("not made", &format!("for {lasts}, of node {node}: {change}: {error}"));
    }
    if !s.kept_tables.is_empty() {
        let tables = s.kept_tables.join(", ");
        out.line("kept", &format!("values that a migration of another node dropped: {tables}"));
    }
    if running && s.snapshots.enabled {
        out.line("snapshots", &snapshots(s));
        for each in &s.snapshots.works {
            out.line("now", &work(each, s.now_ms));
        }
    }
    out.line("conflicts", &counted(s.conflicts, "harmonylite conflicts list"));
    out.line("quarantine", &counted(s.quarantine, "harmonylite quarantine list"));
    for (rows, what) in [(s.joining_rows, "joining"), (s.republishing_rows, "repair")] {
        if let Some(rows) = rows {
            out.line(what, &format!("{rows} rows logged for publication so far"));
        }
    }
    if s.open_gaps > 0 {
        let wanted = match (s.snapshots.wanted, s.snapshots.leader) {
            (false, _) => String::new(),
            (true, 0) => "; no snapshot has what is missing, and no node takes them now".to_owned(),
            (true, node) => {
                format!("; no snapshot has what is missing: node {node} is asked for one")
            }
        };
        out.line("gaps", &format!("{} being repaired{wanted}", s.open_gaps));
    }
    if running {
        activity(&mut out, s);
    }
    out.text()
}

/// One line for each other node.
fn other_nodes(out: &mut Facts, s: &Status) {
    if s.nodes.is_empty() {
        out.line("nodes", "no other node is known; one that connects is seen within seconds");
    }
    for node in &s.nodes {
        let state = if node.running { "running" } else { "not running" };
        let behind = match node.behind {
            Some(0) => ", has everything".to_owned(),
            Some(n) => format!(", behind by {n} messages"),
            None => String::new(),
        };
        let seen = show::ago(node.seen_ms, s.now_ms);
        out.line(&format!("node {}", node.node_id), &format!("{state}, seen {seen}{behind}"));
    }
}

/// One line for each reason.
fn not_replicated(out: &mut Facts, s: &Status) {
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (table, reason) in &s.skipped {
        by_reason.entry(reason).or_default().push(table);
    }
    for (reason, tables) in by_reason {
        out.line("local only", &format!("{}: {reason}", tables.join(", ")));
    }
    for (trigger, reason) in &s.silent_triggers {
        let text = format!(
            "trigger {trigger} does not fire for rows of other nodes, so what it maintains lacks \
            them: {reason} (only the application registers it)"
        );
        out.alarm("silent", &text);
    }
}

fn broker(s: &Status) -> String {
    let b = &s.broker;
    let kind = if b.embedded { "embedded " } else { "" };
    match (b.connected, b.linked) {
        (true, true) => {
            let error = match b.server_error.as_str() {
                "" => String::new(),
                error => format!("; the last error it reported: {error}"),
            };
            format!("{kind}{}: connected (nats-server {}){error}", b.url, b.server_version)
        }
        (true, false) => format!(
            "{kind}{}: connected (nats-server {}), verifying the streams",
            b.url, b.server_version
        ),
        (false, _) if b.last_error.is_empty() => format!("{kind}{}: disconnected", b.url),
        (false, _) => format!(
            "{kind}{}: disconnected after {} attempts: {}",
            b.url, b.failed_attempts, b.last_error
        ),
    }
}

fn counted(n: u64, command: &str) -> String {
    if n == 0 { "none".to_owned() } else { format!("{n} ({command})") }
}

fn activity(out: &mut Facts, s: &Status) {
    let (c, w) = (&s.counters, &s.wake);
    let last =
        |ms| if ms == 0 { String::new() } else { format!("; last {}", show::ago(ms, s.now_ms)) };
    out.line(
        "published",
        &format!(
            "{} batches, {} rows, {}{}",
            c.batches_published,
            c.rows_published,
            show::bytes(c.bytes_published),
            last(s.last_published_ms)
        ),
    );
    out.line(
        "applied",
        &format!(
            "{} batches, {} rows ({} skipped as older), {}{}",
            c.batches_applied,
            c.rows_applied,
            c.rows_skipped,
            show::bytes(c.bytes_applied),
            last(s.last_applied_ms)
        ),
    );
    let mut wakes = format!(
        "{} (bell {}, watcher {}, poll {})",
        if w.last.is_empty() { "none yet" } else { &w.last },
        w.bell,
        w.watcher,
        w.poll
    );
    for (what, (median, most)) in [
        ("commit to wake", w.commit_to_wake_us),
        ("wake to published", w.wake_to_published_us),
        ("published to applied", w.published_to_applied_us),
    ] {
        if most > 0 {
            let _ = write!(wakes, "; {what} {} ms, p99 {} ms", ms(median), ms(most));
        }
    }
    out.line("woken by", &wakes);
    let met = match c.snapshots_met {
        0 => String::new(),
        n => format!("; met an open transaction of another program {n} times"),
    };
    let (all, rate) = (c.write_transactions, s.writes_per_second);
    out.line("writes", &format!("{all} transactions, {rate:.1} a second lately{met}"));
    if c.busy > 0 {
        out.line("waited", &format!("{} times for the write lock of another program", c.busy));
    }
}

/// Microseconds as milliseconds with two digits.
fn ms(us: u64) -> String {
    format!("{}.{:02}", us / 1_000, us % 1_000 / 10)
}
