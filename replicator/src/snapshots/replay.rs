//! Applies what the streams hold after a snapshot to its restored file.
//!
//! Arrives: a restored file, and the streams. Leaves: the same file with the state of a later
//! moment. Owns: the batches are applied by the code of a running node
//! ([`Inbound`]), which here gets answers that are made up where a node would write: it takes no
//! lease, is in no registry and on no list, and publishes nothing. What a node would wait for (a
//! gap, another schema, a batch in quarantine) is an error here. A crash leaves the scratch file.

use super::restored::RestoredError;
use super::rows::RowsError;
use crate::actor::{Effect, Fatal, Step};
use crate::broker::{Broker, BrokerError, BrokerEvent, Reply, Request, Ticket};
use crate::clock;
use crate::db::connection::{self, DatabaseError};
use crate::inbound::{Inbound, Input};
use crate::model::config::{NodeConfig, Now};
use crate::model::ids::{NodeId, StreamSeq};
use crate::nats::{History, Inbox, Reader};
use crate::settings::NodeConfigError;
use crate::settings::identity::{self, NoRandom};
use crate::store::{held, quarantine};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedReceiver;

/// A stream that sends nothing for this long although it has more does not answer any more.
const SILENCE: Duration = Duration::from_secs(30);
/// Messages that are taken before a step.
const AT_ONCE: usize = 256;
/// Messages that may wait, in bytes.
const WAITING_BYTES: usize = 16 << 20;
/// Consumers that may end before the replay is given up.
const LOST_MAX: u32 = 5;

/// Why a later state cannot be built.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    /// The snapshot itself lacks something.
    #[error("{0}")]
    Snapshot(#[from] RowsError),
    /// The database.
    #[error("cannot apply the batches: {0}")]
    Fatal(#[from] Fatal),
    /// The database.
    #[error("cannot apply the batches: {0}")]
    Database(#[from] DatabaseError),
    /// The file.
    #[error(transparent)]
    Restored(#[from] RestoredError),
    /// No configuration for the file.
    #[error(transparent)]
    Config(#[from] NodeConfigError),
    /// The file needs an identity of its own.
    #[error(transparent)]
    Random(#[from] NoRandom),
    /// The broker.
    #[error("cannot read the streams: {0}")]
    Broker(#[from] BrokerError),
    /// The streams lack something.
    #[error("the streams do not hold everything after the snapshot: {0}")]
    Missing(String),
    /// A batch does not fit.
    #[error("{} cannot be applied: {}", .0.what, .0.reason)]
    Stopped(Stopped),
    /// No room.
    #[error("no room for the database on its disk")]
    Full,
}

impl From<rusqlite::Error> for ReplayError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error.into())
    }
}

/// The message at which a replay stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stopped {
    /// Which batch.
    pub(crate) what: String,
    /// When the broker stored it, unix milliseconds; 0: it does not have it any more.
    pub(crate) time_ms: i64,
    /// Why it cannot be applied.
    pub(crate) reason: String,
    /// It is of another schema, and not damaged.
    pub(crate) is_schema: bool,
}

/// What was applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replayed {
    /// Whole batches.
    pub(crate) batches: u64,
    /// Their rows.
    pub(crate) rows: u64,
}

/// How far a replay is.
#[derive(Debug, Default)]
pub(crate) struct ReplayProgress {
    /// The messages taken so far.
    pub(crate) done: AtomicU64,
    /// All messages; 0: it has not begun.
    pub(crate) total: AtomicU64,
}

/// The requests of the actor.
#[derive(Clone, Default)]
pub(super) struct Asked(Arc<Mutex<Vec<(Ticket, Request)>>>);

impl Broker for Asked {
    fn request(&mut self, ticket: Ticket, request: Request) {
        self.0.lock().push((ticket, request));
    }

    fn max_payload_bytes(&self) -> usize {
        1 << 20
    }
}

/// A stream that is being read.
struct Reading {
    /// None: it is read to its end.
    reader: Option<Reader>,
    generation: u64,
    upto: u64,
}

/// Until when the streams are applied.
#[derive(Clone, Debug)]
pub(crate) enum Until {
    /// The moment (unix milliseconds), and the last position of each stream at it.
    Moment(i64, BTreeMap<u32, u64>),
    /// Without end: what cannot be read now is tried again.
    Stopped,
}

/// How [`Replay::settle`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// There is nothing to do.
    Done,
    /// Another program holds the write lock, or the disk is full.
    Locked,
}

/// A restored file, and the streams.
pub(crate) struct Replay<'a> {
    pub(super) inbound: Inbound<Asked>,
    asked: Asked,
    history: &'a History,
    runtime: Handle,
    until: Until,
    reading: HashMap<u32, Reading>,
    inbox: Inbox,
    events: UnboundedReceiver<BrokerEvent>,
    lost: u32,
}

impl<'a> Replay<'a> {
    /// Opens a restored file, see [`super::fit::check`] and [`super::begin_anew`]. Blocks; not to
    /// be called by a task of the runtime.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub(crate) fn open(
        path: &Path,
        config: NodeConfig,
        history: &'a History,
        runtime: Handle,
        until: Until,
    ) -> Result<Self, ReplayError> {
        let db = connection::open_writer(path)?;
        if let Until::Moment(..) = until {
            // The file is thrown away after any failure, and synced when it is put in place.
            db.pragma_update(None, "synchronous", "OFF")?;
        }
        let config = NodeConfig {
            replicate: true,
            publish: true,
            politeness_ms: 0,
            id_ranges: None,
            gaps_from_snapshots: false,
            ..config
        };
        let asked = Asked::default();
        // No node knows the file's incarnation, so it has to differ from those of nodes only.
        let mut bits = identity::random()?;
        let random = Box::new(move || {
            bits = bits.rotate_left(7).wrapping_add(0x9e37_79b9_7f4a_7c15);
            bits
        });
        let inbound = Inbound::open(config, db, asked.clone(), random, now(&until))?;
        let (reading, lost) = (HashMap::new(), 0);
        let (inbox, events) = Inbox::new(WAITING_BYTES);
        let opened = Self { inbound, asked, history, runtime, until, reading, inbox, events, lost };
        opened.check_file()?;
        Ok(opened)
    }

    /// An error if the file misses something already: an earlier run ended with it.
    fn check_file(&self) -> Result<(), ReplayError> {
        if quarantine::count(self.inbound.database())? > 0 {
            return Err(self.quarantined()?);
        }
        match self.inbound.open_gaps() {
            gaps if gaps.is_empty() => Ok(()),
            gaps => Err(ReplayError::Missing(gaps.join("; "))),
        }
    }

    /// Applies everything up to the moment.
    ///
    /// # Errors
    /// [`ReplayError`]. The file is of no use then.
    pub(crate) fn run(mut self, progress: &ReplayProgress) -> Result<Replayed, ReplayError> {
        self.take(Input::Broker(BrokerEvent::Connected))?;
        self.settle()?;
        while self.reading.values().any(|reading| reading.reader.is_some()) {
            let silent = || BrokerError::Unreachable("they send nothing more".to_owned());
            let events = self.next(SILENCE).filter(|_| self.lost <= LOST_MAX);
            for event in events.ok_or_else(silent)? {
                progress.done.fetch_add(1, Ordering::Relaxed);
                self.take(Input::Broker(event))?;
            }
            self.settle()?;
            self.check_streams()?;
        }
        self.take(Input::Flush)?;
        self.settle()?;
        self.check_end()?;
        let stats = self.inbound.stats;
        Ok(Replayed { batches: stats.batches_applied, rows: stats.rows_taken + stats.rows_skipped })
    }

    /// Gives the actor an input.
    pub(super) fn take(&mut self, input: Input) -> Result<(), ReplayError> {
        Ok(self.inbound.handle(input, now(&self.until))?)
    }

    /// Waits for messages. None if there are none for so long.
    pub(super) fn next(&mut self, wait: Duration) -> Option<Vec<BrokerEvent>> {
        let events = &mut self.events;
        let first =
            self.runtime.block_on(async { tokio::time::timeout(wait, events.recv()).await });
        let mut next = first.ok().flatten();
        next.as_ref()?;
        let mut taken = Vec::new();
        while let Some(event) = next {
            if self.accepts(&event) {
                taken.push(event);
            }
            next = (taken.len() < AT_ONCE).then(|| self.events.try_recv().ok()).flatten();
        }
        Some(taken)
    }

    /// Returns whether an event is for the actor: none of a consumer that was replaced, and no
    /// message after the moment.
    fn accepts(&mut self, event: &BrokerEvent) -> bool {
        let (shard, generation) = match event {
            BrokerEvent::Delivered { message, generation, .. } => (message.shard, *generation),
            BrokerEvent::ConsumerLost { shard, generation, .. } => (*shard, *generation),
            _ => return false,
        };
        let reading = self.reading.get_mut(&shard).filter(|r| r.generation == generation);
        let Some(reading) = reading.filter(|reading| reading.reader.is_some()) else {
            return false;
        };
        let BrokerEvent::Delivered { message, .. } = event else {
            // The actor checks the stream, and starts another consumer.
            self.lost += 1;
            return true;
        };
        if message.seq.0 >= reading.upto {
            reading.reader = None;
        }
        message.seq.0 <= reading.upto
    }

    /// Answers requests and steps until there is nothing to do. Without a moment it also ends while
    /// the file is locked, or its disk full.
    pub(super) fn settle(&mut self) -> Result<Settled, ReplayError> {
        loop {
            for effect in std::mem::take(&mut self.inbound.effects) {
                // Nobody publishes, so nothing has to stop.
                if let Effect::Hold { check, .. } = effect {
                    self.take(Input::OutboundHeld(check))?;
                }
            }
            let asked = std::mem::take(&mut *self.asked.0.lock());
            let quiet = asked.is_empty() && self.inbound.effects.is_empty();
            let is_endless = matches!(self.until, Until::Stopped);
            for (ticket, request) in asked {
                let reply = match self.answer(request) {
                    Err(ReplayError::Broker(error)) if is_endless => Err(error),
                    reply => Ok(reply?),
                };
                self.take(Input::Broker(BrokerEvent::Reply(ticket, reply)))?;
            }
            match self.inbound.step(now(&self.until))? {
                Step::Busy if is_endless => return Ok(Settled::Locked),
                // Nobody else uses the file.
                Step::Busy => return Err(ReplayError::Full),
                Step::Worked | Step::Polite => {}
                Step::Idle if quiet && self.asked.0.lock().is_empty() => {
                    return Ok(Settled::Done);
                }
                Step::Idle => {}
            }
        }
    }

    /// Reads are answered by the broker, writes by nobody.
    fn answer(&mut self, request: Request) -> Result<Reply, ReplayError> {
        let (history, runtime) = (self.history, self.runtime.clone());
        Ok(match request {
            Request::StreamState { shard } => {
                let state = runtime.block_on(history.state(shard))?;
                Reply::State(state.ok_or_else(|| {
                    BrokerError::Unreachable(format!("stream {shard} does not exist any more"))
                })?)
            }
            Request::MessageAt { shard, seq } => {
                Reply::Message(runtime.block_on(history.message_at(shard, seq))?)
            }
            Request::Consume { shard, start, generation } => {
                self.read(shard, start, generation)?;
                Reply::Consuming
            }
            Request::LastOwn { .. } => Reply::Message(None),
            Request::KvGet { .. } => Reply::Kv(None),
            Request::KvPut { .. } => Reply::KvPut(1),
            Request::Signal { .. } | Request::Publish { .. } => Reply::Consuming,
        })
    }

    fn read(&mut self, shard: u32, start: StreamSeq, generation: u64) -> Result<(), ReplayError> {
        let upto = self.upto(shard);
        let reader = match start.0 <= upto {
            false => None,
            true => {
                let reader = self.history.read(shard, start, generation, &self.inbox);
                Some(self.runtime.block_on(reader)?)
            }
        };
        self.reading.insert(shard, Reading { reader, generation, upto });
        Ok(())
    }

    fn upto(&self, shard: u32) -> u64 {
        match &self.until {
            Until::Moment(_, upto) => upto.get(&shard).copied().unwrap_or(0),
            Until::Stopped => u64::MAX,
        }
    }

    /// What a node would wait for: the others cannot help here.
    pub(super) fn check_streams(&self) -> Result<(), ReplayError> {
        let stats = &self.inbound.stats;
        if stats.losses > 0 && matches!(self.until, Until::Moment(..)) {
            let what = "they are other ones than those of the snapshot, or the broker lost \
                messages, or they were purged by hand: a snapshot that is saved after the next \
                write leads on";
            return Err(ReplayError::Missing(what.to_owned()));
        }
        if stats.quarantined > 0 {
            return Err(self.quarantined()?);
        }
        if stats.gaps > 0 {
            return Err(ReplayError::Missing(self.inbound.open_gaps().join("; ")));
        }
        Ok(())
    }

    fn check_end(&self) -> Result<(), ReplayError> {
        self.check_streams()?;
        self.check_held()?;
        if !self.inbound.is_connected() {
            let why = self.inbound.trouble().unwrap_or("the check of the streams did not end");
            return Err(BrokerError::Unreachable(why.to_owned()).into());
        }
        for (stream, progress) in self.inbound.streams() {
            let upto = self.upto(stream.shard);
            let reached = stream.position.seq.0.max(progress.cursor.seq().0);
            if reached < upto || !stream.queue.is_empty() {
                return Err(ReplayError::Missing(format!(
                    "stream {}: messages {} to {upto} are missing",
                    stream.shard,
                    reached + 1
                )));
            }
        }
        Ok(())
    }

    /// An error if an origin is held.
    pub(super) fn check_held(&self) -> Result<(), ReplayError> {
        for (stream, progress) in self.inbound.streams() {
            if let Some((node, seq)) = progress.held.iter().min_by_key(|(_, seq)| **seq) {
                return Err(self.held(stream.shard, *node, *seq)?);
            }
        }
        Ok(())
    }

    fn held(&self, shard: u32, node: NodeId, seq: StreamSeq) -> Result<ReplayError, ReplayError> {
        let all = held::list(self.inbound.database())?;
        let reason = all.into_iter().find(|h| h.node_id == node.0 && h.shard == shard);
        Ok(ReplayError::Stopped(Stopped {
            what: format!("the batch of node {node} at position {seq} of stream {shard}"),
            time_ms: self.time_ms(shard, seq)?,
            reason: reason.map_or_else(String::new, |held| held.reason),
            is_schema: true,
        }))
    }

    fn quarantined(&self) -> Result<ReplayError, ReplayError> {
        let all = quarantine::list(self.inbound.database())?;
        let Some(entry) = all.into_iter().next_back() else {
            return Ok(ReplayError::Missing("a batch is damaged".to_owned()));
        };
        let (shard, seq) = (entry.shard, entry.seq);
        Ok(ReplayError::Stopped(Stopped {
            what: format!(
                "batch {} of node {} at position {seq} of stream {shard}",
                entry.batch, entry.node
            ),
            time_ms: self.time_ms(shard, seq)?,
            reason: entry.reason,
            is_schema: false,
        }))
    }

    fn time_ms(&self, shard: u32, seq: StreamSeq) -> Result<i64, ReplayError> {
        let found = self.runtime.block_on(self.history.message_at(shard, seq))?;
        Ok(found.map_or(0, |message| message.time_ns / 1_000_000))
    }
}

/// The time for the actor. For a moment that one, so that nothing is too old for it.
fn now(until: &Until) -> Now {
    match until {
        Until::Moment(at_ms, _) => Now { unix_ms: *at_ms, mono_ms: clock::mono_ms() },
        Until::Stopped => clock::now(),
    }
}
