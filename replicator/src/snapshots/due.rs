//! Decides when the leader saves a snapshot.
//!
//! Arrives: the newest snapshot, the streams, the settings, the time. Leaves: the reason to save
//! now, or none. Owns: the stream never drops a message that no snapshot covers, as long as a save
//! is possible. Pure.

use harmonylite_snapshot::manifest::StreamPosition;

/// Without `snapshot.interval` two snapshots are at least this far apart: the image of a busy node
/// is always a few messages behind the stream.
pub(super) const APART_MS: i64 = 300_000;

/// The newest snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Newest {
    /// Its name.
    pub(crate) id: String,
    /// When it was captured, unix milliseconds.
    pub(crate) created_ms: i64,
    /// What it covers.
    pub(crate) streams: Vec<StreamPosition>,
}

/// A stream as it is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stream {
    /// Its messages.
    pub(crate) messages: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// The messages that the newest snapshot does not cover.
    pub(crate) uncovered: u64,
    /// When the oldest of them was stored, unix milliseconds; None: there is none.
    pub(crate) oldest_ms: Option<i64>,
}

/// The bounds of streams, and the interval. 0: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// `snapshot.interval`, milliseconds.
    pub(crate) interval_ms: i64,
    /// Messages that a stream holds.
    pub(crate) entries_max: u64,
    /// Bytes that a stream holds.
    pub(crate) bytes_max: u64,
    /// Milliseconds that a stream holds a message.
    pub(crate) age_ms_max: i64,
}

/// Why a snapshot is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// `snapshot.interval` is over.
    Interval,
    /// Half of what a stream holds is covered by no snapshot.
    Size,
    /// A message that no snapshot covers has half of the age at which streams drop messages.
    Age,
    /// A node misses messages that are in no snapshot.
    Asked,
}

impl Reason {
    /// For people.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Interval => "snapshot.interval is over",
            Self::Size => "half of what a stream holds is in no snapshot",
            Self::Age => "messages that are in no snapshot will expire",
            Self::Asked => "a node misses messages that are in no snapshot",
        }
    }
}

/// Returns the reason to save now.
pub(crate) fn due(
    newest: Option<&Newest>,
    streams: &[Stream],
    bounds: Bounds,
    now_ms: i64,
) -> Option<Reason> {
    // A snapshot of the future is one of a wrong clock: it is as good as any other.
    let age_ms = newest.map(|n| now_ms.saturating_sub(n.created_ms).max(0));
    if bounds.interval_ms > 0 && age_ms.is_none_or(|age_ms| age_ms >= bounds.interval_ms) {
        return Some(Reason::Interval);
    }
    if age_ms.is_some_and(|age_ms| age_ms < APART_MS) {
        return None;
    }
    let half = |part: u64, whole: u64| whole > 0 && part.saturating_mul(2) >= whole;
    let is_large = |s: &Stream| {
        let share = u128::from(s.bytes) * u128::from(s.uncovered) / u128::from(s.messages.max(1));
        half(s.uncovered, bounds.entries_max)
            || half(u64::try_from(share).unwrap_or(u64::MAX), bounds.bytes_max)
    };
    if streams.iter().any(is_large) {
        return Some(Reason::Size);
    }
    let is_old = |s: &Stream| {
        let age_ms = s.oldest_ms.map_or(0, |at| now_ms.saturating_sub(at));
        bounds.age_ms_max > 0 && age_ms >= bounds.age_ms_max / 2
    };
    streams.iter().any(is_old).then_some(Reason::Age)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;
    const BOUNDS: Bounds =
        Bounds { interval_ms: 0, entries_max: 100, bytes_max: 10_000, age_ms_max: 7 * DAY };

    fn newest(created_ms: i64) -> Newest {
        Newest { created_ms, ..Newest::default() }
    }

    #[test]
    fn the_interval_counts_from_the_newest_snapshot() {
        let hourly = Bounds { interval_ms: 3_600_000, ..BOUNDS };
        let at = |created_ms| due(Some(&newest(created_ms)), &[], hourly, DAY);
        assert_eq!(due(None, &[], hourly, DAY), Some(Reason::Interval));
        assert_eq!(at(DAY - 3_600_000), Some(Reason::Interval));
        assert_eq!(at(DAY - 3_599_999), None);
        assert_eq!(at(2 * DAY), None);
        assert_eq!(due(None, &[], BOUNDS, DAY), None, "without an interval nothing is due");
    }

    #[test]
    fn what_no_snapshot_covers_is_saved_before_it_goes() {
        let now_ms = 10 * DAY;
        let stream = |messages, bytes, uncovered, age_ms: i64| Stream {
            messages,
            bytes,
            uncovered,
            oldest_ms: Some(now_ms - age_ms),
        };
        let of = |s: Stream| due(Some(&newest(DAY)), &[Stream::default(), s], BOUNDS, now_ms);
        assert_eq!(of(stream(90, 90, 49, DAY)), None);
        assert_eq!(of(stream(90, 90, 50, DAY)), Some(Reason::Size));
        assert_eq!(of(stream(90, 9_000, 49, DAY)), None, "4,900 bytes");
        assert_eq!(of(stream(60, 9_000, 40, DAY)), Some(Reason::Size), "6,000 bytes");
        assert_eq!(of(stream(90, 90, 1, 3 * DAY)), None);
        assert_eq!(of(stream(90, 90, 1, 4 * DAY)), Some(Reason::Age));
        let endless = Bounds { entries_max: 0, bytes_max: 0, age_ms_max: 0, ..BOUNDS };
        assert_eq!(due(None, &[stream(90, u64::MAX, 90, DAY)], endless, now_ms), None);
        let just_now = newest(now_ms - APART_MS + 1);
        assert_eq!(due(Some(&just_now), &[stream(90, 90, 90, DAY)], BOUNDS, now_ms), None);
    }
}
