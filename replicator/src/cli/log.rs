//! Sets up logging to stderr, as text or as JSON. `RUST_LOG` overrides the settings.

use crate::settings::LoggingSettings;
use tracing_subscriber::EnvFilter;

/// The filter without `RUST_LOG`. The NATS client's own messages about each attempt to connect are
/// left out; the node logs them itself.
fn directives(verbose: bool) -> &'static str {
    if verbose { "info,harmonylite=debug,async_nats=warn" } else { "info,async_nats=warn" }
}

const QUIET: &str = "warn,nats=error,async_nats=error";

/// Starts logging. A second call in one process changes nothing.
pub(crate) fn init(settings: &LoggingSettings) {
    start(settings, directives(settings.verbose));
}

/// Does the same for a command whose result is its output: only warnings are logged.
pub(crate) fn init_quiet(settings: &LoggingSettings) {
    start(settings, if settings.verbose { directives(true) } else { QUIET });
}

fn start(settings: &LoggingSettings, directives: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(directives));
    // A line that cannot be written is lost. Reporting the error would write to stderr too, and
    // panicked when that was a file on a full disk.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    let outcome = if settings.format == "json" {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(console::colors_enabled_stderr()).try_init()
    };
    // The embedding program or a test has set up logging already; keep its choice.
    drop(outcome);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directives_are_valid() {
        for verbose in [false, true] {
            assert!(EnvFilter::try_new(directives(verbose)).is_ok());
            assert!(EnvFilter::try_new(QUIET).is_ok());
            init(&LoggingSettings { verbose, format: "json".into() });
        }
    }
}
