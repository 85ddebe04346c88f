//! Compares what this node knew of the broker's messages with what the broker holds.
//!
//! Arrives: an anchor, and the message that stands at its position now. Leaves: [`Evidence`]. Owns:
//! an acknowledgement is not durability (docs/design.md, section 4). Pure.

use crate::broker::{Message, StreamState};
use crate::model::ids::StreamSeq;
use crate::store::cursor::Anchor;

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
