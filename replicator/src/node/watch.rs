//! Notices commits of applications that do not ring: the file watcher, with a slow poll as the net.
//!
//! Arrives: events of the database's WAL. Leaves: wakes for the reader. The event of a WAL write
//! comes before the commit is visible, so `data_version` (a glance at the wal-index) is looked at
//! for a few milliseconds more. Idle it sleeps: it wakes once a poll interval and looks once. It
//! also asks [`Guard`] whether the files are still ours.

use super::guard::{Guard, Replaced};
use super::reader::{Waker, Way};
use crate::clock;
use crate::db::connection::DatabaseError;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// What the thread is sent.
#[derive(Debug)]
pub(super) enum ToWatch {
    /// The WAL changed.
    Touched,
    Stop,
}

/// How long after an event the commit may become visible: looked at after each of these.
const LOOKS: [Duration; 11] = [
    Duration::from_micros(100),
    Duration::from_micros(200),
    Duration::from_micros(400),
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(4),
    // A writer that lost its processor between the write and the commit is back within these.
    Duration::from_millis(8),
    Duration::from_millis(16),
    Duration::from_millis(32),
    Duration::from_millis(64),
    Duration::from_millis(128),
];

/// The files are looked at no more often than this.
const GUARD_MS: u64 = 50;

/// While the bell rings, or our own writer writes, an event is looked at after this only: they know
/// of the commit already, and a look takes from them (measured: 0.25 of 1.35 ms from commit to
/// visible).
const KNOWN: Duration = Duration::from_millis(2);
const KNOWN_LOOKS: [Duration; 3] =
    [Duration::from_millis(8), Duration::from_millis(32), Duration::from_millis(128)];
/// An application that rang so lately rings at its next commit too.
const RANG_MS: u64 = 1_000;

/// What makes an event of the WAL no news.
#[derive(Clone, Default)]
pub(super) struct Known {
    rang_ms: Arc<AtomicU64>,
    writing: Arc<AtomicBool>,
}

impl Known {
    /// The application has rung.
    pub(super) fn rang(&self) {
        self.rang_ms.store(clock::mono_ms(), Ordering::Relaxed);
    }

    /// Our own writer begins or ends a step.
    pub(super) fn writing(&self, is: bool) {
        self.writing.store(is, Ordering::Relaxed);
    }

    fn is_known(&self) -> bool {
        let rang_ms = self.rang_ms.load(Ordering::Relaxed);
        self.writing.load(Ordering::Relaxed)
            || (rang_ms > 0 && clock::mono_ms().saturating_sub(rang_ms) < RANG_MS)
    }
}

/// Watches the WAL of a database.
pub(super) struct Watch {
    db: Connection,
    guard: Arc<Guard>,
    guard_due_ms: u64,
    inbox: Receiver<ToWatch>,
    waker: Waker,
    known: Known,
    poll: Duration,
    data_version: i64,
    /// Dropping it ends the events.
    _events: Option<RecommendedWatcher>,
}

impl Watch {
    /// Begins to listen. Without a watcher (none left on this machine) the poll alone does it.
    pub(super) fn new(
        database: &Path,
        db: Connection,
        guard: Arc<Guard>,
        waker: Waker,
        known: Known,
        poll: Duration,
    ) -> (Self, Sender<ToWatch>) {
        let (sender, inbox) = channel();
        let events = match listen(database, sender.clone()) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(%error, poll_ms = poll.as_millis(), "cannot watch the database's \
                    WAL; polling only");
                None
            }
        };
        (
            Self {
                db,
                guard,
                guard_due_ms: 0,
                inbox,
                waker,
                known,
                poll,
                data_version: 0,
                _events: events,
            },
            sender,
        )
    }

    /// Runs until it is told to stop, or the files are not ours any more.
    pub(super) fn run(mut self) -> Result<(), Replaced> {
        let result = self.work();
        if self.guard.check().is_err() {
            std::mem::forget(self.db);
        }
        result
    }

    fn work(&mut self) -> Result<(), Replaced> {
        loop {
            match self.inbox.recv_timeout(self.poll) {
                Ok(ToWatch::Touched) => {
                    if !self.follow()? {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.guard()?;
                    if self.is_changed() {
                        self.waker.wake(Way::Poll, None);
                    }
                }
                Ok(ToWatch::Stop) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    /// Asks whether the files are still ours: also while events never end, and not at each of them.
    fn guard(&mut self) -> Result<(), Replaced> {
        let now_ms = clock::mono_ms();
        if now_ms < self.guard_due_ms {
            return Ok(());
        }
        self.guard_due_ms = now_ms + GUARD_MS;
        self.guard.check()
    }

    /// After an event: looks until nothing more comes. False: stop.
    fn follow(&mut self) -> Result<bool, Replaced> {
        let mut looks = self.looks();
        loop {
            // A commit writes the WAL many times: one look for all that has come.
            while let Ok(message) = self.inbox.try_recv() {
                if matches!(message, ToWatch::Stop) {
                    return Ok(false);
                }
            }
            self.guard()?;
            if self.is_changed() {
                self.waker.wake(Way::Watcher, None);
            }
            let Some(wait) = looks.next() else { return Ok(true) };
            match self.inbox.recv_timeout(*wait) {
                Ok(ToWatch::Touched) => looks = self.looks(),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(ToWatch::Stop) | Err(RecvTimeoutError::Disconnected) => return Ok(false),
            }
        }
    }

    /// When to look after an event. Of what is known already the first look is late, and few
    /// follow.
    fn looks(&self) -> std::slice::Iter<'static, Duration> {
        if self.known.is_known() {
            std::thread::park_timeout(KNOWN);
            KNOWN_LOOKS.iter()
        } else {
            LOOKS.iter()
        }
    }

    /// Whether another connection has committed since the last look.
    fn is_changed(&mut self) -> bool {
        let read = self
            .db
            .prepare_cached("PRAGMA main.data_version")
            .and_then(|mut s| s.query_row([], |r| r.get(0)));
        match read.map_err(DatabaseError::from) {
            Ok(version) => std::mem::replace(&mut self.data_version, version) != version,
            Err(error) => {
                tracing::debug!(%error, "cannot look at the database; looking again later");
                true
            }
        }
    }
}

fn listen(database: &Path, sender: Sender<ToWatch>) -> notify::Result<RecommendedWatcher> {
    let mut wal = database.as_os_str().to_owned();
    wal.push("-wal");
    let files = [database.to_owned(), PathBuf::from(wal)];
    let names: Vec<_> = files.iter().filter_map(|f| f.file_name().map(ToOwned::to_owned)).collect();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let ours = event.as_ref().is_ok_and(|e| {
            !e.kind.is_access()
                && e.paths
                    .iter()
                    .any(|p| p.file_name().is_some_and(|n| names.iter().any(|k| k == n)))
        });
        if ours || event.is_err() {
            // Nobody listens any more: the node stops.
            let _ = sender.send(ToWatch::Touched);
        }
    })?;
    // The file alone: what else happens in the directory (logs, other databases) would wake us for
    // nothing. Should the file be replaced, the guard says so.
    watcher.watch(&files[1], RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
