//! Shows in `status` what this node does with snapshots, and how far it is.
//!
//! Arrives: a work and its counters. Leaves: an entry in `snapshots.works` while the work runs.
//! Memory only.

use super::super::timing::RecentRate;
use super::Shared;
use crate::clock;
use crate::model::status::SnapshotWork;
use harmonylite_snapshot::progress::Progress;
use std::pin::pin;
use std::time::Duration;

/// How often an entry is brought up to date.
const SHOW: Duration = Duration::from_millis(250);

/// Measures one work.
pub(super) struct Meter {
    work: SnapshotWork,
    rate: RecentRate,
}

impl Meter {
    /// Begins. `unit` is what is counted.
    pub(super) fn begin(what: &str, store: &str, unit: &str) -> Self {
        let (what, store, unit) = (what.to_owned(), store.to_owned(), unit.to_owned());
        let since_ms = clock::unix_ms();
        let work = SnapshotWork { what, store, unit, since_ms, ..SnapshotWork::default() };
        Self { work, rate: RecentRate::default() }
    }

    /// Returns the entry for the present counts.
    fn at(&mut self, mono_ms: u64, done: u64, total: u64) -> SnapshotWork {
        if total != self.work.total {
            self.rate = RecentRate::default();
        }
        self.rate.add(mono_ms, done);
        let per_second = self.rate.per_second(mono_ms, done);
        let rest = total.saturating_sub(done);
        // More than a year is not known.
        let left_ms = (rest > 0 && per_second > 0.0)
            .then(|| rest as f64 / per_second * 1_000.0)
            .filter(|left_ms| *left_ms < 3e10)
            .map(|left_ms| left_ms as i64);
        (self.work.done, self.work.total, self.work.left_ms) = (done, total, left_ms);
        self.work.per_second = per_second as u64;
        self.work.clone()
    }

    /// Shows the present counts.
    pub(super) fn show(&mut self, shared: &Shared, done: u64, total: u64) {
        let work = self.at(clock::mono_ms(), done, total);
        shared.seen.send_modify(|seen| match seen.works.iter_mut().find(|w| w.what == work.what) {
            Some(shown) => *shown = work,
            None => seen.works.push(work),
        });
    }
}

/// Takes the entry of a work away.
pub(super) fn done(shared: &Shared, what: &str) {
    shared.seen.send_modify(|seen| seen.works.retain(|work| work.what != what));
}

/// Does a work on a store, and shows how far it is. `what` is a work, and the name of the store.
pub(super) async fn shown<T>(
    shared: &Shared,
    what: (&str, &str),
    progress: &Progress,
    work: impl Future<Output = T>,
) -> T {
    let mut meter = Meter::begin(what.0, what.1, "bytes");
    let mut work = pin!(work);
    loop {
        meter.show(shared, progress.done_bytes(), progress.total_bytes());
        if let Ok(result) = tokio::time::timeout(SHOW, &mut work).await {
            done(shared, what.0);
            return result;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_the_rate() {
        let mut meter = Meter::begin("saving", "dir", "bytes");
        assert_eq!(meter.at(0, 0, 0).left_ms, None, "nothing is known");
        let first = meter.at(0, 0, 1_000);
        assert_eq!((first.done, first.total, first.left_ms), (0, 1_000, None));
        let second = meter.at(2_000, 200, 1_000);
        assert_eq!((second.per_second, second.left_ms), (100, Some(8_000)));
        assert_eq!(meter.at(4_000, 400, 1_000).left_ms, Some(6_000));
        assert_eq!(meter.at(60_000, 400, 1_000).left_ms, None, "it stands still");
        assert_eq!(meter.at(61_000, 1_000, 1_000).left_ms, None, "the rest is not counted");
        assert_eq!(meter.at(62_000, 0, 500).per_second, 0, "a new count begins");
    }
}
