//! Durations as texts like "30d".

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// A span of time in whole milliseconds, written as "30d", "12h", "5m", "60s" or "500ms".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    ms: u64,
}

const UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl Span {
    /// A number of days.
    pub const fn from_days(days: u64) -> Self {
        Self { ms: days * 86_400_000 }
    }

    /// A number of seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self { ms: secs * 1_000 }
    }

    /// Returns the span in milliseconds.
    pub const fn as_ms(self) -> u64 {
        self.ms
    }

    /// Parses a text like "30d".
    ///
    /// # Errors
    /// The defect of the text, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = (&text[..digits], text[digits..].trim());
        let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
        let ms = number.parse::<u64>().ok().zip(factor).and_then(|(n, f)| n.checked_mul(f));
        ms.map(|ms| Self { ms }).ok_or_else(|| {
            format!(
                "{text:?} is not a duration: write a whole number and ms, s, \
                m, h or d, as in \"30d\""
            )
        })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = UNITS
            .iter()
            .rev()
            .find(|(_, factor)| self.ms >= *factor && self.ms.is_multiple_of(*factor))
            .unwrap_or(&UNITS[0]);
        write!(f, "{}{unit}", self.ms / factor)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_written_the_same_way() {
        for text in ["30d", "12h", "5m", "60s", "500ms", "90s"] {
            let span = Span::parse(text).unwrap();
            assert_eq!(Span::parse(&span.to_string()).unwrap(), span);
        }
        assert_eq!(Span::parse("60s").unwrap().to_string(), "1m");
        for bad in ["", "d", "5", "-5s", "5w", "99999999999999999999d", "1.5h"] {
            assert!(Span::parse(bad).is_err(), "{bad}");
        }
    }
}
