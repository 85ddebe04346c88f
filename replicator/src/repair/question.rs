//! What a component wants to ask the broker: the question, and the request that carries it.
//!
//! Plain values. Components return [`Outgoing`]; `inbound/requests.rs` gives out the tickets.

use super::signal::Signal;
use crate::broker::Request;
use crate::model::ids::{NodeId, StreamSeq};

/// What a ticket stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// The state of a stream.
    State(u32),
    /// The message at a position of a stream.
    At(u32, StreamSeq),
    /// The newest message of this node.
    LastOwn,
    /// This node's registry entry.
    Registry,
    /// The lease of this node id: reading it.
    Lease,
    /// The lease of this node id: writing it.
    LeasePut,
    /// Consuming a stream, with the consumer's generation.
    Consume(u32, u64),
    /// Writing this node's registry entry.
    Heartbeat,
    /// The registry entry of an origin that is held.
    HeldOrigin(NodeId),
    /// The list of the members.
    Members,
    /// Writing the list of the members.
    MembersPut,
    /// The registry entry of a node that does not answer.
    SignOfLife(NodeId),
}

impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::State(shard) => write!(f, "the state of stream {shard}"),
            Self::At(shard, seq) => write!(f, "message {seq} of stream {shard}"),
            Self::LastOwn => f.write_str("the newest message of this node"),
            Self::Registry => f.write_str("this node's registry entry"),
            Self::Lease | Self::LeasePut => f.write_str("the lease of this node id"),
            Self::Consume(shard, _) => write!(f, "consuming stream {shard}"),
            Self::HeldOrigin(node) | Self::SignOfLife(node) => {
                write!(f, "the registry entry of node {node}")
            }
            Self::Members | Self::MembersPut => f.write_str("the list of the members"),
            Self::Heartbeat => f.write_str("writing this node's registry entry"),
        }
    }
}

/// What leaves a component for the broker.
#[derive(Clone, Debug)]
pub enum Outgoing {
    /// A request whose answer comes back with this question.
    Ask(Question, Request),
    /// A signal to all nodes; it has no answer.
    Signal(Signal),
}

impl Outgoing {
    /// Reads a key of the registry.
    pub fn read(question: Question, key: String) -> Self {
        Self::Ask(question, Request::KvGet { key })
    }
}
