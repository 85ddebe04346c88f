//! Lets open snapshots of the application end before the sidecar writes.
//!
//! Arrives: whether another connection has an open snapshot, and the time. Leaves: whether the next
//! transaction may begin, and whether it may commit. Owns: each transaction waits for a bounded
//! time, so a reader that never ends does not stall replication. Memory only.

use super::bookkeeping::Urgency;
use crate::model::config::{NodeConfig, Now};

/// Returns whether another connection has an open snapshot.
type OpenSnapshots = Box<dyn FnMut() -> bool + Send>;

/// The wait of the next transaction.
pub(super) struct Polite {
    open: OpenSnapshots,
    politeness_ms: u64,
    /// Since when the transaction waits, on the monotone clock.
    since_ms: Option<u64>,
    /// Whether a snapshot was open at the commit.
    met: bool,
}

impl Polite {
    /// Creates it for transactions that wait as long as configured.
    pub(super) fn new(config: &NodeConfig) -> Self {
        Self {
            open: Box::new(|| false),
            politeness_ms: config.politeness_ms,
            since_ms: None,
            met: false,
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

    /// Returns whether a transaction has to wait, because a snapshot is open and its time to wait
    /// is not over.
    pub(super) fn waits(&mut self, now: Now) -> bool {
        if !self.sees_one() {
            return false;
        }
        let since_ms = *self.since_ms.get_or_insert(now.mono_ms);
        now.mono_ms < since_ms + self.politeness_ms
    }

    /// Returns whether a transaction that has done its work may commit. One that does not give way,
    /// because its work would have to be repeated, always may.
    pub(super) fn may_commit(&mut self, urgency: Urgency, gives_way: bool, now: Now) -> bool {
        let waits = match urgency {
            _ if !gives_way => false,
            Urgency::Now => self.waits(now),
            Urgency::IfUnseen | Urgency::None => self.sees_one(),
        };
        self.met = !waits && self.sees_one();
        !waits
    }

    /// Notes that the transaction is committed. Returns whether a snapshot was open then.
    pub(super) fn committed(&mut self) -> bool {
        self.since_ms = None;
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
        polite.committed();
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
        assert!(!polite.may_commit(Urgency::Now, true, at(100)));
        assert!(polite.may_commit(Urgency::Now, false, at(110)) && polite.committed());
        assert!(!polite.may_commit(Urgency::IfUnseen, true, at(900)), "bookkeeping can wait");
        open.store(false, Ordering::Relaxed);
        assert!(polite.may_commit(Urgency::IfUnseen, true, at(901)) && !polite.committed());
    }

    #[test]
    fn politeness_can_be_off() {
        let (mut polite, _) = polite(0);
        assert!(!polite.waits(at(100)) && !polite.sees_one());
    }
}
