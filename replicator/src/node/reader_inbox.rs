//! The inbox of the reader thread: messages of other threads, and the rings of applications.
//!
//! Arrives: messages; rings. Leaves: messages, one at a time; a ring as a wake with the time of its
//! oldest commit. Owns: the reader sleeps on the bell itself, because a thread between the two
//! would cost each commit a change of thread. So whoever sends a message wakes it there, and an
//! application that commits while the reader works makes no system call.

use super::actor_loop::Inbox;
use super::bell::SharedBell;
use super::reader::ToReader;
use super::wake::{RecentWakes, WakeSource};
use crate::clock;
use harmonylite_vfs_core::bell::{Bell, Commit, Woken};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::Duration;

/// Interval of the heartbeat and of the check of the bell's file. Well below the interval after
/// which applications consider the bell dead.
const BEAT: Duration = Duration::from_secs(1);

/// Sends messages to the reader.
#[derive(Clone)]
pub(super) struct ReaderSender {
    messages: Sender<ToReader>,
    bell: SharedBell,
}

impl ReaderSender {
    /// Sends a message. It is lost if the reader has ended; the node is stopping then too.
    pub(super) fn send(&self, message: ToReader) {
        if self.messages.send(message).is_ok() {
            self.bell.interrupt();
        }
    }
}

/// The reader's end.
pub(super) struct ReaderInbox {
    messages: Receiver<ToReader>,
    bell: SharedBell,
    /// The bell it slept on last, and the number of its last ring that the reader knows.
    seen: Option<(Arc<Bell>, u64)>,
    known: RecentWakes,
    commits: Vec<Commit>,
    beat_ms: u64,
}

/// Returns both ends of the inbox. It sleeps on the bell as soon as there is one.
pub(super) fn reader_inbox(bell: &SharedBell, known: RecentWakes) -> (ReaderSender, ReaderInbox) {
    let (sender, messages) = channel();
    let inbox = ReaderInbox {
        messages,
        bell: bell.clone(),
        seen: None,
        known,
        commits: Vec::new(),
        beat_ms: clock::mono_ms(),
    };
    (ReaderSender { messages: sender, bell: bell.clone() }, inbox)
}

impl Inbox<ToReader> for ReaderInbox {
    fn try_next(&mut self) -> Option<ToReader> {
        self.messages.try_recv().ok()
    }

    fn next(&mut self, wait: Duration) -> Result<ToReader, RecvTimeoutError> {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let end_ms = clock::mono_ms().saturating_add(wait_ms);
        loop {
            // A message that comes after this look ends the sleep.
            match self.messages.try_recv() {
                Ok(message) => return Ok(message),
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) => {}
            }
            let now_ms = clock::mono_ms();
            self.beat(now_ms);
            if now_ms >= end_ms {
                return Err(RecvTimeoutError::Timeout);
            }
            let sleep = Duration::from_millis(end_ms - now_ms).min(BEAT);
            let Some(bell) = self.bell.get() else {
                match self.messages.recv_timeout(sleep) {
                    Err(RecvTimeoutError::Timeout) => continue,
                    received => return received,
                }
            };
            let Some(seen) = self.seen_of(&bell) else {
                // Its first rings may have been made before this look, or at another bell.
                self.seen = Some((Arc::clone(&bell), bell.rings()));
                return Ok(wake(WakeSource::Poll, None));
            };
            if bell.wait(seen, sleep) == Woken::Rung {
                return Ok(self.rung(bell, seen));
            }
        }
    }
}

impl ReaderInbox {
    fn seen_of(&self, bell: &Arc<Bell>) -> Option<u64> {
        self.seen.as_ref().filter(|(known, _)| Arc::ptr_eq(known, bell)).map(|(_, seen)| *seen)
    }

    fn rung(&mut self, bell: Arc<Bell>, seen: u64) -> ToReader {
        self.known.rang();
        let rings = bell.rings();
        bell.recent(seen, &mut self.commits);
        self.seen = Some((bell, rings));
        wake(WakeSource::Bell, self.commits.first().map(|commit| commit.time_ns.cast_signed()))
    }

    /// Once in a while shows that this end lives, and looks whether the bell is still there.
    fn beat(&mut self, now_ms: u64) {
        if u128::from(now_ms.saturating_sub(self.beat_ms)) >= BEAT.as_millis() {
            self.beat_ms = now_ms;
            self.bell.beat();
        }
    }
}

fn wake(way: WakeSource, commit_ns: Option<i64>) -> ToReader {
    ToReader::Wake { way, commit_ns, at_ns: clock::unix_ns() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use harmonylite_vfs_core::bell::time_rings;
    use std::path::{Path, PathBuf};

    /// Long enough to see that nothing waits for its end.
    const LONG: Duration = Duration::from_secs(60);

    fn database(dir: &Path) -> PathBuf {
        let path = dir.join("app.db");
        std::fs::write(&path, "").unwrap();
        path
    }

    /// Rings as an application does.
    fn ring(path: &Path, times: u64) {
        assert!(time_rings(path, times).is_finite());
    }

    fn is_stop(received: Result<ToReader, RecvTimeoutError>) -> bool {
        matches!(received, Ok(ToReader::Stop))
    }

    fn is_wake(received: Result<ToReader, RecvTimeoutError>, by: WakeSource) -> bool {
        matches!(received, Ok(ToReader::Wake { way, .. }) if way == by)
    }

    #[test]
    fn a_sleeping_reader_gets_messages_and_rings() {
        let dir = tempfile::tempdir().unwrap();
        let path = database(dir.path());
        let bell = SharedBell::new(&path);
        let (sender, mut inbox) = reader_inbox(&bell, RecentWakes::default());
        bell.make();
        assert!(is_wake(inbox.next(LONG), WakeSource::Poll), "a new bell may have rung before");
        ring(&path, 1);
        assert!(is_wake(inbox.next(LONG), WakeSource::Bell), "while nobody slept");
        assert!(inbox.next(Duration::from_millis(1)).is_err(), "a ring is told once");
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| is_stop(inbox.next(LONG)));
            sender.send(ToReader::Stop);
            assert!(sleeper.join().unwrap());
        });
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| is_wake(inbox.next(LONG), WakeSource::Bell));
            ring(&path, 1);
            assert!(sleeper.join().unwrap());
        });
    }

    /// Otherwise it would come with the next beat, a second later.
    #[test]
    fn a_message_ends_the_sleep_on_the_bell() {
        let dir = tempfile::tempdir().unwrap();
        let shared = SharedBell::new(&database(dir.path()));
        shared.make();
        let (sender, _inbox) = reader_inbox(&shared, RecentWakes::default());
        let bell = shared.get().unwrap();
        sender.send(ToReader::Stop);
        assert_eq!(bell.wait(bell.rings(), Duration::from_secs(5)), Woken::Interrupted);
    }

    #[test]
    fn a_bell_that_is_gone_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = database(dir.path());
        let bell = SharedBell::new(&path);
        bell.make();
        let (_sender, mut inbox) = reader_inbox(&bell, RecentWakes::default());
        assert!(is_wake(inbox.next(LONG), WakeSource::Poll));
        let file = bell.get().unwrap().path().to_owned();
        std::fs::remove_file(&file).unwrap();
        assert!(is_wake(inbox.next(LONG), WakeSource::Poll), "what rang at the former one");
        assert!(file.exists());
        ring(&path, 3);
        assert!(is_wake(inbox.next(LONG), WakeSource::Bell));
    }

    #[test]
    fn without_a_bell_messages_come() {
        let bell = SharedBell::new(Path::new("/nowhere/app.db"));
        bell.make();
        let (sender, mut inbox) = reader_inbox(&bell, RecentWakes::default());
        assert!(inbox.next(Duration::from_millis(1)).is_err(), "nothing is here");
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| is_stop(inbox.next(LONG)));
            sender.send(ToReader::Stop);
            assert!(sleeper.join().unwrap());
        });
    }
}
