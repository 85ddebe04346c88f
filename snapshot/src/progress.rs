//! How far a long work is, for whoever shows it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one work. Shared between the threads that work and the one that shows.
#[derive(Debug, Default)]
pub struct Progress {
    total: AtomicU64,
    done: AtomicU64,
    moved: AtomicU64,
}

impl Progress {
    /// Returns the bytes of the image; 0 while they are not known.
    pub fn total_bytes(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Returns the bytes of the image that are done.
    pub fn done_bytes(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Returns the bytes sent to or received from the store.
    pub fn moved_bytes(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    pub(crate) fn expect(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
        self.done.store(0, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, done: u64, moved: u64) {
        self.done.fetch_add(done, Ordering::Relaxed);
        self.moved.fetch_add(moved, Ordering::Relaxed);
    }
}
