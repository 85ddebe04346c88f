//! The questions of components to the broker, and their requests.
//!
//! Plain values. Components return [`Outgoing`]; `inbound/requests.rs` assigns the tickets.

use super::signal::Signal;
use crate::broker::Request;
use crate::model::ids::{NodeId, StreamSeq};

/// The meaning of a ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Reads the state of a stream.
    State(u32),
    /// Reads the message at a position of a stream.
    At(u32, StreamSeq),
    /// Reads the newest message of this node.
    LastOwn,
    /// Reads this node's registry entry.
    Registry,
    /// Reads the lease of this node id.
    Lease,
    /// Writes the lease of this node id.
    LeasePut,
    /// Starts to consume a stream, with the consumer's generation.
    Consume(u32, u64),
    /// Writes this node's registry entry.
    Heartbeat,
    /// Reads the registry entry of a held origin.
    HeldOrigin(NodeId),
    /// Reads the registry entry of the origin of a batch in quarantine.
    QuarantineOrigin(NodeId),
    /// Reads the list of members.
    Members,
    /// Writes the list of members.
    MembersPut,
    /// Reads the registry entry of a node that does not answer.
    LastSeen(NodeId),
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
            Self::HeldOrigin(node) | Self::QuarantineOrigin(node) | Self::LastSeen(node) => {
                write!(f, "the registry entry of node {node}")
            }
            Self::Members | Self::MembersPut => f.write_str("the list of the members"),
            Self::Heartbeat => f.write_str("writing this node's registry entry"),
        }
    }
}

/// A message of a component to the broker.
#[derive(Clone, Debug)]
pub enum Outgoing {
    /// A request. Its answer returns with this question.
    Ask(Question, Request),
    /// A signal to all nodes, without an answer.
    Signal(Signal),
}

impl Outgoing {
    /// Returns the request for a key of the registry.
    pub fn read(question: Question, key: String) -> Self {
        Self::Ask(question, Request::KvGet { key })
    }
}
