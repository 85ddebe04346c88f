//! The status as text: one aligned line per fact.

use super::super::show;
use crate::model::status::Status;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Returns the status as text.
pub(super) fn text(running: bool, s: &Status) -> String {
    let mut out = String::new();
    let node = match running {
        true => {
            format!(
                "{}: running for {} (process {}, harmonylite {})",
                s.node_id,
                show::span(s.now_ms - s.started_ms),
                s.pid,
                s.version
            )
        }
        false => format!("{}: NOT RUNNING; the lines below show the database's content", s.node_id),
    };
    show::line(&mut out, "node", &node);
    let skipped =
        if s.skipped.is_empty() { String::new() } else { format!(", {} not", s.skipped.len()) };
    show::line(
        &mut out,
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
        show::line(&mut out, "broker", &broker(s));
        for (off, what) in [
            (s.publish, "publish = false: local changes are not published"),
            (s.replicate, "replicate = false: remote changes are not applied"),
        ] {
            if !off {
                show::line(&mut out, "one-way", what);
            }
        }
    }
    for stream in &s.streams {
        let of = if running {
            format!(" of {}, lag {}", stream.last, show::span(stream.lag_ms))
        } else {
            String::new()
        };
        show::line(
            &mut out,
            &format!("stream {}", stream.shard),
            &format!("applied up to {}{of}", stream.cursor),
        );
    }
    let oldest = if s.oldest_pending_ms > 0 {
        format!(", the oldest {}", show::ago(s.oldest_pending_ms, s.now_ms))
    } else {
        String::new()
    };
    show::line(
        &mut out,
        "pending",
        &format!("{} changes not published yet{oldest}", s.pending_rows),
    );
    for held in &s.held {
        let since = show::ago(held.since_ms, s.now_ms);
        show::line(
            &mut out,
            "held",
            &format!(
                "changes of node {} (stream {}), since {since}: {}",
                held.node_id, held.shard, held.reason
            ),
        );
    }
    show::line(&mut out, "conflicts", &counted(s.conflicts, "harmonylite conflicts list"));
    show::line(&mut out, "quarantine", &counted(s.quarantine, "harmonylite quarantine list"));
    for (rows, what) in [(s.joining_rows, "joining"), (s.republishing_rows, "repair")] {
        if let Some(rows) = rows {
            show::line(&mut out, what, &format!("{rows} rows logged for publication so far"));
        }
    }
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

/// One line for each reason.
fn not_replicated(out: &mut String, s: &Status) {
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (table, reason) in &s.skipped {
        by_reason.entry(reason).or_default().push(table);
    }
    for (reason, tables) in by_reason {
        show::line(out, "local only", &format!("{}: {reason}", tables.join(", ")));
    }
}

fn broker(s: &Status) -> String {
    let b = &s.broker;
    let kind = if b.embedded { "embedded " } else { "" };
    match (b.connected, b.linked) {
        (true, true) => format!("{kind}{}: connected (nats-server {})", b.url, b.server_version),
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

fn activity(out: &mut String, s: &Status) {
    let (c, w) = (&s.counters, &s.wake);
    let last =
        |ms| if ms == 0 { String::new() } else { format!("; last {}", show::ago(ms, s.now_ms)) };
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
    show::line(out, "woken by", &wakes);
    if c.busy > 0 {
        show::line(
            out,
            "waited",
            &format!("{} times for the write lock of another program", c.busy),
        );
    }
}

/// Microseconds as milliseconds with two digits.
fn ms(us: u64) -> String {
    format!("{}.{:02}", us / 1_000, us % 1_000 / 10)
}
