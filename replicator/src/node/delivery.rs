//! Judges whether the streams bring this node what they should: consumers that stand still, and
//! streams that are not those of the other nodes.
//!
//! Arrives: positions, ends of streams, shared settings, the time. Leaves: reasons for people.
//! Memory only. Pure.

use super::registry::StreamEnd;
use super::writer::StreamSnapshot;
use crate::nats::SharedSettings;
use std::collections::{BTreeMap, HashMap};

/// A consumer that delivers nothing for so long, although the stream has more, has stalled.
const STALLED_MS: u64 = 30_000;
/// Other streams than those of a running node are believed after this time: after a stream was made
/// again, its nodes learn of it one after the other.
const OTHER_STREAMS_MS: u64 = 30_000;

/// Consumers that stand still: the position of each stream, and since when.
#[derive(Debug, Default)]
pub(super) struct Stalls(HashMap<u32, (u64, u64)>);

impl Stalls {
    /// Returns a reason for each stream that has messages which do not come. `consumes` is false
    /// while nothing is consumed, or nothing can be written.
    pub(super) fn find(
        &mut self,
        streams: &[StreamSnapshot],
        ends: &BTreeMap<u32, StreamEnd>,
        consumes: bool,
        mono_ms: u64,
    ) -> Vec<String> {
        let mut reasons = Vec::new();
        for stream in streams {
            let last = ends.get(&stream.shard).map_or(0, |end| end.last);
            if !consumes || stream.position >= last {
                self.0.remove(&stream.shard);
                continue;
            }
            let stands = self.0.entry(stream.shard).or_insert((stream.position, mono_ms));
            if stands.0 != stream.position {
                *stands = (stream.position, mono_ms);
            }
            let waiting_ms = mono_ms.saturating_sub(stands.1);
            if waiting_ms > STALLED_MS {
                reasons.push(format!(
                    "stream {} has {last} messages, but the server has delivered none after {} \
                    for {} s: check this node's permissions (docs/security.md; $JS.FC.> among \
                    them)",
                    stream.shard,
                    stream.position,
                    waiting_ms / 1_000
                ));
            }
        }
        reasons
    }
}

/// Since when a running node has other streams.
#[derive(Debug, Default)]
pub(super) struct Splits(HashMap<u64, u64>);

impl Splits {
    /// Returns why this node must end, if a running node has other settings or other streams. Of
    /// two nodes that see each other the one with the greater id ends. `runs` tells whether a node
    /// runs.
    pub(super) fn find(
        &mut self,
        ours: &SharedSettings,
        others: &[SharedSettings],
        runs: impl Fn(u64) -> bool,
        mono_ms: u64,
    ) -> Option<String> {
        let (me, mut split) = (ours.node_id, None);
        self.0.retain(|id, _| others.iter().any(|o| o.node_id == *id));
        for other in others {
            let id = other.node_id;
            let streams = ours.other_streams(other);
            if !runs(id) || streams.is_empty() {
                self.0.remove(&id);
            }
            if !runs(id) || id >= me {
                continue;
            }
            if let Some(same) = ours.same_ids(other) {
                split.get_or_insert(same);
            } else if let Some(differences) = ours.differences(other) {
                split.get_or_insert(format!(
                    "node {me} and node {id} would not get each other's rows: {differences}: \
                    give all nodes the same value"
                ));
            } else if let Some(shard) = streams.first() {
                let since_ms = *self.0.entry(id).or_insert(mono_ms);
                if mono_ms.saturating_sub(since_ms) > OTHER_STREAMS_MS {
                    split.get_or_insert(other_streams(me, id, *shard));
                }
            }
        }
        split
    }
}

/// Nodes whose batches come although they are not in the registry, and since when.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    newest_ms: HashMap<u64, i64>,
    since_ms: HashMap<u64, u64>,
}

impl Strangers {
    /// Returns why this node must end, if a node with a lower id publishes into this node's streams
    /// and is in another registry: it uses another JetStream, whose streams store the same messages
    /// at other positions. `newest` has when the newest applied batch of each node was made, unix
    /// milliseconds; batches from before `started_ms` may be of a node that is gone.
    pub(super) fn find(
        &mut self,
        me: u64,
        newest: &HashMap<u64, i64>,
        is_registered: impl Fn(u64) -> bool,
        started_ms: i64,
        mono_ms: u64,
    ) -> Option<String> {
        let mut split = None;
        for (&id, &made_ms) in newest.iter().filter(|(id, _)| **id != me && **id != 0) {
            let before_ms = self.newest_ms.insert(id, made_ms).unwrap_or(made_ms);
            if is_registered(id) {
                self.since_ms.remove(&id);
            } else if made_ms > before_ms && made_ms > started_ms {
                let since_ms = *self.since_ms.entry(id).or_insert(mono_ms);
                if mono_ms.saturating_sub(since_ms) > OTHER_STREAMS_MS && id < me {
                    split.get_or_insert(other_streams(me, id, 1));
                }
            }
        }
        split
    }
}

fn other_streams(me: u64, id: u64, shard: u32) -> String {
    format!(
        "node {me} and node {id} do not use the same stream {shard}: each has one of its own, in \
        another JetStream, and rows are missing on both: set nats.js_domain on all nodes to the \
        domain that holds the streams (docs/topologies.md, leaf nodes)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(position: u64) -> [StreamSnapshot; 1] {
        [StreamSnapshot { shard: 1, position, ..StreamSnapshot::default() }]
    }

    #[test]
    fn a_consumer_that_stands_still_before_the_end_is_a_reason() {
        let ends = BTreeMap::from([(1, StreamEnd { last: 2_000, last_time_ns: 0 })]);
        let mut stalls = Stalls::default();
        let mut at = |position, consumes, ms| stalls.find(&stream(position), &ends, consumes, ms);
        assert!(at(1_000, true, 0).is_empty());
        assert!(at(1_297, true, 20_000).is_empty());
        assert!(at(1_297, true, 50_000).is_empty(), "it came up to here 30 s ago");
        let reasons = at(1_297, true, 50_001);
        assert!(reasons[0].contains("none after 1297 for 30 s"), "{reasons:?}");
        assert!(at(1_297, false, 50_002).is_empty(), "disconnected");
        assert!(at(1_297, true, 50_003).is_empty(), "it begins again");
        assert!(at(2_000, true, 90_000).is_empty(), "all is here");
    }

    fn node(id: u64, stream: &str) -> SharedSettings {
        let streams = BTreeMap::from([(1, stream.to_owned())]);
        SharedSettings { node_id: id, streams, ..SharedSettings::default() }
    }

    #[test]
    fn the_node_with_the_greater_id_ends() {
        let mut splits = Splits::default();
        let other = SharedSettings { shards: 3, ..node(1, "a") };
        let found = splits.find(&node(2, "a"), std::slice::from_ref(&other), |_| true, 0);
        let text = found.unwrap();
        assert!(text.contains("node 2 and node 1") && text.contains("replication_log.shards"));
        assert_eq!(splits.find(&node(2, "a"), &[other], |_| false, 0), None, "it does not run");
        let other = SharedSettings { shards: 3, ..node(3, "a") };
        assert_eq!(splits.find(&node(2, "a"), &[other], |_| true, 0), None);
    }

    #[test]
    fn other_streams_are_believed_if_they_stay_others() {
        let mut splits = Splits::default();
        let mut at = |there, ms| splits.find(&node(2, "a"), &[node(1, there)], |_| true, ms);
        assert_eq!(at("b", 0), None);
        assert_eq!(at("a", 20_000), None);
        assert_eq!(at("b", 21_000), None);
        assert_eq!(at("b", 51_000), None);
        assert!(at("b", 51_001).unwrap().contains("nats.js_domain"));
    }

    #[test]
    fn a_node_that_publishes_here_and_is_registered_elsewhere_is_a_split() {
        let mut strangers = Strangers::default();
        let mut at = |made_ms: i64, registered, ms| {
            let newest = HashMap::from([(1, made_ms), (9, made_ms)]);
            strangers.find(2, &newest, |id| registered || id == 9, 1_000, ms)
        };
        assert_eq!(at(500, false, 0), None);
        assert_eq!(at(900, false, 100_000), None, "made before this node started");
        assert_eq!(at(2_000, false, 200_000), None);
        assert_eq!(at(2_000, false, 300_000), None, "no other batch came");
        assert_eq!(at(3_000, true, 301_000), None, "it is registered");
        assert_eq!(at(4_000, false, 310_000), None);
        assert!(at(5_000, false, 340_001).unwrap().contains("node 2 and node 1"));
    }
}
