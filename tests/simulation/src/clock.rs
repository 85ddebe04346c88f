//! Simulated time. The world has one true time, and every node reads it through its own bad clock.

use harmonylite::model::config::Now;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// The start of every world, unix milliseconds.
pub const BEGIN_MS: i64 = 1_700_000_000_000;

/// The clock of one machine.
#[derive(Clone, Debug)]
pub struct NodeClock {
    /// Its offset from the true time.
    pub skew_ms: i64,
    /// How much faster (or slower) than time it runs, in millionths.
    pub drift_ppm: i64,
    /// The time for the application's triggers, unix milliseconds.
    shown: Arc<AtomicI64>,
}

impl NodeClock {
    /// Creates a clock with this offset and drift.
    pub fn new(skew_ms: i64, drift_ppm: i64) -> Self {
        Self { skew_ms, drift_ppm, shown: Arc::new(AtomicI64::new(BEGIN_MS + skew_ms)) }
    }

    /// Returns the time for the stages at this true time.
    pub fn now(&self, true_ms: i64) -> Now {
        let passed = true_ms - BEGIN_MS;
        let unix_ms = true_ms + self.skew_ms + passed * self.drift_ppm / 1_000_000;
        self.shown.store(unix_ms, Ordering::Relaxed);
        Now { unix_ms, mono_ms: passed.max(0).cast_unsigned() }
    }

    /// Returns the cell for the application's `julianday()`.
    pub fn shown(&self) -> Arc<AtomicI64> {
        Arc::clone(&self.shown)
    }
}
