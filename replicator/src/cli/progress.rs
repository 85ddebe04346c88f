//! Shows on stderr that a command still works, if stderr is a terminal and the command is slow.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::Builder;
use std::time::Duration;

/// A command that ends sooner shows nothing.
const QUIET: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(100);
const PLAIN: &str = "{spinner} {msg}, {elapsed}";
const MEASURED: &str =
    "{spinner} {msg}, {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left, {elapsed}";

/// How far a work is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Far {
    /// Bytes that are done.
    pub(crate) done: u64,
    /// Bytes in all; 0: not known.
    pub(crate) total: u64,
}

/// Does the work. While it takes long, a line shows its name and its duration. Not to be nested.
pub(crate) fn during<T>(name: &str, work: impl FnOnce() -> T) -> T {
    measured(name, Far::default, work)
}

/// Does the work. While it takes long, a line shows its name, its duration, and how far it is, with
/// the rate and the time left. Not to be nested.
pub(crate) fn measured<T>(name: &str, far: impl Fn() -> Far + Send, work: impl FnOnce() -> T) -> T {
    if !std::io::stderr().is_terminal() {
        return work();
    }
    std::thread::scope(|scope| {
        let (done, wait) = channel::<()>();
        let show = move || {
            if wait.recv_timeout(QUIET) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
                .with_message(name.to_owned())
                .with_elapsed(QUIET);
            line.enable_steady_tick(TICK);
            let mut shown = "";
            // The sender is dropped when the work ends or panics.
            loop {
                let far = far();
                let template = if far.total == 0 { PLAIN } else { MEASURED };
                if template != shown
                    && let Ok(style) = ProgressStyle::with_template(template)
                {
                    line.set_style(style);
                    shown = template;
                }
                if far.total > 0 {
                    line.set_length(far.total);
                    line.set_position(far.done);
                }
                if wait.recv_timeout(TICK) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
            line.finish_and_clear();
        };
        // If no thread can be started, the work is done without a line.
        let _ = Builder::new().spawn_scoped(scope, show);
        let result = work();
        drop(done);
        result
    })
}
