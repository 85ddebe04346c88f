//! The thread that owns the writing connection and runs [`Inbound`].
//!
//! Arrives: what the broker delivers and what the reader acknowledges. Leaves: what the reader has
//! to know. It waits only between steps, for the next input or deadline. A crash here is a crash of
//! the process: the database is as last committed.

use super::drive::{Drive, drive, until};
use super::timing::Timing;
use super::watch::Known;
use super::{Ended, reader};
use crate::broker::BrokerEvent;
use crate::clock;
use crate::db::layout::Layout;
use crate::inbound::{Fatal, Inbound, Input, Stats, Step};
use crate::model::ids::Site;
use crate::nats::NatsBroker;
use crate::publish::outbound;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;
use tokio::sync::watch;

/// What the thread is sent.
#[derive(Debug)]
pub(super) enum ToWriter {
    Input(Input),
    Stop,
    /// Stop, and leave the database's files alone.
    Abandon,
}

/// What the thread shows of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct WriterSeen {
    pub(super) stats: Stats,
    pub(super) linked: bool,
    pub(super) trouble: Option<String>,
    pub(super) full: Option<String>,
    pub(super) joined: bool,
    pub(super) site: Option<Site>,
    pub(super) gaps: Vec<String>,
    /// Of a walk for joining, and of one for publishing again.
    pub(super) relogged: (Option<u64>, Option<u64>),
    pub(super) drained: bool,
    pub(super) streams: Vec<StreamSeen>,
    pub(super) layout: Arc<Layout>,
    pub(super) published_to_applied_us: (u64, u64),
    /// The write lock has been out of reach since then, monotone milliseconds.
    pub(super) busy_since_ms: Option<u64>,
}

/// One stream as it is consumed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StreamSeen {
    pub(super) shard: u32,
    pub(super) cursor: u64,
    pub(super) cursor_time_ns: i64,
    pub(super) position: u64,
    pub(super) position_time_ns: i64,
}

/// The write lock is tried again after this, then ever more rarely up to [`BUSY_MAX`]; for ever.
const BUSY_MIN: Duration = Duration::from_micros(200);
const BUSY_MAX: Duration = Duration::from_millis(20);
/// Said once when the write lock was out of reach for so long.
const BUSY_SAID_MS: u64 = 5_000;
/// What is shown is at most so old while there is work.
const SHOW_MS: u64 = 100;

pub(super) struct Writer {
    pub(super) inbound: Inbound<NatsBroker>,
    pub(super) reader: Sender<reader::ToReader>,
    pub(super) known: Known,
    pub(super) seen: watch::Sender<WriterSeen>,
    pub(super) applied: Timing,
    pub(super) delivered_ns: Option<i64>,
    pub(super) abandoned: bool,
    pub(super) busy: Busy,
    pub(super) shown_ms: u64,
}

/// Since when the write lock is out of reach (monotone milliseconds), and when it is tried again.
#[derive(Debug, Default)]
pub(super) struct Busy {
    since_ms: Option<u64>,
    wait: Duration,
}

impl Writer {
    /// Runs until it is told to stop, or must.
    pub(super) fn run(mut self, inbox: &Receiver<ToWriter>) -> Ended {
        let ended = drive(&mut self, inbox).map_or_else(Ended::Fatal, |()| Ended::Stopped);
        if self.abandoned || matches!(ended, Ended::Fatal(_)) {
            // Not closed: see guard.rs.
            std::mem::forget(self.inbound.into_database());
        }
        ended
    }

    fn forward(&mut self) {
        for effect in self.inbound.effects.drain(..) {
            // A reader that has ended takes the node with it.
            let _ = self.reader.send(reader::ToReader::Input(outbound::Input::Effect(effect)));
        }
    }

    fn busy_wait(&mut self, now_ms: u64) -> Duration {
        let since = *self.busy.since_ms.get_or_insert(now_ms);
        if now_ms - since >= BUSY_SAID_MS && self.inbound.stats.busy % 1_000 == 1 {
            let seconds = (now_ms - since) / 1_000;
            let why = self
                .inbound
                .full()
                .unwrap_or_else(|| "another connection holds the database's write lock".to_owned());
            tracing::warn!(seconds, why, "cannot write to the database; waiting");
        }
        self.busy.wait = (self.busy.wait * 2).clamp(BUSY_MIN, BUSY_MAX);
        self.busy.wait
    }

    fn show(&mut self, now_ms: u64) {
        let streams = self.inbound.streams().iter().map(|s| StreamSeen {
            shard: s.shard,
            cursor: s.cursor.seq().0,
            cursor_time_ns: s.cursor.head().map_or(0, |a| a.time_ns),
            position: s.position.seq.0.max(s.cursor.seq().0),
            position_time_ns: s.position.time_ns,
        });
        self.seen.send_replace(WriterSeen {
            stats: self.inbound.stats,
            linked: self.inbound.is_linked(),
            trouble: self.inbound.trouble().map(str::to_owned),
            full: self.inbound.full(),
            joined: self.inbound.is_joined(),
            site: Some(self.inbound.site()),
            gaps: self.inbound.open_gaps(),
            relogged: self.inbound.relogged_rows(),
            drained: self.inbound.is_drained(),
            streams: streams.collect(),
            layout: Arc::clone(self.inbound.layout()),
            published_to_applied_us: self.applied.quantiles_at(now_ms),
            busy_since_ms: self.busy.since_ms,
        });
    }
}

impl Drive for Writer {
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
        if step != Step::Busy
            && std::mem::take(&mut self.busy)
                .since_ms
                .is_some_and(|since| now.mono_ms - since >= BUSY_SAID_MS)
        {
            tracing::info!("the database can be written to again");
        }
        let wait = match step {
            Step::Worked => None,
            Step::Busy => Some(self.busy_wait(now.mono_ms)),
            Step::Idle => Some(until(self.inbound.deadline(), now.mono_ms)),
        };
        if wait.is_some() || now.mono_ms >= self.shown_ms + SHOW_MS {
            self.show(now.mono_ms);
            self.shown_ms = now.mono_ms;
        }
        Ok(wait)
    }
}
