//! Applies what the streams hold after a snapshot to its restored file, up to given positions.
//!
//! Arrives: a fetched image, which nobody else uses, and the streams. Leaves: the same file with
//! the state of a later moment. Owns: the batches are applied by the code of a running node
//! ([`Inbound`]), which here gets answers that are made up where a node would write: it takes no
//! lease, is in no registry and on no list, and publishes nothing. What a node would wait for (a
//! gap, another schema, a batch in quarantine) is an error here. A crash leaves the scratch file.

use super::restored::{RestoredError, begin_anew};
use super::rows::{self, RowsError};
use crate::actor::{Effect, Fatal, Step};
use crate::broker::{Broker, BrokerError, BrokerEvent, Reply, Request, Ticket};
use crate::clock;
use crate::db::connection::{self, DatabaseError};
use crate::inbound::{Inbound, Input};
use crate::model::config::{NodeConfig, Now};
use crate::model::ids::{NodeId, StreamSeq};
use crate::nats::{Feed, History};
use crate::settings::NodeConfigError;
use crate::store::{held, meta, quarantine};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

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

/// The requests of the actor.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<(Ticket, Request)>>>);

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
    feed: Option<Feed>,
    upto: u64,
}

/// A restored file, and the streams.
pub(crate) struct Replay<'a> {
    inbound: Inbound<Asked>,
    asked: Asked,
    history: &'a History,
    runtime: Handle,
    at_ms: i64,
    upto: BTreeMap<u32, u64>,
    reading: HashMap<u32, Reading>,
    lost: u32,
}

impl<'a> Replay<'a> {
    /// Opens a fetched image. `upto` has the last position of each stream, `at_ms` is the moment at
    /// which they were the last ones. Blocks; not to be called by a task of the runtime.
    ///
    /// # Errors
    /// [`ReplayError::Snapshot`] if the image is of no use for this.
    pub(crate) fn open(
        path: &Path,
        config: NodeConfig,
        history: &'a History,
        runtime: Handle,
        (at_ms, upto): (i64, BTreeMap<u32, u64>),
    ) -> Result<Self, ReplayError> {
        let node = check(path, config.shards)?;
        begin_anew(path, clock::unix_ms())?;
        let db = connection::open_writer(path)?;
        // The file is thrown away after any failure, and synced when it is put in place.
        db.pragma_update(None, "synchronous", "OFF")?;
        let config = NodeConfig {
            node,
            replicate: true,
            publish: true,
            politeness_ms: 0,
            id_ranges: None,
            gaps_from_snapshots: false,
            ..config
        };
        let asked = Asked::default();
        let random = Box::new(|| getrandom::u64().unwrap_or(0));
        let now = Now { unix_ms: at_ms, mono_ms: clock::mono_ms() };
        let inbound = Inbound::open(config, db, asked.clone(), random, now)?;
        let (reading, lost) = (HashMap::new(), 0);
        Ok(Self { inbound, asked, history, runtime, at_ms, upto, reading, lost })
    }

    /// Applies everything up to the positions.
    ///
    /// # Errors
    /// [`ReplayError`]. The file is of no use then.
    pub(crate) fn run(mut self) -> Result<Replayed, ReplayError> {
        self.take(Input::Broker(BrokerEvent::Connected))?;
        self.settle()?;
        while let Some(shard) = self.unread() {
            for event in self.next(shard)? {
                self.take(Input::Broker(event))?;
            }
            self.settle()?;
        }
        self.take(Input::Flush)?;
        self.settle()?;
        self.check_end()?;
        let stats = self.inbound.stats;
        Ok(Replayed { batches: stats.batches_applied, rows: stats.rows_taken + stats.rows_skipped })
    }

    /// The present time for the actor: the moment whose state is built, so that nothing is too old
    /// for it.
    fn now(&self) -> Now {
        Now { unix_ms: self.at_ms, mono_ms: clock::mono_ms() }
    }

    fn take(&mut self, input: Input) -> Result<(), ReplayError> {
        Ok(self.inbound.handle(input, self.now())?)
    }

    /// A stream that is not read to its end.
    fn unread(&self) -> Option<u32> {
        self.reading.iter().find(|(_, reading)| reading.feed.is_some()).map(|(shard, _)| *shard)
    }

    /// The next messages of a stream.
    fn next(&mut self, shard: u32) -> Result<Vec<BrokerEvent>, ReplayError> {
        let Some(reading) = self.reading.get_mut(&shard) else { return Ok(Vec::new()) };
        let Some(feed) = &mut reading.feed else { return Ok(Vec::new()) };
        let first = self.runtime.block_on(async {
            tokio::time::timeout(SILENCE, feed.events.recv()).await.ok().flatten()
        });
        let silent = || BrokerError::Unreachable(format!("stream {shard} sends nothing more"));
        let mut next = Some(first.ok_or_else(silent)?);
        let mut events = Vec::new();
        let mut is_read = false;
        while let Some(event) = next.take() {
            match &event {
                BrokerEvent::Delivered { message, .. } => {
                    is_read = message.seq.0 >= reading.upto;
                    if message.seq.0 > reading.upto {
                        break;
                    }
                }
                // The actor checks the stream, and starts another consumer.
                _ => self.lost += 1,
            }
            events.push(event);
            if !is_read && events.len() < AT_ONCE {
                next = feed.events.try_recv().ok();
            }
        }
        if is_read {
            reading.feed = None;
        }
        match self.lost > LOST_MAX {
            true => Err(silent().into()),
            false => Ok(events),
        }
    }

    /// Answers requests and steps until there is nothing to do.
    fn settle(&mut self) -> Result<(), ReplayError> {
        loop {
            for effect in std::mem::take(&mut self.inbound.effects) {
                // Nobody publishes, so nothing has to stop.
                if let Effect::Hold { check, .. } = effect {
                    self.take(Input::OutboundHeld(check))?;
                }
            }
            let asked = std::mem::take(&mut *self.asked.0.lock());
            let quiet = asked.is_empty() && self.inbound.effects.is_empty();
            for (ticket, request) in asked {
                let reply = self.answer(request)?;
                self.take(Input::Broker(BrokerEvent::Reply(ticket, Ok(reply))))?;
            }
            match self.inbound.step(self.now())? {
                // Nobody else uses the file.
                Step::Busy => return Err(ReplayError::Full),
                Step::Worked | Step::Polite => self.check_streams()?,
                Step::Idle if quiet && self.asked.0.lock().is_empty() => return Ok(()),
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
                    ReplayError::Missing(format!("stream {shard} does not exist any more"))
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
        let upto = self.upto.get(&shard).copied().unwrap_or(0);
        let feed = match start.0 <= upto {
            false => None,
            true => {
                let feed = self.history.read(shard, start, generation, WAITING_BYTES);
                Some(self.runtime.block_on(feed)?)
            }
        };
        self.reading.insert(shard, Reading { feed, upto });
        Ok(())
    }

    /// What a node would wait for: the others cannot help here.
    fn check_streams(&self) -> Result<(), ReplayError> {
        let stats = &self.inbound.stats;
        if stats.losses > 0 {
            let what =
                "they are other ones than those of the snapshot, or the broker lost messages";
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
        for (stream, progress) in self.inbound.streams() {
            if let Some((node, seq)) = progress.held.iter().min_by_key(|(_, seq)| **seq) {
                return Err(self.held(stream.shard, *node, *seq)?);
            }
        }
        if !self.inbound.is_connected() {
            let why = self.inbound.trouble().unwrap_or("the check of the streams did not end");
            return Err(BrokerError::Unreachable(why.to_owned()).into());
        }
        for (stream, progress) in self.inbound.streams() {
            let upto = self.upto.get(&stream.shard).copied().unwrap_or(0);
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

/// Checks that the image has everything that its positions say. Returns its node.
fn check(path: &Path, shards: u32) -> Result<NodeId, ReplayError> {
    let db = connection::open_reader(path)?;
    let contents = rows::check(&db, &[])?;
    if let Some(shard) = (1..=shards).find(|shard| !contents.is_whole(*shard)) {
        let text = format!("its node missed something of stream {shard} itself");
        return Err(RowsError::Unfit(text).into());
    }
    Ok(meta::get(&db, meta::NODE)?.unwrap_or(NodeId(0)))
}
