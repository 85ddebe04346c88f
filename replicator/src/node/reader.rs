//! The thread that owns the reading connection and runs [`Outbound`].
//!
//! Arrives: wakes, the broker's answers, the writer's go-ahead. Leaves: acknowledgements for the
//! writer. It waits only between steps. A crash here ends the process; the next start collects
//! unacknowledged changes again.

use super::actor_loop::{Actor, run_actor, wait_until};
use super::bell::SharedBell;
use super::reader_inbox::ReaderInbox;
use super::timing::RecentDurations;
use super::wake::{WakeSource, Waker};
use super::{ThreadEnd, writer};
use crate::actor::{Fatal, Step};
use crate::clock;
use crate::inbound::Input as WriterInput;
use crate::model::ids::Site;
use crate::nats::NatsBroker;
use crate::publish::outbound::{Input, Outbound, Output, Stats};
use std::sync::mpsc::Sender;
use std::time::Duration;
use tokio::sync::watch;

/// Messages to the thread.
#[derive(Debug)]
pub(super) enum ToReader {
    Input(Input),
    /// A commit may have happened. `commit_ns` is its time, if the source knows it.
    Wake {
        way: WakeSource,
        commit_ns: Option<i64>,
        at_ns: i64,
    },
    Stop,
    /// Stop without touching the database's files.
    Abandon,
}

/// The state that the thread shows to the status.
#[derive(Clone, Debug, Default)]
pub(super) struct ReaderSnapshot {
    pub(super) stats: Stats,
    pub(super) drained: bool,
    pub(super) refusal: Option<String>,
    pub(super) oversized: Option<String>,
    /// The last log entry that needs no further publication.
    pub(super) sent: i64,
    /// The source of the last wake that led to a publication.
    pub(super) last: Option<WakeSource>,
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
    pub(super) seen: watch::Sender<ReaderSnapshot>,
    pub(super) show: ReaderSnapshot,
    pub(super) commit_to_wake: RecentDurations,
    pub(super) wake_to_published: RecentDurations,
    /// The wake whose changes are not published yet, and its time.
    pub(super) woken: Option<(WakeSource, i64)>,
    pub(super) abandoned: bool,
    /// What the bell's file says is published.
    pub(super) told: (Site, i64),
    pub(super) shown_ms: u64,
}

impl Reader {
    /// Runs until a stop message or a fatal error.
    pub(super) fn run(mut self, mut inbox: ReaderInbox) -> ThreadEnd {
        let ended =
            run_actor(&mut self, &mut inbox).map_or_else(ThreadEnd::Fatal, |()| ThreadEnd::Stopped);
        if self.abandoned || matches!(ended, ThreadEnd::Fatal(_)) {
            // The connection stays open: see file_guard.rs.
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
                    WriterInput::Acknowledged(ack)
                }
                Output::Wake => WriterInput::Wake,
                Output::Held(check) => WriterInput::OutboundHeld(check),
            };
            // If the writer has ended, the node is stopping too.
            let _ = self.writer.send(writer::ToWriter::Input(input));
        }
        // Also after the go-ahead, which knows what a former process has published.
        let told = (site, self.outbound.sent());
        if site != Site(0) && self.told != told {
            self.bell.published(site, told.1);
            self.told = told;
        }
    }

    fn show(&mut self, now_ms: u64) {
        self.show.stats = self.outbound.stats;
        self.show.drained = self.outbound.is_drained();
        self.show.sent = self.outbound.sent();
        self.show.refusal.clone_from(&self.outbound.refusal);
        self.show.oversized.clone_from(&self.outbound.oversized);
        self.show.commit_to_wake_us = self.commit_to_wake.quantiles_at(now_ms);
        self.show.wake_to_published_us = self.wake_to_published.quantiles_at(now_ms);
        self.seen.send_replace(self.show.clone());
    }
}

impl Actor for Reader {
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
                    WakeSource::Bell => self.show.bell += 1,
                    WakeSource::Watcher => self.show.watcher += 1,
                    WakeSource::Poll => self.show.poll += 1,
                }
                if let Some(commit_ns) = commit_ns {
                    self.commit_to_wake.add(microseconds(at_ns - commit_ns));
                }
                if way != WakeSource::Poll {
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
            // This wake found nothing. Later changes have their own.
            self.woken = None;
        }
        let wait = match step {
            Step::Worked => None,
            Step::Busy | Step::Polite => Some(BUSY),
            Step::Idle => Some(wait_until(self.outbound.deadline(), now.mono_ms)),
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
