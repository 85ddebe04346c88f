//! A node: the stages with threads, sockets and files around them.
//!
//! [`Node::builder`] is how a Rust program runs one inside; the binary is a thin user of it. Two
//! threads own SQLite connections ([`writer`], [`reader`]), a third watches for commits, and a
//! tokio runtime beside them does the network. Owns: the order in which things start and stop, so
//! that a refused start has changed nothing and a stop sends what is pending.

mod drive;
mod error;
mod guard;
mod http;
mod metrics;
mod reader;
mod registry;
mod report;
mod ring;
mod start;
mod timing;
mod watch;
mod writer;

pub use error::NodeError;
pub use guard::Replaced;
pub use http::ListenError;

use crate::clock;
use crate::db::lockfile::Lock;
use crate::embedded::Embedded;
use crate::inbound::Fatal;
use crate::model::status::Status;
use crate::settings::{ClusterSettings, Settings};
use report::Sources;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;

/// What is pending when a node stops gets so long to be published.
const STOP: Duration = Duration::from_secs(2);

/// How one of a node's threads ended.
#[derive(Debug)]
enum Ended {
    Stopped,
    Fatal(Fatal),
    Replaced(Replaced),
    Panicked(&'static str),
}

/// Puts a node together.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let node = harmonylite::Node::builder().database("app.db").node_id(1).nats_url("nats://127.0.0.1:4222").start().await?;
/// // The application goes on using app.db as ever.
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
    /// All settings at once, as read from a file. Call it first.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// The application's database, which must exist.
    #[must_use]
    pub fn database(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.db_path = path.into();
        self
    }

    /// This node's number, other than every other node's.
    #[must_use]
    pub fn node_id(mut self, id: u64) -> Self {
        self.settings.node_id = id;
        self
    }

    /// A server to connect to. Without any, an embedded one is started.
    #[must_use]
    pub fn nats_url(mut self, url: impl Into<String>) -> Self {
        self.settings.nats.urls.push(url.into());
        self
    }

    /// Neighbours of the embedded server.
    #[must_use]
    pub fn cluster(mut self, cluster: ClusterSettings) -> Self {
        self.cluster = cluster;
        self
    }

    /// Starts the node, inside a tokio runtime.
    ///
    /// # Errors
    /// Whatever keeps it from working for good. A broker that cannot be reached is not among them:
    /// the node captures and waits.
    pub async fn start(self) -> Result<Node, NodeError> {
        start::start(self.settings, self.cluster).await
    }
}

/// A running node. Dropping it stops it without waiting for what is pending.
pub struct Node {
    sources: Arc<Sources>,
    inboxes: Inboxes,
    threads: Vec<JoinHandle<()>>,
    ended: UnboundedReceiver<Ended>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    hub: Option<crate::nats::Hub>,
    embedded: Option<Embedded>,
    lock: Option<Lock>,
    socket: PathBuf,
    guard: Arc<guard::Guard>,
}

/// Where a node's threads are told things.
struct Inboxes {
    writer: Sender<writer::ToWriter>,
    reader: Sender<reader::ToReader>,
    watch: Sender<watch::ToWatch>,
    bell: ring::SharedBell,
}

impl Inboxes {
    /// `abandon`: the database's files are not ours any more.
    fn stop(&self, abandon: bool) {
        // A thread that has ended already does not listen.
        self.bell.stop();
        let _ = self.watch.send(watch::ToWatch::Stop);
        let _ = self.reader.send(if abandon {
            reader::ToReader::Abandon
        } else {
            reader::ToReader::Stop
        });
        let _ = self.writer.send(if abandon {
            writer::ToWriter::Abandon
        } else {
            writer::ToWriter::Stop
        });
    }
}

impl Node {
    /// Puts a node together.
    pub fn builder() -> NodeBuilder {
        NodeBuilder::default()
    }

    /// What the node says of itself now.
    pub async fn status(&self) -> Status {
        let sources = Arc::clone(&self.sources);
        // Only a panic could end it otherwise, and a status without content says as much.
        tokio::task::spawn_blocking(move || sources.status()).await.unwrap_or_default()
    }

    /// Waits until the node cannot go on, or has slept for `sleep_timeout`.
    ///
    /// # Errors
    /// Why it cannot go on.
    pub async fn ended(&mut self) -> Result<(), NodeError> {
        let sleep_ms = i64::try_from(self.sources.settings.sleep_timeout).unwrap_or(i64::MAX);
        loop {
            let wait =
                if sleep_ms == 0 { Duration::from_secs(3_600) } else { Duration::from_millis(250) };
            match tokio::time::timeout(wait, self.ended.recv()).await {
                Ok(Some(ended)) => return ended.result(&self.sources.database),
                Ok(None) => return Ok(()),
                Err(_) if sleep_ms > 0 && self.is_asleep(sleep_ms) => {
                    tracing::info!(
                        sleep_timeout_ms = sleep_ms,
                        "nothing happened for so long; ending"
                    );
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

    /// Ends the node: the transaction under way is finished, what is pending is published for at
    /// most 2 s.
    ///
    /// # Errors
    /// If it had ended by itself before, why.
    pub async fn stop(mut self) -> Result<(), NodeError> {
        if self.guard.check().is_ok() && tokio::time::timeout(STOP, self.drain()).await.is_err() {
            tracing::warn!("stopping while changes are pending; they are sent at the next start");
        }
        self.stop_threads();
        let threads = std::mem::take(&mut self.threads);
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().map(JoinHandle::join).all(|r| r.is_ok())
        })
        .await;
        debug_assert!(joined.is_ok_and(|all| all), "threads tell of their panics through `ended`");
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

    /// Waits until everything committed here is acknowledged and everything acknowledged is marked.
    async fn drain(&self) {
        if !self.sources.link.borrow().connected {
            return;
        }
        let _ = self
            .inboxes
            .reader
            .send(reader::ToReader::Input(crate::publish::outbound::Input::Wake));
        let (mut reader, mut writer) = (self.sources.reader.clone(), self.sources.writer.clone());
        reader.mark_unchanged();
        // Ended threads show nothing any more; then there is nothing to wait for.
        if reader.changed().await.is_ok() && reader.wait_for(|seen| seen.drained).await.is_ok() {
            writer.mark_unchanged();
            let _ = self.inboxes.writer.send(writer::ToWriter::Input(crate::inbound::Input::Wake));
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
        // Only our own socket: whoever starts next has the lock after us.
        let _ = std::fs::remove_file(&self.socket);
        if let Some(lock) = self.lock.take() {
            lock.remove();
        }
    }
}
