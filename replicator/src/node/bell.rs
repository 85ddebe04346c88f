//! The bell that applications with the `harmonylite` VFS ring on every commit, as the threads of a
//! node share it.
//!
//! Owns: the bell is made again if its file was deleted. It is a hint: the watcher also runs, so an
//! application may start and stop using the VFS at any time. The bell's file also shows
//! applications which changes are published. Who waits for rings: [`super::reader_inbox`].

use crate::model::ids::Site;
use harmonylite_vfs_core::bell::{Bell, Progress};
use parking_lot::RwLock;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The bell of a database, once it is made.
#[derive(Clone)]
pub(super) struct SharedBell {
    database: PathBuf,
    bell: Arc<RwLock<Option<Arc<Bell>>>>,
    last: Arc<RwLock<Option<Progress>>>,
}

impl SharedBell {
    /// A bell that is not made yet.
    pub(super) fn new(database: &Path) -> Self {
        Self { database: database.to_owned(), bell: Arc::default(), last: Arc::default() }
    }

    /// Makes the bell. If that fails, only the watcher notices commits.
    pub(super) fn make(&self) {
        if let Err(error) = self.try_make() {
            tracing::warn!(%error, "cannot create the bell for applications with the VFS; using \
                the file watcher");
        }
    }

    fn try_make(&self) -> std::io::Result<()> {
        let bell = Bell::open_or_create(&self.database)?;
        if let Some(progress) = *self.last.read() {
            bell.publish_progress(progress);
        }
        *self.bell.write() = Some(Arc::new(bell));
        Ok(())
    }

    pub(super) fn get(&self) -> Option<Arc<Bell>> {
        self.bell.read().clone()
    }

    /// Ends the present sleep on the bell, or else the next one.
    pub(super) fn interrupt(&self) {
        if let Some(bell) = &*self.bell.read() {
            bell.interrupt();
        }
    }

    /// Shows applications that this node lives. Makes the bell anew if it is gone, or could not be
    /// made before.
    pub(super) fn beat(&self) {
        let bell = self.get();
        if let Some(bell) = &bell {
            bell.heartbeat();
            if bell.is_in_place() {
                return;
            }
            tracing::info!("the bell's file was deleted or replaced; creating a new one");
        }
        // The start has logged the failure. Its cause may have passed: a full disk, a permission.
        match self.try_make() {
            Ok(()) if bell.is_none() => {
                tracing::info!("created the bell for applications with the VFS");
            }
            Ok(()) => {}
            Err(_) => *self.bell.write() = None,
        }
    }

    /// Shows applications the last change that the broker has acknowledged.
    pub(super) fn published(&self, site: Site, upto: i64) {
        let progress = Progress { site: site.0, published: upto };
        *self.last.write() = Some(progress);
        if let Some(bell) = self.get() {
            bell.publish_progress(progress);
        }
    }
}
