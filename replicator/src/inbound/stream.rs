//! The consumed messages of one stream: reassembles parts and keeps the order.
//!
//! Arrives: the messages of one consumer. Leaves: a queue of [`StreamItem`]s, each with the cursor
//! to store after its processing. Owns: the cursor never passes the first part of an incomplete
//! batch. Memory only: after a crash the consumer starts again after the stored cursor.

use super::batch_body::BatchBody;
use super::durable::Progress;
use crate::broker::{Message, Permit};
use crate::model::batch::PartHeaders;
use crate::model::ids::{BatchNo, NodeId, Site, StreamSeq};
use crate::model::limits::Limits;
use crate::store::cursor::Anchor;
use crate::wire::parts::{Assembler, PartError, PartOutcome};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::Path;

/// The kinds of items.
#[derive(Debug)]
pub enum ItemKind {
    /// There is nothing to apply: the message is our own, or was seen before.
    Skip,
    /// A whole batch.
    Batch {
        /// Its headers.
        headers: PartHeaders,
        /// The position of its first part.
        first: StreamSeq,
        /// Its bytes.
        body: BatchBody,
        /// The share of the inbox that the bytes occupy.
        permit: Permit,
    },
    /// The message is not part of any batch.
    Bad {
        /// The reason, for people.
        reason: String,
        /// The message.
        message: Box<Message>,
    },
    /// Messages are missing between the last one and this one.
    Gap {
        /// The first missing message.
        from: StreamSeq,
        /// The first message after the missing ones.
        to: StreamSeq,
    },
}

/// One unit of work, in the order of the stream.
#[derive(Debug)]
pub struct StreamItem {
    /// The kind of work.
    pub kind: ItemKind,
    /// The message that completed it.
    pub anchor: Anchor,
    /// The cursor to store afterwards.
    pub safe: Anchor,
}

struct Assembling {
    assembler: Assembler,
    /// The message before its first part, while the batch is incomplete.
    before: Option<Anchor>,
    since_ns: i64,
    /// Since when no part has arrived, on the monotone clock; set by the first look after a part.
    idle_since_ms: Option<u64>,
}

/// An incomplete batch is given up after this time, by the timestamps of the stream. The parts of a
/// batch come close together, so its publisher ended in the middle. The batch must not hold up the
/// cursor, or the end of joining, without end.
const INCOMPLETE_NS_MAX: i64 = 600_000_000_000;
/// The same by our own clock, because the timestamps of a quiet stream stand still.
const INCOMPLETE_MS_MAX: u64 = 600_000;

/// The facts for judging a delivery.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The progress of the stream.
    pub progress: &'a Progress,
    /// The present incarnation of this database: its batches are skipped.
    pub own_site: Site,
    /// The limits.
    pub limits: &'a Limits,
    /// The bytes that a stream holds.
    pub stream_bytes_max: u64,
    /// The directory for the parts of large batches.
    pub spill_dir: &'a Path,
}

/// One consumed stream.
pub struct ShardStream {
    /// Its number.
    pub shard: u32,
    /// The generation of the accepted consumer; 0 for none.
    pub generation: u64,
    /// When the stream was created, unix nanoseconds.
    pub created_ns: i64,
    /// The items to process.
    pub queue: VecDeque<StreamItem>,
    /// The last delivered message.
    pub position: Anchor,
    /// The cursor after which the consumer started. Deliveries, and so the present cursor, may come
    /// from a connection that is not checked yet; this cursor was covered by the last check.
    pub began: Option<Anchor>,
    /// Set while a part of a large batch found no room on the disk.
    pub no_room: Option<NoRoom>,
    /// The last batch that is larger than the stream, until it is complete or its rows came again.
    pub oversized: Option<Oversized>,
    assembling: HashMap<NodeId, Assembling>,
}

/// A batch that is larger than the stream holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oversized {
    /// The origin.
    pub node: NodeId,
    /// Its number.
    pub batch: BatchNo,
    /// Its size.
    pub bytes: u64,
}

/// A part of a large batch that found no room on the disk.
#[derive(Debug)]
pub struct NoRoom {
    /// The position of the part.
    pub seq: StreamSeq,
    /// When its stream was created, unix nanoseconds.
    pub created_ns: i64,
    /// The file system's error.
    pub reason: String,
    /// When to consume it again, on the monotone clock.
    pub retry_at_ms: u64,
    wait_ms: u64,
    /// The permits of later messages that were not taken. Holding them keeps the broker from
    /// sending more.
    permits: Vec<Permit>,
}

/// The wait before a part without room is consumed again. It doubles up to a maximum.
const NO_ROOM_RETRY_MS: u64 = 2_000;
const NO_ROOM_RETRY_MS_MAX: u64 = 60_000;

impl ShardStream {
    /// Creates a stream without deliveries.
    pub fn new(progress: &Progress) -> Self {
        let head = progress.cursor.head().copied();
        let position = head.unwrap_or(Anchor::start(0));
        Self {
            shard: progress.shard,
            generation: 0,
            created_ns: position.created_ns,
            queue: VecDeque::new(),
            began: head,
            position,
            no_room: None,
            oversized: None,
            assembling: HashMap::new(),
        }
    }

    /// Forgets all deliveries, and returns the start of a new consumer: after the cursor, or at the
    /// first held batch of a held origin.
    pub fn restart(&mut self, progress: &mut Progress, generation: u64) -> StreamSeq {
        self.generation = generation;
        self.no_room.iter_mut().for_each(|no_room| no_room.permits.clear());
        self.queue.clear();
        self.assembling.clear();
        progress.resuming = progress.held.clone();
        self.began = progress.cursor.head().copied();
        let next = progress.cursor.seq().0 + 1;
        let held = progress.held.values().map(|s| s.0).min();
        let start = held.map_or(next, |held| held.min(next)).max(1);
        self.position = if start == next {
            self.began.unwrap_or(Anchor::start(self.created_ns))
        } else {
            Anchor { seq: StreamSeq(start - 1), ..Anchor::start(self.created_ns) }
        };
        StreamSeq(start)
    }

    /// Returns whether all deliveries are processed.
    pub fn is_drained(&self) -> bool {
        self.is_drained_but(0)
    }

    /// Returns whether all deliveries are processed, apart from the first `served` items.
    pub fn is_drained_but(&self, served: usize) -> bool {
        self.queue.len() == served && self.assembling.values().all(|a| a.before.is_none())
    }

    /// Returns whether all waiting deliveries only move the cursor.
    pub fn waits_for_nothing(&self) -> bool {
        self.queue.iter().all(|item| matches!(item.kind, ItemKind::Skip))
            && self.assembling.values().all(|a| a.before.is_none())
    }

    /// Takes a message.
    ///
    /// # Errors
    /// The message is a part of a large batch, and the file system has no room for it. The message
    /// is not taken then, see [`ShardStream::wait_for_room`].
    pub fn deliver(
        &mut self,
        message: Message,
        permit: Permit,
        context: Context<'_>,
    ) -> io::Result<()> {
        if message.seq <= self.position.seq {
            return Ok(());
        }
        let anchor = Anchor::of(&message, self.created_ns);
        let expected = StreamSeq(self.position.seq.0 + 1);
        // A hole before the cursor is already known, except in the backlog of a held origin, which
        // was not examined yet.
        let progress = context.progress;
        if message.seq > expected
            && (expected > progress.cursor.seq() || !progress.resuming.is_empty())
        {
            let safe = self.safe(self.position);
            self.queue.push_back(StreamItem {
                kind: ItemKind::Gap { from: expected, to: message.seq },
                anchor,
                safe,
            });
        }
        let kind = self.sort(message, permit, context)?;
        let created_ns = self.created_ns;
        self.no_room
            .take_if(|no_room| no_room.seq <= anchor.seq || no_room.created_ns != created_ns);
        self.abandon_stale(anchor.time_ns);
        let safe = self.safe(anchor);
        self.position = anchor;
        if let Some(kind) = kind {
            self.queue.push_back(StreamItem { kind, anchor, safe });
        }
        Ok(())
    }

    /// Accepts no consumer until the retry. Otherwise the parts after the one without room would
    /// count as orphans.
    pub fn wait_for_room(&mut self, seq: StreamSeq, reason: String, mono_ms: u64) {
        self.generation = 0;
        let wait_ms = self
            .no_room
            .as_ref()
            .map_or(NO_ROOM_RETRY_MS, |no_room| (no_room.wait_ms * 2).min(NO_ROOM_RETRY_MS_MAX));
        self.no_room = Some(NoRoom {
            seq,
            created_ns: self.created_ns,
            reason,
            retry_at_ms: mono_ms + wait_ms,
            wait_ms,
            permits: Vec::new(),
        });
    }

    /// Refuses a message, and keeps its permit to slow the broker down.
    pub fn turn_down(&mut self, permit: Permit) {
        if let Some(no_room) = self.no_room.as_mut().filter(|_| self.generation == 0) {
            no_room.permits.push(permit);
        }
    }

    /// Returns whether the wait for room is over.
    pub fn looks_for_room(&self, mono_ms: u64) -> bool {
        self.generation == 0
            && self.no_room.as_ref().is_some_and(|no_room| mono_ms >= no_room.retry_at_ms)
    }

    /// Returns the kind of work for a message; None if its batch is incomplete.
    fn sort(
        &mut self,
        message: Message,
        permit: Permit,
        context: Context<'_>,
    ) -> io::Result<Option<ItemKind>> {
        let Progress { cursor, held, resuming, .. } = context.progress;
        let seen = message.seq <= cursor.seq();
        let resumed = resuming.get(&message.node).is_some_and(|from| message.seq >= *from);
        if seen && !resumed {
            return Ok(Some(ItemKind::Skip));
        }
        if held.contains_key(&message.node) && !resuming.contains_key(&message.node) {
            return Ok(Some(ItemKind::Skip));
        }
        let headers = match &message.headers {
            Ok(headers) if headers.site == context.own_site => return Ok(Some(ItemKind::Skip)),
            Ok(headers) => headers.clone(),
            Err(reason) => {
                return Ok(Some(ItemKind::Bad {
                    reason: reason.clone(),
                    message: Box::new(message),
                }));
            }
        };
        self.assemble(message, headers, permit, context)
    }

    fn assemble(
        &mut self,
        message: Message,
        headers: PartHeaders,
        permit: Permit,
        context: Context<'_>,
    ) -> io::Result<Option<ItemKind>> {
        let before = self.position;
        let large =
            Oversized { node: message.node, batch: headers.batch, bytes: headers.total_bytes };
        if large.bytes > context.stream_bytes_max && self.oversized != Some(large) {
            tracing::warn!(
                origin = large.node.0,
                batch = large.batch.0,
                bytes = large.bytes,
                holds = context.stream_bytes_max,
                "a batch is larger than the stream holds; raise replication_log.max_bytes and \
                max_entries on all nodes"
            );
            self.oversized = Some(large);
        }
        let slot = self.assembling.entry(message.node).or_insert_with(|| Assembling {
            assembler: Assembler::new(context.limits, context.spill_dir),
            before: None,
            since_ns: message.time_ns,
            idle_since_ms: None,
        });
        slot.idle_since_ms = None;
        if headers.part == 1 {
            slot.before = Some(before);
            slot.since_ns = message.time_ns;
        }
        Ok(match slot.assembler.feed(message.seq, &headers, &message.payload) {
            Ok(PartOutcome::Incomplete) => None,
            Ok(PartOutcome::Complete { body, first }) => {
                slot.before = None;
                self.oversized.take_if(|oversized| *oversized == large);
                let permit = if headers.parts == 1 { permit } else { Permit::default() };
                let body = BatchBody::new(body);
                Some(ItemKind::Batch { headers, first, body, permit })
            }
            // The consumer started in the middle of the batch. Either its first part was processed
            // before, or the chain of batch numbers shows the hole.
            Ok(PartOutcome::Orphan) => Some(ItemKind::Skip),
            // This is no damage. The batch stays incomplete, and so the cursor stays before it.
            Err(PartError::Io(error)) => return Err(error),
            Err(error) => {
                slot.before = None;
                Some(ItemKind::Bad { reason: error.to_string(), message: Box::new(message) })
            }
        })
    }

    fn abandon_stale(&mut self, now_ns: i64) {
        self.assembling.retain(|_, a| {
            a.before.is_none() || now_ns.saturating_sub(a.since_ns) < INCOMPLETE_NS_MAX
        });
    }

    /// Gives up incomplete batches without a new part for a long time, by our own clock.
    pub fn abandon_idle(&mut self, mono_ms: u64) {
        let before = self.assembling.len();
        self.assembling.retain(|_, a| {
            a.before.is_none()
                || mono_ms.saturating_sub(*a.idle_since_ms.get_or_insert(mono_ms))
                    < INCOMPLETE_MS_MAX
        });
        if self.assembling.len() < before {
            let (anchor, safe) = (self.position, self.safe(self.position));
            self.queue.push_back(StreamItem { kind: ItemKind::Skip, anchor, safe });
        }
    }

    /// Returns when [`ShardStream::abandon_idle`] or [`ShardStream::looks_for_room`] has work.
    pub fn deadline(&self) -> u64 {
        let idle =
            self.assembling.values().filter(|a| a.before.is_some()).filter_map(|a| a.idle_since_ms);
        let idle_ms = idle.min().map_or(u64::MAX, |since| since + INCOMPLETE_MS_MAX);
        let room_ms = self
            .no_room
            .as_ref()
            .filter(|_| self.generation == 0)
            .map_or(u64::MAX, |no_room| no_room.retry_at_ms);
        idle_ms.min(room_ms)
    }

    /// Returns the cursor to store after everything up to `anchor` is processed.
    fn safe(&self, anchor: Anchor) -> Anchor {
        self.assembling
            .values()
            .filter_map(|a| a.before)
            .min_by_key(|b| b.seq)
            .map_or(anchor, |before| if before.seq < anchor.seq { before } else { anchor })
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
