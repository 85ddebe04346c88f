//! Output for people: readable times and sizes.

use bytesize::ByteSize;
use std::io::Write as _;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Prints to stdout. A closed pipe (`| head`) is no error.
pub(crate) fn print(text: &str) {
    let _ = print_to_reader(text);
}

/// Does the same, and returns whether anybody reads on.
pub(crate) fn print_to_reader(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

/// Formats a span of time in its two greatest units; milliseconds only below a second.
pub(crate) fn span(ms: i64) -> String {
    let exact = Duration::from_millis(ms.max(0).unsigned_abs());
    let shown = if ms < 1_000 { exact } else { Duration::from_secs(exact.as_secs()) };
    let units = humantime::format_duration(shown).to_string();
    units.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Formats how long ago a time was; "never" for 0.
pub(crate) fn ago(then_ms: i64, now_ms: i64) -> String {
    if then_ms == 0 { "never".to_owned() } else { format!("{} ago", span(now_ms - then_ms)) }
}

/// Formats a moment in UTC, to the second.
pub(crate) fn moment(unix_ms: i64) -> String {
    OffsetDateTime::from_unix_timestamp(unix_ms / 1_000)
        .ok()
        .and_then(|t| t.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{unix_ms} ms"))
}

/// Formats a number of bytes.
pub(crate) fn bytes(n: u64) -> String {
    ByteSize::b(n).display().si().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_read_well() {
        assert_eq!(
            [-1, 5, 1_500, 65_000, 3_700_000, 90_000_000].map(span),
            ["0s", "5ms", "1s", "1m 5s", "1h 1m", "1day 1h"]
        );
        assert_eq!([5, 1_500, 2_000_000].map(bytes), ["5 B", "1.5 kB", "2.0 MB"]);
        assert_eq!((ago(0, 5), ago(1_000, 2_000)), ("never".to_owned(), "1s ago".to_owned()));
        assert_eq!(moment(1_700_000_000_123), "2023-11-14T22:13:20Z");
    }
}
