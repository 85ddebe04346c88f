//! Sets logging up: to stderr, for people or as JSON. `RUST_LOG` wins over the settings.

use crate::settings::LoggingSettings;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// What is logged without `RUST_LOG`. The broker's client reports each attempt to connect; we say
/// that ourselves.
fn directives(verbose: bool) -> &'static str {
    if verbose { "info,harmonylite=debug,async_nats=warn" } else { "info,async_nats=warn" }
}

/// Starts logging. Once a process; a second call changes nothing.
pub(crate) fn init(settings: &LoggingSettings) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(directives(settings.verbose)));
    // A line that cannot be written is lost. To say so goes to stderr too, and ended the thread
    // when that was a file on a full disk.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    let outcome = if settings.format == "json" {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).try_init()
    };
    // Already set up: the embedding program's or a test's choice stands.
    drop(outcome);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directives_are_valid() {
        for verbose in [false, true] {
            assert!(EnvFilter::try_new(directives(verbose)).is_ok());
            init(&LoggingSettings { verbose, format: "json".into() });
        }
    }
}
