//! Lets open snapshots of the application end before the sidecar writes.
//!
//! Arrives: whether another connection has an open snapshot, and the time. Leaves: whether the next
//! transaction may begin, and whether it may commit. Owns: each transaction waits for a bounded
//! time, so a reader that never ends does not stall replication. Memory only.
//!
//! A snapshot that is opened between the last look and the commit is missed, so each transaction is
//! a small risk for an application that keeps snapshots open. Beside such a one there are fewer:
//! what arrives soon after a transaction gathers.

use super::bookkeeping::Urgency;
use crate::model::config::{NodeConfig, Now};

/// Returns whether another connection has an open snapshot.
type OpenSnapshots = Box<dyn FnMut() -> bool + Send>;

/// A snapshot that is open for so long is that of a transaction; most mere reads are shorter.
const HELD_MS: u64 = 2;
/// An application without such a snapshot for so long has no such transactions any more.
const HELD_REMEMBERED_MS: u64 = 1_000;
/// Beside such an application, so many times `politeness` lie between two transactions.
const GATHERS: u64 = 2;
/// A transaction of so many rows is cheap to repeat.
const CHEAP_ROWS: u64 = 200;
/// One of so many is repeated too, beside such an application: its deferred transaction would fail
/// otherwise. It takes some 20 ms, and after the snapshot has ended it mostly meets no other.
const REPEATED_ROWS_MAX: u64 = 10_000;
/// So often at most, because each time is the whole work again.
const REPEATS_MAX: u8 = 2;

/// The wait of the next transaction. Times are of the monotone clock.
pub(super) struct Polite {
    open: OpenSnapshots,
    politeness_ms: u64,
    /// Since when the transaction waits.
    since_ms: Option<u64>,
    /// When a transaction last waited for longer than [`HELD_MS`].
    held_ms: Option<u64>,
    /// When the last transaction was committed.
    committed_ms: u64,
    /// Whether a snapshot was open at the commit.
    met: bool,
    /// How often the transaction was repeated although that is not cheap.
    repeats: u8,
}

impl Polite {
    /// Creates it for transactions that wait as long as configured.
    pub(super) fn new(config: &NodeConfig) -> Self {
        Self {
            open: Box::new(|| false),
            politeness_ms: config.politeness_ms,
            since_ms: None,
            held_ms: None,
            committed_ms: 0,
            met: false,
            repeats: 0,
        }
    }

    /// Takes the function that looks for open snapshots.
    pub(super) fn look_with(&mut self, open: OpenSnapshots) {
        self.open = open;
    }

    /// Returns whether transactions wait at all.
    pub(super) fn is_on(&self) -> bool {
        self.politeness_ms > 0
    }

    /// Returns whether another connection has an open snapshot, unless nobody is to wait.
    pub(super) fn sees_one(&mut self) -> bool {
        self.politeness_ms > 0 && (self.open)()
    }

    /// Returns until when rows gather before a transaction is tried, if they do.
    pub(super) fn gathers_until(&self, now: Now) -> Option<u64> {
        let until = self.committed_ms + GATHERS * self.politeness_ms;
        (self.meets_holders(now) && now.mono_ms < until).then_some(until)
    }

    /// Returns whether an application lately held snapshots open.
    fn meets_holders(&self, now: Now) -> bool {
        self.held_ms.is_some_and(|held| now.mono_ms < held + HELD_REMEMBERED_MS)
    }

    /// Returns whether a transaction has to wait, because a snapshot is open and its time to wait
    /// is not over.
    pub(super) fn waits(&mut self, now: Now) -> bool {
        self.sees_one() && self.is_patient(now)
    }

    /// Returns whether the time to wait for an open snapshot is not over.
    fn is_patient(&mut self, now: Now) -> bool {
        let since_ms = *self.since_ms.get_or_insert(now.mono_ms);
        if now.mono_ms >= since_ms + HELD_MS {
            self.held_ms = Some(now.mono_ms);
        }
        now.mono_ms < since_ms + self.politeness_ms
    }

    /// Returns whether a transaction that has done its work may commit. `repeated` is the number of
    /// rows that would have to be applied again if not; None if it must not be repeated. It looks
    /// once, so that the commit follows at once.
    pub(super) fn may_commit(&mut self, urgency: Urgency, repeated: Option<u64>, now: Now) -> bool {
        let is_open = self.sees_one();
        let waits = is_open
            && repeated.is_some_and(|rows| self.gives_way(rows, now))
            && (urgency != Urgency::Now || self.is_patient(now));
        self.met = is_open && !waits;
        !waits
    }

    fn gives_way(&mut self, rows: u64, now: Now) -> bool {
        if rows <= CHEAP_ROWS {
            return true;
        }
        let repeats =
            rows <= REPEATED_ROWS_MAX && self.repeats < REPEATS_MAX && self.meets_holders(now);
        self.repeats += u8::from(repeats);
        repeats
    }

    /// Notes that the transaction is committed. Returns whether a snapshot was open then.
    pub(super) fn committed(&mut self, now: Now) -> bool {
        self.since_ms = None;
        self.repeats = 0;
        self.committed_ms = now.mono_ms;
        std::mem::take(&mut self.met)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn at(ms: u64) -> Now {
        Now { unix_ms: 0, mono_ms: ms }
    }

    fn polite(politeness_ms: u64) -> (Polite, Arc<AtomicBool>) {
        let mut polite = Polite::new(&NodeConfig { politeness_ms, ..NodeConfig::for_tests(1) });
        let open = Arc::new(AtomicBool::new(true));
        let seen = Arc::clone(&open);
        polite.look_with(Box::new(move || seen.load(Ordering::Relaxed)));
        (polite, open)
    }

    #[test]
    fn each_transaction_waits_for_a_bounded_time() {
        let (mut polite, _) = polite(20);
        assert!(polite.waits(at(100)) && polite.waits(at(119)) && !polite.waits(at(120)));
        assert!(!polite.waits(at(121)), "also if it finds the database busy then");
        polite.committed(at(121));
        assert!(polite.waits(at(130)) && !polite.waits(at(150)));
    }

    #[test]
    fn without_a_snapshot_nothing_waits() {
        let (mut polite, open) = polite(20);
        open.store(false, Ordering::Relaxed);
        assert!(!polite.waits(at(100)) && !polite.sees_one());
    }

    #[test]
    fn only_what_is_cheap_to_repeat_gives_way_at_its_commit() {
        let (mut polite, open) = polite(20);
        assert!(!polite.may_commit(Urgency::Now, Some(200), at(100)));
        assert!(polite.may_commit(Urgency::Now, None, at(110)) && polite.committed(at(110)));
        assert!(!polite.may_commit(Urgency::IfUnseen, Some(0), at(900)), "bookkeeping can wait");
        open.store(false, Ordering::Relaxed);
        assert!(polite.may_commit(Urgency::IfUnseen, Some(0), at(901)));
        assert!(!polite.committed(at(901)));
    }

    #[test]
    fn rows_gather_only_beside_an_application_that_holds_snapshots() {
        let (mut polite, open) = polite(20);
        assert!(polite.waits(at(100)));
        open.store(false, Ordering::Relaxed);
        assert!(!polite.waits(at(101)) && !polite.committed(at(101)));
        assert_eq!(polite.gathers_until(at(102)), None, "that was a short one");
        open.store(true, Ordering::Relaxed);
        assert!(polite.waits(at(110)) && polite.waits(at(112)));
        open.store(false, Ordering::Relaxed);
        assert!(!polite.waits(at(113)) && !polite.committed(at(113)));
        assert_eq!(polite.gathers_until(at(114)), Some(153));
        assert_eq!(polite.gathers_until(at(153)), None);
        assert!(!polite.committed(at(1_111)));
        assert_eq!(polite.gathers_until(at(1_111)), Some(1_151));
        assert_eq!(polite.gathers_until(at(1_112)), None, "it holds none any more");
    }

    #[test]
    fn a_large_transaction_is_repeated_a_few_times_beside_an_application_that_holds_snapshots() {
        let (mut polite, _) = polite(20);
        assert!(polite.may_commit(Urgency::Now, Some(201), at(100)), "nobody holds one for long");
        polite.committed(at(100));
        assert!(polite.waits(at(110)) && polite.waits(at(112)));
        assert!(!polite.may_commit(Urgency::Now, Some(201), at(113)));
        assert!(!polite.may_commit(Urgency::Now, Some(10_000), at(114)));
        assert!(polite.may_commit(Urgency::Now, Some(201), at(115)), "not for ever");
        polite.committed(at(115));
        assert!(!polite.may_commit(Urgency::Now, Some(201), at(120)), "the next one");
        assert!(polite.may_commit(Urgency::Now, Some(10_001), at(120)), "too much work");
        assert!(polite.committed(at(120)));
        assert!(polite.may_commit(Urgency::Now, Some(201), at(1_114)), "it holds none any more");
    }

    #[test]
    fn politeness_can_be_off() {
        let (mut polite, _) = polite(0);
        assert!(!polite.waits(at(100)) && !polite.sees_one());
    }
}
