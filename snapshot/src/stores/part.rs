//! Temporary names of objects that are being written. No [`crate::Name`] begins with a dot, so no
//! store lists them.

use crate::scratch::now;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

const PREFIX: &str = ".part-";
/// A put takes minutes at most: what is older was left by a killed one.
const OLD: Duration = Duration::from_secs(24 * 3600);

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Returns what a new temporary name begins with. A random ending makes it unique.
pub(super) fn prefix() -> String {
    format!("{PREFIX}{}-", now_ms())
}

/// Returns a new temporary name.
pub(super) fn name() -> String {
    // The hasher's keys are random.
    let random = RandomState::new().hash_one(NEXT.fetch_add(1, Ordering::Relaxed));
    format!("{}{random:016x}", prefix())
}

/// Returns whether this is the temporary name of a put that was killed.
pub(super) fn is_left(file_name: &str) -> bool {
    let rest = file_name.strip_prefix(PREFIX);
    let made_ms = rest.and_then(|rest| rest.split('-').next()?.parse::<u128>().ok());
    made_ms.is_some_and(|made_ms| now_ms().saturating_sub(made_ms) > OLD.as_millis())
}

fn now_ms() -> u128 {
    now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_temporary_names_are_left_ones() {
        let (first, second) = (name(), name());
        assert_ne!(first, second);
        assert!(crate::Name::new(first.as_str()).is_none());
        let old = now_ms() - OLD.as_millis() - 1;
        assert!(is_left(&format!(".part-{old}-abc")));
        for young in [first.as_str(), ".part-abc", ".part-", "part-1-a", "1", ".harmonylite"] {
            assert!(!is_left(young), "{young}");
        }
    }
}
