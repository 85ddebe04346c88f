//! The loop of a thread that owns an actor: takes what came, does one step, waits for more.

use crate::actor::Fatal;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// What the loop drives.
pub(super) trait Drive {
    /// What comes in.
    type Message;

    /// Takes a message in. False: stop.
    fn take(&mut self, message: Self::Message) -> Result<bool, Fatal>;

    /// Does one step. How long to wait for a message after it; None: there is more to do.
    fn step(&mut self) -> Result<Option<Duration>, Fatal>;
}

/// Runs until it is told to stop, or must. It waits only between steps, for a message or a
/// deadline.
pub(super) fn drive<D: Drive>(actor: &mut D, inbox: &Receiver<D::Message>) -> Result<(), Fatal> {
    loop {
        while let Ok(message) = inbox.try_recv() {
            if !actor.take(message)? {
                return Ok(());
            }
        }
        let Some(wait) = actor.step()? else { continue };
        match inbox.recv_timeout(wait) {
            Ok(message) => {
                if !actor.take(message)? {
                    return Ok(());
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// From now to a deadline on the monotone clock, bounded so that a clock that jumps costs a minute
/// at most.
pub(super) fn until(deadline_ms: u64, now_ms: u64) -> Duration {
    Duration::from_millis(deadline_ms.saturating_sub(now_ms).min(60_000))
}
