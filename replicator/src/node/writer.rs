//! The thread that owns the writing connection and runs [`Inbound`].
//!
//! Arrives: deliveries of the broker and acknowledgements of the reader. Leaves: effects for the
//! reader. It waits only between steps, for the next input or deadline. A crash here ends the
//! process; the database keeps its last committed state.

use super::actor_loop::{Actor, run_actor, wait_until};
use super::checkpoint::Checkpoints;
use super::reader_inbox::ReaderSender;
use super::timing::{RecentDurations, RecentRate};
use super::wake::RecentWakes;
use super::{ThreadEnd, reader};
use crate::actor::{Fatal, Step};
use crate::broker::BrokerEvent;
use crate::clock;
use crate::db::layout::Layout;
use crate::inbound::{Inbound, Input, MergeProgress, Stats};
use crate::model::ids::Site;
use crate::nats::NatsBroker;
use crate::publish::outbound;
use crate::repair::gaps::OpenGap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;
use tokio::sync::watch;

/// Messages to the thread.
#[derive(Debug)]
pub(super) enum ToWriter {
    Input(Input),
    Stop,
    /// Stop without touching the database's files.
    Abandon,
}

/// The state that the thread shows to the status.
#[derive(Clone, Debug, Default)]
pub(super) struct WriterSnapshot {
    pub(super) stats: Stats,
    pub(super) linked: bool,
    pub(super) trouble: Option<String>,
    pub(super) full: Option<String>,
    pub(super) joined: bool,
    pub(super) site: Option<Site>,
    pub(super) gaps: Vec<String>,
    pub(super) open_gaps: Vec<OpenGap>,
    pub(super) merge: MergeProgress,
    /// Batches that could not be read because the stream does not hold them.
    pub(super) oversized: Vec<String>,
    pub(super) wrong_clocks: Vec<String>,
    /// Rows logged so far for joining, and for republishing.
    pub(super) republished: (Option<u64>, Option<u64>),
    pub(super) drained: bool,
    pub(super) streams: Vec<StreamSnapshot>,
    pub(super) layout: Arc<Layout>,
    pub(super) silent_triggers: Vec<(String, String)>,
    pub(super) published_to_applied_us: (u64, u64),
    pub(super) writes: RecentRate,
    /// When the lease of the node id ends or ended, monotone milliseconds; None: never held.
    pub(super) lease_ends_ms: Option<u64>,
    /// Since when another connection holds the write lock, monotone milliseconds.
    pub(super) busy_since_ms: Option<u64>,
}

/// One stream as it is consumed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StreamSnapshot {
    pub(super) shard: u32,
    pub(super) cursor: u64,
    pub(super) cursor_time_ns: i64,
    pub(super) position: u64,
    pub(super) position_time_ns: i64,
    /// All deliveries are applied; at most the cursor has to be moved.
    pub(super) is_idle: bool,
}

/// First wait before the write lock is tried again. It doubles up to [`BUSY_MAX`], without end.
const BUSY_MIN: Duration = Duration::from_micros(200);
const BUSY_MAX: Duration = Duration::from_millis(20);
/// The wait between two looks at open snapshots. An application that pauses for a millisecond
/// between two transactions must not go unnoticed.
const POLITE: Duration = Duration::from_micros(200);
/// A wait for the write lock is logged after this.
const BUSY_SAID_MS: u64 = 5_000;
/// Greatest age of the shown state while there is work.
const SHOW_MS: u64 = 100;

/// How long a caller waits for the writer to store its positions.
const FLUSH: Duration = Duration::from_secs(2);

/// Lets the writer store its positions and marks, so that a snapshot covers what it contains. Waits
/// until that is done, but not for long: on a busy node there is always more to store.
pub(super) async fn flush(
    writer: &parking_lot::Mutex<Sender<ToWriter>>,
    mut seen: watch::Receiver<WriterSnapshot>,
) {
    seen.mark_unchanged();
    // A writer that has ended has nothing to store.
    let _ = writer.lock().send(ToWriter::Input(Input::Flush));
    let stored = async {
        if seen.changed().await.is_ok() {
            let _ = seen.wait_for(|seen: &WriterSnapshot| seen.drained).await;
        }
    };
    let _ = tokio::time::timeout(FLUSH, stored).await;
}

pub(super) struct Writer {
    pub(super) inbound: Inbound<NatsBroker>,
    pub(super) reader: ReaderSender,
    pub(super) known: RecentWakes,
    pub(super) seen: watch::Sender<WriterSnapshot>,
    pub(super) applied: RecentDurations,
    pub(super) writes: RecentRate,
    pub(super) delivered_ns: Option<i64>,
    pub(super) abandoned: bool,
    pub(super) busy: Busy,
    pub(super) checkpoints: Checkpoints,
    pub(super) shown_ms: u64,
}

/// The wait for the write lock: its begin (monotone milliseconds) and the time to the next try.
#[derive(Debug, Default)]
pub(super) struct Busy {
    since_ms: Option<u64>,
    wait: Duration,
}

impl Writer {
    /// Runs until a stop message or a fatal error.
    pub(super) fn run(mut self, mut inbox: Receiver<ToWriter>) -> ThreadEnd {
        let ended =
            run_actor(&mut self, &mut inbox).map_or_else(ThreadEnd::Fatal, |()| ThreadEnd::Stopped);
        if self.abandoned || matches!(ended, ThreadEnd::Fatal(_)) {
            // The connection stays open: see file_guard.rs.
            std::mem::forget(self.inbound.into_database());
        }
        ended
    }

    fn forward(&mut self) {
        for effect in self.inbound.effects.drain(..) {
            self.reader.send(reader::ToReader::Input(outbound::Input::Effect(effect)));
        }
    }

    fn busy_wait(&mut self, now_ms: u64) -> Duration {
        let since = *self.busy.since_ms.get_or_insert(now_ms);
        if now_ms - since >= BUSY_SAID_MS && self.inbound.stats.busy % 1_000 == 1 {
            let seconds = (now_ms - since) / 1_000;
            let why = self
                .inbound
                .no_room()
                .unwrap_or_else(|| "another connection holds the database's write lock".to_owned());
            tracing::warn!(seconds, why, "cannot write to the database; waiting");
        }
        self.busy.wait = (self.busy.wait * 2).clamp(BUSY_MIN, BUSY_MAX);
        self.busy.wait
    }

    /// Copies the WAL into the database if it is time. Returns when it will be.
    fn checkpoint(&mut self, is_idle: bool) -> Option<u64> {
        self.known.writing(true);
        let next = self.checkpoints.look(self.inbound.database(), is_idle, clock::mono_ms);
        self.known.writing(false);
        next.unwrap_or_else(|error| {
            tracing::debug!(%error, "cannot copy the WAL into the database; trying again");
            None
        })
    }

    fn show(&mut self, now_ms: u64) {
        let streams = self.inbound.streams().map(|(stream, progress)| StreamSnapshot {
            shard: stream.shard,
            cursor: progress.cursor.seq().0,
            cursor_time_ns: progress.cursor.head().map_or(0, |a| a.time_ns),
            position: stream.position.seq.0.max(progress.cursor.seq().0),
            position_time_ns: stream.position.time_ns,
            is_idle: stream.waits_for_nothing(),
        });
        let streams = streams.collect();
        self.writes.add(now_ms, self.inbound.stats.transactions);
        self.seen.send_replace(WriterSnapshot {
            stats: self.inbound.stats,
            linked: self.inbound.is_connected(),
            trouble: self.inbound.trouble().map(str::to_owned),
            full: self.inbound.no_room(),
            joined: self.inbound.is_joined(),
            site: Some(self.inbound.site()),
            gaps: self.inbound.open_gaps(),
            open_gaps: self.inbound.gaps(),
            merge: self.inbound.merge_progress().clone(),
            oversized: self.inbound.oversized(),
            wrong_clocks: self.inbound.wrong_clocks(),
            republished: self.inbound.republished_rows(),
            drained: self.inbound.is_drained(),
            streams,
            layout: Arc::clone(self.inbound.layout()),
            silent_triggers: self.inbound.silent_triggers().to_vec(),
            published_to_applied_us: self.applied.quantiles_at(now_ms),
            writes: self.writes.clone(),
            lease_ends_ms: self.inbound.lease_ends_ms(),
            busy_since_ms: self.busy.since_ms,
        });
    }
}

impl Actor for Writer {
    type Message = ToWriter;

    fn take(&mut self, message: ToWriter) -> Result<bool, Fatal> {
        let input = match message {
            ToWriter::Input(input) => input,
            ToWriter::Stop => return Ok(false),
            ToWriter::Abandon => {
                self.abandoned = true;
                return Ok(false);
            }
        };
        if let Input::Broker(BrokerEvent::Delivered { message, .. }) = &input {
            self.delivered_ns = self.delivered_ns.or(Some(message.time_ns));
        }
        self.inbound.handle(input, clock::now())?;
        self.forward();
        Ok(true)
    }

    fn step(&mut self) -> Result<Option<Duration>, Fatal> {
        let now = clock::now();
        let applied = self.inbound.stats.batches_applied;
        self.known.writing(true);
        let step = self.inbound.step(now);
        self.known.writing(false);
        let step = step?;
        self.forward();
        if self.inbound.stats.batches_applied > applied
            && let Some(sent_ns) = self.delivered_ns.take()
        {
            self.applied.add(u64::try_from((clock::unix_ns() - sent_ns) / 1_000).unwrap_or(0));
        }
        if step == Step::Idle && self.inbound.streams().all(|(s, _)| s.waits_for_nothing()) {
            // An own batch that came back: the next batch has a time of its own.
            self.delivered_ns = None;
        }
        if step != Step::Busy
            && std::mem::take(&mut self.busy)
                .since_ms
                .is_some_and(|since| now.mono_ms - since >= BUSY_SAID_MS)
        {
            tracing::info!("writing to the database again");
        }
        let checkpoint_ms = self.checkpoint(step == Step::Idle).unwrap_or(u64::MAX);
        let wait = match step {
            Step::Worked => None,
            Step::Busy => Some(self.busy_wait(now.mono_ms)),
            Step::Polite => Some(match self.inbound.gathers_until(now) {
                Some(until_ms) => wait_until(until_ms, now.mono_ms),
                None => POLITE,
            }),
            Step::Idle => Some(wait_until(self.inbound.deadline().min(checkpoint_ms), now.mono_ms)),
        };
        let rests = matches!(step, Step::Idle | Step::Busy);
        if rests || now.mono_ms >= self.shown_ms + SHOW_MS {
            self.show(now.mono_ms);
            self.shown_ms = now.mono_ms;
        }
        Ok(wait)
    }
}
