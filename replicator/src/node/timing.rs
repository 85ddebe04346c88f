//! The most recent durations of one kind, for the status: median and 99th percentile.

use std::collections::VecDeque;

const KEPT: usize = 512;
/// Greatest age of the computed values. Sorting on every commit would cost more than the measured
/// work.
const FRESH_MS: u64 = 250;

/// Durations in microseconds, the newest last.
#[derive(Debug, Default)]
pub(super) struct RecentDurations {
    last: VecDeque<u64>,
    computed: (u64, u64),
    computed_ms: Option<u64>,
}

impl RecentDurations {
    pub(super) fn add(&mut self, us: u64) {
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(us);
    }

    /// (median, 99th percentile), at most [`FRESH_MS`] old; zeros if nothing was measured.
    pub(super) fn quantiles_at(&mut self, mono_ms: u64) -> (u64, u64) {
        if self.computed_ms.is_none_or(|at| mono_ms >= at + FRESH_MS) {
            self.computed = self.quantiles();
            self.computed_ms = Some(mono_ms);
        }
        self.computed
    }

    fn quantiles(&self) -> (u64, u64) {
        let mut sorted: Vec<u64> = self.last.iter().copied().collect();
        sorted.sort_unstable();
        let at = |percent: usize| {
            sorted
                .get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)))
                .copied()
                .unwrap_or(0)
        };
        (at(50), at(99))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_newest() {
        let mut timing = RecentDurations::default();
        assert_eq!(timing.quantiles(), (0, 0));
        (0..10_000).for_each(|_| timing.add(9));
        (0..KEPT as u64).for_each(|i| timing.add(i));
        assert_eq!(timing.quantiles(), (256, 506));
    }
}
