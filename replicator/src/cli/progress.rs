//! Shows on stderr that a slow command still works: a line on a terminal, else lines in the log.

use super::show;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::Builder;
use std::time::Duration;

/// A command that ends sooner shows nothing.
const QUIET: Duration = Duration::from_secs(2);
/// The time between two lines in the log.
const TOLD: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(100);
const PLAIN: &str = "{spinner} {msg}, {elapsed}";
const MEASURED: &str =
    "{spinner} {msg}, {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left, {elapsed}";

const COUNTED: &str = "{spinner} {msg}, {pos} of {len} messages, {per_sec}, {eta} left, {elapsed}";

/// How far a work is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Far {
    /// What is done.
    pub(crate) done: u64,
    /// What is to be done in all; 0: not known.
    pub(crate) total: u64,
    /// What is counted.
    pub(crate) unit: Unit,
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Bytes.
    #[default]
    Bytes,
    /// Messages of the streams.
    Messages,
}

impl Unit {
    fn count(self, n: u64) -> String {
        if self == Self::Bytes { show::bytes(n) } else { format!("{n} messages") }
    }
}

/// Does the work. While it takes long, a line shows its name and its duration. Not to be nested.
pub(crate) fn during<T>(name: &str, work: impl FnOnce() -> T) -> T {
    if !std::io::stderr().is_terminal() {
        return work();
    }
    beside(|wait| draw(name, Far::default, wait), work)
}

/// Does the work. While it takes long, a line shows its name, its duration, and how far it is, with
/// the rate and the time left; without a terminal the log tells it now and then. Not to be nested.
pub(crate) fn measured<T>(name: &str, far: impl Fn() -> Far + Send, work: impl FnOnce() -> T) -> T {
    if std::io::stderr().is_terminal() {
        beside(|wait| draw(name, far, wait), work)
    } else {
        beside(|wait| tell(name, far, wait), work)
    }
}

/// Does the work, with a thread that shows it. The thread is to end when the channel is closed.
fn beside<T>(show: impl FnOnce(&Receiver<()>) + Send, work: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let (done, wait) = channel::<()>();
        // If no thread can be started, the work is done without a line.
        let _ = Builder::new().spawn_scoped(scope, move || show(&wait));
        let result = work();
        // It is dropped also when the work panics.
        drop(done);
        result
    })
}

/// Waits. Returns whether the work still goes on.
fn goes_on(wait: &Receiver<()>, time: Duration) -> bool {
    wait.recv_timeout(time) == Err(RecvTimeoutError::Timeout)
}

fn draw(name: &str, far: impl Fn() -> Far, wait: &Receiver<()>) {
    if !goes_on(wait, QUIET) {
        return;
    }
    let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
        .with_message(name.to_owned())
        .with_elapsed(QUIET);
    line.enable_steady_tick(TICK);
    let mut shown = "";
    loop {
        let far = far();
        let template = match far.unit {
            _ if far.total == 0 => PLAIN,
            Unit::Bytes => MEASURED,
            Unit::Messages => COUNTED,
        };
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
        if !goes_on(wait, TICK) {
            break;
        }
    }
    line.finish_and_clear();
}

fn tell(name: &str, far: impl Fn() -> Far, wait: &Receiver<()>) {
    let mut before = 0;
    while goes_on(wait, TOLD) {
        let Far { done, total, unit } = far();
        let rate = done.saturating_sub(before) / TOLD.as_secs();
        before = done;
        if total == 0 {
            continue;
        }
        let left = match (total - done.min(total)).checked_div(rate) {
            None => "not known".to_owned(),
            Some(seconds) => show::span(i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(0)),
        };
        let (done, total) = (unit.count(done), unit.count(total));
        tracing::info!(done, total, a_second = unit.count(rate), left, "{name}");
    }
}
