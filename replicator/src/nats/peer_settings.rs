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
use crate::settings::Settings;
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
        let Some(differences) = ours.differences(&theirs) else { continue };
        let age_ms = age_ms(session, theirs.node_id).await.map_err(failed)?;
        if age_ms <= RUNNING_MS {
            return Err(LinkError::Split(refusal(node.0, &theirs, &differences, age_ms)));
        }
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
    fn streams_with_another_id_are_others_and_those_without_one_are_not_known() {
        assert_eq!(shared("a").other_streams(&shared("b")), [1]);
        assert!(shared("a").other_streams(&shared("a")).is_empty());
        let old = SharedSettings { streams: BTreeMap::new(), ..shared("a") };
        assert!(shared("a").other_streams(&old).is_empty() && old.differences(&old).is_none());
    }
}
