//! Builds the status of a running node.
//!
//! Arrives: the snapshots of the two threads, the connection's state, and figures read from the
//! database on a connection of its own. Leaves: a [`Status`]. Reads only.

use super::reader::ReaderSnapshot;
use super::writer::{StreamSnapshot, WriterSnapshot};
use crate::clock;
use crate::db::connection::DatabaseError;
use crate::embedded::Health;
use crate::model::ids::NodeId;
use crate::model::status::{
    BrokerStatus, Counters, HeldStatus, SchemaDifference, Status, StreamStatus, WakeStatus,
};
use crate::nats::{LinkState, wire};
use crate::settings::Settings;
use crate::store::change_log::{self, Pending};
use crate::store::{conflicts, held, meta, quarantine};
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
    /// Other nodes whose tables differ.
    pub(super) schemas: watch::Receiver<Vec<SchemaDifference>>,
    /// The embedded server's health; None without one.
    pub(super) server: Option<watch::Receiver<Health>>,
    pub(super) db: parking_lot::Mutex<Option<Connection>>,
}

/// The figures that only the database knows.
#[derive(Default)]
struct DatabaseFigures {
    pending: Pending,
    unmarked: u64,
    held: Vec<HeldStatus>,
    conflicts: u64,
    quarantine: u64,
}

/// Reads the figures. `sent` is the last log entry that the broker has acknowledged; its mark in
/// the database may wait.
fn glance(db: &Connection, sent: i64) -> Result<DatabaseFigures, DatabaseError> {
    let marked = meta::get(db, meta::PUBLISHED)?.unwrap_or(0);
    // If somebody emptied the log, its numbers start again.
    let sent = if sent <= change_log::log_end(db)? { sent.max(marked) } else { marked };
    let pending = change_log::pending(db, sent)?;
    Ok(DatabaseFigures {
        pending,
        unmarked: change_log::pending(db, marked)?.entries - pending.entries,
        held: held::list(db)?,
        conflicts: conflicts::count(db)?.cast_unsigned(),
        quarantine: quarantine::count(db)?.cast_unsigned(),
    })
}

/// A change that is pending for longer makes the node degraded.
const PENDING_MS_MAX: i64 = 60_000;
/// A connection whose check takes longer makes the node degraded.
const UNANSWERED_MS_MAX: u64 = 10_000;
/// A longer wait for the write lock makes the node degraded.
const BUSY_MS_MAX: u64 = 10_000;

/// A schema that differs for longer makes the node degraded.
const DIFFERENT_MS_MAX: i64 = 60_000;

impl StatusSources {
    /// Builds the present status.
    pub(super) fn status(&self) -> Status {
        let (writer, reader, link) = (
            self.writer.borrow().clone(),
            self.reader.borrow().clone(),
            self.link.borrow().clone(),
        );
        let glance = match self.db.lock().as_ref() {
            Some(db) => glance(db, reader.sent),
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
                server_version: link.server_version.clone(),
            },
            streams: writer.streams.iter().map(|s| self.stream(s)).collect(),
            schema_differences: self.schemas.borrow().clone(),
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
        match glance {
            Ok(glance) => {
                (status.pending_rows, status.oldest_pending_ms) =
                    (glance.pending.entries, glance.pending.oldest_ms);
                status.unmarked_rows = glance.unmarked;
                (status.held, status.conflicts, status.quarantine) =
                    (glance.held, glance.conflicts, glance.quarantine);
            }
            Err(error) => status.degraded.push(format!("the database cannot be read: {error}")),
        }
        self.degrade(&mut status, &writer, &reader, &link);
        status
    }

    fn stream(&self, seen: &StreamSnapshot) -> StreamStatus {
        let lag_ns = match seen.cursor_time_ns {
            _ if seen.position <= seen.cursor => 0,
            // Nothing was applied yet: the age of the newest message.
            0 => clock::unix_ns() - seen.position_time_ns,
            applied_ns => seen.position_time_ns - applied_ns,
        };
        StreamStatus {
            shard: seen.shard,
            name: wire::stream_name(&self.settings.nats.stream_prefix, seen.shard),
            cursor: seen.cursor,
            last: seen.position,
            lag_ms: (lag_ns / 1_000_000).max(0),
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
        let mut say = |reason: String| status.degraded.push(reason);
        if !link.connected {
            say(format!(
                "disconnected from NATS ({} failed attempts): {}",
                link.failed_attempts, link.last_error
            ));
        }
        if link.connected
            && !writer.linked
            && clock::mono_ms().saturating_sub(link.since_ms) > UNANSWERED_MS_MAX
        {
            say(format!(
                "connected to NATS, but it does not answer the requests that replication starts \
                with ({}): check the permissions, and docs/topologies.md for leaf nodes",
                writer.trouble.as_deref().unwrap_or("no answer")
            ));
        }
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
        let busy_ms =
            writer.busy_since_ms.map_or(0, |since| clock::mono_ms().saturating_sub(since));
        if busy_ms > BUSY_MS_MAX && writer.full.is_none() {
            say(format!("waiting {} s for the write lock", busy_ms / 1_000));
        }
        let waiting_ms =
            if status.oldest_pending_ms > 0 { status.now_ms - status.oldest_pending_ms } else { 0 };
        if self.settings.publish && waiting_ms > PENDING_MS_MAX {
            say(format!(
                "{} changes are not published, the oldest for {} s",
                status.pending_rows,
                waiting_ms / 1_000
            ));
        }
    }
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
