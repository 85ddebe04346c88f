//! Builds the status of a running node.
//!
//! Arrives: the snapshots of the two threads, the connection's state, and figures read from the
//! database on a connection of its own. Leaves: a [`Status`]. Reads only.

use super::database_figures::DatabaseFigures;
use super::reader::ReaderSnapshot;
use super::registry::{RegistrySeen, StreamEnd};
use super::servers::ServersUp;
use super::writer::{StreamSnapshot, WriterSnapshot};
use crate::clock;
use crate::embedded::Health;
use crate::model::ids::NodeId;
use crate::model::status::{
    BrokerStatus, Counters, SchemaDifference, SnapshotsStatus, Status, StreamStatus, UnmadeStatus,
    WakeStatus,
};
use crate::nats::{LinkState, wire};
use crate::settings::Settings;
use rusqlite::Connection;
use std::path::PathBuf;
use tokio::sync::watch;

/// The inputs of a status.
pub(super) struct StatusSources {
    pub(super) settings: Settings,
    pub(super) node: NodeId,
    pub(super) database: PathBuf,
    pub(super) started_ms: i64,
    pub(super) embedded: bool,
    pub(super) writer: watch::Receiver<WriterSnapshot>,
    pub(super) reader: watch::Receiver<ReaderSnapshot>,
    pub(super) link: watch::Receiver<LinkState>,
    /// The other nodes, and the ends of the streams.
    pub(super) registry: watch::Receiver<RegistrySeen>,
    /// The snapshots of the cluster; the default with `snapshot.enabled = false`.
    pub(super) snapshots: watch::Receiver<SnapshotsStatus>,
    /// The NATS servers that are up.
    pub(super) servers: watch::Receiver<ServersUp>,
    /// Indexes that do not find rows of their tables, each as a reason.
    pub(super) blind_indexes: watch::Receiver<Vec<String>>,
    /// The embedded server's health; None without one.
    pub(super) server: Option<watch::Receiver<Health>>,
    pub(super) db: parking_lot::Mutex<Option<Connection>>,
}

/// A change that is pending for longer makes the node degraded.
const PENDING_MS_MAX: i64 = 60_000;
/// A connection whose check takes longer makes the node degraded.
const UNANSWERED_MS_MAX: u64 = 10_000;
/// A connection whose check takes longer makes health unhealthy.
const UNANSWERED_MS_FAILING: u64 = 30_000;
/// An error that the server reported within this time counts.
const SERVER_ERROR_MS: u64 = 60_000;
/// The ends of the streams are known for so long after a look at them.
const ENDS_MS: u64 = 20_000;
/// A longer wait for the write lock makes the node degraded.
const BUSY_MS_MAX: u64 = 10_000;

/// A snapshot that is this much older than three intervals makes the node degraded.
const SNAPSHOT_LATE_MS: i64 = 60_000;

/// A schema that differs for longer makes the node degraded.
const DIFFERENT_MS_MAX: i64 = 60_000;

impl StatusSources {
    /// Builds the present status.
    pub(super) fn status(&self) -> Status {
        let (writer, reader, link, registry) = (
            self.writer.borrow().clone(),
            self.reader.borrow().clone(),
            self.link.borrow().clone(),
            self.registry.borrow().clone(),
        );
        let figures = match self.db.lock().as_ref() {
            Some(db) => DatabaseFigures::read(db, reader.sent),
            None => Ok(DatabaseFigures::default()),
        };
        let now_ms = clock::unix_ms();
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node_id: self.node.0,
            pid: std::process::id(),
            db_path: self.database.display().to_string(),
            started_ms: self.started_ms,
            now_ms,
            site: writer.site.map_or(0, |s| s.0),
            joined: writer.joined,
            publish: self.settings.publish,
            replicate: self.settings.replicate,
            tables: writer.layout.tables.iter().map(|t| t.name().to_owned()).collect(),
            skipped: writer
                .layout
                .skipped
                .iter()
                .map(|s| (s.name.clone(), s.reason.clone()))
                .collect(),
            silent_triggers: writer.silent_triggers.clone(),
            broker: BrokerStatus {
                embedded: self.embedded,
                url: link.url.clone(),
                connected: link.connected,
                linked: writer.linked,
                failed_attempts: link.failed_attempts,
                last_error: link.last_error.clone(),
                server_error: link.server_error.clone(),
                server_version: link.server_version.clone(),
            },
            streams: writer
                .streams
                .iter()
                .map(|s| self.stream(s, &registry, writer.linked))
                .collect(),
            schema_differences: registry.differences.clone(),
            nodes: registry.nodes.clone(),
            snapshots: self.snapshots.borrow().clone(),
            open_gaps: writer.gaps.len() as u64,
            joining_rows: writer.republished.0,
            republishing_rows: writer.republished.1,
            wake: wake(&writer, &reader),
            writes_per_second: writer
                .writes
                .per_second(clock::mono_ms(), writer.stats.transactions),
            counters: self.counters(&writer, &reader),
            last_published_ms: reader.stats.last_published_unix_ms,
            last_applied_ms: writer.stats.last_applied_unix_ms,
            ..Status::default()
        };
        match figures {
            Ok(figures) => figures.put_into(&mut status),
            Err(error) => status.fail(format!("the database cannot be read: {error}")),
        }
        self.degrade(&mut status, &writer, &reader, &link);
        if link.connected {
            registry_reasons(&mut status, &registry);
        }
        status
    }

    fn stream(&self, seen: &StreamSnapshot, registry: &RegistrySeen, linked: bool) -> StreamStatus {
        let is_fresh = clock::mono_ms().saturating_sub(registry.read_ms) <= ENDS_MS;
        let end = registry.ends.get(&seen.shard).filter(|_| linked && is_fresh);
        StreamStatus {
            shard: seen.shard,
            name: wire::stream_name(&self.settings.nats.stream_prefix, seen.shard),
            cursor: seen.cursor,
            last: registry.ends.get(&seen.shard).map_or(0, |end| end.last).max(seen.position),
            lag_ms: end
                .filter(|_| self.settings.replicate)
                .map(|end| lag_ms(seen, *end, clock::unix_ns())),
        }
    }

    fn counters(&self, writer: &WriterSnapshot, reader: &ReaderSnapshot) -> Counters {
        let (w, r) = (&writer.stats, &reader.stats);
        Counters {
            batches_published: r.batches_published,
            rows_published: r.rows_published,
            bytes_published: r.bytes_published,
            batches_applied: w.batches_applied,
            rows_applied: w.rows_taken,
            rows_skipped: w.rows_skipped,
            bytes_applied: w.bytes_applied,
            scans: r.scans,
            write_transactions: w.transactions,
            snapshots_met: w.snapshots_met,
            busy: w.busy,
            conflicts: w.conflicts,
            inserted_twice: w.inserted_twice,
            quarantined: w.quarantined,
            held: w.held,
            gaps: w.gaps,
            losses: w.losses,
            rows_republished: w.rows_republished,
            split: r.split,
            drift_warnings: w.drift_warnings,
            null_key_changes: w.null_key_changes,
            server_restarts: self.server().restarts,
        }
    }

    fn server(&self) -> Health {
        self.server.as_ref().map_or_else(Health::default, |health| *health.borrow())
    }

    fn degrade(
        &self,
        status: &mut Status,
        writer: &WriterSnapshot,
        reader: &ReaderSnapshot,
        link: &LinkState,
    ) {
        self.connection_reasons(status, writer, link);
        let mut say = |reason: String| status.degraded.push(reason);
        if self.server().disk_full {
            say("the disk of the embedded nats-server is full: it stores nothing; it restarts \
                once there is space"
                .to_owned());
        }
        for other in &status.schema_differences {
            if status.now_ms - other.since_ms > DIFFERENT_MS_MAX {
                say(format!(
                    "node {} has another schema ({}): run the same migrations on both",
                    other.node_id,
                    tables_of(other)
                ));
            }
        }
        for held in &status.held {
            say(format!("changes of node {} are held: {}", held.node_id, held.reason));
        }
        status.unmade_objects.iter().map(UnmadeStatus::reason).for_each(&mut say);
        if !status.inserted_twice.is_empty() {
            let tables: Vec<String> =
                status.inserted_twice.iter().map(|(table, n)| format!("{table} ({n})")).collect();
            say(format!(
                "rows that two nodes inserted under one key, of which one is gone from the table: \
                {}; see `harmonylite conflicts list` and docs/ids.md; `harmonylite conflicts \
                clear` ends this",
                tables.join(", ")
            ));
        }
        if status.quarantine > 0 {
            say(format!(
                "batches in quarantine: {}; see `harmonylite quarantine list`",
                status.quarantine
            ));
        }
        for reason in reader.refusal.iter().chain(&reader.oversized).chain(&writer.oversized) {
            say(reason.clone());
        }
        if let Some(full) = &writer.full {
            say(full.clone());
        }
        for gap in &writer.gaps {
            say(format!("messages are missing; waiting for other nodes to republish them: {gap}"));
        }
        writer.wrong_clocks.iter().cloned().for_each(&mut say);
        self.blind_indexes.borrow().iter().cloned().for_each(&mut say);
        let interval_ms = i64::try_from(self.settings.snapshot.interval).unwrap_or(i64::MAX);
        snapshot_reasons(&status.snapshots, interval_ms, status.now_ms)
            .into_iter()
            .for_each(&mut say);
        let busy_ms =
            writer.busy_since_ms.map_or(0, |since| clock::mono_ms().saturating_sub(since));
        if busy_ms > BUSY_MS_MAX && writer.full.is_none() {
            say(format!(
                "waiting {} s for the write lock, which another program holds. An application \
                must set neither PRAGMA locking_mode = EXCLUSIVE nor PRAGMA journal_mode: remove \
                both from what it does when it opens the database",
                busy_ms / 1_000
            ));
        }
        let waiting_ms =
            if status.oldest_pending_ms > 0 { status.now_ms - status.oldest_pending_ms } else { 0 };
        if self.settings.publish && waiting_ms > PENDING_MS_MAX {
            let text = format!(
                "{} changes are not published, the oldest for {} s",
                status.pending_rows,
                waiting_ms / 1_000
            );
            // Without a connection the number of attempts decides about health.
            if link.connected { status.fail(text) } else { status.degraded.push(text) }
        }
    }

    fn connection_reasons(&self, status: &mut Status, writer: &WriterSnapshot, link: &LinkState) {
        let now_ms = clock::mono_ms();
        let retries = self.settings.nats.connect_retries;
        if let Some((reason, fails)) = disconnected(link, retries) {
            if fails { status.fail(reason) } else { status.degraded.push(reason) }
        }
        if let Some(reason) = self.servers.borrow().no_majority() {
            status.fail(reason);
        }
        let unanswered_ms = now_ms.saturating_sub(link.since_ms);
        if link.connected && !writer.linked && unanswered_ms > UNANSWERED_MS_MAX {
            let reason = format!(
                "connected to NATS, but it does not answer the requests that replication starts \
                with ({}): check the permissions, and docs/topologies.md for leaf nodes",
                writer.trouble.as_deref().unwrap_or("no answer")
            );
            let fails = unanswered_ms > UNANSWERED_MS_FAILING;
            if fails { status.fail(reason) } else { status.degraded.push(reason) }
        }
        if let Some((reason, fails)) = refused_by_server(link, retries, now_ms) {
            if fails { status.fail(reason) } else { status.degraded.push(reason) }
        }
        let ends_ms = writer.lease_ends_ms.unwrap_or(u64::MAX);
        if link.connected && writer.linked && ends_ms < now_ms {
            status.degraded.push(format!(
                "the lease of this node id ended {} s ago and cannot be renewed ({}), so a second \
                node with this id would not be noticed: check the permissions, and the bucket \
                harmonylite-schema-registry",
                (now_ms - ends_ms) / 1_000,
                writer.trouble.as_deref().unwrap_or("no answer"),
            ));
        }
    }
}

/// The reason of a connection that is not there, and whether it was tried often enough to make
/// health unhealthy.
fn disconnected(link: &LinkState, retries: u64) -> Option<(String, bool)> {
    let (attempts, error) = (link.failed_attempts, &link.last_error);
    let reason = || format!("disconnected from NATS ({attempts} failed attempts): {error}");
    (!link.connected).then(|| (reason(), attempts >= retries))
}

/// The last error that the server has reported, and whether it came often enough to make health
/// unhealthy. An error counts for a minute.
fn refused_by_server(link: &LinkState, retries: u64, now_ms: u64) -> Option<(String, bool)> {
    let is_recent = now_ms.saturating_sub(link.server_error_ms) <= SERVER_ERROR_MS;
    (link.server_errors > 0 && is_recent).then(|| {
        let times = link.server_errors;
        let text = format!(
            "the NATS server refuses: {} ({times} times in a row): check the permissions of this \
            node's user (docs/security.md)",
            link.server_error
        );
        (text, times >= retries)
    })
}

/// Reasons that the registry and the ends of the streams show.
fn registry_reasons(status: &mut Status, registry: &RegistrySeen) {
    for stalled in &registry.stalled {
        status.fail(stalled.clone());
    }
    status.degraded.extend(registry.missing.iter().cloned());
}

/// Reasons that the snapshots give.
fn snapshot_reasons(seen: &SnapshotsStatus, interval_ms: i64, now_ms: i64) -> Vec<String> {
    let mut reasons = Vec::new();
    if !seen.save_error.is_empty() {
        reasons.push(format!(
            "no snapshot could be saved: {}; snapshot.enabled = false ends this on a node that \
            shall take none",
            seen.save_error
        ));
    }
    if !seen.verify_error.is_empty() {
        reasons.push(format!("the newest snapshot is not verified: {}", seen.verify_error));
    }
    let late_ms = interval_ms.saturating_mul(3).saturating_add(SNAPSHOT_LATE_MS);
    let age_ms = now_ms - seen.saved_ms;
    if seen.enabled && interval_ms > 0 && seen.saved_ms > 0 && age_ms > late_ms {
        reasons.push(format!(
            "the newest snapshot is {} s old, and snapshot.interval is {} s: see `harmonylite \
            status` on the node that takes them ({})",
            age_ms / 1_000,
            interval_ms / 1_000,
            match seen.leader {
                0 => "now there is none: no node is up to date".to_owned(),
                node => format!("node {node}"),
            }
        ));
    }
    reasons
}

/// The time between the newest applied message and the last one of the stream, milliseconds.
fn lag_ms(seen: &StreamSnapshot, end: StreamEnd, now_ns: i64) -> i64 {
    let (applied, applied_ns) = match seen.is_idle {
        true => (seen.position, seen.position_time_ns),
        false => (seen.cursor, seen.cursor_time_ns),
    };
    let (last, last_ns) = match end.last > seen.position {
        true => (end.last, end.last_time_ns),
        false => (seen.position, seen.position_time_ns),
    };
    let lag_ns = match applied_ns {
        _ if last <= applied => 0,
        // Nothing was applied yet: the age of the newest message.
        0 => now_ns - last_ns,
        applied_ns => last_ns - applied_ns,
    };
    (lag_ns / 1_000_000).max(i64::from(last > applied))
}

fn tables_of(other: &SchemaDifference) -> String {
    if other.tables.is_empty() { "its hash differs".to_owned() } else { other.tables.join(", ") }
}

fn wake(writer: &WriterSnapshot, reader: &ReaderSnapshot) -> WakeStatus {
    WakeStatus {
        last: reader.last.map_or("", super::wake::WakeSource::name).to_owned(),
        bell: reader.bell,
        watcher: reader.watcher,
        poll: reader.poll,
        commit_to_wake_us: reader.commit_to_wake_us,
        wake_to_published_us: reader.wake_to_published_us,
        published_to_applied_us: writer.published_to_applied_us,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_the_distance_to_the_end_of_the_stream() {
        const MS: i64 = 1_000_000;
        let seen = StreamSnapshot {
            shard: 1,
            cursor: 10,
            cursor_time_ns: 1_000 * MS,
            position: 20,
            position_time_ns: 3_000 * MS,
            is_idle: false,
        };
        let end = |last, ms: i64| StreamEnd { last, last_time_ns: ms * MS };
        let lag = |seen, end| lag_ms(&seen, end, 9_000 * MS);
        assert_eq!(lag(seen, end(20, 3_000)), 2_000, "delivered, not applied");
        let idle = StreamSnapshot { is_idle: true, ..seen };
        assert_eq!(lag(idle, end(20, 3_000)), 0, "the cursor is moved later");
        assert_eq!(lag(idle, end(15, 2_000)), 0, "the end was read earlier");
        assert_eq!(lag(idle, end(50, 7_000)), 4_000, "the server delivers nothing more");
        let none = StreamSnapshot { shard: 1, is_idle: true, ..StreamSnapshot::default() };
        assert_eq!(lag(none, end(5, 2_000)), 7_000, "nothing was applied yet");
        assert_eq!(lag(none, end(0, 0)), 0);
    }

    #[test]
    fn a_snapshot_that_failed_or_is_late_is_a_reason() {
        let seen = SnapshotsStatus { enabled: true, saved_ms: 1_000, ..Default::default() };
        let reasons = |seen: &SnapshotsStatus, now_ms| snapshot_reasons(seen, 10_000, now_ms);
        assert!(reasons(&seen, 91_000).is_empty());
        assert!(reasons(&seen, 91_001)[0].contains("no node is up to date"));
        assert!(snapshot_reasons(&seen, 0, i64::MAX / 2).is_empty(), "no interval");
        let led = SnapshotsStatus { leader: 7, ..seen.clone() };
        assert!(reasons(&led, 91_001)[0].contains("(node 7)"));
        let failed = SnapshotsStatus {
            save_error: "full: free space".into(),
            verify_error: "damaged: resend".into(),
            ..seen
        };
        let text = reasons(&failed, 2_000).join("; ");
        assert!(text.contains("full: free space") && text.contains("damaged: resend"), "{text}");
    }

    #[test]
    fn a_broker_that_is_away_or_refuses_makes_unhealthy_after_the_configured_attempts() {
        let link = |failed_attempts| LinkState { failed_attempts, ..LinkState::default() };
        let fails = |link: &LinkState| disconnected(link, 5).map(|(_, fails)| fails);
        assert_eq!([0, 4, 5].map(|n| fails(&link(n))), [Some(false), Some(false), Some(true)]);
        assert_eq!(fails(&LinkState { connected: true, ..link(9) }), None);
        let refusing = |server_errors| LinkState {
            server_errors,
            server_error: "Permissions Violation".into(),
            server_error_ms: 1_000,
            connected: true,
            ..LinkState::default()
        };
        let fails = |n, now_ms| refused_by_server(&refusing(n), 5, now_ms).map(|(_, f)| f);
        assert_eq!(fails(0, 2_000), None);
        assert_eq!([fails(1, 2_000), fails(5, 2_000)], [Some(false), Some(true)]);
        assert_eq!(fails(5, 1_001 + SERVER_ERROR_MS), None, "it has stopped");
    }
}
