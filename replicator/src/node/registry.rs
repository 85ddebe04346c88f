//! Watches the registry and the ends of the streams, for `status` and health (FORMAT.md).
//!
//! Arrives: the connection, every few seconds. Leaves: a [`RegistrySeen`]: the other nodes, the
//! ends of the streams, and reasons why nothing arrives. Owns: a node whose streams are not those
//! of its peers ends, and so does one of two nodes with different settings that were started in
//! the same moment. Reads only, apart from [`forget`].

use super::delivery::{Splits, Stalls, Strangers};
use super::peer_schemas::Differences;
use super::peers::{Arrived, Peers};
use super::report::StatusSources;
use super::writer::WriterSnapshot;
use crate::broker::{BrokerError, Reply, Request};
use crate::clock;
use crate::db::connection::DatabaseError;
use crate::model::ids::NodeId;
use crate::model::status::{NodeStatus, SchemaDifference};
use crate::nats::Asker;
use crate::repair::lease::Lease;
use crate::repair::members::{MEMBERS_KEY, Members};
use crate::store::{held, origins, quarantine};
use rusqlite::Connection;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The registry is read this often.
const INTERVAL: Duration = Duration::from_secs(5);
/// The other nodes' settings are read once in so many rounds.
const SETTINGS_ROUNDS: u64 = 5;
/// How often a node is removed from the list of members, if others write it too.
const FORGET_ATTEMPTS: u32 = 10;

/// The end of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StreamEnd {
    /// The last position ever used.
    pub(super) last: u64,
    /// When its message was stored, unix nanoseconds.
    pub(super) last_time_ns: i64,
}

/// What the last look has found.
#[derive(Clone, Debug, Default)]
pub(super) struct RegistrySeen {
    /// When it was, on the monotone clock; 0: never.
    pub(super) read_ms: u64,
    pub(super) nodes: Vec<NodeStatus>,
    /// Other nodes whose tables differ.
    pub(super) differences: Vec<SchemaDifference>,
    pub(super) ends: BTreeMap<u32, StreamEnd>,
    /// Streams that deliver nothing.
    pub(super) stalled: Vec<String>,
    /// Nodes whose batches never come.
    pub(super) missing: Vec<String>,
    /// Why this node must end.
    pub(super) split: Option<String>,
}

/// Looks again and again, until the receivers are gone.
pub(super) async fn watch_registry(
    asker: Asker,
    sources: Arc<StatusSources>,
    seen: watch::Sender<RegistrySeen>,
) {
    let mut watch = RegistryWatch {
        asker,
        sources,
        rounds: 0,
        peers: Peers::default(),
        differences: Differences::default(),
        stalls: Stalls::default(),
        splits: Splits::default(),
        strangers: Strangers::default(),
        split: None,
    };
    while !seen.is_closed() {
        // Without the broker the last look stays.
        if let Ok(look) = watch.look().await {
            seen.send_replace(look);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

struct RegistryWatch {
    asker: Asker,
    sources: Arc<StatusSources>,
    rounds: u64,
    peers: Peers,
    differences: Differences,
    stalls: Stalls,
    splits: Splits,
    strangers: Strangers,
    split: Option<String>,
}

impl RegistryWatch {
    async fn look(&mut self) -> Result<RegistrySeen, BrokerError> {
        let me = self.sources.node.0;
        let entries = read(&self.asker, Some(me)).await?;
        let ends = self.ends().await?;
        let (now_ms, mono_ms) = (clock::unix_ms(), clock::mono_ms());
        self.peers.take(&entries, me, &ends, mono_ms);
        if self.rounds.is_multiple_of(SETTINGS_ROUNDS) {
            let (ours, others) = self.asker.shared_settings().await?;
            let running: Vec<u64> = self.peers.running(mono_ms).map(|(id, _)| id).collect();
            self.split = self.splits.find(&ours, &others, |id| running.contains(&id), mono_ms);
        }
        self.rounds += 1;
        let writer = self.sources.writer.borrow().clone();
        let consumes = writer.linked
            && self.sources.settings.replicate
            && writer.busy_since_ms.is_none()
            && writer.full.is_none();
        let hash = data_encoding::HEXLOWER.encode(&writer.layout.hash);
        let stalled = self.stalls.find(&writer.streams, &ends, consumes, mono_ms);
        let applied = self.applied().await;
        let mut missing = Vec::new();
        if let Some(applied) = applied.filter(|_| consumes) {
            missing = self.missing(&applied, &writer, &ends, mono_ms);
            let is_registered = |id| entries.iter().any(|entry| entry["node_id"] == id);
            let (newest, started_ms) = (&applied.newest, self.sources.started_ms);
            let stranger = self.strangers.find(me, newest, is_registered, started_ms, mono_ms);
            self.split = self.split.take().or(stranger);
        }
        Ok(RegistrySeen {
            read_ms: mono_ms,
            nodes: self.peers.nodes(&hash, now_ms, mono_ms),
            differences: self.differences.compare(
                self.peers.running(mono_ms),
                &writer.layout,
                now_ms,
            ),
            stalled,
            missing,
            ends,
            split: self.split.clone(),
        })
    }

    /// Reads what the database has. None if it cannot be read, which is a reason of its own.
    async fn applied(&self) -> Option<Applied> {
        let sources = Arc::clone(&self.sources);
        let read = tokio::task::spawn_blocking(move || sources.db.lock().as_ref().map(applied));
        read.await.ok()??.ok()
    }

    async fn ends(&self) -> Result<BTreeMap<u32, StreamEnd>, BrokerError> {
        let mut ends = BTreeMap::new();
        for shard in 1..=self.sources.settings.replication_log.shards {
            if let Reply::State(state) = self.asker.ask(Request::StreamState { shard }).await? {
                let end = StreamEnd { last: state.last.0, last_time_ns: state.last_time_ns };
                ends.insert(shard, end);
            }
        }
        Ok(ends)
    }

    fn missing(
        &mut self,
        applied: &Applied,
        writer: &WriterSnapshot,
        ends: &BTreeMap<u32, StreamEnd>,
        mono_ms: u64,
    ) -> Vec<String> {
        let shards = u64::from(self.sources.settings.replication_log.shards.max(1));
        let is_read = |node: u64| {
            let shard = u32::try_from(node % shards).unwrap_or(0) + 1;
            let stream = writer.streams.iter().find(|s| s.shard == shard);
            let last = ends.get(&shard).map_or(0, |end| end.last);
            !applied.waiting.contains(&node)
                && stream.is_some_and(|s| s.is_idle && s.position >= last)
        };
        self.peers.missing(&Arrived { batches: &applied.batches, is_read: &is_read }, mono_ms)
    }
}

/// What the database has of the other nodes.
struct Applied {
    /// The last batch of each incarnation.
    batches: HashMap<i64, u64>,
    /// When the newest batch of each node was made, unix milliseconds.
    newest: HashMap<u64, i64>,
    /// Nodes with batches that are held or in quarantine.
    waiting: Vec<u64>,
}

fn applied(db: &Connection) -> Result<Applied, DatabaseError> {
    let mut waiting: Vec<u64> = held::list(db)?.into_iter().map(|held| held.node_id).collect();
    waiting.extend(quarantine::nodes(db)?.into_iter().map(|node| node.0));
    let (mut batches, mut newest) = (HashMap::new(), HashMap::new());
    for origin in origins::all(db)? {
        batches.insert(origin.site.0, origin.batch.0);
        let newest_ms = newest.entry(origin.node.0).or_insert(origin.created_ms);
        *newest_ms = origin.created_ms.max(*newest_ms);
    }
    Ok(Applied { batches, newest, waiting })
}

/// The entries of all nodes by node id. An unreadable entry becomes `{"node_id": ..}`, and so does
/// that of the node `without`, which is not fetched.
///
/// # Errors
/// [`BrokerError`] if the broker does not answer.
pub(super) async fn read(asker: &Asker, without: Option<u64>) -> Result<Vec<Value>, BrokerError> {
    let mut entries = Vec::new();
    for id in asker.registered().await? {
        if without == Some(id) {
            entries.push(json!({ "node_id": id }));
            continue;
        }
        // A deleted entry still has a key.
        let Reply::Kv(Some(entry)) =
            asker.ask(Request::KvGet { key: format!("node-{id}") }).await?
        else {
            continue;
        };
        let entry = serde_json::from_slice::<Value>(&entry.value).ok();
        entries.push(
            entry
                .filter(|value| value["node_id"] == id)
                .unwrap_or_else(|| json!({ "node_id": id })),
        );
    }
    Ok(entries)
}

/// Removes a node from the registry, so that no node waits for it. It becomes a member again when
/// it runs again.
///
/// # Errors
/// The broker's error.
pub(super) async fn forget(asker: &Asker, node: u64) -> Result<(), BrokerError> {
    for _ in 0..FORGET_ATTEMPTS {
        let Reply::Kv(entry) = asker.ask(Request::KvGet { key: MEMBERS_KEY.to_owned() }).await?
        else {
            continue;
        };
        let mut members = Members::read(entry.as_ref());
        members.forget(node);
        let put = Request::KvPut {
            key: MEMBERS_KEY.to_owned(),
            value: members.encode().into(),
            expected: Some(entry.map_or(0, |e| e.revision)),
            ttl_ms: None,
        };
        match asker.ask(put).await {
            // Another node wrote the list in between.
            Err(BrokerError::Conflict) => {}
            Err(error) => return Err(error),
            Ok(_) => {
                for key in [
                    format!("node-{node}"),
                    format!("settings-{node}"),
                    format!("schema-{node}"),
                    Lease::key(NodeId(node)),
                ] {
                    asker.delete(&key).await?;
                }
                return Ok(());
            }
        }
    }
    Err(BrokerError::Conflict)
}
