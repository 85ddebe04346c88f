//! The configuration: plain data with its defaults in one place.
//!
//! Every key of HarmonyLite (Go) keeps its name, so that its users' files work. Keys without effect
//! here are accepted, and one note reports each. Fields have the names of their keys. Durations of
//! the old keys are numbers in the unit of their name; durations of new keys are texts like "30d",
//! "12h", "60s", "500ms".

mod address;
mod check;
mod duration;
pub mod identity;
mod ids;
mod keys;
mod load;
mod node_config;
mod notes;

pub use address::{bind_address, server_bind, without_credentials};
pub use duration::Span;
pub use ids::IdsSettings;
pub use load::{Loaded, SettingsError};
pub use node_config::NodeConfigError;

use crate::model::config::{OnJoin, SchemaMode};
use crate::model::limits::Limits;
use crate::model::table_filter::WithoutKey;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// A text that is never printed.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Returns whether the text is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "\"***\"" })
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0.is_empty() { "" } else { "***" })
    }
}

/// All settings of a node.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The application's database.
    pub db_path: PathBuf,
    /// This node's id, unique in the cluster. 0: stored in the database, else derived from the
    /// machine's id, else random (see [`identity`]).
    pub node_id: u64,
    /// Unused: the cursor is in the database.
    pub seq_map_path: PathBuf,
    /// Whether local changes are published.
    pub publish: bool,
    /// Whether remote changes are applied.
    pub replicate: bool,
    /// Unused: batches grow automatically.
    pub scan_max_changes: u64,
    /// Unused: published changes are removed when they are acknowledged. Milliseconds.
    pub cleanup_interval: u64,
    /// The node exits with status 0 after this time without an applied or published batch.
    /// Milliseconds, 0: never.
    pub sleep_timeout: u64,
    /// Interval of the poll for changes, milliseconds. 0: once a second.
    pub polling_interval: u64,
    /// How long a write of remote rows waits for open transactions of the application,
    /// milliseconds. 0: it does not wait.
    pub politeness: u64,
    /// What happens to the rows of a database that joins.
    pub on_join: OnJoin,
    /// Versions (of rows and tombstones) older than this are dropped.
    pub version_retention: Span,
    /// A remote clock that is further ahead is reported.
    pub max_clock_drift: Span,
    /// Which tables are replicated.
    pub tables: TablesSettings,
    /// Numbers of AUTOINCREMENT tables.
    pub ids: IdsSettings,
    /// Schema changes.
    pub schema: SchemaSettings,
    /// Snapshots.
    pub snapshot: SnapshotSettings,
    /// The streams.
    pub replication_log: ReplicationLogSettings,
    /// The broker.
    pub nats: NatsSettings,
    /// Logs.
    pub logging: LoggingSettings,
    /// Metrics.
    pub prometheus: PrometheusSettings,
    /// The health endpoint.
    pub health_check: HealthCheckSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            db_path: std::env::temp_dir().join("harmonylite.db"),
            node_id: 0,
            seq_map_path: PathBuf::new(),
            publish: true,
            replicate: true,
            scan_max_changes: 512,
            cleanup_interval: 5_000,
            sleep_timeout: 0,
            polling_interval: 0,
            politeness: 100,
            on_join: OnJoin::Merge,
            version_retention: Span::from_days(30),
            max_clock_drift: Span::from_secs(60),
            tables: TablesSettings::default(),
            ids: IdsSettings::default(),
            schema: SchemaSettings::default(),
            snapshot: SnapshotSettings::default(),
            replication_log: ReplicationLogSettings::default(),
            nats: NatsSettings::default(),
            logging: LoggingSettings::default(),
            prometheus: PrometheusSettings::default(),
            health_check: HealthCheckSettings::default(),
        }
    }
}

impl Settings {
    /// Returns the stream that holds snapshots if `snapshot.store` is `nats`.
    pub fn snapshot_bucket(&self) -> String {
        match self.snapshot.nats.bucket.as_str() {
            "" => format!("{}-snapshot-store", self.nats.stream_prefix),
            named => named.to_owned(),
        }
    }
}

/// `[tables]`: globs over table names.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TablesSettings {
    /// Empty: all.
    pub include: Vec<String>,
    /// Wins over `include`.
    pub exclude: Vec<String>,
    /// What becomes of tables whose rows have no identity: `skip` or `rowid`.
    pub without_key: WithoutKey,
}

/// `[schema]`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchemaSettings {
    /// `off`: the same migration runs on every node. `additive`: DDL that only adds travels. `all`:
    /// all DDL travels.
    pub replicate: SchemaMode,
}

/// `[snapshot]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotSettings {
    /// Whether this node takes part in snapshots: it may take them, and starts from one if it has
    /// no database file.
    pub enabled: bool,
    /// Milliseconds between two; 0: only before streams drop what no snapshot covers.
    pub interval: u64,
    /// A leader that stops or is killed is replaced within this time, milliseconds.
    pub leader_ttl: u64,
    /// `nats`, `dir`, `s3`, `webdav`, `sftp`.
    pub store: String,
    /// The newest snapshots that stay; older ones are removed.
    pub keep: usize,
    /// How often the newest snapshot is restored into a scratch file and checked; 0: never.
    pub verify_interval: Span,
    /// Store `nats`.
    pub nats: SnapshotNatsSettings,
    /// Store `dir`.
    pub dir: SnapshotDirSettings,
    /// Store `s3`.
    pub s3: SnapshotS3Settings,
    /// Store `webdav`.
    pub webdav: SnapshotUrlSettings,
    /// Store `sftp`.
    pub sftp: SnapshotUrlSettings,
}

impl Default for SnapshotSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: 0,
            leader_ttl: 30_000,
            store: "nats".to_owned(),
            keep: 3,
            verify_interval: Span::from_days(1),
            nats: SnapshotNatsSettings::default(),
            dir: SnapshotDirSettings::default(),
            s3: SnapshotS3Settings::default(),
            webdav: SnapshotUrlSettings::default(),
            sftp: SnapshotUrlSettings::default(),
        }
    }
}

/// `[snapshot.nats]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotNatsSettings {
    /// Copies that the broker keeps.
    pub replicas: usize,
    /// The bucket, a stream; empty: `<stream_prefix>-snapshot-store`.
    pub bucket: String,
}

impl Default for SnapshotNatsSettings {
    fn default() -> Self {
        Self { replicas: 1, bucket: String::new() }
    }
}

/// `[snapshot.dir]`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotDirSettings {
    /// The directory, which is created with the first snapshot.
    pub path: PathBuf,
}

/// `[snapshot.s3]`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct SnapshotS3Settings {
    pub endpoint: String,
    pub path: String,
    pub use_ssl: bool,
    pub access_key: String,
    pub secret: Secret,
    pub session_token: Secret,
    pub bucket: String,
}

/// `[snapshot.webdav]`, `[snapshot.sftp]`: a URL, with the credentials inside.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotUrlSettings {
    /// Where; with credentials, therefore secret.
    pub url: Secret,
}

/// `[replication_log]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplicationLogSettings {
    /// Number of streams.
    pub shards: u32,
    /// Messages a stream holds before the oldest are dropped. A message is a whole batch, or a part
    /// of one.
    pub max_entries: i64,
    /// Bytes a stream holds before the oldest are dropped.
    pub max_bytes: i64,
    /// Messages older than this are dropped. Must be shorter than `version_retention`.
    pub max_age: Span,
    /// Copies that the broker keeps of each stream.
    pub replicas: usize,
    /// Accepted; batches are always compressed.
    pub compress: bool,
    /// Change a stream that exists with another configuration.
    pub update_existing: bool,
}

impl ReplicationLogSettings {
    /// Returns the bytes that a stream holds at most; `u64::MAX` without a bound. Of many full
    /// messages it holds no more than `max_entries`.
    pub(crate) fn stream_bytes_max(&self) -> u64 {
        let part_bytes_max = Limits::default().part_bytes_max as u64;
        // -1: no limit.
        let by_bytes = u64::try_from(self.max_bytes).unwrap_or(u64::MAX);
        let by_entries = u64::try_from(self.max_entries).unwrap_or(u64::MAX);
        by_bytes.min(by_entries.saturating_mul(part_bytes_max))
    }
}

impl Default for ReplicationLogSettings {
    fn default() -> Self {
        Self {
            shards: 1,
            // A batch a second for eleven days; the limits of bytes and age usually come first. The
            // server refuses a stream whose max_bytes exceed its free disk, so the default must
            // suit a small machine.
            max_entries: 1_000_000,
            max_bytes: 1 << 30,
            max_age: Span::from_days(7),
            replicas: 1,
            compress: true,
            update_existing: false,
        }
    }
}

/// `[nats]`.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct NatsSettings {
    /// Servers, perhaps with credentials (see [`without_credentials`]); empty: an embedded one.
    #[serde(serialize_with = "address::masked")]
    pub urls: Vec<String>,
    /// Subjects are `<subject_prefix>-<shard>.<node>`.
    pub subject_prefix: String,
    /// Streams are `<stream_prefix>-batch-<shard>`.
    pub stream_prefix: String,
    /// The JetStream domain with the streams; empty: that of the server.
    pub js_domain: String,
    /// A nats-server configuration file that the embedded server includes first.
    pub server_config: String,
    /// An nkey seed file.
    pub seed_file: String,
    /// A credentials file (JWT and seed).
    pub creds_file: String,
    /// User.
    pub user_name: String,
    /// Password.
    pub user_password: Secret,
    /// The CA that signed the servers' certificates.
    pub ca_file: String,
    /// Client certificate.
    pub cert_file: String,
    /// Its key.
    pub key_file: String,
    /// Where the embedded server listens. `:-1`: loopback, any free port.
    pub bind_address: String,
    /// After this number of failed attempts health reports unhealthy; the node keeps trying.
    pub connect_retries: u64,
    /// Seconds between two attempts.
    pub reconnect_wait_seconds: u64,
    /// The nats-server program to run; empty: `HARMONYLITE_NATS_SERVER`, the one inside this
    /// program, or the one on PATH.
    pub server_binary: String,
}

impl fmt::Debug for NatsSettings {
    /// Formats the settings as TOML without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "NatsSettings {{ {} }}",
            toml::to_string(self).unwrap_or_default().trim_end().replace('\n', ", ")
        )
    }
}

impl Default for NatsSettings {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            subject_prefix: "harmonylite-change-log".to_owned(),
            stream_prefix: "harmonylite-changes".to_owned(),
            js_domain: String::new(),
            server_config: String::new(),
            seed_file: String::new(),
            creds_file: String::new(),
            user_name: String::new(),
            user_password: Secret::default(),
            ca_file: String::new(),
            cert_file: String::new(),
            key_file: String::new(),
            bind_address: ":-1".to_owned(),
            connect_retries: 5,
            reconnect_wait_seconds: 2,
            server_binary: String::new(),
        }
    }
}

/// `[logging]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoggingSettings {
    /// Log more.
    pub verbose: bool,
    /// `console` or `json`.
    pub format: String,
}

impl Default for LoggingSettings {
    fn default() -> Self {
        Self { verbose: false, format: "console".to_owned() }
    }
}

/// `[prometheus]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrometheusSettings {
    /// Whether metrics are served.
    pub enable: bool,
    /// Where, on the path `/metrics`.
    pub bind: String,
    /// The first word of every name.
    pub namespace: String,
    /// The second word, if any.
    pub subsystem: String,
}

impl Default for PrometheusSettings {
    fn default() -> Self {
        Self {
            enable: false,
            bind: ":3010".to_owned(),
            namespace: "harmonylite".to_owned(),
            subsystem: String::new(),
        }
    }
}

/// `[health_check]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthCheckSettings {
    /// Whether health is served.
    pub enable: bool,
    /// Where.
    pub bind: String,
    /// On which path.
    pub path: String,
    /// The whole JSON, not only the status.
    pub detailed: bool,
}

impl Default for HealthCheckSettings {
    fn default() -> Self {
        Self {
            enable: false,
            bind: "0.0.0.0:8090".to_owned(),
            path: "/health".to_owned(),
            detailed: true,
        }
    }
}

/// The embedded server's neighbours, from the command line.
#[derive(Clone, Default)]
pub struct ClusterSettings {
    /// `-cluster-addr`: where the embedded server listens for routes.
    pub addr: Option<String>,
    /// `-cluster-peers`: routes to the other servers.
    pub peers: Vec<String>,
    /// `-leaf-servers`: the servers to be a leaf of.
    pub leaf_servers: Vec<String>,
}

impl fmt::Debug for ClusterSettings {
    /// Formats the URLs without credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown =
            |urls: &[String]| urls.iter().map(|url| without_credentials(url)).collect::<Vec<_>>();
        f.debug_struct("ClusterSettings")
            .field("addr", &self.addr)
            .field("peers", &shown(&self.peers))
            .field("leaf_servers", &shown(&self.leaf_servers))
            .finish()
    }
}
