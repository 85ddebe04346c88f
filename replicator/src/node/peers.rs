//! What this node knows of the other nodes: who runs, how far they are, and whose batches never
//! come.
//!
//! Arrives: the registry entries of all nodes, every few seconds; what this database has of each.
//! Leaves: the nodes for `status`, and reasons why this node is degraded. Memory only: after a
//! restart a node runs once its entry changes. Pure.

use super::registry::StreamEnd;
use crate::model::status::NodeStatus;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

/// An entry that has not changed for so long belongs to a node that does not run: entries are
/// written every 10 s.
const SILENT_MS: u64 = 45_000;
/// A batch that a running node has published, and that is not here after this time, never comes.
const MISSING_MS: u64 = 60_000;

/// A batch of another node that has to arrive here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Awaited {
    site: i64,
    batch: u64,
    since_ms: u64,
}

/// One other node.
#[derive(Debug, Default)]
struct Peer {
    entry: Value,
    /// When the entry was last another one, on the monotone clock.
    changed_ms: u64,
    /// Whether it has changed since this process looks at it.
    has_changed: bool,
    /// The messages that it had not applied when it wrote the entry.
    behind: Option<u64>,
    /// Its incarnation and batch when it was first seen. Earlier batches may have expired.
    first: (i64, u64),
    awaited: Option<Awaited>,
}

impl Peer {
    fn batch(&self) -> (i64, u64) {
        let entry = &self.entry;
        (entry["site"].as_i64().unwrap_or(0), entry["batch"].as_u64().unwrap_or(0))
    }
}

/// The other nodes in the registry.
#[derive(Debug, Default)]
pub(super) struct Peers(BTreeMap<u64, Peer>);

/// What this node has of the other nodes' batches.
pub(super) struct Arrived<'a> {
    /// The last applied batch of each incarnation.
    pub(super) batches: &'a HashMap<i64, u64>,
    /// Whether everything in a node's stream has been read, and nothing of it waits here.
    pub(super) is_read: &'a dyn Fn(u64) -> bool,
}

impl Peers {
    /// Takes the entries of the registry.
    pub(super) fn take(
        &mut self,
        entries: &[Value],
        me: u64,
        ends: &BTreeMap<u32, StreamEnd>,
        mono_ms: u64,
    ) {
        self.0.retain(|id, _| entries.iter().any(|e| e["node_id"] == *id));
        for entry in entries {
            let Some(id) = entry["node_id"].as_u64().filter(|id| *id != me) else { continue };
            let is_new = !self.0.contains_key(&id);
            let peer = self.0.entry(id).or_default();
            if !is_new && peer.entry == *entry {
                continue;
            }
            (peer.entry, peer.changed_ms, peer.has_changed) = (entry.clone(), mono_ms, !is_new);
            peer.behind = behind(entry, ends);
            if is_new {
                peer.first = peer.batch();
            }
        }
    }

    /// Returns the nodes that run, as far as one can know, with their entries.
    pub(super) fn running(&self, mono_ms: u64) -> impl Iterator<Item = (u64, &Value)> {
        let runs = move |peer: &Peer| mono_ms.saturating_sub(peer.changed_ms) <= SILENT_MS;
        self.0.iter().filter(move |(_, peer)| runs(peer)).map(|(id, peer)| (*id, &peer.entry))
    }

    /// Returns all nodes for `status`.
    pub(super) fn nodes(&self, schema_hash: &str, now_ms: i64, mono_ms: u64) -> Vec<NodeStatus> {
        let node = |(id, peer): (&u64, &Peer)| {
            let silent_ms = mono_ms.saturating_sub(peer.changed_ms);
            let written_ms =
                peer.entry["updated_at"].as_i64().map_or(0, |s| s.saturating_mul(1_000));
            let observed_ms = now_ms - silent_ms.cast_signed();
            let seen_ms = if peer.has_changed { observed_ms } else { written_ms.min(now_ms) };
            let hash = peer.entry["schema_hash"].as_str();
            NodeStatus {
                node_id: *id,
                running: now_ms - seen_ms <= SILENT_MS.cast_signed(),
                seen_ms,
                behind: peer.behind,
                same_schema: hash.map(|hash| hash == schema_hash),
                version: peer.entry["harmonylite_version"].as_str().unwrap_or_default().to_owned(),
            }
        };
        self.0.iter().map(node).collect()
    }

    /// Returns a reason for each running node that publishes, and whose batches never come.
    pub(super) fn missing(&mut self, arrived: &Arrived<'_>, mono_ms: u64) -> Vec<String> {
        let mut reasons = Vec::new();
        for (id, peer) in &mut self.0 {
            let (site, batch) = peer.batch();
            let known = |site| arrived.batches.get(&site).copied().unwrap_or(0);
            let is_here = |a: &mut Awaited| a.site != site || known(a.site) >= a.batch;
            peer.awaited.take_if(|awaited| is_here(awaited));
            let runs = mono_ms.saturating_sub(peer.changed_ms) <= SILENT_MS;
            if peer.awaited.is_none() && (site, batch) != peer.first && known(site) < batch {
                peer.awaited = Some(Awaited { site, batch, since_ms: mono_ms });
            }
            let Some(awaited) = peer.awaited.filter(|_| runs) else { continue };
            if mono_ms.saturating_sub(awaited.since_ms) > MISSING_MS && (arrived.is_read)(*id) {
                reasons.push(format!(
                    "node {id} runs and has published batch {batch}, but the last one that came \
                    here is {}: do both nodes use the same streams? (`harmonylite status` there; \
                    nats.urls, nats.js_domain)",
                    known(site)
                ));
            }
        }
        reasons
    }
}

/// Returns how many messages a node had not applied, by the ends of the streams now. None if the
/// entry does not tell, or no end is known.
fn behind(entry: &Value, ends: &BTreeMap<u32, StreamEnd>) -> Option<u64> {
    let cursors = entry["cursors"].as_object()?;
    let one = |(shard, end): (&u32, &StreamEnd)| {
        let cursor = cursors.get(&shard.to_string())?.as_u64()?;
        Some(end.last.saturating_sub(cursor))
    };
    ends.iter().map(one).sum::<Option<u64>>().filter(|_| !ends.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(batch: u64, written_s: i64) -> Value {
        json!({ "node_id": 2, "site": 8, "batch": batch, "updated_at": written_s,
            "schema_hash": "aa", "harmonylite_version": "1", "cursors": { "1": 90 } })
    }

    fn ends() -> BTreeMap<u32, StreamEnd> {
        BTreeMap::from([(1, StreamEnd { last: 100, last_time_ns: 0 })])
    }

    #[test]
    fn a_node_runs_while_its_entry_changes() {
        let mut peers = Peers::default();
        peers.take(&[entry(1, 1_000), json!({ "node_id": 1 })], 1, &ends(), 0);
        let at = |peers: &Peers, now_ms, mono_ms| peers.nodes("aa", now_ms, mono_ms)[0].clone();
        let old = at(&peers, 9_000_000, 0);
        assert!(!old.running && old.seen_ms == 1_000_000, "{old:?}");
        peers.take(&[entry(1, 1_010)], 1, &ends(), 10_000);
        let node = at(&peers, 9_000_000, 12_000);
        assert_eq!(
            (node.running, node.seen_ms, node.behind, node.same_schema),
            (true, 8_998_000, Some(10), Some(true)),
            "its clock does not matter"
        );
        assert_eq!(peers.running(12_000).count(), 1);
        let silent_ms = 10_001 + SILENT_MS;
        assert!(!at(&peers, 9_000_000, silent_ms).running);
        assert_eq!(peers.running(silent_ms).count(), 0);
        peers.take(&[], 1, &ends(), 12_000);
        assert!(peers.nodes("aa", 0, 0).is_empty(), "a forgotten node");
    }

    #[test]
    fn a_running_node_whose_batches_never_come_is_a_reason() {
        let mut peers = Peers::default();
        let mut at = |batch, known: u64, is_read: bool, mono_ms: u64| {
            peers.take(&[entry(batch, mono_ms.cast_signed())], 1, &ends(), mono_ms);
            let batches = HashMap::from([(8, known)]);
            peers.missing(&Arrived { batches: &batches, is_read: &|_| is_read }, mono_ms)
        };
        assert!(at(5, 0, true, 0).is_empty());
        assert!(at(5, 0, true, 90_000).is_empty(), "what was there before may have expired");
        assert!(at(6, 0, true, 100_000).is_empty(), "it may still come");
        assert!(at(7, 0, false, 170_000).is_empty(), "the stream is not read up to its end");
        let reasons = at(7, 0, true, 171_000);
        assert!(reasons[0].contains("node 2 runs and has published batch 7"), "{reasons:?}");
        assert!(at(7, 6, true, 172_000).is_empty(), "batch 6 came");
        assert!(at(7, 7, true, 240_000).is_empty());
    }
}
