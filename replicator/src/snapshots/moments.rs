//! Finds out how the state of a moment can be built: from which snapshot, and up to which messages.
//!
//! Arrives: the snapshots, the streams, a moment. Leaves: a snapshot and the positions up to which
//! the streams are applied to it, or the nearest moments for which that is possible. Owns: no
//! message between a snapshot and the moment may be missing. A moment is one of the broker's clock,
//! by which messages are stored.

use crate::broker::{BrokerError, StreamState};
use crate::model::ids::StreamSeq;
use crate::nats::History;
use harmonylite_snapshot::catalog::Found;
use harmonylite_snapshot::manifest::{Manifest, StreamPosition};
use std::collections::BTreeMap;

const NS_OF_MS: i64 = 1_000_000;

/// The streams cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the streams: {0}")]
pub(crate) struct Unread(#[from] BrokerError);

/// A stream, and its last message at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamAt {
    /// The stream.
    pub(crate) shard: u32,
    /// The first message that it still holds; one more than the last if it holds none.
    pub(crate) first: u64,
    /// The last message stored at the moment.
    pub(crate) upto: u64,
    /// When the stream was created, unix nanoseconds; 0: it does not exist.
    pub(crate) created_ns: i64,
}

/// Why a snapshot does not lead to a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// It is later.
    Later,
    /// Messages after it are gone.
    Gone(String),
}

/// Reads the streams as they were at a moment (unix milliseconds).
///
/// # Errors
/// The broker's error.
pub(crate) async fn streams(
    history: &History,
    shards: u32,
    at_ms: i64,
) -> Result<Vec<StreamAt>, Unread> {
    let mut all = Vec::new();
    for shard in 1..=shards {
        let Some(state) = history.state(shard).await? else {
            // It never had a message, or they are all gone.
            all.push(StreamAt { shard, first: 1, upto: 0, created_ns: 0 });
            continue;
        };
        let upto = history.upto(shard, &state, end_of(at_ms)).await?.0;
        let (first, created_ns) = (first(&state), state.created_ns);
        all.push(StreamAt { shard, first, upto, created_ns });
    }
    Ok(all)
}

fn first(state: &StreamState) -> u64 {
    state.first.0.max(1)
}

/// The last nanosecond of a millisecond.
fn end_of(at_ms: i64) -> i64 {
    at_ms.saturating_mul(NS_OF_MS).saturating_add(NS_OF_MS - 1)
}

/// Returns why a snapshot does not lead to a moment; None if it does.
pub(crate) fn lacks(manifest: &Manifest, at_ms: i64, streams: &[StreamAt]) -> Option<Lack> {
    if manifest.created_ms > at_ms {
        return Some(Lack::Later);
    }
    for stream in streams {
        let seq = position(manifest, stream.shard);
        if seq > stream.upto {
            return Some(Lack::Later);
        }
        if seq < stream.upto && seq + 1 < stream.first {
            let (shard, from, to) = (stream.shard, seq + 1, stream.first - 1);
            return Some(Lack::Gone(format!(
                "stream {shard} does not hold messages {from} to {to} any more"
            )));
        }
    }
    None
}

/// The last message of a stream that a snapshot contains; 0: none.
fn position(manifest: &Manifest, shard: u32) -> u64 {
    of_stream(manifest, shard).map_or(0, |at| at.seq)
}

fn of_stream(manifest: &Manifest, shard: u32) -> Option<&StreamPosition> {
    manifest.facts.streams.iter().find(|at| at.shard == shard)
}

/// Returns whether a snapshot has the state of the moment by itself: it ends where these very
/// streams did. Whether they still hold its last message does not matter then.
pub(crate) fn is_reached(manifest: &Manifest, streams: &[StreamAt]) -> bool {
    streams.iter().all(|stream| match of_stream(manifest, stream.shard) {
        Some(at) if at.seq > 0 => at.seq == stream.upto && at.created_ns == stream.created_ns,
        _ => stream.upto == 0,
    })
}

/// Returns the messages to apply to a snapshot.
pub(crate) fn messages(manifest: &Manifest, streams: &[StreamAt]) -> u64 {
    streams.iter().map(|s| s.upto.saturating_sub(position(manifest, s.shard))).sum()
}

/// Returns the positions up to which the streams are applied.
pub(crate) fn upto(streams: &[StreamAt]) -> BTreeMap<u32, u64> {
    streams.iter().map(|stream| (stream.shard, stream.upto)).collect()
}

/// The moments that can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reachable {
    /// The oldest moment from which on all are; None: none is.
    pub(crate) from_ms: Option<i64>,
    /// The last moment: that of the question.
    pub(crate) to_ms: i64,
}

/// Finds the moments that can be reached from these snapshots. `now` has the streams at `to_ms`.
///
/// # Errors
/// The broker's error.
pub(crate) async fn reachable(
    history: &History,
    snapshots: &[Found],
    now: &[StreamAt],
    to_ms: i64,
) -> Result<Reachable, Unread> {
    let mut from_ms = None;
    for found in snapshots {
        let manifest = &found.manifest;
        if lacks(manifest, to_ms, now).is_none() {
            let begin = begin(history, manifest, now).await?;
            from_ms = Some(from_ms.map_or(begin, |before: i64| before.min(begin)));
        }
    }
    Ok(Reachable { from_ms, to_ms })
}

/// The first moment that has all of a snapshot: its own, or that of its last message if the clocks
/// differ.
async fn begin(
    history: &History,
    manifest: &Manifest,
    streams: &[StreamAt],
) -> Result<i64, Unread> {
    let mut begin_ms = manifest.created_ms;
    for stream in streams {
        let seq = position(manifest, stream.shard);
        if seq < stream.first {
            continue;
        }
        if let Some(message) = history.message_at(stream.shard, StreamSeq(seq)).await? {
            begin_ms = begin_ms.max(message.time_ns / NS_OF_MS);
        }
    }
    Ok(begin_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use harmonylite_snapshot::manifest::Facts;

    fn snapshot(created_ms: i64, seqs: &[u64]) -> Manifest {
        let at = |(shard, seq): (u32, &u64)| StreamPosition { shard, seq: *seq, created_ns: 7 };
        let streams = (1..).zip(seqs).map(at).collect();
        Manifest {
            format: 1,
            created_ms,
            page_size: 4096,
            page_count: 1,
            facts: Facts { streams, ..Facts::default() },
            tables: BTreeMap::new(),
            digest: harmonylite_snapshot::chunk::ChunkId::of(b""),
            chunks: Vec::new(),
            block_bytes: 0,
            blocks: Vec::new(),
        }
    }

    fn stream(shard: u32, first: u64, upto: u64) -> StreamAt {
        StreamAt { shard, first, upto, created_ns: 7 }
    }

    #[test]
    fn everything_between_the_snapshot_and_the_moment_must_be_there() {
        let of = |at_ms, streams: &[StreamAt]| lacks(&snapshot(1_000, &[10, 5]), at_ms, streams);
        let whole = [stream(1, 11, 40), stream(2, 1, 5)];
        assert_eq!(of(1_000, &whole), None);
        assert_eq!(messages(&snapshot(1_000, &[10, 5]), &whole), 30);
        assert_eq!(of(999, &whole), Some(Lack::Later), "the snapshot is later");
        let clocks_differ = [stream(1, 1, 9), stream(2, 1, 5)];
        assert_eq!(of(1_000, &clocks_differ), Some(Lack::Later));
        let gone = of(2_000, &[stream(1, 12, 40), stream(2, 1, 5)]);
        assert!(matches!(gone, Some(Lack::Gone(text)) if text.contains("messages 11 to 11")));
        // A stream that the snapshot does not know, and one of which nothing is needed.
        let third = [stream(1, 90, 10), stream(2, 6, 5), stream(3, 2, 9)];
        assert!(matches!(of(2_000, &third), Some(Lack::Gone(text)) if text.contains("stream 3")));
        assert_eq!(of(2_000, &third[..2]), None);
    }
    #[test]
    fn nothing_is_to_be_applied_only_if_these_very_streams_ended_there() {
        let of = |streams: &[StreamAt]| is_reached(&snapshot(1_000, &[10, 0]), streams);
        assert!(of(&[stream(1, 11, 10), stream(2, 1, 0)]), "purged since");
        assert!(!of(&[stream(1, 11, 11), stream(2, 1, 0)]));
        assert!(!of(&[stream(1, 11, 10), stream(2, 1, 1)]));
        let another = StreamAt { created_ns: 8, ..stream(1, 1, 10) };
        assert!(!of(&[another, stream(2, 1, 0)]), "another stream of that name");
        assert!(of(&[stream(1, 1, 10), stream(2, 1, 0), stream(3, 1, 0)]));
    }
}
