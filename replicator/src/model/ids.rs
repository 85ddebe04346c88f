//! Ids and positions, each a type of its own so that they cannot be mixed up.
//!
//! Pure values; nothing here reads a clock or draws a random number.

use std::fmt;

/// A database and its sidecar, as the configuration names it (`node_id`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeId(pub u64);

/// One incarnation of a node's database: a random positive 63-bit number (docs/design.md section
/// 2). 0 means "no site".
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Site(pub i64);

/// The consecutive number of a batch within its site, from 1. 0 means "none yet".
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BatchNo(pub u64);

/// A message's position in its stream, from 1, as the broker counts. 0 means "before the first".
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct StreamSeq(pub u64);

impl StreamSeq {
    /// Returns the next position.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A hybrid logical time: unix milliseconds in the upper 48 bits, a counter in the lower 16.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Hlc(pub i64);

impl Hlc {
    /// The greatest time of the format (the year 4199). A greater one could leave no number for a
    /// later version of a row.
    pub const FOREIGN_MAX: Self = Self(i64::MAX / 2);

    /// How far a version may be ahead of the broker's time at which its message is stored,
    /// milliseconds. Ten years: no clock that is merely wrong gets there, and a node that knows
    /// only the time of an old message is not stopped. Time passes, so there is always room for
    /// the next version of a row.
    pub const AHEAD_MS_MAX: i64 = 3_652 * 86_400_000;

    /// The greatest time that a node accepts in a message of this time, and sends at this time
    /// (unix milliseconds of the broker).
    pub fn newest_at(broker_ms: i64) -> Self {
        Self::from_ms(broker_ms.saturating_add(Self::AHEAD_MS_MAX)).min(Self::FOREIGN_MAX)
    }

    /// The first hybrid time of a millisecond. Times before 1970 count as 1970, times beyond the
    /// year 6429 as that year.
    pub fn from_ms(unix_ms: i64) -> Self {
        Self(unix_ms.clamp(0, i64::MAX >> 16) << 16)
    }

    /// The wall-clock part, in unix milliseconds.
    pub fn ms(self) -> i64 {
        self.0 >> 16
    }

    /// The next greater hybrid time.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// The version of a row. It orders two writes of one row: by the later hybrid time, then by the
/// greater site.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Version {
    /// The time of the writer's hybrid clock.
    pub hlc: Hlc,
    /// The site of the writer.
    pub site: Site,
}

impl Version {
    /// The version of a row that has none.
    pub const NONE: Self = Self { hlc: Hlc(0), site: Site(0) };
}

macro_rules! display_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
display_number!(NodeId, Site, BatchNo, StreamSeq, Hlc);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}@{}", self.hlc.ms(), self.hlc.0 & 0xffff, self.site)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_time_leaves_room_for_the_next_one_and_stays_in_the_format() {
        let newest = Hlc::newest_at(1_000);
        assert!(newest.next() <= Hlc::newest_at(1_001));
        assert_eq!(newest.ms() - 1_000, Hlc::AHEAD_MS_MAX);
        assert_eq!(Hlc::newest_at(i64::MAX), Hlc::FOREIGN_MAX);
    }
}
