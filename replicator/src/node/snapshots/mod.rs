//! The snapshots of a running node: one node of the cluster saves them and proves them.
//!
//! Arrives: settings, the node's status, the broker, open gaps. Leaves: snapshots in the store, the
//! rows of one for the writer if they fill a gap, and what this node knows of them, for `status`.
//! Owns: nothing here writes to the database or makes the two actors wait. Each work has its own
//! connection to the database and to the store. A capture holds the WAL for at most 30 s and the
//! time of a local copy. A crash leaves the scratch directory, which the next start removes.

mod heal;
mod keep;
mod lead;
mod working;

use super::file_guard::FileGuard;
use super::report::StatusSources;
use super::writer::ToWriter;
use crate::db::preflight::beside;
use crate::inbound::Input;
use crate::model::config::NodeConfig;
use crate::model::status::SnapshotsStatus;
use crate::nats::{Asker, Target};
use crate::settings::StoreSettings;
use crate::snapshots::leader::{Leader, Leadership};
use crate::snapshots::{Place, PlaceError};
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long a stopping node tries to free its lease.
const RELEASE: Duration = Duration::from_secs(1);

/// What the tasks share.
struct Shared {
    sources: Arc<StatusSources>,
    asker: Asker,
    target: watch::Receiver<Target>,
    writer: Mutex<Sender<ToWriter>>,
    guard: Arc<FileGuard>,
    config: NodeConfig,
    /// A directory beside the database, for files that go again.
    scratch: PathBuf,
    leadership: Mutex<Leadership>,
    leads: watch::Sender<bool>,
    seen: watch::Sender<SnapshotsStatus>,
}

impl Shared {
    fn database(&self) -> &Path {
        &self.sources.database
    }

    /// Opens the first store: the one that is read, proved and used for gaps.
    async fn place(&self) -> Result<Place, PlaceError> {
        self.place_at(&self.sources.settings.snapshot.stores()[0]).await
    }

    /// Returns the name of the first store.
    fn first_store(&self) -> String {
        self.sources.settings.snapshot.stores().swap_remove(0).name
    }

    /// Opens a store.
    async fn place_at(&self, store: &StoreSettings) -> Result<Place, PlaceError> {
        let target = self.target.borrow().clone();
        Place::at(&self.sources.settings, store, &target).await
    }

    /// Creates the scratch directory.
    fn scratch(&self) -> std::io::Result<PathBuf> {
        std::fs::create_dir_all(&self.scratch)?;
        Ok(self.scratch.clone())
    }

    /// Sends the writer an input. A writer that has ended needs none: the node stops.
    fn send(&self, input: Input) {
        let _ = self.writer.lock().send(ToWriter::Input(input));
    }
}

/// The tasks of a node's snapshots. They end when it is dropped.
pub(super) struct Snapshots {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

impl Snapshots {
    /// Starts the tasks. `seen` receives what they know.
    pub(super) fn start(
        sources: &Arc<StatusSources>,
        asker: Asker,
        target: watch::Receiver<Target>,
        (writer, guard): (Sender<ToWriter>, Arc<FileGuard>),
        config: NodeConfig,
        seen: watch::Sender<SnapshotsStatus>,
    ) -> Self {
        let scratch = beside(&sources.database, "-harmonylite-snapshots");
        // What a process left that was killed. The lock on the database proves that it ended.
        let _ = std::fs::remove_dir_all(&scratch);
        seen.send_modify(|seen| seen.enabled = true);
        let me = Leader {
            node: config.node.0,
            instance: config.instance.clone(),
            place: config.place.clone(),
        };
        let ttl_ms = lead::lease_ms(sources.settings.snapshot.leader_ttl);
        let shared = Arc::new(Shared {
            sources: Arc::clone(sources),
            asker,
            target,
            writer: Mutex::new(writer),
            guard,
            config,
            scratch,
            leadership: Mutex::new(Leadership::new(me, ttl_ms)),
            leads: watch::Sender::new(false),
            seen,
        });
        let tasks = vec![
            tokio::spawn(lead::lead(Arc::clone(&shared))),
            tokio::spawn(keep::keep(Arc::clone(&shared))),
            tokio::spawn(heal::heal(Arc::clone(&shared))),
        ];
        Self { shared, tasks }
    }

    /// Ends the tasks, and lets another node take over at once.
    pub(super) async fn stop(mut self) {
        self.end();
        // Without the broker the lease ends by itself.
        let _ = tokio::time::timeout(RELEASE, lead::release(&self.shared)).await;
    }

    fn end(&mut self) {
        self.tasks.drain(..).for_each(|task| task.abort());
        let _ = std::fs::remove_dir_all(&self.shared.scratch);
    }
}

impl Drop for Snapshots {
    fn drop(&mut self) {
        self.end();
    }
}
