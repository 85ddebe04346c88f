//! A node: the stages with threads, sockets and files around them.
//!
//! A Rust program runs a node through [`Node::builder`]; the binary does the same. Two threads do
//! the work, each with its SQLite connection (`writer`, `reader`), one waits for commits that no
//! ring tells (`watch`), and a tokio runtime does the network. Owns: the order of start and stop. A
//! refused start changes nothing, and a stop publishes pending changes.

mod actor_loop;
mod bell;
mod blind_indexes;
mod checkpoint;
mod database_figures;
mod delivery;
mod error;
mod examine;
mod file_guard;
mod http;
mod metrics;
mod peer_schemas;
mod peers;
mod reader;
mod reader_inbox;
mod registry;
mod report;
mod schema_entry;
mod servers;
mod snapshots;
mod start;
mod timing;
mod wake;
mod watch;
mod writer;

pub use error::NodeError;
pub(crate) use examine::{BrokerFinding, examine_broker};
use file_guard::FilesReplaced;

use crate::actor::Fatal;
use crate::clock;
use crate::db::lockfile::Lock;
use crate::embedded::Embedded;
use crate::model::status::Status;
use crate::settings::{ClusterSettings, Settings};
use report::StatusSources;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;

/// How long a stopping node tries to publish its pending changes.
const STOP: Duration = Duration::from_secs(2);

/// How one of a node's threads ended.
#[derive(Debug)]
enum ThreadEnd {
    Stopped,
    Fatal(Fatal),
    Replaced(FilesReplaced),
    /// The settings or streams are not those of the other nodes.
    Split(String),
    Panicked(&'static str),
}

/// Configures and starts a node.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let node = harmonylite::Node::builder()
///     .database("app.db")
///     .node_id(1)
///     .nats_url("nats://127.0.0.1:4222")
///     .start()
///     .await?;
/// // The application keeps using app.db.
/// println!("{:#?}", node.status().await);
/// node.stop().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct NodeBuilder {
    settings: Settings,
    cluster: ClusterSettings,
}

impl NodeBuilder {
    /// Replaces all settings, for instance with those of a file. Call it first.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Sets the application's database, which must exist.
    #[must_use]
    pub fn database(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.db_path = path.into();
        self
    }

    /// Sets this node's id, which must be unique in the cluster.
    #[must_use]
    pub fn node_id(mut self, id: u64) -> Self {
        self.settings.node_id = id;
        self
    }

    /// Adds a NATS server to connect to. Without one, the node starts an embedded server.
    #[must_use]
    pub fn nats_url(mut self, url: impl Into<String>) -> Self {
        self.settings.nats.urls.push(url.into());
        self
    }

    /// Sets the neighbours of the embedded server.
    #[must_use]
    pub fn cluster(mut self, cluster: ClusterSettings) -> Self {
        self.cluster = cluster;
        self
    }

    /// Starts the node, inside a tokio runtime.
    ///
    /// # Errors
    /// A [`NodeError`] that lasts until somebody changes something. An unreachable broker is no
    /// error: the node captures changes and waits.
    pub async fn start(self) -> Result<Node, NodeError> {
        start::start(self.settings, self.cluster).await
    }
}

/// A running node. Dropping it stops it without waiting for pending changes.
pub struct Node {
    sources: Arc<StatusSources>,
    inboxes: Inboxes,
    threads: Vec<JoinHandle<()>>,
    ended: UnboundedReceiver<ThreadEnd>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    hub: Option<crate::nats::Hub>,
    /// None with `snapshot.enabled = false`.
    snapshots: Option<snapshots::Snapshots>,
    embedded: Option<Embedded>,
    lock: Option<Lock>,
    socket: PathBuf,
    guard: Arc<file_guard::FileGuard>,
}

/// The senders to a node's threads.
struct Inboxes {
    writer: Sender<writer::ToWriter>,
    reader: reader_inbox::ReaderSender,
    watch: Sender<watch::ToWatch>,
    bell: bell::SharedBell,
}

impl Inboxes {
    /// Stops all threads. With `abandon` they leave the database's files alone.
    fn stop(&self, abandon: bool) {
        // A send to a thread that has ended fails, which does not matter.
        let _ = self.watch.send(watch::ToWatch::Stop);
        self.reader.send(if abandon { reader::ToReader::Abandon } else { reader::ToReader::Stop });
        let _ = self.writer.send(if abandon {
            writer::ToWriter::Abandon
        } else {
            writer::ToWriter::Stop
        });
    }
}

impl Node {
    /// Returns a builder with the default settings.
    pub fn builder() -> NodeBuilder {
        NodeBuilder::default()
    }

    /// Returns the node's present status.
    pub async fn status(&self) -> Status {
        let sources = Arc::clone(&self.sources);
        // The task fails only by a panic; then the status is empty.
        tokio::task::spawn_blocking(move || sources.status()).await.unwrap_or_default()
    }

    /// Waits until the node has joined: every row of its database has a version. Returns whether it
    /// has, which is false if it ended before.
    pub fn joined(&self) -> impl Future<Output = bool> + use<> {
        let mut writer = self.sources.writer.clone();
        async move { writer.wait_for(|seen| seen.joined).await.is_ok() }
    }

    /// Waits until the node cannot continue, or was idle for `sleep_timeout`.
    ///
    /// # Errors
    /// The reason why it cannot continue.
    pub async fn ended(&mut self) -> Result<(), NodeError> {
        let sleep_ms = i64::try_from(self.sources.settings.sleep_timeout).unwrap_or(i64::MAX);
        loop {
            let wait =
                if sleep_ms == 0 { Duration::from_secs(3_600) } else { Duration::from_millis(250) };
            match tokio::time::timeout(wait, self.ended.recv()).await {
                Ok(Some(ended)) => return ended.result(&self.sources.database),
                Ok(None) => return Ok(()),
                Err(_) if sleep_ms > 0 && self.is_asleep(sleep_ms) => {
                    tracing::info!(sleep_timeout_ms = sleep_ms, "idle for sleep_timeout; stopping");
                    return Ok(());
                }
                Err(_) => {}
            }
        }
    }

    fn is_asleep(&self, sleep_ms: i64) -> bool {
        let last_applied = self.sources.writer.borrow().stats.last_applied_unix_ms;
        let last_published = self.sources.reader.borrow().stats.last_published_unix_ms;
        clock::unix_ms() - last_applied.max(last_published).max(self.sources.started_ms) >= sleep_ms
    }

    /// Stops the node. It finishes the running transaction and publishes pending changes for at
    /// most 2 s.
    ///
    /// # Errors
    /// The reason why the node had ended by itself before.
    pub async fn stop(mut self) -> Result<(), NodeError> {
        if let Some(snapshots) = self.snapshots.take() {
            snapshots.stop().await;
        }
        if self.guard.check().is_ok() && tokio::time::timeout(STOP, self.drain()).await.is_err() {
            tracing::warn!("stopping with unpublished changes; the next start publishes them");
        }
        self.stop_threads();
        let threads = std::mem::take(&mut self.threads);
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().map(JoinHandle::join).all(|r| r.is_ok())
        })
        .await;
        debug_assert!(joined.is_ok_and(|all| all), "threads report their panics through `ended`");
        self.hub.take();
        if let Some(embedded) = self.embedded.take() {
            embedded.stop().await;
        }
        let mut result = Ok(());
        while let Ok(ended) = self.ended.try_recv() {
            result = result.and(ended.result(&self.sources.database));
        }
        result
    }

    fn stop_threads(&self) {
        let abandon = self.guard.check().is_err();
        self.inboxes.stop(abandon);
        if abandon {
            std::mem::forget(self.sources.db.lock().take());
        }
    }

    /// Waits until all local commits are acknowledged and marked as published.
    async fn drain(&self) {
        if !self.sources.link.borrow().connected {
            return;
        }
        // Marked before the message is sent: the thread may show its state at once, and only once.
        let (mut reader, mut writer) = (self.sources.reader.clone(), self.sources.writer.clone());
        reader.mark_unchanged();
        let wake = crate::publish::outbound::Input::Wake;
        self.inboxes.reader.send(reader::ToReader::Input(wake));
        // Threads that ended show nothing any more; then there is nothing to wait for.
        if reader.changed().await.is_ok() && reader.wait_for(|seen| seen.drained).await.is_ok() {
            writer.mark_unchanged();
            let flush = crate::inbound::Input::Flush;
            let _ = self.inboxes.writer.send(writer::ToWriter::Input(flush));
            if writer.changed().await.is_ok() {
                let _ = writer.wait_for(|seen| seen.drained).await;
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop_threads();
        for task in &self.tasks {
            task.abort();
        }
        // This is our own socket: the next node gets the lock after us.
        let _ = std::fs::remove_file(&self.socket);
        if let Some(lock) = self.lock.take() {
            lock.remove();
        }
    }
}
