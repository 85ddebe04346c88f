//! Waits on the bell that applications with the `harmonylite` VFS ring at their commits.
//!
//! Arrives: rings. Leaves: wakes for the reader, each with the time of its oldest commit. The bell
//! is a hint: the watcher goes on beside it, so that an application may start and stop using the
//! VFS at any time. It also tells applications, through the bell's file, how far publishing has
//! come.

use super::reader::{Waker, Way};
use super::watch::Known;
use crate::model::ids::Site;
use harmonylite_vfs_core::bell::{Bell, Commit, Progress, Woken};
use parking_lot::RwLock;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The heartbeat's interval, well below what applications take for a sign of life; and how often
/// the file is looked at.
const BEAT: Duration = Duration::from_secs(1);

/// The bell as the threads share it: made anew when its file was deleted.
#[derive(Clone)]
pub(super) struct SharedBell {
    database: PathBuf,
    bell: Arc<RwLock<Option<Arc<Bell>>>>,
    stopping: Arc<AtomicBool>,
    last: Arc<RwLock<Option<Progress>>>,
}

impl SharedBell {
    /// Makes the bell, or goes on without: then commits are noticed by the watcher.
    pub(super) fn new(database: &Path) -> Self {
        let shared = Self {
            database: database.to_owned(),
            bell: Arc::default(),
            stopping: Arc::default(),
            last: Arc::default(),
        };
        if let Err(error) = shared.make() {
            tracing::warn!(%error, "no bell for applications with the VFS; commits are noticed by \
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

    /// Tells applications up to which change the broker has acknowledged.
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

    /// Waits for rings until it is stopped.
    pub(super) fn run(&self, waker: &Waker, known: &Known) {
        let mut commits: Vec<Commit> = Vec::new();
        while !self.stopping.load(Ordering::Acquire) {
            let Some(bell) = self.get() else {
                std::thread::park_timeout(BEAT);
                // Said once at the start; a full disk or a missing permission may have passed.
                if self.make().is_ok() {
                    tracing::info!("applications with the VFS can ring from now on");
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
                    waker.wake(Way::Bell, commits.first().map(|c| c.time_ns.cast_signed()));
                    seen = rings;
                    bell.heartbeat();
                    continue;
                }
                bell.heartbeat();
                if !bell.is_in_place() {
                    tracing::info!("the bell's file was deleted or replaced; making another");
                    *self.bell.write() = None;
                    break;
                }
            }
        }
    }
}
