//! The most recent durations of one kind, for the status: median and 99th percentile. And how
//! often something happened lately.

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

/// The time over which a rate is computed.
const RATE_MS: u64 = 10_000;
/// The least time between two samples.
const SAMPLE_MS: u64 = 1_000;

/// Samples of a counter with their times, the newest last.
#[derive(Clone, Debug, Default)]
pub(super) struct RecentRate {
    samples: VecDeque<(u64, u64)>,
}

impl RecentRate {
    /// Takes the present count.
    pub(super) fn add(&mut self, mono_ms: u64, count: u64) {
        if self.samples.back().is_some_and(|(at, _)| mono_ms < at + SAMPLE_MS) {
            return;
        }
        // The newest sample that is old enough stays, as the start of the time.
        while self.samples.get(1).is_some_and(|(at, _)| at + RATE_MS <= mono_ms) {
            self.samples.pop_front();
        }
        self.samples.push_back((mono_ms, count));
    }

    /// Returns the count for each second, over the last ten seconds or as long as known.
    pub(super) fn per_second(&self, mono_ms: u64, count: u64) -> f64 {
        let old = self.samples.iter().rfind(|(at, _)| at + RATE_MS <= mono_ms);
        let Some((at, before)) = old.or(self.samples.front()) else { return 0.0 };
        let seconds = mono_ms.saturating_sub(*at).clamp(SAMPLE_MS, u64::MAX) as f64 / 1_000.0;
        (count.saturating_sub(*before) as f64 / seconds * 10.0).round() / 10.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut rate = RecentRate::default();
        assert_eq!(rate.per_second(0, 5), 0.0);
        for second in 0..60 {
            // A hundred a second for half a minute, then two a second.
            let count = if second < 30 { second * 100 } else { 2_940 + second * 2 };
            rate.add(second * 1_000, count);
            rate.add(second * 1_000 + 1, count);
        }
        assert_eq!(rate.per_second(59_000, 2_940 + 118), 2.0);
        assert!(rate.samples.len() <= 12, "{}", rate.samples.len());
        assert_eq!(rate.per_second(200_000, 3_058), 0.0, "nothing has happened since");
    }

    #[test]
    fn quantiles_are_of_the_newest() {
        let mut timing = RecentDurations::default();
        assert_eq!(timing.quantiles(), (0, 0));
        (0..10_000).for_each(|_| timing.add(9));
        (0..KEPT as u64).for_each(|i| timing.add(i));
        assert_eq!(timing.quantiles(), (256, 506));
    }
}
