//! The thread that owns the reading connection and runs [`Outbound`].
//!
//! Arrives: wakes, the broker's answers, the writer's go-ahead. Leaves: acknowledgements for the
//! writer. It waits only between steps. A crash here is a crash of the process: what was not
//! acknowledged is collected again.

use super::drive::{Drive, drive, until};
use super::ring::SharedBell;
use super::timing::Timing;
use super::{Ended, writer};
use crate::clock;
use crate::inbound::{Fatal, Input as WriterInput, Step};
use crate::nats::NatsBroker;
use crate::publish::outbound::{Input, Outbound, Output, Stats};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;
use tokio::sync::watch;

/// How a commit was noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Way {
    /// The application rang.
    Bell,
    /// The WAL file changed.
    Watcher,
    /// It was looked.
    #[default]
    Poll,
}

impl Way {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bell => "bell",
            Self::Watcher => "watcher",
            Self::Poll => "poll",
        }
    }
}

/// What the thread is sent.
#[derive(Debug)]
pub(super) enum ToReader {
    Input(Input),
    /// A commit may have happened. `commit_ns`: when, if the way tells.
    Wake {
        way: Way,
        commit_ns: Option<i64>,
        at_ns: i64,
    },
    Stop,
    /// Stop, and leave the database's files alone.
    Abandon,
}

/// Wakes the reader; a wake that it has not seen yet is not repeated.
#[derive(Clone)]
pub(super) struct Waker {
    reader: Sender<ToReader>,
    pending: Arc<AtomicBool>,
}

impl Waker {
    pub(super) fn new(reader: Sender<ToReader>) -> Self {
        Self { reader, pending: Arc::default() }
    }

    pub(super) fn wake(&self, way: Way, commit_ns: Option<i64>) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            // A reader that has ended takes the node with it.
            let _ = self.reader.send(ToReader::Wake { way, commit_ns, at_ns: clock::unix_ns() });
        }
    }

    /// Called by the reader when it takes a wake, before it looks: whatever is committed from now
    /// on wakes again.
    fn taken(&self) {
        self.pending.store(false, Ordering::Release);
    }
}

/// What the thread shows of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct ReaderSeen {
    pub(super) stats: Stats,
    pub(super) drained: bool,
    pub(super) refusal: Option<String>,
    /// The way of the last wake that found something.
    pub(super) last: Option<Way>,
    pub(super) bell: u64,
    pub(super) watcher: u64,
    pub(super) poll: u64,
    pub(super) commit_to_wake_us: (u64, u64),
    pub(super) wake_to_published_us: (u64, u64),
}

const SHOW_MS: u64 = 100;
const BUSY: Duration = Duration::from_millis(20);

pub(super) struct Reader {
    pub(super) outbound: Outbound<NatsBroker>,
    pub(super) writer: Sender<writer::ToWriter>,
    pub(super) bell: SharedBell,
    pub(super) waker: Waker,
    pub(super) seen: watch::Sender<ReaderSeen>,
    pub(super) show: ReaderSeen,
    pub(super) commit_to_wake: Timing,
    pub(super) wake_to_published: Timing,
    /// The wake whose changes are not published yet.
    pub(super) woken: Option<(Way, i64)>,
    pub(super) abandoned: bool,
    pub(super) shown_ms: u64,
}

impl Reader {
    /// Runs until it is told to stop, or must.
    pub(super) fn run(mut self, inbox: &Receiver<ToReader>) -> Ended {
        let ended = drive(&mut self, inbox).map_or_else(Ended::Fatal, |()| Ended::Stopped);
        if self.abandoned || matches!(ended, Ended::Fatal(_)) {
            // Not closed: see guard.rs.
            std::mem::forget(self.outbound.into_database());
        }
        ended
    }

    fn forward(&mut self) {
        let site = self.outbound.site();
        for output in self.outbound.outputs.drain(..) {
            let input = match output {
                Output::Acknowledged(ack) => {
                    if let Some((way, at_ns)) = self.woken.take()
                        && ack.seq.is_some()
                    {
                        self.show.last = Some(way);
                        self.wake_to_published.add(microseconds(clock::unix_ns() - at_ns));
                    }
                    self.bell.published(site, ack.upto);
                    WriterInput::Acknowledged(ack)
                }
                Output::Wake => WriterInput::Wake,
                Output::Held(check) => WriterInput::OutboundHeld(check),
            };
            // A writer that has ended takes the node with it.
            let _ = self.writer.send(writer::ToWriter::Input(input));
        }
    }

    fn show(&mut self, now_ms: u64) {
        self.show.stats = self.outbound.stats;
        self.show.drained = self.outbound.is_drained();
        self.show.refusal.clone_from(&self.outbound.refusal);
        self.show.commit_to_wake_us = self.commit_to_wake.quantiles_at(now_ms);
        self.show.wake_to_published_us = self.wake_to_published.quantiles_at(now_ms);
        self.seen.send_replace(self.show.clone());
    }
}

impl Drive for Reader {
    type Message = ToReader;

    fn take(&mut self, message: ToReader) -> Result<bool, Fatal> {
        let input = match message {
            ToReader::Stop => return Ok(false),
            ToReader::Abandon => {
                self.abandoned = true;
                return Ok(false);
            }
            ToReader::Input(input) => input,
            ToReader::Wake { way, commit_ns, at_ns } => {
                self.waker.taken();
                match way {
                    Way::Bell => self.show.bell += 1,
                    Way::Watcher => self.show.watcher += 1,
                    Way::Poll => self.show.poll += 1,
                }
                if let Some(commit_ns) = commit_ns {
                    self.commit_to_wake.add(microseconds(at_ns - commit_ns));
                }
                if way != Way::Poll {
                    self.woken = self.woken.or(Some((way, at_ns)));
                }
                Input::Wake
            }
        };
        self.outbound.handle(input, clock::now())?;
        self.forward();
        Ok(true)
    }

    fn step(&mut self) -> Result<Option<Duration>, Fatal> {
        let now = clock::now();
        let step = self.outbound.step(now)?;
        self.forward();
        if step == Step::Idle && self.outbound.is_drained() {
            // It found nothing: what comes later has its own wake.
            self.woken = None;
        }
        let wait = match step {
            Step::Worked => None,
            Step::Busy => Some(BUSY),
            Step::Idle => Some(until(self.outbound.deadline(), now.mono_ms)),
        };
        if wait.is_some() || now.mono_ms >= self.shown_ms + SHOW_MS {
            self.show(now.mono_ms);
            self.shown_ms = now.mono_ms;
        }
        Ok(wait)
    }
}

fn microseconds(ns: i64) -> u64 {
    u64::try_from(ns / 1_000).unwrap_or(0)
}
