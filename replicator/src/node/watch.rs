//! Detects commits of applications that do not ring: a file watcher, backed by a slow poll.
//!
//! Arrives: events of the database's WAL. Leaves: wakes for the reader. The event of a WAL write
//! precedes the visible commit, so the thread reads `data_version` (from the wal-index) for a few
//! milliseconds more. While idle it wakes once per poll interval and reads it once. It also checks
//! through [`FileGuard`] that the files are still ours.

use super::file_guard::{FileGuard, FilesReplaced};
use super::wake::{RecentWakes, WakeSource, Waker};
use crate::clock;
use crate::db::connection::DatabaseError;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use rusqlite::Connection;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Messages to the thread.
#[derive(Debug)]
pub(super) enum ToWatch {
    /// The WAL changed; whether in a burst of events.
    Touched {
        in_burst: bool,
    },
    Stop,
}

/// Waits between two looks after an event, until the commit becomes visible.
const LOOKS: [Duration; 11] = [
    Duration::from_micros(100),
    Duration::from_micros(200),
    Duration::from_micros(400),
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(4),
    // A writer that was descheduled between the write and the commit runs again within these.
    Duration::from_millis(8),
    Duration::from_millis(16),
    Duration::from_millis(32),
    Duration::from_millis(64),
    Duration::from_millis(128),
];

/// In a burst an event is followed by more, and the last one by a look after a millisecond.
const BURST_LOOKS: &[Duration] = LOOKS.split_at(3).1;

/// Waits between the looks after a commit was found: the next one makes events of its own. The
/// first look is for a commit whose events came together with those of the one that was found.
const FOUND_LOOKS: [Duration; 4] = [
    Duration::from_micros(400),
    Duration::from_millis(8),
    Duration::from_millis(32),
    Duration::from_millis(128),
];

/// Least time between two checks of the files.
const GUARD_MS: u64 = 50;

/// While the bell rings or our own writer writes, the first look comes after this: the commit is
/// known already, and a look costs time (measured: 0.25 of 1.35 ms from commit to visible).
const KNOWN: Duration = Duration::from_millis(2);
const KNOWN_LOOKS: [Duration; 3] =
    [Duration::from_millis(8), Duration::from_millis(32), Duration::from_millis(128)];

/// A transaction of many pages is an event a page. After so many, each within [`BURST_GAP_MS`] of
/// the one before, the thread that receives them rests in between, and the kernel merges what comes
/// meanwhile. (Otherwise receiving them took a third of the time of applying random keys.) The
/// looks go on meanwhile. It rests for an eighth of the time since the burst began, or since the
/// last commit: a commit is noticed later by no more than that share of the time it took.
const BURST_EVENTS: u32 = 16;
const BURST_GAP_MS: u64 = 2;
const BURST_SHARE: u64 = 8;
const BURST_REST_MS: RangeInclusive<u64> = 1..=8;

/// Watches the WAL of a database.
pub(super) struct WalWatch {
    db: Connection,
    guard: Arc<FileGuard>,
    guard_due_ms: u64,
    inbox: Receiver<ToWatch>,
    waker: Waker,
    known: RecentWakes,
    poll: Duration,
    data_version: i64,
    found_ms: Arc<AtomicU64>,
    /// Dropping this ends the events.
    _events: Option<RecommendedWatcher>,
}

impl WalWatch {
    /// Begins to listen. If the machine has no watcher left, only the poll remains.
    pub(super) fn new(
        database: &Path,
        db: Connection,
        guard: Arc<FileGuard>,
        waker: Waker,
        known: RecentWakes,
        poll: Duration,
    ) -> (Self, Sender<ToWatch>) {
        let (sender, inbox) = channel();
        let found_ms = Arc::default();
        let pace = Pace::new(known.clone(), Arc::clone(&found_ms));
        let events = match listen(database, sender.clone(), pace) {
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
                found_ms,
                _events: events,
            },
            sender,
        )
    }

    /// Runs until a stop message, or until the files are no longer ours.
    pub(super) fn run(mut self) -> Result<(), FilesReplaced> {
        let result = self.work();
        if self.guard.check().is_err() {
            std::mem::forget(self.db);
        }
        result
    }

    fn work(&mut self) -> Result<(), FilesReplaced> {
        loop {
            match self.inbox.recv_timeout(self.poll) {
                Ok(ToWatch::Touched { in_burst }) => {
                    if !self.follow(in_burst)? {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.guard()?;
                    if self.is_changed() {
                        self.waker.wake(WakeSource::Poll);
                    }
                }
                Ok(ToWatch::Stop) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    /// Checks that the files are still ours, at most once per [`GUARD_MS`], also during a stream of
    /// events.
    fn guard(&mut self) -> Result<(), FilesReplaced> {
        let now_ms = clock::mono_ms();
        if now_ms < self.guard_due_ms {
            return Ok(());
        }
        self.guard_due_ms = now_ms + GUARD_MS;
        self.guard.check()
    }

    /// Looks after an event until nothing more comes. Returns false if the thread has to stop.
    fn follow(&mut self, in_burst: bool) -> Result<bool, FilesReplaced> {
        let mut looks = self.looks(in_burst);
        loop {
            // A commit writes the WAL several times; one look covers all events so far.
            while let Ok(message) = self.inbox.try_recv() {
                if matches!(message, ToWatch::Stop) {
                    return Ok(false);
                }
            }
            self.guard()?;
            if self.is_changed() {
                self.waker.wake(WakeSource::Watcher);
                self.found_ms.store(clock::mono_ms(), Ordering::Relaxed);
                looks = FOUND_LOOKS.iter();
            }
            let Some(wait) = looks.next() else { return Ok(true) };
            match self.inbox.recv_timeout(*wait) {
                Ok(ToWatch::Touched { in_burst }) => looks = self.looks(in_burst),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(ToWatch::Stop) | Err(RecvTimeoutError::Disconnected) => return Ok(false),
            }
        }
    }

    /// Waits between the looks after an event. Few follow a known commit.
    fn looks(&self, in_burst: bool) -> std::slice::Iter<'static, Duration> {
        match (self.known.is_known(), in_burst) {
            (true, _) => KNOWN_LOOKS.iter(),
            (false, true) => BURST_LOOKS.iter(),
            (false, false) => LOOKS.iter(),
        }
    }

    /// Returns whether another connection has committed since the last look.
    fn is_changed(&mut self) -> bool {
        let read = self
            .db
            .prepare_cached("PRAGMA main.data_version")
            .and_then(|mut s| s.query_row([], |r| r.get(0)));
        match read.map_err(DatabaseError::from) {
            Ok(version) => std::mem::replace(&mut self.data_version, version) != version,
            Err(error) => {
                tracing::debug!(%error, "cannot read the database's data_version; retrying");
                true
            }
        }
    }
}

/// When the thread that receives the events rests. Times are of the monotone clock.
struct Pace {
    known: RecentWakes,
    /// When the last commit was found.
    found_ms: Arc<AtomicU64>,
    began_ms: u64,
    /// When the last event came, and the rest after it ended.
    last_ms: Option<u64>,
    in_a_row: u32,
}

impl Pace {
    fn new(known: RecentWakes, found_ms: Arc<AtomicU64>) -> Self {
        Self { known, found_ms, began_ms: 0, last_ms: None, in_a_row: 0 }
    }

    /// Returns how long to wait before an event is reported, and after it.
    fn rests(&mut self, now_ms: u64) -> (Duration, Duration) {
        if self.known.is_known() {
            return (KNOWN, Duration::ZERO);
        }
        let is_next = self.last_ms.is_some_and(|last| now_ms < last + BURST_GAP_MS);
        (self.began_ms, self.in_a_row) =
            if is_next { (self.began_ms, self.in_a_row.saturating_add(1)) } else { (now_ms, 0) };
        let mut rest_ms = 0;
        if self.in_a_row >= BURST_EVENTS {
            let since_ms = self.began_ms.max(self.found_ms.load(Ordering::Relaxed));
            let share = now_ms.saturating_sub(since_ms) / BURST_SHARE;
            rest_ms = share.clamp(*BURST_REST_MS.start(), *BURST_REST_MS.end());
        }
        self.last_ms = Some(now_ms + rest_ms);
        (Duration::ZERO, Duration::from_millis(rest_ms))
    }
}

fn rest(time: Duration) {
    if !time.is_zero() {
        std::thread::park_timeout(time);
    }
}

fn listen(
    database: &Path,
    sender: Sender<ToWatch>,
    mut pace: Pace,
) -> notify::Result<RecommendedWatcher> {
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
            let (before, after) = pace.rests(clock::mono_ms());
            rest(before);
            // The receiver is gone: the node is stopping.
            let _ = sender.send(ToWatch::Touched { in_burst: !after.is_zero() });
            rest(after);
        }
    })?;
    // Watch the file, not its directory: logs and other databases there would wake us for nothing.
    // The guard reports a replaced file.
    watcher.watch(&files[1], RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(known: &RecentWakes) -> (Pace, Arc<AtomicU64>) {
        let found_ms = Arc::default();
        (Pace::new(known.clone(), Arc::clone(&found_ms)), found_ms)
    }

    #[test]
    fn single_commits_are_reported_at_once_and_a_burst_less_and_less_often() {
        let (mut pace, found_ms) = pace(&RecentWakes::default());
        for commit in 0..100 {
            for _page in 0..6 {
                assert_eq!(pace.rests(commit * 5), (Duration::ZERO, Duration::ZERO));
            }
        }
        let mut now_ms = 1_000;
        for event in 0.. {
            let (before, after) = pace.rests(now_ms);
            let ms = u64::try_from(after.as_millis()).unwrap();
            assert_eq!(before, Duration::ZERO);
            assert_eq!(ms > 0, event >= BURST_EVENTS, "event {event}");
            assert!(ms <= 1 || ms <= (now_ms - 1_000) / 8, "{ms} at {now_ms}");
            now_ms += ms;
            if ms == 8 {
                break;
            }
        }
        assert!(now_ms < 1_100, "{now_ms}");
        found_ms.store(now_ms, Ordering::Relaxed);
        assert_eq!(pace.rests(now_ms).1, Duration::from_millis(1), "a commit was found");
        assert_eq!(pace.rests(now_ms + 20), (Duration::ZERO, Duration::ZERO), "the burst is over");
    }

    #[test]
    fn what_our_own_writer_writes_is_reported_late() {
        let known = RecentWakes::default();
        known.writing(true);
        assert_eq!(pace(&known).0.rests(1), (KNOWN, Duration::ZERO));
    }
}
