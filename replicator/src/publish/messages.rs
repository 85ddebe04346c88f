//! The messages that outbound receives, and those that it returns for inbound.

use crate::actor::{Ack, Effect};
use crate::broker::BrokerEvent;

/// A message to outbound.
#[derive(Debug)]
pub enum Input {
    /// An event of the broker.
    Broker(BrokerEvent),
    /// A message of inbound.
    Effect(Effect),
    /// A commit may have happened.
    Wake,
}

/// A message to inbound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A batch is stored in the stream, or log entries needed no batch.
    Acknowledged(Ack),
    /// The schema changed: install the triggers.
    Wake,
    /// Outbound publishes nothing until the go-ahead of this check, and has passed on all earlier
    /// acknowledgements.
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
