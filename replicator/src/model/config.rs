//! The configuration of the stages: plain values from checked settings.

use crate::model::id_ranges::IdRanges;
use crate::model::ids::NodeId;
use crate::model::limits::Limits;
use crate::model::table_filter::TableFilter;
use std::path::PathBuf;

/// What happens to the rows of a database that joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnJoin {
    /// Publish the rows that the cluster lacks.
    Merge,
    /// Remove the rows that the cluster lacks.
    Replace,
    /// The node does not start if both sides have rows.
    Refuse,
}

/// What happens to the application's DDL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SchemaMode {
    /// It stays on its node: the same migration runs on every node.
    #[default]
    Off,
    /// What only adds travels with the batch of its transaction: tables, columns, indexes, views,
    /// triggers.
    Additive,
    /// All of it travels.
    All,
}

/// The configuration of one node's stages.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The node's id.
    pub node: NodeId,
    /// The path of the database.
    pub path: PathBuf,
    /// Streams, numbered from 1.
    pub shards: u32,
    /// Bytes that a stream holds before it drops its oldest messages; `u64::MAX`: without bound.
    pub stream_bytes_max: u64,
    /// Which tables are replicated.
    pub filter: TableFilter,
    /// See [`SchemaMode`].
    pub schema_mode: SchemaMode,
    /// Whether local changes are sent.
    pub publish: bool,
    /// Whether remote changes are applied.
    pub replicate: bool,
    /// See [`OnJoin`].
    pub on_join: OnJoin,
    /// Versions older than this are dropped, milliseconds.
    pub version_retention_ms: i64,
    /// A remote clock may be this far ahead before it is reported, milliseconds.
    pub max_clock_drift_ms: i64,
    /// Where batches beyond the memory bound are spilled.
    pub spill_dir: PathBuf,
    /// How long a lease lives without renewal, milliseconds.
    pub lease_ttl_ms: u64,
    /// What identifies this process on this machine and this file, for the lease.
    pub instance: String,
    /// The place (machine and path): a lease of an earlier process at the same place is ours,
    /// because the file lock proves that it ended.
    pub place: String,
    /// How long a transaction with remote rows waits for a moment without snapshots of other
    /// connections, milliseconds; 0: it does not wait.
    pub politeness_ms: u64,
    /// Which ids of AUTOINCREMENT tables this node gives; None: those that SQLite chooses.
    pub id_ranges: Option<IdRanges>,
    /// Whether gaps are filled from snapshots, if there is one, before other nodes are asked.
    pub gaps_from_snapshots: bool,
    /// Bounds.
    pub limits: Limits,
}

/// A step of a republication is at most this share of what a stream holds, so that readers can
/// fall behind by many steps before the stream drops one that they have not read.
const STREAM_SHARE: u64 = 16;

impl NodeConfig {
    /// Bytes of rows in one step of a republication.
    pub fn republish_bytes_max(&self) -> u64 {
        self.limits.republish_bytes_max.min(self.stream_bytes_max / STREAM_SHARE).max(1)
    }

    /// The stream that this node publishes to: always the same.
    pub fn own_shard(&self) -> u32 {
        u32::try_from(self.node.0 % u64::from(self.shards.max(1))).unwrap_or(0) + 1
    }
}

/// The time, as passed into the stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Wall clock, unix milliseconds. May jump.
    pub unix_ms: i64,
    /// Monotone clock, milliseconds from an arbitrary start.
    pub mono_ms: u64,
}

/// The broker's clock, as messages show it: it is never behind a message that it has stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerClock {
    /// The least time of the broker, unix milliseconds, when our monotone clock was `mono_ms`.
    unix_ms: i64,
    mono_ms: u64,
}

impl BrokerClock {
    /// Takes a time that the broker has passed now.
    pub fn new(unix_ms: i64, now: Now) -> Self {
        Self { unix_ms, mono_ms: now.mono_ms }
    }

    /// Returns the least time of the broker, unix milliseconds.
    pub fn at(self, now: Now) -> i64 {
        let passed_ms = now.mono_ms.saturating_sub(self.mono_ms);
        self.unix_ms.saturating_add_unsigned(passed_ms)
    }
}

#[cfg(test)]
impl NodeConfig {
    /// A node with defaults, for tests beside components.
    pub(crate) fn for_tests(node: u64) -> Self {
        Self {
            node: NodeId(node),
            path: ":memory:".into(),
            shards: 2,
            stream_bytes_max: u64::MAX,
            filter: TableFilter::default(),
            schema_mode: SchemaMode::Off,
            publish: true,
            replicate: true,
            on_join: OnJoin::Merge,
            version_retention_ms: 86_400_000,
            max_clock_drift_ms: 1_000,
            spill_dir: std::env::temp_dir(),
            lease_ttl_ms: 10_000,
            instance: "this".to_owned(),
            place: "here".to_owned(),
            politeness_ms: 20,
            id_ranges: None,
            gaps_from_snapshots: false,
            limits: Limits { dropped_table_wait_ms: 0, ..Limits::default() },
        }
    }
}
