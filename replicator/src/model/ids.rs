//! The numbers that must never be mixed up, each a type of its own.
//!
//! Pure values; nothing here reads a clock or draws a random number.

use std::fmt;

/// A database and its sidecar, as the configuration names it (`node_id`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeId(pub u64);

/// One life of a node's database: a random positive 63-bit number (docs/design.md section 2). 0
/// stands for "no site".
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Site(pub i64);

/// The running number of a batch within its site, from 1. 0 stands for "none yet".
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BatchNo(pub u64);

/// A message's position in its stream, from 1, as the broker counts. 0 stands for "before the
/// first".
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct StreamSeq(pub u64);

impl StreamSeq {
    /// The position behind it.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A hybrid logical time: unix milliseconds in the upper 48 bits, a counter in the lower 16.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Hlc(pub i64);

impl Hlc {
    /// What another node may claim (the year 4199). Beyond the end of the numbers no later version
    /// could be given to a row.
    pub const FOREIGN_MAX: Self = Self(i64::MAX / 2);

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

/// What orders two writes of one row: the later hybrid time, then the greater site.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Version {
    /// When, as the writer's hybrid clock had it.
    pub hlc: Hlc,
    /// Who.
    pub site: Site,
}

impl Version {
    /// The version of a row that was never seen.
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
