//! Collects the work of the next transaction: deliveries, acknowledgements, retries of quarantine.
//!
//! Arrives: inputs. Leaves: whether they are due. Owns: each transaction takes the write lock from
//! the application, so inputs wait for more if they can, for a bounded time. Streams are served in
//! turn. Memory only: after a crash the broker delivers and acknowledges again.

use super::bookkeeping::{Bookkeeping, Urgency};
use super::durable::Durable;
use super::from_snapshot::SnapshotMerge;
use super::stream::{ItemKind, ShardStream, StreamItem};
use crate::actor::Ack;
use crate::model::config::Now;
use crate::model::limits::Limits;
use crate::repair::refetch::Retry;
use crate::wire::unpack::Unpacker;

/// So many deliveries can wait for more.
const FEW_ITEMS: usize = 32;
/// Unless one of them has more bytes, as it is stored in the stream.
const FEW_BYTES: u64 = 4_096;

/// The work of the next transaction.
pub(super) struct Inbox {
    /// Acknowledgements of own batches.
    pub(super) acks: Vec<Ack>,
    /// The batches of the quarantine to retry.
    pub(super) retries: Vec<Retry>,
    /// The rows of a snapshot that fills gaps.
    pub(super) snapshot: SnapshotMerge,
    /// Whether to look at the schema and the log.
    pub(super) wake: bool,
    /// When the bookkeeping in here is written.
    pub(super) bookkeeping: Bookkeeping,
    /// Log entries that wait to be absorbed, on a node that does not publish.
    pub(super) unsent: u64,
    /// Write all bookkeeping now: the node is about to stop.
    pub(super) flush: bool,
    /// The number of deliveries at the last look.
    noted_items: usize,
    /// The streams with their deliveries, in the order of [`Durable::streams`].
    pub(super) streams: Vec<ShardStream>,
    /// The stream that the next transaction begins with.
    first_served: usize,
    /// When the last message arrived, or the connection became usable.
    pub(super) delivered_ms: u64,
    /// When origins are consumed again that are held because the quarantine is full.
    pub(super) quarantine_retry_ms: Option<u64>,
    /// The memory for decompressing batches.
    pub(super) unpacker: Unpacker,
}

/// The part of the inbox that a transaction has processed.
#[derive(Debug, Default)]
pub(super) struct Served {
    /// The number of acknowledgements.
    pub(super) acks: usize,
    /// The number of retries of quarantine.
    pub(super) retries: usize,
    /// The number of items of each stream's queue.
    pub(super) items: Vec<usize>,
    /// Log entries that are left to absorb, on a node that does not publish.
    pub(super) unsent: u64,
    /// The stream at which the bound on rows was reached.
    pub(super) full_at: Option<usize>,
}

impl Inbox {
    /// Creates an inbox that is empty, except for a first look at the database.
    pub(super) fn new(durable: &Durable, now: Now) -> Self {
        Self {
            acks: Vec::new(),
            retries: Vec::new(),
            snapshot: SnapshotMerge::default(),
            wake: true,
            bookkeeping: Bookkeeping::default(),
            unsent: 0,
            flush: false,
            noted_items: 0,
            streams: durable.streams.iter().map(ShardStream::new).collect(),
            first_served: 0,
            delivered_ms: now.mono_ms,
            quarantine_retry_ms: None,
            unpacker: Unpacker::default(),
        }
    }

    /// Takes the acknowledgement of an own batch.
    pub(super) fn acknowledged(&mut self, ack: Ack, now: Now) {
        self.bookkeeping.note(now);
        self.acks.push(ack);
    }

    /// Returns the streams in the order of serving. It starts after the stream at which the last
    /// transaction was full.
    pub(super) fn order(&self) -> impl Iterator<Item = usize> + use<> {
        let (first, streams) = (self.first_served, self.streams.len());
        (0..streams).map(move |i| (first + i) % streams)
    }

    /// Reads the batches through that the next transaction applies, because that needs no write
    /// lock.
    pub(super) fn look_into_batches(&mut self, limits: &Limits) {
        let (mut rows, mut room) = (0, limits.plain_bytes_max);
        let order = self.order();
        let Self { streams, unpacker, .. } = self;
        for item in order.flat_map(|i| &streams[i].queue) {
            if rows >= limits.apply_rows_max {
                return;
            }
            rows += 1;
            if let ItemKind::Batch { body, .. } = &item.kind
                // The transaction meets the same error, and judges it.
                && let Ok(Ok(found)) = body.outline(unpacker, &mut room, limits)
            {
                rows += found.rows;
            }
        }
    }

    /// Returns whether deliveries wait.
    pub(super) fn any_delivered(&self) -> bool {
        self.streams.iter().any(|s| !s.queue.is_empty())
    }

    /// Returns whether all deliveries and acknowledgements are processed.
    pub(super) fn is_drained(&self) -> bool {
        self.acks.is_empty() && self.streams.iter().all(ShardStream::is_drained)
    }

    /// Returns whether so little waits that more can join it in one transaction.
    pub(super) fn has_few(&self) -> bool {
        let is_small = |item: &StreamItem| match &item.kind {
            ItemKind::Batch { body, .. } => body.bytes.len() <= FEW_BYTES,
            ItemKind::Skip | ItemKind::Bad { .. } | ItemKind::Gap { .. } => true,
        };
        let few = !self.flush && self.items() <= FEW_ITEMS;
        few && self.streams.iter().flat_map(|s| &s.queue).all(is_small)
    }

    fn items(&self) -> usize {
        self.streams.iter().map(|s| s.queue.len()).sum()
    }

    /// Notes new deliveries. Those that only move a cursor are bookkeeping.
    pub(super) fn note_waiting(&mut self, now: Now) {
        let items = self.items();
        if items > self.noted_items {
            self.bookkeeping.note(now);
        }
        self.noted_items = items;
    }

    /// Notes log entries that wait to be absorbed, on a node that does not publish.
    pub(super) fn note_unsent(&mut self, entries: u64, now: Now) {
        if entries > self.unsent {
            self.bookkeeping.note(now);
        }
        self.unsent = entries;
    }

    /// Returns how urgent the waiting bookkeeping is. `published` is the last log entry whose
    /// publication is stored.
    pub(super) fn urgency(&self, published: i64, entries_max: u64, now: Now) -> Urgency {
        let items = self.items();
        if self.acks.is_empty() && items == 0 && self.unsent == 0 {
            return Urgency::None;
        }
        let acknowledged = self.acks.last().map_or(0, |ack| ack.upto.saturating_sub(published));
        let entries = self.unsent.max(u64::try_from(acknowledged).unwrap_or(0));
        if self.flush || entries >= entries_max || items as u64 >= entries_max {
            return Urgency::Now;
        }
        self.bookkeeping.urgency(now)
    }

    /// Returns whether deliveries are due. Items that only move the cursor (own batches that come
    /// back) are bookkeeping, unless a held origin waits for them. `steady` tells that the node has
    /// joined and the connection is checked.
    pub(super) fn items_are_due(&self, durable: &Durable, steady: bool) -> bool {
        let mut streams = self.streams.iter().zip(&durable.streams);
        let all_wait = streams
            .all(|(stream, progress)| progress.resuming.is_empty() && stream.waits_for_nothing());
        self.any_delivered() && !(steady && all_wait)
    }

    /// Removes the processed inputs, after the commit.
    pub(super) fn committed(&mut self, served: &Served, now: Now) {
        self.acks.drain(..served.acks);
        self.retries.drain(..served.retries);
        for (stream, items) in self.streams.iter_mut().zip(&served.items) {
            stream.queue.drain(..*items);
        }
        if let Some(full_at) = served.full_at {
            self.first_served = (full_at + 1) % self.streams.len();
        }
        self.unsent = served.unsent;
        self.noted_items = self.items();
        if self.acks.is_empty() && self.noted_items == 0 && self.unsent == 0 {
            self.bookkeeping.committed();
            self.flush = false;
        } else {
            self.bookkeeping.is_left(now);
        }
    }

    /// Returns when bookkeeping becomes due, on the monotone clock.
    pub(super) fn deadline(&self) -> u64 {
        self.bookkeeping.deadline()
    }

    /// Returns when a stream has work although no input arrives, on the monotone clock.
    pub(super) fn streams_deadline(&self) -> u64 {
        let streams = self.streams.iter().map(ShardStream::deadline).min().unwrap_or(u64::MAX);
        streams.min(self.quarantine_retry_ms.unwrap_or(u64::MAX))
    }

    /// Returns whether the streams are applied up to these positions. `served` is the number of
    /// items of each stream that the running transaction has processed.
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

    /// Returns whether all waiting deliveries only move cursors.
    pub(super) fn waits_for_nothing(&self) -> bool {
        self.streams.iter().all(ShardStream::waits_for_nothing)
    }
}

#[cfg(test)]
#[path = "inbox_tests.rs"]
mod tests;
