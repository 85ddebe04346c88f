//! The broker as the stages see it: requests go in, events come out, nothing waits.
//!
//! `nats` implements it on NATS; the simulation uses a faulty broker of its own. The owner of an
//! actor's inbox delivers [`BrokerEvent`]s in the order in which they happened.

use crate::model::batch::PartHeaders;
use crate::model::ids::{NodeId, StreamSeq};
use bytes::Bytes;

/// Pairs an answer with its request. The requesting actor chooses it.
pub type Ticket = u64;

/// One message of a stream.
#[derive(Clone, Debug)]
pub struct Message {
    /// The message's stream.
    pub shard: u32,
    /// The message's position in the stream.
    pub seq: StreamSeq,
    /// When the broker stored it, unix nanoseconds of the broker's clock.
    pub time_ns: i64,
    /// The origin, from the last token of the subject.
    pub node: NodeId,
    /// Batch, part and digest, or why the headers are invalid.
    pub headers: Result<PartHeaders, String>,
    /// The bytes of the part.
    pub payload: Bytes,
}

/// The state of a stream.
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
    /// The stream's limits have removed no message stored since this time, unix nanoseconds. May be
    /// later than the truth, never earlier.
    pub kept_since_ns: i64,
}

/// A value of the registry bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvEntry {
    /// The value's revision, which the next [`Request::KvPut`] expects.
    pub revision: u64,
    /// The bytes.
    pub value: Bytes,
}

/// A request of an actor to the broker.
#[derive(Clone, Debug)]
pub enum Request {
    /// Stores one part under this node's own subject, if `expected_last` is still the last position
    /// of that subject (0: none yet).
    Publish {
        /// The stream.
        shard: u32,
        /// The contents of the message's headers.
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
    /// The message at a position, from any node.
    MessageAt {
        /// The stream.
        shard: u32,
        /// The position.
        seq: StreamSeq,
    },
    /// The stream's state. A missing stream is created first.
    StreamState {
        /// The stream.
        shard: u32,
    },
    /// Delivers every message from `start` on as [`BrokerEvent::Delivered`]. Replaces an earlier
    /// consumer of this stream.
    Consume {
        /// The stream.
        shard: u32,
        /// The first position wanted. If it is below the stream's first, delivery starts at the
        /// first; if it is beyond the last, with the next message.
        start: StreamSeq,
        /// Returned with each delivery, so that late ones of an older consumer can be recognised.
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
        /// Writes only if this is still the key's revision (0: only if the key does not exist).
        /// None: always.
        expected: Option<u64>,
        /// The key expires after this time without another put, in milliseconds (if the server
        /// supports it).
        ttl_ms: Option<u64>,
    },
    /// Sends bytes to all nodes without storing them. No answer; may be lost.
    Signal {
        /// The bytes.
        payload: Bytes,
    },
}

/// Why a request failed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum BrokerError {
    /// The fence failed: another write to the subject or key came first.
    #[error("another write came first")]
    Conflict,
    /// No connection, no leader, or no answer in time. The request may have been carried out.
    #[error("the broker did not answer: {0}")]
    Unreachable(String),
    /// The stream refuses the request for a lasting reason (full with discard-new, payload too
    /// large, no permission).
    #[error("the broker refused: {0}")]
    Refused(String),
}

/// The answer to a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// To `Publish`: the position of the message.
    Published(StreamSeq),
    /// To `LastOwn` and `MessageAt`: the message, if there is one.
    Message(Option<Message>),
    /// To `StreamState`.
    State(StreamState),
    /// To `Consume`: delivery has begun.
    Consuming,
    /// To `KvGet`: the entry, if there is one (a deleted or expired key is none).
    Kv(Option<KvEntry>),
    /// To `KvPut`: the new revision.
    KvPut(u64),
}

/// A share of the byte budget for deliveries. Dropping it returns the bytes; that is the
/// back-pressure on the broker.
#[derive(Debug, Default)]
pub struct Permit(#[allow(dead_code)] Option<tokio::sync::OwnedSemaphorePermit>);

impl Permit {
    /// Holds a share of a byte budget.
    pub fn new(permit: tokio::sync::OwnedSemaphorePermit) -> Self {
        Self(Some(permit))
    }
}

/// An event from the broker to an actor.
#[derive(Debug)]
pub enum BrokerEvent {
    /// A new connection is prepared: the streams exist, and the server is recent enough.
    Connected,
    /// The connection is lost, with the reason. Pending requests are answered with `Unreachable`.
    Disconnected(String),
    /// The answer to a request.
    Reply(Ticket, Result<Reply, BrokerError>),
    /// A message of the consumer with this generation.
    Delivered {
        /// See [`Request::Consume`].
        generation: u64,
        /// The message.
        message: Message,
        /// Held until the message is processed.
        permit: Permit,
    },
    /// The consumer with this generation ended (gap in delivery, missed heartbeats, deleted).
    /// Request another one.
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

/// Receives an actor's requests. The events arrive in the actor's inbox.
pub trait Broker {
    /// Accepts a request without waiting. Every request but `Signal` is answered by exactly one
    /// [`BrokerEvent::Reply`].
    fn request(&mut self, ticket: Ticket, request: Request);

    /// Returns the server's greatest payload of one message in bytes; 1 MiB before the first
    /// connection.
    fn max_payload_bytes(&self) -> usize;
}
