//! Waits on the bell that applications with the `harmonylite` VFS ring on every commit.
//!
//! Arrives: rings. Leaves: wakes for the reader, each with the time of its oldest commit. The bell
//! is a hint. The watcher also runs, so an application may start and stop using the VFS at any
//! time. The bell's file also shows applications which changes are published.

use super::wake::{RecentWakes, WakeSource, Waker};
use crate::model::ids::Site;
use harmonylite_vfs_core::bell::{Bell, Commit, Progress, Woken};
use parking_lot::RwLock;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Interval of the heartbeat and of the check of the file. Well below the interval after which
/// applications consider the bell dead.
const BEAT: Duration = Duration::from_secs(1);

/// The bell as the threads share it. It is created again if its file was deleted.
#[derive(Clone)]
pub(super) struct SharedBell {
    database: PathBuf,
    bell: Arc<RwLock<Option<Arc<Bell>>>>,
    stopping: Arc<AtomicBool>,
    last: Arc<RwLock<Option<Progress>>>,
}

impl SharedBell {
    /// Creates the bell. If that fails, only the watcher notices commits.
    pub(super) fn new(database: &Path) -> Self {
        let shared = Self {
            database: database.to_owned(),
            bell: Arc::default(),
            stopping: Arc::default(),
            last: Arc::default(),
        };
        if let Err(error) = shared.make() {
            tracing::warn!(%error, "cannot create the bell for applications with the VFS; using \
                the file watcher");
        }
        shared
    }

    fn make(&self) -> std::io::Result<()> {
        let bell = Bell::open_or_create(&self.database)?;
        if let Some(progress) = *self.last.read() {
            bell.publish_progress(progress);
        }
        *self.bell.write() = Some(Arc::new(bell));
        Ok(())
    }

    fn get(&self) -> Option<Arc<Bell>> {
        self.bell.read().clone()
    }

    /// Shows applications the last change that the broker has acknowledged.
    pub(super) fn published(&self, site: Site, upto: i64) {
        let progress = Progress { site: site.0, published: upto };
        *self.last.write() = Some(progress);
        if let Some(bell) = self.get() {
            bell.publish_progress(progress);
        }
    }

    /// Ends [`SharedBell::run`].
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        if let Some(bell) = self.get() {
            bell.interrupt();
        }
    }

    /// Waits for rings until [`SharedBell::stop`].
    pub(super) fn run(&self, waker: &Waker, known: &RecentWakes) {
        let mut commits: Vec<Commit> = Vec::new();
        while !self.stopping.load(Ordering::Acquire) {
            let Some(bell) = self.get() else {
                std::thread::park_timeout(BEAT);
                // The start has logged the failure. Its cause may have passed: a full disk, a
                // permission.
                if self.make().is_ok() {
                    tracing::info!("created the bell for applications with the VFS");
                }
                continue;
            };
            let mut seen = bell.rings();
            while !self.stopping.load(Ordering::Acquire) {
                if bell.wait(seen, BEAT) == Woken::Rung {
                    known.rang();
                    let rings = bell.rings();
                    commits.clear();
                    bell.recent(seen, &mut commits);
                    waker.wake(WakeSource::Bell, commits.first().map(|c| c.time_ns.cast_signed()));
                    seen = rings;
                    bell.heartbeat();
                    continue;
                }
                bell.heartbeat();
                if !bell.is_in_place() {
                    tracing::info!("the bell's file was deleted or replaced; creating a new one");
                    *self.bell.write() = None;
                    break;
                }
            }
        }
    }
}
