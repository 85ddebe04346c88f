//! Time, waiting, and the signal that ends a run early.
//!
//! Every wait passes through [`pause`], which fails once a signal has come, so that ordinary
//! returns stop the processes and remove the files.

use anyhow::Result;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// The longest piece of a pause, after which the flag is looked at.
const PIECE: Duration = Duration::from_millis(50);

/// A signal has ended the run; processes are stopped and files removed.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Returns the present.
#[allow(clippy::disallowed_methods)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Returns the nanoseconds since a moment.
pub(crate) fn since_ns(moment: Instant) -> i64 {
    i64::try_from(now().duration_since(moment).as_nanos()).unwrap_or(i64::MAX)
}

/// Returns the seconds since a moment.
pub(crate) fn since_s(moment: Instant) -> f64 {
    now().duration_since(moment).as_secs_f64()
}

/// Pauses between two looks.
///
/// # Errors
/// [`Interrupted`].
pub(crate) fn pause(time: Duration) -> Result<()> {
    let ends = now() + time;
    check()?;
    loop {
        let left = ends.saturating_duration_since(now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::park_timeout(left.min(PIECE));
        check()?;
    }
}

/// Fails once a signal has come.
///
/// # Errors
/// [`Interrupted`].
pub(crate) fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err(Interrupted.into()) } else { Ok(()) }
}

/// Begins to listen to the signals that end a program. They are heard while the result lives.
pub(crate) fn listen() -> Result<Runtime> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let _inside = runtime.enter();
        let mut stream = signal(kind)?;
        runtime.spawn(async move {
            if stream.recv().await.is_some() {
                INTERRUPTED.store(true, Ordering::Relaxed);
            }
        });
    }
    Ok(runtime)
}

/// Returns the milliseconds since 1970, for rows that hold a time.
#[allow(clippy::disallowed_methods)]
pub(crate) fn unix_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.ok().and_then(|since| i64::try_from(since.as_millis()).ok()).unwrap_or(0)
}
