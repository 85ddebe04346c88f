//! Shows on stderr that a command still works, if stderr is a terminal and the command is slow.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::Builder;
use std::time::Duration;

/// A command that ends sooner shows nothing.
const QUIET: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(100);

/// Does the work. While it takes long, a line shows its name and its duration. Not to be nested.
pub(crate) fn during<T>(name: &str, work: impl FnOnce() -> T) -> T {
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
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}, {elapsed}") {
                line.set_style(style);
            }
            line.enable_steady_tick(TICK);
            // The sender is dropped when the work ends or panics.
            let _ = wait.recv();
            line.finish_and_clear();
        };
        // If no thread can be started, the work is done without a line.
        let _ = Builder::new().spawn_scoped(scope, show);
        let result = work();
        drop(done);
        result
    })
}
