//! What outbound receives and what it has for inbound.

use crate::actor::{Ack, Effect};
use crate::broker::BrokerEvent;

/// What comes in.
#[derive(Debug)]
pub enum Input {
    /// From the broker.
    Broker(BrokerEvent),
    /// From inbound.
    Effect(Effect),
    /// A commit may have happened.
    Wake,
}

/// What goes to inbound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A batch is stored, or log entries needed no batch.
    Acknowledged(Ack),
    /// The schema changed: install the triggers.
    Wake,
    /// Nothing is published until the go-ahead of this check, and everything that was acknowledged
    /// before is said.
    Held(u64),
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Stats {
    pub batches_published: u64,
    pub rows_published: u64,
    pub bytes_published: u64,
    pub scans: u64,
    pub resent: u64,
    pub refused: u64,
    pub split: u64,
    pub last_published_unix_ms: i64,
}
