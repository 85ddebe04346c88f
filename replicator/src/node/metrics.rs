//! A status as Prometheus metrics: the names of HarmonyLite (Go), and more.
//!
//! Made anew at each scrape from the same [`Status`] that people see, so that the two cannot
//! differ. Pure.

use crate::model::status::Status;
use prometheus::{Encoder, IntCounter, IntGauge, Opts, Registry, TextEncoder};

struct Page<'a> {
    registry: Registry,
    namespace: &'a str,
    subsystem: &'a str,
}

impl Page<'_> {
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

/// The page for `/metrics`.
///
/// # Errors
/// A namespace or subsystem that makes no valid name.
pub(super) fn text(
    status: &Status,
    namespace: &str,
    subsystem: &str,
) -> prometheus::Result<Vec<u8>> {
    let page = Page { registry: Registry::new(), namespace, subsystem };
    let c = &status.counters;
    page.counter("published", "Rows published.", c.rows_published)?;
    page.gauge(
        "pending_publish",
        "Logged changes that the broker has not acknowledged.",
        signed(status.pending_rows),
    )?;
    page.counter(
        "count_changes",
        "Rows collected and published; HarmonyLite (Go) counts under this name.",
        c.rows_published,
    )?;
    page.counter("scan_changes", "Times the change log was looked at.", c.scans)?;
    page.gauge(
        "schema_mismatch_paused",
        "Origins that wait for this node's schema.",
        signed(status.held.len() as u64),
    )?;
    page.counter("batches_published", "Batches published.", c.batches_published)?;
    page.counter("published_bytes", "Bytes of batches published.", c.bytes_published)?;
    page.counter("batches_applied", "Batches of other nodes applied.", c.batches_applied)?;
    page.counter(
        "rows_applied",
        "Rows of other nodes that were newer and are now here.",
        c.rows_applied,
    )?;
    page.counter(
        "rows_skipped",
        "Rows of other nodes that were older or the same.",
        c.rows_skipped,
    )?;
    page.counter("applied_bytes", "Bytes of batches applied.", c.bytes_applied)?;
    page.counter(
        "write_transactions",
        "Times the sidecar held the database's write lock.",
        c.write_transactions,
    )?;
    page.counter(
        "busy_waits",
        "Times the database's write lock was held by another connection.",
        c.busy,
    )?;
    page.counter("conflicts", "Losing writes put into the conflict journal.", c.conflicts)?;
    page.gauge("conflict_journal", "Entries of the conflict journal.", signed(status.conflicts))?;
    page.gauge("quarantine", "Batches in quarantine.", signed(status.quarantine))?;
    page.gauge("held_origins", "Origins that are held.", signed(status.held.len() as u64))?;
    page.gauge(
        "open_gaps",
        "Holes in the stream that wait to be filled.",
        signed(status.open_gaps),
    )?;
    page.counter("gaps", "Holes found in the stream.", c.gaps)?;
    page.counter("losses", "Times the broker had lost what it had acknowledged.", c.losses)?;
    page.counter("rows_republished", "Rows published again to repair a loss.", c.rows_republished)?;
    page.counter("split_transactions", "Transactions too large for one batch.", c.split)?;
    page.counter("clock_drift_warnings", "Batches from a clock too far ahead.", c.drift_warnings)?;
    page.counter(
        "null_key_changes",
        "Changes to rows with NULL in the primary key, which are not replicated.",
        c.null_key_changes,
    )?;
    page.counter(
        "server_restarts",
        "Times the embedded NATS server was started again.",
        c.server_restarts,
    )?;
    page.gauge(
        "connected",
        "1 while the broker is connected.",
        i64::from(status.broker.connected),
    )?;
    page.gauge(
        "lag_ms",
        "How far the newest applied message is behind the newest known one.",
        status.streams.iter().map(|s| s.lag_ms).max().unwrap_or(0),
    )?;
    let oldest_ms = if status.oldest_pending_ms > 0 {
        (status.now_ms - status.oldest_pending_ms).max(0)
    } else {
        0
    };
    page.gauge(
        "oldest_pending_ms",
        "How long the oldest unacknowledged change has waited.",
        oldest_ms,
    )?;
    page.gauge(
        "degraded",
        "Reasons why this node is not as well as it could be.",
        signed(status.degraded.len() as u64),
    )?;
    for (name, way) in [
        ("wakes_bell", status.wake.bell),
        ("wakes_watcher", status.wake.watcher),
        ("wakes_poll", status.wake.poll),
    ] {
        page.counter(name, "Wakes by this way.", way)?;
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
