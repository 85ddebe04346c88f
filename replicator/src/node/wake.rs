//! Wakes the reader thread when a commit may have happened.
//!
//! Arrives: wakes from the file watcher and the poll. Leaves: at most one pending wake
//! in the reader's inbox.

use super::reader::ToReader;
use super::reader_inbox::ReaderSender;
use crate::clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// An application that rang within this time is expected to ring at its next commit too.
const RANG_MS: u64 = 1_000;

/// How a commit was noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum WakeSource {
    /// The application rang.
    Bell,
    /// The WAL file changed.
    Watcher,
    /// The periodic poll found it.
    #[default]
    Poll,
}

impl WakeSource {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bell => "bell",
            Self::Watcher => "watcher",
            Self::Poll => "poll",
        }
    }
}

/// Wakes the reader. While one wake is pending, further ones are dropped.
#[derive(Clone)]
pub(super) struct Waker {
    reader: ReaderSender,
    pending: Arc<AtomicBool>,
}

impl Waker {
    pub(super) fn new(reader: ReaderSender) -> Self {
        Self { reader, pending: Arc::default() }
    }

    pub(super) fn wake(&self, way: WakeSource) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            self.reader.send(ToReader::Wake { way, commit_ns: None, at_ns: clock::unix_ns() });
        }
    }

    /// The reader calls this before it looks at the database, so that later commits wake it again.
    pub(super) fn taken(&self) {
        self.pending.store(false, Ordering::Release);
    }
}

/// Recent commits that need no look from the watcher: the bell reports them, or we write them.
#[derive(Clone, Default)]
pub(super) struct RecentWakes {
    rang_ms: Arc<AtomicU64>,
    writing: Arc<AtomicBool>,
}

impl RecentWakes {
    /// Records that the application rang.
    pub(super) fn rang(&self) {
        self.rang_ms.store(clock::mono_ms(), Ordering::Relaxed);
    }

    /// Records that our own writer begins or ends a step.
    pub(super) fn writing(&self, is: bool) {
        self.writing.store(is, Ordering::Relaxed);
    }

    pub(super) fn is_known(&self) -> bool {
        let rang_ms = self.rang_ms.load(Ordering::Relaxed);
        self.writing.load(Ordering::Relaxed)
            || (rang_ms > 0 && clock::mono_ms().saturating_sub(rang_ms) < RANG_MS)
    }
}
