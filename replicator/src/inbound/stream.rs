//! One stream as it is consumed: puts parts together and keeps the order.
//!
//! Arrives: the messages of one consumer. Leaves: a queue of [`StreamItem`]s, each with the cursor that
//! may be stored once it is dealt with. Owns: the cursor never passes the first part of a batch
//! that is not complete yet. Only memory: after a crash the consumer starts again behind the stored
//! cursor.

use super::durable::Progress;
use crate::broker::{Message, Permit};
use crate::model::batch::PartHeaders;
use crate::model::ids::{NodeId, Site, StreamSeq};
use crate::model::limits::Limits;
use crate::store::cursor::Anchor;
use crate::wire::parts::{Assembler, PartError, PartOutcome};
use crate::wire::spill::Spill;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::Path;

/// What a message or a completed batch asks for.
#[derive(Debug)]
pub enum ItemKind {
    /// Nothing: our own, or seen before.
    Skip,
    /// A whole batch.
    Batch {
        /// Its headers.
        headers: PartHeaders,
        /// Where its first part is.
        first: StreamSeq,
        /// Its bytes.
        body: Spill,
        /// The share of the inbox that they take.
        permit: Permit,
    },
    /// Something that is no part of any batch.
    Bad {
        /// Why.
        reason: String,
        /// The message.
        message: Box<Message>,
    },
    /// Messages are missing between the last one and this one.
    Gap {
        /// The first that is missing.
        from: StreamSeq,
        /// The first that is there again.
        to: StreamSeq,
    },
}

/// One thing to deal with, in the order of the stream.
#[derive(Debug)]
pub struct StreamItem {
    /// What it asks for.
    pub kind: ItemKind,
    /// The message that completed it.
    pub anchor: Anchor,
    /// The cursor that may be stored afterwards.
    pub safe: Anchor,
}

struct Assembling {
    assembler: Assembler,
    /// The message before its first part, while it is incomplete.
    before: Option<Anchor>,
    since_ns: i64,
    /// When its last part was noticed to be here, on the monotone clock.
    idle_since_ms: Option<u64>,
}

/// The parts of a batch come close together; what is incomplete after so long in the stream's own
/// time will never be complete (its publisher ended in the middle) and must not hold the cursor, or
/// the end of joining, for ever.
const INCOMPLETE_NS_MAX: i64 = 600_000_000_000;
/// The same by our own clock: in a stream in which nothing more comes, its time stands still.
const INCOMPLETE_MS_MAX: u64 = 600_000;

/// What a delivery is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// How far the stream is applied.
    pub progress: &'a Progress,
    /// The present incarnation of this database: its batches are skipped.
    pub own_site: Site,
    /// Bounds.
    pub limits: &'a Limits,
    /// Where the parts of large batches go.
    pub spill_dir: &'a Path,
}

/// One stream.
pub struct ShardStream {
    /// Its number.
    pub shard: u32,
    /// The consumer that is listened to.
    pub generation: u64,
    /// When the stream was created.
    pub created_ns: i64,
    /// What is to be dealt with.
    pub queue: VecDeque<StreamItem>,
    /// The last message seen.
    pub position: Anchor,
    /// The cursor that the consumer began behind. What it delivered may come from a connection that
    /// nobody has checked yet, and so may the cursor by now; this is what the last check knew.
    pub began: Option<Anchor>,
    /// A part found no room.
    pub no_room: Option<NoRoom>,
    assembling: HashMap<NodeId, Assembling>,
}

/// A part of a large batch that could not be kept.
#[derive(Debug)]
pub struct NoRoom {
    /// Which message.
    pub seq: StreamSeq,
    /// Of the stream that was created then.
    pub created_ns: i64,
    /// What the file system said.
    pub reason: String,
    /// When it is consumed again, on the monotone clock.
    pub retry_at_ms: u64,
    wait_ms: u64,
    /// Of what came behind it and was not taken: without them the broker would send all that it
    /// has.
    permits: Vec<Permit>,
}

/// What found no room is consumed again after so long, then ever more rarely.
const NO_ROOM_RETRY_MS: u64 = 2_000;
const NO_ROOM_RETRY_MS_MAX: u64 = 60_000;

impl ShardStream {
    /// A stream of which nothing is consumed yet.
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
            assembling: HashMap::new(),
        }
    }

    /// Forgets what was delivered and returns where a new consumer has to start: behind the cursor,
    /// or at the first batch that a held origin waits with.
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

    /// Whether everything delivered so far is dealt with.
    pub fn is_drained(&self) -> bool {
        self.is_drained_but(0)
    }

    /// Whether everything delivered so far is dealt with, once the first `served` items are.
    pub fn is_drained_but(&self, served: usize) -> bool {
        self.queue.len() == served && self.assembling.values().all(|a| a.before.is_none())
    }

    /// Whether what waits, if anything does, only moves the cursor.
    pub fn waits_for_nothing(&self) -> bool {
        self.queue.iter().all(|item| matches!(item.kind, ItemKind::Skip))
            && self.assembling.values().all(|a| a.before.is_none())
    }

    /// Takes a message in.
    ///
    /// # Errors
    /// It is a part of a large batch, and the file system has no room for it. It is not taken then,
    /// see [`ShardStream::wait_for_room`].
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
        // Below the cursor a hole was seen before, but for the backlog of an origin that is held:
        // nobody has looked at that yet.
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

    /// Listens to nobody until it consumes again: what comes after a part that found no room would
    /// be taken for orphans.
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

    /// Does not take a message, and holds the broker back.
    pub fn turn_down(&mut self, permit: Permit) {
        if let Some(no_room) = self.no_room.as_mut().filter(|_| self.generation == 0) {
            no_room.permits.push(permit);
        }
    }

    /// Whether it listened to nobody for long enough.
    pub fn looks_for_room(&self, mono_ms: u64) -> bool {
        self.generation == 0
            && self.no_room.as_ref().is_some_and(|no_room| mono_ms >= no_room.retry_at_ms)
    }

    /// What a message is for us. None: a part of a batch that is not complete.
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
                let permit = if headers.parts == 1 { permit } else { Permit::default() };
                Some(ItemKind::Batch { headers, first, body, permit })
            }
            // We began in the middle of it: its first part was dealt with before, or the chain of
            // batch numbers shows the hole.
            Ok(PartOutcome::Orphan) => Some(ItemKind::Skip),
            // Not damage: the batch stays incomplete, and so the cursor stays before it.
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

    /// Gives up what no part has come of for long, although nothing else came either.
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

    /// When [`ShardStream::abandon_idle`] or [`ShardStream::looks_for_room`] has something to do.
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

    /// The cursor that may be stored once everything up to `anchor` is dealt with.
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
