//! Compares the settings that all nodes must share with those of the other nodes.
//!
//! Arrives: this node's settings and the ids of its streams; the entries `settings-<id>` of the
//! registry. Leaves: this node's entry, or the difference. Owns: a node whose shards, prefixes or
//! streams are not those of a running node does not replicate: both would run well, each with the
//! rows of its own streams. No state; after a crash the entry stays, and counts as long as its
//! node was seen lately.

use super::ask::{KvValue, ids_under, kv_last};
use super::connect::LinkError;
use super::prepare::{REGISTRY, Session};
use crate::model::ids::NodeId;
use crate::settings::{IdsSettings, Settings};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A node that was seen within this time counts as running. Entries are written every 10 s.
const RUNNING_MS: i64 = 30_000;
const PREFIX: &str = "settings-";

/// What all nodes of a cluster must share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SharedSettings {
    /// The node.
    pub node_id: u64,
    /// Its number of streams.
    pub shards: u32,
    /// The beginning of its streams' names.
    pub stream_prefix: String,
    /// The beginning of its subjects.
    pub subject_prefix: String,
    /// The ids of its streams, by shard. A stream of an earlier version has none.
    pub streams: BTreeMap<u32, String>,
    /// Its blocks of ids; None without `ids.ranges`.
    pub ids: Option<SharedIds>,
}

/// In which blocks a node numbers the rows of AUTOINCREMENT tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SharedIds {
    /// Its place, from 1. No two nodes have the same.
    pub slot: u64,
    /// The number of places.
    pub nodes: u32,
    /// Numbers in a block.
    pub block: u32,
}

impl SharedIds {
    fn of(ids: &IdsSettings, node: NodeId) -> Option<Self> {
        let slot = if ids.slot == 0 { node.0 } else { ids.slot.into() };
        ids.ranges.then_some(Self { slot, nodes: ids.nodes, block: ids.block })
    }
}

impl SharedSettings {
    /// Takes them from a node's settings.
    pub(super) fn of(settings: &Settings, node: NodeId, streams: BTreeMap<u32, String>) -> Self {
        Self {
            node_id: node.0,
            shards: settings.replication_log.shards,
            stream_prefix: settings.nats.stream_prefix.clone(),
            subject_prefix: settings.nats.subject_prefix.clone(),
            streams,
            ids: SharedIds::of(&settings.ids, node),
        }
    }

    /// Returns the settings that differ from those of another node, for people; None: none.
    pub fn differences(&self, other: &Self) -> Option<String> {
        let mut out = Vec::new();
        let mut compare = |name: &str, here: &str, there: &str| {
            if here != there {
                let (us, them) = (self.node_id, other.node_id);
                out.push(format!("{name} is {here} at node {us} and {there} at node {them}"));
            }
        };
        compare("replication_log.shards", &self.shards.to_string(), &other.shards.to_string());
        compare("nats.stream_prefix", &self.stream_prefix, &other.stream_prefix);
        compare("nats.subject_prefix", &self.subject_prefix, &other.subject_prefix);
        (!out.is_empty()).then(|| out.join(", "))
    }

    /// Returns why this node and another one would give the same id to two rows, for people; None:
    /// they would not, or one of them does not number in blocks.
    pub fn same_ids(&self, other: &Self) -> Option<String> {
        let (ours, theirs) = (self.ids?, other.ids?);
        let (us, them) = (self.node_id, other.node_id);
        let mut out = Vec::new();
        for (name, here, there) in
            [("nodes", ours.nodes, theirs.nodes), ("block", ours.block, theirs.block)]
        {
            if here != there {
                out.push(format!("ids.{name} is {here} at node {us} and {there} at node {them}"));
            }
        }
        if out.is_empty() && ours.slot == theirs.slot {
            out.push(format!("ids.slot is {} at both", ours.slot));
        }
        (!out.is_empty()).then(|| {
            format!(
                "node {us} and node {them} would give the same ids to different rows: {}: give all \
                nodes the same ids.nodes and ids.block, and each its own ids.slot",
                out.join(", ")
            )
        })
    }

    /// Returns the streams that have the same name as those of another node, and are not the same.
    pub fn other_streams(&self, other: &Self) -> Vec<u32> {
        let differs =
            |(shard, id): &(&u32, &String)| other.streams.get(*shard).is_some_and(|o| o != *id);
        self.streams.iter().filter(differs).map(|(shard, _)| *shard).collect()
    }
}

/// Reads the entries of the other nodes.
///
/// # Errors
/// The broker's error, as text.
pub(super) async fn read(session: &Session, me: NodeId) -> Result<Vec<SharedSettings>, String> {
    let mut found = Vec::new();
    for id in ids_under(session, PREFIX).await.map_err(|e| e.to_string())? {
        if id == me.0 {
            continue;
        }
        let entry = kv_last(session, &key(id)).await.map_err(|e| e.to_string())?;
        let entry = entry.and_then(|e| serde_json::from_slice::<SharedSettings>(&e.value).ok());
        found.extend(entry.filter(|entry| entry.node_id == id));
    }
    Ok(found)
}

/// Refuses this node if a running one has other settings.
///
/// # Errors
/// [`LinkError::Split`]; [`LinkError::Passing`] if the registry cannot be read.
pub(super) async fn check(
    session: &Session,
    settings: &Settings,
    node: NodeId,
) -> Result<(), LinkError> {
    let ours = SharedSettings::of(settings, node, BTreeMap::new());
    let failed = |e: String| LinkError::Passing(format!("bucket {REGISTRY} does not answer: {e}"));
    for theirs in read(session, node).await.map_err(failed)? {
        let (differences, same_ids) = (ours.differences(&theirs), ours.same_ids(&theirs));
        if differences.is_none() && same_ids.is_none() {
            continue;
        }
        let age_ms = age_ms(session, theirs.node_id).await.map_err(failed)?;
        if age_ms > RUNNING_MS {
            continue;
        }
        let rows = differences.map(|found| refusal(node.0, &theirs, &found, age_ms));
        return Err(LinkError::Split(rows.or(same_ids).unwrap_or_default()));
    }
    Ok(())
}

fn refusal(node: u64, theirs: &SharedSettings, differences: &str, age_ms: i64) -> String {
    format!(
        "node {node} and node {} (seen {} s ago) would not get each other's rows: {differences}: \
        give all nodes the same value; to change it, stop all nodes, and \
        start them {} s later",
        theirs.node_id,
        age_ms.max(0) / 1_000,
        RUNNING_MS / 1_000
    )
}

/// Returns how long ago a node has written to the registry, by the broker's clock.
async fn age_ms(session: &Session, id: u64) -> Result<i64, String> {
    let mut newest_ns = 0;
    for key in [key(id), format!("node-{id}")] {
        let found: Option<KvValue> = kv_last(session, &key).await.map_err(|e| e.to_string())?;
        newest_ns = newest_ns.max(found.map_or(0, |found| found.time_ns));
    }
    let now_ns = super::ask::broker_now_ns(session).await.map_err(|e| e.to_string())?;
    Ok((now_ns - newest_ns) / 1_000_000)
}

/// Writes this node's entry.
///
/// # Errors
/// [`LinkError::Passing`].
pub(super) async fn write(session: &Session, ours: &SharedSettings) -> Result<(), LinkError> {
    let failed =
        |e: String| LinkError::Passing(format!("bucket {REGISTRY} cannot be written: {e}"));
    let value = serde_json::to_vec(ours).map_err(|e| failed(e.to_string()))?;
    let put = super::ask::kv_put(session, &key(ours.node_id), value.into(), None, None).await;
    put.map(drop).map_err(|e| failed(e.to_string()))
}

fn key(id: u64) -> String {
    format!("{PREFIX}{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(id: &str) -> SharedSettings {
        let streams = BTreeMap::from([(1, id.to_owned())]);
        SharedSettings::of(&Settings::default(), NodeId(1), streams)
    }

    #[test]
    fn every_setting_that_splits_a_cluster_is_named() {
        let ours = shared("a");
        assert_eq!(ours.differences(&SharedSettings { node_id: 2, ..shared("b") }), None);
        for (name, other) in [
            ("shards is 1 at node 1 and 2 at node 1", SharedSettings { shards: 2, ..shared("a") }),
            ("stream_prefix", SharedSettings { stream_prefix: "x".into(), ..shared("a") }),
            ("subject_prefix", SharedSettings { subject_prefix: "x".into(), ..shared("a") }),
        ] {
            let found = ours.differences(&other).unwrap();
            assert!(found.contains(name), "{name} in {found}");
            let text = refusal(1, &SharedSettings { node_id: 7, ..other }, &found, 3_000);
            assert!(text.contains("node 1 and node 7 (seen 3 s ago)"), "{text}");
        }
    }

    #[test]
    fn nodes_that_would_give_the_same_ids_are_found() {
        let node = |node_id, slot, nodes, block| SharedSettings {
            node_id,
            ids: Some(SharedIds { slot, nodes, block }),
            ..shared("a")
        };
        let ours = node(1, 1, 16, 1_000);
        assert_eq!(ours.same_ids(&node(2, 2, 16, 1_000)), None);
        assert_eq!(ours.same_ids(&SharedSettings { node_id: 2, ..shared("a") }), None);
        for (other, named) in [
            (node(2, 1, 16, 1_000), "ids.slot is 1 at both"),
            (node(2, 2, 8, 1_000), "ids.nodes is 16 at node 1 and 8 at node 2"),
            (node(2, 2, 16, 500), "ids.block is 1000 at node 1 and 500 at node 2"),
        ] {
            let found = ours.same_ids(&other).unwrap();
            assert!(found.contains(named), "{found}");
        }
    }

    #[test]
    fn streams_with_another_id_are_others_and_those_without_one_are_not_known() {
        assert_eq!(shared("a").other_streams(&shared("b")), [1]);
        assert!(shared("a").other_streams(&shared("a")).is_empty());
        let old = SharedSettings { streams: BTreeMap::new(), ..shared("a") };
        assert!(shared("a").other_streams(&old).is_empty() && old.differences(&old).is_none());
    }
}
