//! The status as Prometheus metrics: those of HarmonyLite (Go) under their names, and more.
//!
//! Each scrape builds the page from the same [`Status`] that people see. Pure.

use crate::model::status::Status;
use prometheus::{Encoder, IntCounter, IntGauge, Opts, Registry, TextEncoder};

struct MetricsPage<'a> {
    registry: Registry,
    namespace: &'a str,
    subsystem: &'a str,
}

impl MetricsPage<'_> {
    fn opts(&self, name: &str, help: &str) -> Opts {
        Opts::new(name, help).namespace(self.namespace).subsystem(self.subsystem)
    }

    fn counter(&self, name: &str, help: &str, value: u64) -> prometheus::Result<()> {
        let counter = IntCounter::with_opts(self.opts(name, help))?;
        counter.inc_by(value);
        self.registry.register(Box::new(counter))
    }

    fn gauge(&self, name: &str, help: &str, value: i64) -> prometheus::Result<()> {
        let gauge = IntGauge::with_opts(self.opts(name, help))?;
        gauge.set(value);
        self.registry.register(Box::new(gauge))
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// What is known of the snapshots. A time that is not known is left out: an age of 0 would please.
fn snapshots(page: &MetricsPage<'_>, status: &Status) -> prometheus::Result<()> {
    let seen = &status.snapshots;
    let age_s = |at_ms: i64| (status.now_ms - at_ms).max(0) / 1_000;
    page.gauge("snapshot_leader", "1 while this node takes the snapshots.", seen.leads.into())?;
    if seen.saved_ms > 0 {
        let help = "Seconds since the newest snapshot was captured.";
        page.gauge("snapshot_age_seconds", help, age_s(seen.saved_ms))?;
    }
    if seen.verified_ms > 0 {
        let help = "Seconds since the newest snapshot was captured that was restored and checked.";
        page.gauge("snapshot_verified_age_seconds", help, age_s(seen.verified_ms))?;
    }
    let failing = !seen.save_error.is_empty() || !seen.verify_error.is_empty();
    let help = "1 while this node cannot save a snapshot, or the newest one is not sound.";
    page.gauge("snapshot_failing", help, failing.into())
}

/// The page for `/metrics`.
///
/// # Errors
/// A namespace or subsystem that is no valid metric name.
pub(super) fn text(
    status: &Status,
    namespace: &str,
    subsystem: &str,
) -> prometheus::Result<Vec<u8>> {
    let page = MetricsPage { registry: Registry::new(), namespace, subsystem };
    let c = &status.counters;
    page.counter("published", "Rows published.", c.rows_published)?;
    page.gauge(
        "pending_publish",
        "Logged changes that the broker has not acknowledged.",
        signed(status.pending_rows),
    )?;
    page.counter(
        "count_changes",
        "Rows published, under the name that HarmonyLite (Go) uses.",
        c.rows_published,
    )?;
    page.counter("scan_changes", "Scans of the change log.", c.scans)?;
    page.gauge(
        "schema_mismatch_paused",
        "Origins whose changes are held because their schema differs.",
        signed(status.held.len() as u64),
    )?;
    page.counter("batches_published", "Batches published.", c.batches_published)?;
    page.counter("published_bytes", "Bytes of batches published.", c.bytes_published)?;
    page.counter("batches_applied", "Batches of other nodes applied.", c.batches_applied)?;
    page.counter("rows_applied", "Rows of other nodes applied.", c.rows_applied)?;
    page.counter(
        "rows_skipped",
        "Rows of other nodes skipped because they were older or equal.",
        c.rows_skipped,
    )?;
    page.counter("applied_bytes", "Bytes of batches applied.", c.bytes_applied)?;
    page.counter("write_transactions", "Write transactions of the sidecar.", c.write_transactions)?;
    page.counter(
        "snapshots_met",
        "Write transactions during which another connection had an open snapshot.",
        c.snapshots_met,
    )?;
    page.gauge(
        "unmarked_changes",
        "Acknowledged changes whose mark in the database waits for a quiet moment.",
        signed(status.unmarked_rows),
    )?;
    page.counter("busy_waits", "Times another connection held the database's write lock.", c.busy)?;
    page.counter("conflicts", "Losing writes recorded in the conflict journal.", c.conflicts)?;
    page.counter(
        "inserted_twice",
        "Losing rows that another node had inserted under the same key.",
        c.inserted_twice,
    )?;
    page.gauge("conflict_journal", "Entries of the conflict journal.", signed(status.conflicts))?;
    page.gauge("quarantine", "Batches in quarantine.", signed(status.quarantine))?;
    page.gauge("held_origins", "Origins that are held.", signed(status.held.len() as u64))?;
    page.gauge(
        "open_gaps",
        "Gaps in the streams that are not repaired yet.",
        signed(status.open_gaps),
    )?;
    page.counter("gaps", "Gaps found in the streams.", c.gaps)?;
    page.counter("losses", "Times the broker lost acknowledged messages.", c.losses)?;
    page.counter("rows_republished", "Rows republished to repair a loss.", c.rows_republished)?;
    page.counter("split_transactions", "Transactions too large for one batch.", c.split)?;
    page.counter(
        "clock_drift_warnings",
        "Warnings of a wrong clock, one a node and minute.",
        c.drift_warnings,
    )?;
    page.counter(
        "null_key_changes",
        "Changes to rows with NULL in the primary key, which are not replicated.",
        c.null_key_changes,
    )?;
    snapshots(&page, status)?;
    page.counter("server_restarts", "Restarts of the embedded NATS server.", c.server_restarts)?;
    page.gauge(
        "connected",
        "1 while the node is connected to the broker.",
        i64::from(status.broker.connected),
    )?;
    page.gauge(
        "lag_ms",
        "Milliseconds between the newest applied message and the last one; -1 if not known.",
        status.lag_ms().unwrap_or(-1),
    )?;
    let oldest_ms = if status.oldest_pending_ms > 0 {
        (status.now_ms - status.oldest_pending_ms).max(0)
    } else {
        0
    };
    page.gauge(
        "oldest_pending_ms",
        "Age of the oldest unacknowledged change in milliseconds.",
        oldest_ms,
    )?;
    page.gauge(
        "degraded",
        "Number of reasons for which this node is degraded.",
        signed(status.degraded.len() as u64),
    )?;
    for (name, way) in [
        ("wakes_bell", status.wake.bell),
        ("wakes_watcher", status.wake.watcher),
        ("wakes_poll", status.wake.poll),
    ] {
        page.counter(name, "Wakes by this source.", way)?;
    }
    let mut out = Vec::new();
    TextEncoder::new().encode(&page.registry.gather(), &mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_harmonylite_are_there() {
        let mut status = Status { pending_rows: 3, ..Status::default() };
        status.counters.rows_published = 9;
        let page = String::from_utf8(text(&status, "harmonylite", "").unwrap()).unwrap();
        for line in [
            "harmonylite_published 9",
            "harmonylite_pending_publish 3",
            "harmonylite_count_changes 9",
            "harmonylite_scan_changes 0",
            "harmonylite_schema_mismatch_paused 0",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} in {page}");
        }
        assert!(
            String::from_utf8(text(&status, "a", "b").unwrap())
                .unwrap()
                .contains("a_b_published 9")
        );
        assert!(text(&status, "not valid", "").is_err());
    }
}
