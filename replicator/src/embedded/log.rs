//! Writes the server's log lines into our log, with their level.

/// Splits a line like `[4711] [INF] Server is ready`, perhaps with a time, into level and text.
fn split(line: &str) -> Option<(&str, &str)> {
    let at = ["[INF]", "[WRN]", "[ERR]", "[FTL]", "[DBG]", "[TRC]"]
        .iter()
        .filter_map(|level| line.find(level))
        .min()?;
    Some((&line[at + 1..at + 4], line[at + 5..].trim()))
}

/// The text of a line that reports a failure.
pub(super) fn failure(line: &str) -> Option<&str> {
    match split(line) {
        Some(("ERR" | "FTL", text)) => Some(text),
        Some(_) => None,
        // Errors in the command line and panics have no level.
        None => line
            .strip_prefix("nats-server: ")
            .or_else(|| line.starts_with("panic:").then_some(line)),
    }
}

/// Returns whether a line reports a full disk. The server then writes nothing more to that stream,
/// even after space is freed (2.15.1: `Critical write error`), so it must restart.
pub(super) fn tells_of_full_disk(line: &str) -> bool {
    // Go's texts for ENOSPC and EDQUOT.
    failure(line).is_some_and(|text| {
        text.ends_with("no space left on device") || text.ends_with("disk quota exceeded")
    })
}

/// Writes one line to our log.
pub(super) fn forward(line: &str) {
    match split(line) {
        // The password is new at each start and ends with the server: bcrypt would add nothing.
        Some(("WRN", text)) if text.starts_with("Plaintext passwords detected") => {}
        // The banner.
        Some(("INF", text)) if text.is_empty() || text.starts_with(['_', '|', '\\', '-']) => {}
        Some(("FTL" | "ERR", text)) => tracing::error!(target: "nats", "{text}"),
        Some(("WRN", text)) => tracing::warn!(target: "nats", "{text}"),
        Some(("DBG", text)) => tracing::debug!(target: "nats", "{text}"),
        Some(("TRC", text)) => tracing::trace!(target: "nats", "{text}"),
        Some((_, text)) => tracing::info!(target: "nats", "{text}"),
        None if line.trim().is_empty() => {}
        None => tracing::warn!(target: "nats", "{line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_with_and_without_a_time() {
        assert_eq!(split("[15210] [INF] Server is ready"), Some(("INF", "Server is ready")));
        assert_eq!(
            split("[1] 2026/11/26 02:33:54.717290 [FTL] no [INF] here"),
            Some(("FTL", "no [INF] here"))
        );
        assert_eq!(split("goroutine 1"), None);
        assert_eq!(failure("[1] [ERR] disk full"), Some("disk full"));
        assert_eq!(failure("[1] [WRN] hm"), None);
        assert_eq!(failure("nats-server: unknown flag"), Some("unknown flag"));
        assert!(tells_of_full_disk(
            "[1] [ERR] JetStream failed to store a msg on stream '$G > s': write /d/1.blk: no \
            space left on device"
        ));
        assert!(!tells_of_full_disk("[1] [INF] no space left on device"));
    }
}
