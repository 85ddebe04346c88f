//! The status of a node, for `harmonylite status`, health and metrics. Plain data.

use serde::{Deserialize, Serialize};

/// A node's state at one moment. Times are unix milliseconds, 0 for "never".
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Status {
    pub version: String,
    pub node_id: u64,
    pub pid: u32,
    pub db_path: String,
    pub started_ms: i64,
    pub now_ms: i64,
    /// The present incarnation of the database.
    pub site: i64,
    pub joined: bool,
    pub publish: bool,
    pub replicate: bool,
    pub tables: Vec<String>,
    /// Tables that are not replicated, with the reason.
    pub skipped: Vec<(String, String)>,
    /// Triggers of the application that do not fire for rows of other nodes, with the reason.
    pub silent_triggers: Vec<(String, String)>,
    pub broker: BrokerStatus,
    pub streams: Vec<StreamStatus>,
    /// Committed changes that are not yet acknowledged by the broker.
    pub pending_rows: u64,
    /// When the oldest of them was written; 0: none.
    pub oldest_pending_ms: i64,
    /// Acknowledged changes whose mark waits for a moment that disturbs nobody.
    pub unmarked_rows: u64,
    pub held: Vec<HeldStatus>,
    /// Running nodes whose replicated tables differ from ours.
    #[serde(default)]
    pub schema_differences: Vec<SchemaDifference>,
    /// Indexes, views and triggers of other nodes' migrations that could not be made here.
    pub unmade_objects: Vec<UnmadeStatus>,
    /// The tables with what other nodes' migrations dropped here, until `version_retention` has
    /// passed.
    #[serde(default)]
    pub kept_tables: Vec<String>,
    pub conflicts: u64,
    /// Tables with rows that two nodes inserted under one key, and the number of such entries in
    /// the conflict journal.
    pub inserted_twice: Vec<(String, u64)>,
    pub quarantine: u64,
    pub open_gaps: u64,
    /// Rows logged so far while this database joins; None: it is not joining.
    pub joining_rows: Option<u64>,
    /// Rows logged so far for republication; None: nothing is republished.
    pub republishing_rows: Option<u64>,
    pub wake: WakeStatus,
    /// Write transactions of the sidecar a second, over the last ten seconds.
    pub writes_per_second: f64,
    pub counters: Counters,
    /// The other nodes in the registry.
    pub nodes: Vec<NodeStatus>,
    pub snapshots: SnapshotsStatus,
    /// The reasons for which health is unhealthy: nothing is replicated. They are among `degraded`.
    pub failing: Vec<String>,
    /// The reasons why the node is degraded; empty: it is well.
    pub degraded: Vec<String>,
    pub last_published_ms: i64,
    pub last_applied_ms: i64,
}

/// The connection to the broker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct BrokerStatus {
    pub embedded: bool,
    /// Without credentials.
    pub url: String,
    pub connected: bool,
    /// The streams are verified on this connection; batches flow.
    pub linked: bool,
    /// Failed attempts since the last connection.
    pub failed_attempts: u64,
    pub last_error: String,
    /// The last error that the server reported, for instance a missing permission.
    pub server_error: String,
    pub server_version: String,
}

/// The state of one stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct StreamStatus {
    pub shard: u32,
    pub name: String,
    /// The position up to which messages are applied.
    pub cursor: u64,
    /// The last position of the stream, as far as this node knows.
    pub last: u64,
    /// Milliseconds between the newest applied message and the last one of the stream; None: not
    /// known, because the broker is away or nothing is applied here.
    pub lag_ms: Option<i64>,
}

/// Another node in the registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct NodeStatus {
    pub node_id: u64,
    /// Its entry was written lately.
    pub running: bool,
    /// When it last wrote its entry.
    pub seen_ms: i64,
    /// The messages that it had not applied then; None: not known.
    pub behind: Option<u64>,
    /// Whether its schema is that of this node; None: it does not tell.
    pub same_schema: Option<bool>,
    pub version: String,
}

/// The snapshots of the cluster, as far as this node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct SnapshotsStatus {
    /// This node takes part (`snapshot.enabled`).
    pub enabled: bool,
    /// The node that takes the snapshots; 0: none, or not known.
    pub leader: u64,
    /// That is this process.
    pub leads: bool,
    /// The store, without credentials.
    pub place: String,
    /// The newest snapshot; empty: none.
    pub saved: String,
    /// When it was captured.
    pub saved_ms: i64,
    /// The newest snapshot that was restored and checked; empty: none.
    pub verified: String,
    /// When that one was captured.
    pub verified_ms: i64,
    /// When it was checked.
    pub checked_ms: i64,
    /// No snapshot has what is missing here, and the node that takes them is asked for one.
    pub wanted: bool,
    /// What this node does now with snapshots.
    pub works: Vec<SnapshotWork>,
    /// Why the last save failed, and what to do; empty: it did not.
    pub save_error: String,
    /// Why the last verification failed, and what to do; empty: it did not.
    pub verify_error: String,
}

/// A save, a check, a fetch or a merge of a snapshot that runs now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotWork {
    /// What is done, for people.
    pub what: String,
    /// The name of the store.
    pub store: String,
    /// When it began, unix milliseconds.
    pub since_ms: i64,
    /// What `done`, `total` and `per_second` count: `bytes` or `rows`.
    pub unit: String,
    /// What is done.
    pub done: u64,
    /// All that is to be done; 0: not known yet.
    pub total: u64,
    /// The rate over the last ten seconds.
    pub per_second: u64,
    /// The time that the rest takes at this rate, milliseconds; None: not known, or it is the end,
    /// which is not counted (the checks of a restored file, the manifest of a saved one).
    pub left_ms: Option<i64>,
}

impl Status {
    /// Adds a reason for which nothing is replicated.
    pub fn fail(&mut self, reason: String) {
        self.failing.push(reason.clone());
        self.degraded.push(reason);
    }

    /// Returns the greatest lag of the streams in milliseconds; None if one is not known.
    pub fn lag_ms(&self) -> Option<i64> {
        let all: Option<Vec<i64>> = self.streams.iter().map(|s| s.lag_ms).collect();
        all?.into_iter().max()
    }
}

/// Another node that has other tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaDifference {
    /// The node.
    pub node_id: u64,
    /// Since when this node has seen it, unix milliseconds.
    pub since_ms: i64,
    /// The tables that differ; empty if the other node does not list its tables.
    pub tables: Vec<String>,
}

/// An origin whose changes are held until the schemas match.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct HeldStatus {
    pub node_id: u64,
    pub shard: u32,
    pub since_ms: i64,
    pub reason: String,
}

/// An index, a view or a trigger of another node's migration that could not be made here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct UnmadeStatus {
    pub node_id: u64,
    pub since_ms: i64,
    /// What creates it, in words, and its statement.
    pub change: String,
    pub statement: String,
    /// What SQLite reported, or why it was refused.
    pub error: String,
}

impl UnmadeStatus {
    /// Describes it as a reason why the node is degraded.
    pub fn reason(&self) -> String {
        let Self { node_id: node, change, error, .. } = self;
        format!(
            "a migration of node {node} is not complete here: cannot {change}: {error}. It is \
            tried again; make it by hand, or drop it on node {node}"
        )
    }
}

/// How the application's commits are noticed, and recent durations (microseconds, median and 99th
/// percentile).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct WakeStatus {
    /// `bell`, `watcher` or `poll`: the source of the last wake that led to a publication.
    pub last: String,
    pub bell: u64,
    pub watcher: u64,
    pub poll: u64,
    pub commit_to_wake_us: (u64, u64),
    pub wake_to_published_us: (u64, u64),
    pub published_to_applied_us: (u64, u64),
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Counters {
    pub batches_published: u64,
    pub rows_published: u64,
    pub bytes_published: u64,
    pub batches_applied: u64,
    pub rows_applied: u64,
    pub rows_skipped: u64,
    pub bytes_applied: u64,
    pub scans: u64,
    pub write_transactions: u64,
    /// Write transactions during which another connection had an open snapshot.
    pub snapshots_met: u64,
    pub busy: u64,
    pub conflicts: u64,
    /// Losing rows that another node had inserted under the same key.
    pub inserted_twice: u64,
    pub quarantined: u64,
    pub held: u64,
    pub gaps: u64,
    pub losses: u64,
    pub rows_republished: u64,
    pub split: u64,
    pub drift_warnings: u64,
    pub null_key_changes: u64,
    pub server_restarts: u64,
}
