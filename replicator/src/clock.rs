//! The only reader of this machine's clocks. All other code receives the time as a parameter.

use crate::model::config::Now;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Returns the wall clock in unix milliseconds; 0 before 1970.
#[allow(clippy::disallowed_methods)]
pub fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Returns the wall clock in unix nanoseconds, to compare with times of other processes.
#[allow(clippy::disallowed_methods)]
pub fn unix_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Returns the monotone clock in milliseconds since its first use in this process.
#[allow(clippy::disallowed_methods)]
pub fn mono_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Returns the readings of both clocks, for the stages.
pub fn now() -> Now {
    Now { unix_ms: unix_ms(), mono_ms: mono_ms() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_are_plausible() {
        let (a, b) = (now(), now());
        assert!(a.unix_ms > 1_700_000_000_000, "after 2023");
        assert!(b.mono_ms >= a.mono_ms);
    }
}
