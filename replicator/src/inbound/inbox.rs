//! What waits for the next transaction: deliveries, acknowledgements, retries of quarantine.
//!
//! Arrives: inputs. Leaves: whether they are due. Owns: each transaction takes the write lock from
//! the application, so what can wait for more does, for a bounded time; and streams are served in
//! turn. Only memory: what is lost is delivered or acknowledged again.

use super::durable::Durable;
use super::stream::ShardStream;
use crate::actor::Ack;
use crate::model::config::Now;
use crate::wire::decode::Unpacker;

/// Acknowledgements wait this long for more, or for another reason to write: until they are written
/// a crash costs no more than sending the same batches again.
const ACKS_WAIT_MS: u64 = 5;
/// More of them do not wait.
const ACKS_MAX: usize = 64;

/// What waits for the next transaction.
pub(super) struct Inbox {
    /// Acknowledgements of own batches.
    pub(super) acks: Vec<Ack>,
    acks_due_ms: u64,
    /// Batches of the quarantine to try again.
    pub(super) retries: Vec<i64>,
    /// Somebody asked to look at the database.
    pub(super) wake: bool,
    /// Since when what only moves the cursor waits, on the monotone clock.
    skips_since: Option<u64>,
    /// The streams with their deliveries, in the order of [`Durable::streams`].
    pub(super) streams: Vec<ShardStream>,
    /// The stream that the next transaction begins with.
    first_served: usize,
    /// When the last message came, or the connection became usable.
    pub(super) delivered_ms: u64,
    /// The memory in which batches are decompressed.
    pub(super) unpacker: Unpacker,
}

/// How much of the inbox a transaction dealt with.
#[derive(Debug, Default)]
pub(super) struct Served {
    /// Acknowledgements.
    pub(super) acks: usize,
    /// Retries of quarantine.
    pub(super) retries: usize,
    /// Items of each stream's queue.
    pub(super) items: Vec<usize>,
    /// The stream at which the bound on rows was reached.
    pub(super) full_at: Option<usize>,
}

impl Inbox {
    /// Empty, but for the wish to look at the database.
    pub(super) fn new(durable: &Durable, now: Now) -> Self {
        Self {
            acks: Vec::new(),
            acks_due_ms: 0,
            retries: Vec::new(),
            wake: true,
            skips_since: None,
            streams: durable.streams.iter().map(ShardStream::new).collect(),
            first_served: 0,
            delivered_ms: now.mono_ms,
            unpacker: Unpacker::default(),
        }
    }

    /// An own batch is stored.
    pub(super) fn acknowledged(&mut self, ack: Ack, now: Now) {
        if self.acks.is_empty() {
            self.acks_due_ms = now.mono_ms + ACKS_WAIT_MS;
        }
        self.acks.push(ack);
    }

    /// The streams in the order in which a transaction serves them: it begins behind the stream at
    /// which the last one was full.
    pub(super) fn order(&self) -> impl Iterator<Item = usize> + use<> {
        let (first, streams) = (self.first_served, self.streams.len());
        (0..streams).map(move |i| (first + i) % streams)
    }

    /// Whether deliveries wait.
    pub(super) fn any_delivered(&self) -> bool {
        self.streams.iter().any(|s| !s.queue.is_empty())
    }

    /// Whether everything delivered so far is dealt with, and every acknowledgement.
    pub(super) fn is_drained(&self) -> bool {
        self.acks.is_empty() && self.streams.iter().all(ShardStream::is_drained)
    }

    /// Whether acknowledgements are due. `steady`: nothing waits for them.
    pub(super) fn acks_are_due(&self, steady: bool, now: Now) -> bool {
        let wait = steady && self.acks.len() < ACKS_MAX && now.mono_ms < self.acks_due_ms;
        !self.acks.is_empty() && !wait
    }

    /// Notes since when deliveries wait.
    pub(super) fn note_waiting(&mut self, now: Now) {
        let since_ms = self.skips_since.unwrap_or(now.mono_ms);
        self.skips_since = self.any_delivered().then_some(since_ms);
    }

    /// Whether deliveries are due. What only moves the cursor, as own batches that come back do,
    /// waits for more like acknowledgements, unless a held origin waits for it. `steady`: joined,
    /// and the connection is checked.
    pub(super) fn items_are_due(&self, durable: &Durable, steady: bool, now: Now) -> bool {
        let Some(since_ms) = self.skips_since else { return false };
        let mut streams = self.streams.iter().zip(&durable.streams);
        let all_wait = streams.all(|(stream, progress)| {
            progress.resuming.is_empty()
                && stream.queue.len() <= ACKS_MAX
                && stream.waits_for_nothing()
        });
        !steady || now.mono_ms >= since_ms + ACKS_WAIT_MS || !all_wait
    }

    /// After the commit.
    pub(super) fn committed(&mut self, served: &Served) {
        self.acks.drain(..served.acks);
        self.retries.drain(..served.retries);
        for (stream, items) in self.streams.iter_mut().zip(&served.items) {
            stream.queue.drain(..*items);
        }
        if let Some(full_at) = served.full_at {
            self.first_served = (full_at + 1) % self.streams.len();
        }
        self.skips_since = None;
    }

    /// When something waits no longer although nothing comes in, on the monotone clock.
    pub(super) fn deadline(&self) -> u64 {
        let skips_ms = self.skips_since.map_or(u64::MAX, |since| since + ACKS_WAIT_MS);
        if self.acks.is_empty() { skips_ms } else { skips_ms.min(self.acks_due_ms) }
    }

    /// When a stream has something to do although nothing comes in, on the monotone clock.
    pub(super) fn streams_deadline(&self) -> u64 {
        self.streams.iter().map(ShardStream::deadline).min().unwrap_or(u64::MAX)
    }

    /// Whether everything is applied that the streams held up to these positions. `served`: items
    /// of each stream that the transaction under way has dealt with.
    pub(super) fn has_consumed_to(
        &self,
        target: impl Fn(u32) -> Option<u64>,
        served: &[usize],
    ) -> bool {
        self.streams.iter().enumerate().all(|(i, s)| {
            s.is_drained_but(served.get(i).copied().unwrap_or(0))
                && target(s.shard).is_some_and(|target| s.position.seq.0 >= target)
        })
    }

    /// Whether what waits, if anything does, only moves cursors.
    pub(super) fn waits_for_nothing(&self) -> bool {
        self.streams.iter().all(ShardStream::waits_for_nothing)
    }
}

#[cfg(test)]
#[path = "inbox_tests.rs"]
mod tests;
