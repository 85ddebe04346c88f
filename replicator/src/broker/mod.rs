//! The broker as the stages see it: requests go in, events come out, nothing waits.
//!
//! The NATS side of it lives in `nats`; the simulation puts a faulty broker of its own in its
//! place. Whoever owns an actor's inbox delivers [`BrokerEvent`]s to it in the order in which they
//! happened.

use crate::model::batch::PartHeaders;
use crate::model::ids::{NodeId, StreamSeq};
use bytes::Bytes;

/// Pairs an answer with its request. The asker chooses it.
pub type Ticket = u64;

/// One message of a stream.
#[derive(Clone, Debug)]
pub struct Message {
    /// The stream it is in.
    pub shard: u32,
    /// Its position there.
    pub seq: StreamSeq,
    /// When the broker stored it, unix nanoseconds of the broker's clock.
    pub time_ns: i64,
    /// The origin, from the last token of the subject.
    pub node: NodeId,
    /// Batch, part and digest, or what is wrong with the headers.
    pub headers: Result<PartHeaders, String>,
    /// The bytes of the part.
    pub payload: Bytes,
}

/// What a stream says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamState {
    /// When it was created, unix nanoseconds: another value means another stream of the same name.
    pub created_ns: i64,
    /// The first position still stored; last + 1 when it is empty.
    pub first: StreamSeq,
    /// The last position ever used.
    pub last: StreamSeq,
    /// When the last message was stored, unix nanoseconds; 0 when the stream is empty.
    pub last_time_ns: i64,
    /// No message stored from this time on has been removed for its age or for the size of the
    /// stream; unix nanoseconds. May be later than the truth, never earlier.
    pub kept_since_ns: i64,
}

/// A value of the registry bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvEntry {
    /// Its revision: what the next [`Request::KvPut`] expects.
    pub revision: u64,
    /// The bytes.
    pub value: Bytes,
}

/// What an actor can ask of the broker.
#[derive(Clone, Debug)]
pub enum Request {
    /// Stores one part under this node's own subject, if `expected_last` is still the last position
    /// of that subject (0: none yet).
    Publish {
        /// The stream.
        shard: u32,
        /// What goes into the message's headers.
        headers: PartHeaders,
        /// The bytes.
        payload: Bytes,
        /// The fence.
        expected_last: StreamSeq,
    },
    /// The newest message of this node's own subject.
    LastOwn {
        /// The stream.
        shard: u32,
    },
    /// The message at a position, whoever published it.
    MessageAt {
        /// The stream.
        shard: u32,
        /// The position.
        seq: StreamSeq,
    },
    /// The stream's state. A stream that does not exist is created first.
    StreamState {
        /// The stream.
        shard: u32,
    },
    /// Delivers every message from `start` on as [`BrokerEvent::Delivered`], replacing what was
    /// consumed of this stream before.
    Consume {
        /// The stream.
        shard: u32,
        /// The first position wanted. Below the stream's first: delivery starts there; beyond the
        /// last: with what comes.
        start: StreamSeq,
        /// Comes back with each delivery, so that an older consumer's late ones can be told apart.
        generation: u64,
    },
    /// Reads a key of the registry bucket.
    KvGet {
        /// The key.
        key: String,
    },
    /// Writes a key of the registry bucket.
    KvPut {
        /// The key.
        key: String,
        /// The bytes.
        value: Bytes,
        /// Only if this is still the key's revision (0: only if there is no such key). None: in any
        /// case.
        expected: Option<u64>,
        /// After so many milliseconds without another put the key is gone (where the server can do
        /// that).
        ttl_ms: Option<u64>,
    },
    /// Tells all nodes something, without storing it. No answer; may be lost.
    Signal {
        /// The bytes.
        payload: Bytes,
    },
}

/// Why a request was not done.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum BrokerError {
    /// The fence: the subject or key is not where the asker thought.
    #[error("another write came first")]
    Conflict,
    /// Not now: no connection, no leader, no answer in time. Whether it was done is not known.
    #[error("the broker did not answer: {0}")]
    Unreachable(String),
    /// The stream refuses it for a lasting reason (full with discard-new, payload too large, no
    /// permission).
    #[error("the broker refused: {0}")]
    Refused(String),
}

/// The answer to a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// To `Publish`: where it was stored.
    Published(StreamSeq),
    /// To `LastOwn` and `MessageAt`: the message, if there is one.
    Message(Option<Message>),
    /// To `StreamState`.
    State(StreamState),
    /// To `Consume`: it has begun.
    Consuming,
    /// To `KvGet`: the entry, if there is one (a deleted or expired key is none).
    Kv(Option<KvEntry>),
    /// To `KvPut`: the new revision.
    KvPut(u64),
}

/// Counts a delivery's bytes against the budget until it is dropped; that is the back-pressure on
/// the broker.
#[derive(Debug, Default)]
pub struct Permit(#[allow(dead_code)] Option<tokio::sync::OwnedSemaphorePermit>);

impl Permit {
    /// Holds a share of a byte budget.
    pub fn new(permit: tokio::sync::OwnedSemaphorePermit) -> Self {
        Self(Some(permit))
    }
}

/// What comes back from the broker.
#[derive(Debug)]
pub enum BrokerEvent {
    /// A connection is up (the first, or again), the streams exist and their server is good enough.
    Connected,
    /// The connection is down, with what is known of the reason. Requests under way get
    /// `Unreachable`.
    Disconnected(String),
    /// The answer to a request.
    Reply(Ticket, Result<Reply, BrokerError>),
    /// A message of the consumer with this generation.
    Delivered {
        /// See [`Request::Consume`].
        generation: u64,
        /// The message.
        message: Message,
        /// Held until the message is dealt with.
        permit: Permit,
    },
    /// The consumer with this generation ended (gap in delivery, missed heartbeats, deleted): ask
    /// again.
    ConsumerLost {
        /// The stream.
        shard: u32,
        /// See [`Request::Consume`].
        generation: u64,
        /// Why.
        reason: String,
    },
    /// Another node's [`Request::Signal`].
    Signal(Bytes),
}

/// Where an actor's requests go. The events come back through the actor's inbox.
pub trait Broker {
    /// Hands a request over. Never waits. Every request but `Signal` is answered by exactly one
    /// [`BrokerEvent::Reply`].
    fn request(&mut self, ticket: Ticket, request: Request);

    /// The largest payload of one message, in bytes, as the server told; before the first
    /// connection a guess of 1 MiB.
    fn max_payload_bytes(&self) -> usize;
}
