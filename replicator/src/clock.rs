//! Reads the clocks of this machine: the only place that does. Everything else gets the time passed
//! in.

use crate::model::config::Now;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Wall clock, unix milliseconds. A clock before 1970 reads as 0.
#[allow(clippy::disallowed_methods)]
pub fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Wall clock, unix nanoseconds, for measuring what other processes stamped.
#[allow(clippy::disallowed_methods)]
pub fn unix_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Monotone clock, milliseconds since it was first asked in this process.
#[allow(clippy::disallowed_methods)]
pub fn mono_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Both, as the stages want them.
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
