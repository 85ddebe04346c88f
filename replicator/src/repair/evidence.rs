//! Finds out whether the broker still has what it acknowledged, and publishes again what it lost.
//!
//! Arrives: what was read back at every (re)connect: the message of the last own acknowledged batch
//! and the cursor's message. Leaves: a [`Loss`] to be repaired, or nothing. Owns: an
//! acknowledgement is not durability (DESIGN.md section 4). Judging is pure; the repair is part of
//! one write transaction, repeated after a crash, and harmless however often it runs.

use crate::broker::{Message, StreamState};
use crate::db::connection::DatabaseError;
use crate::model::ids::{NodeId, StreamSeq};
use crate::store::cursor::Anchor;
use crate::store::gaps::Missing;
use rusqlite::Connection;

/// What the broker says of one position that we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The message is there and is the same; or it is older than the stream's first, which is
    /// expiry and not loss.
    Holds,
    /// Another message is there, or none, or the stream is another.
    Lost,
}

/// Compares what we knew with what is there. `not_before_ns`: the message is not older than this
/// (its own time, where that is known). Below the first position of the stream, only a message that
/// is old enough to have expired has expired.
pub fn judge(
    known: &Anchor,
    not_before_ns: i64,
    state: &StreamState,
    found: Option<&Message>,
) -> Evidence {
    if known.seq == StreamSeq(0) && known.created_ns == 0 {
        return Evidence::Holds;
    }
    if known.created_ns != state.created_ns || known.seq > state.last {
        return Evidence::Lost;
    }
    let expired = known.seq < state.first
        && (known.seq == StreamSeq(0) || not_before_ns < state.kept_since_ns);
    if expired || known.matches(found) { Evidence::Holds } else { Evidence::Lost }
}

pub use crate::store::gaps::{Gap, close as close_gap, list as gaps};
pub use crate::store::meta::{note_republish, noted_republish, republish_done};

/// The old form of [`crate::store::gaps::note`].
///
/// # Errors
/// What SQLite says.
pub fn note_gap(
    db: &Connection,
    shard: u32,
    node: NodeId,
    since_ms: i64,
    reason: &str,
    now_ms: i64,
) -> Result<(), DatabaseError> {
    crate::store::gaps::note(db, Missing { shard, node, since_ms, reason }, now_ms)
}

/// What nodes say to each other about gaps, as CBOR on the signal subject.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Signal {
    /// "I miss something: publish again what you have from this time on."
    Ask {
        /// Who asks.
        asker: u64,
        /// The asker's number of the gap.
        gap: i64,
        /// When the asker noticed it, unix milliseconds.
        noticed_ms: i64,
        /// Whose batches are missing: that node answers at once, others after a while. 0: not
        /// known.
        origin: u64,
        /// The stream.
        shard: u32,
        /// How far the asker has consumed it.
        upto: u64,
        /// From when on, unix milliseconds.
        since_ms: i64,
    },
    /// "It is published."
    Answered {
        /// Who asked.
        asker: u64,
        /// The asker's number of the gap.
        gap: i64,
        /// When the asker noticed it, unix milliseconds.
        noticed_ms: i64,
        /// Who answers.
        by: u64,
        /// Whether that node misses nothing of the stream itself, up to the position of the asker.
        whole: bool,
    },
}

/// A signal is a handful of numbers; anything longer is not one of ours.
const SIGNAL_BYTES_MAX: usize = 256;

impl Signal {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        // Writing plain numbers to memory cannot fail.
        let _ = ciborium::into_writer(self, &mut out);
        out
    }

    /// From bytes; None if they are not a signal that we know.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= SIGNAL_BYTES_MAX).then(|| ciborium::from_reader(bytes).ok()).flatten()
    }
}
