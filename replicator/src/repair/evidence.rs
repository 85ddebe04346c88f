//! Compares an anchor of this node with the message in the broker.
//!
//! Arrives: an anchor, and the present message at its position. Leaves: [`Evidence`]. Owns: an
//! acknowledgement is not durability (docs/design.md, section 4). Pure.

use crate::broker::{Message, StreamState};
use crate::model::ids::StreamSeq;
use crate::store::cursor::Anchor;

/// The result for one known position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The message is still the same, or it expired before the stream's first message, which is no
    /// loss.
    Holds,
    /// Another message or none is at the position, or the stream was recreated.
    Lost,
}

/// Compares the anchor with the present message. The message is not older than `not_before_ns` (its
/// own time, if that is known). A position below the first one of the stream counts as expired only
/// if the message is old enough for that.
pub fn judge(
    known: &Anchor,
    not_before_ns: i64,
    state: &StreamState,
    found: Option<&Message>,
) -> Evidence {
    if known.seq == StreamSeq(0) && known.created_ns == 0 {
        return Evidence::Holds;
    }
    if known.seq > state.last {
        return Evidence::Lost;
    }
    // Some servers give a stream another time of creation when they start again. The message at the
    // position tells: another stream does not have this batch there.
    if known.created_ns != state.created_ns {
        let same = known.seq.0 > 0 && known.matches(found);
        return if same { Evidence::Holds } else { Evidence::Lost };
    }
    let expired = known.seq < state.first
        && (known.seq == StreamSeq(0) || not_before_ns < state.kept_since_ns);
    if expired || known.matches(found) { Evidence::Holds } else { Evidence::Lost }
}
