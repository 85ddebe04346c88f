//! Output for people: aligned lines, readable times and sizes.

use std::fmt::Write as _;
use std::io::Write as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Prints to stdout. A closed pipe (`| head`) is no error.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Adds a line: a label, and text in its column.
pub(crate) fn line(out: &mut String, label: &str, text: &str) {
    let _ = writeln!(out, "{label:<12} {text}");
}

/// Formats a span of time in its two greatest units.
pub(crate) fn span(ms: i64) -> String {
    let ms = ms.max(0);
    let (s, m, h, d) = (ms / 1_000, ms / 60_000, ms / 3_600_000, ms / 86_400_000);
    match ms {
        _ if d > 0 => format!("{d} d {} h", h % 24),
        _ if h > 0 => format!("{h} h {} min", m % 60),
        _ if m > 0 => format!("{m} min {} s", s % 60),
        _ if s > 0 => format!("{}.{} s", s, ms % 1_000 / 100),
        _ => format!("{ms} ms"),
    }
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
    const UNITS: [(&str, u64); 3] = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];
    match UNITS.iter().find(|(_, size)| n >= *size) {
        Some((unit, size)) => format!("{}.{} {unit}", n / size, n % size * 10 / size),
        None => format!("{n} B"),
    }
}

/// Formats rows of cells in aligned columns; the last one is not padded.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        rows.iter().filter_map(|r| r.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, w)| format!("{cell:<w$}")).collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_read_well() {
        assert_eq!(
            [5, 1_500, 65_000, 3_700_000, 90_000_000].map(span),
            ["5 ms", "1.5 s", "1 min 5 s", "1 h 1 min", "1 d 1 h"]
        );
        assert_eq!([5, 1_500, 2_000_000].map(bytes), ["5 B", "1.5 kB", "2.0 MB"]);
        assert_eq!((ago(0, 5), ago(1_000, 2_000)), ("never".to_owned(), "1.0 s ago".to_owned()));
        assert_eq!(moment(1_700_000_000_123), "2023-11-14T22:13:20Z");
    }

    #[test]
    fn columns_are_aligned() {
        let rows =
            [vec!["a".to_owned(), "b".to_owned()], vec!["longer".to_owned(), "c".to_owned()]];
        assert_eq!(table(&rows), "a       b\nlonger  c\n");
    }
}
