//! Many measured times: quantiles and a histogram.

use serde::{Deserialize, Serialize};

/// Buckets grow by this factor: ten of them from 1 to 10.
const STEP: f64 = 1.258_925_411_794_167_3;

/// Measured times, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<i64>);

/// One bar of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bucket {
    /// Its times are at most this long, and longer than the bound of the bucket before.
    pub(crate) up_to_ms: f64,
    pub(crate) count: usize,
}

impl Samples {
    pub(crate) fn new(mut ns: Vec<i64>) -> Self {
        ns.sort_unstable();
        Self(ns)
    }

    /// Returns the time in ms that a share of all times (in thousandths) does not exceed: the
    /// smallest measured one for which that is true. NaN without a time.
    pub(crate) fn quantile(&self, thousandths: usize) -> f64 {
        let rank = (self.0.len() * thousandths).div_ceil(1_000).max(1);
        self.0.get(rank - 1).map_or(f64::NAN, |ns| *ns as f64 / 1e6)
    }

    pub(crate) fn worst(&self) -> f64 {
        self.quantile(1_000)
    }

    /// Returns bars of equal width on a logarithmic axis, from the shortest time to the longest,
    /// empty ones between them included.
    pub(crate) fn histogram(&self) -> Vec<Bucket> {
        let place = |ns: i64| (ns.max(1) as f64 / 1e6).log10().mul_add(10.0, -1e-9).ceil() as i64;
        let (Some(first), Some(last)) = (self.0.first(), self.0.last()) else { return Vec::new() };
        let mut buckets: Vec<Bucket> = (place(*first)..=place(*last))
            .map(|at| Bucket { up_to_ms: STEP.powi(at as i32), count: 0 })
            .collect();
        for ns in &self.0 {
            let at = usize::try_from(place(*ns) - place(*first)).unwrap_or(0);
            if let Some(bucket) = buckets.get_mut(at) {
                bucket.count += 1;
            }
        }
        buckets
    }
}

/// Returns the middle of some values; NaN of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_measured_time() {
        let samples = Samples::new((1..=1_000).rev().map(|ms| ms * 1_000_000).collect());
        for (thousandths, ms) in [(0, 1.0), (1, 1.0), (500, 500.0), (990, 990.0), (999, 999.0)] {
            assert_eq!(samples.quantile(thousandths), ms, "{thousandths}");
        }
        assert_eq!(samples.worst(), 1_000.0);
        let few = Samples::new(vec![1_000_000, 2_000_000, 3_000_000]);
        assert_eq!((few.quantile(500), few.quantile(990)), (2.0, 3.0));
        assert!(Samples::default().quantile(500).is_nan());
    }

    #[test]
    fn every_time_is_in_one_bar() {
        let samples = Samples::new(vec![900_000, 1_000_000, 1_000_001, 9_000_000, 10_000_000]);
        let bars = samples.histogram();
        assert_eq!(bars.iter().map(|b| b.count).sum::<usize>(), 5);
        let one = bars.iter().find(|b| (b.up_to_ms - 1.0).abs() < 1e-6).unwrap();
        assert_eq!(one.count, 2, "the bound belongs to the bar: {bars:?}");
        assert_eq!(bars.last().unwrap().count, 2, "{bars:?}");
        assert!(bars.iter().any(|b| b.count == 0), "gaps show");
        assert!(Samples::default().histogram().is_empty());
    }

    #[test]
    fn the_middle_is_a_value() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert!(median(Vec::new()).is_nan());
    }
}
