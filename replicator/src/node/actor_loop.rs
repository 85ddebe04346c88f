//! The loop of a thread that owns an actor: receives messages, runs one step, waits.

use crate::actor::Fatal;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// An actor that the loop runs.
pub(super) trait Actor {
    /// The messages in its inbox.
    type Message;

    /// Receives a message. Returns false if the loop has to stop.
    fn take(&mut self, message: Self::Message) -> Result<bool, Fatal>;

    /// Runs one step. Returns how long to wait for the next message; None if there is more work.
    fn step(&mut self) -> Result<Option<Duration>, Fatal>;
}

/// Where an actor's messages come from.
pub(super) trait Inbox<M> {
    /// Returns a message that is here.
    fn try_next(&mut self) -> Option<M>;

    /// Waits for a message.
    fn next(&mut self, wait: Duration) -> Result<M, RecvTimeoutError>;
}

impl<M> Inbox<M> for Receiver<M> {
    fn try_next(&mut self) -> Option<M> {
        self.try_recv().ok()
    }

    fn next(&mut self, wait: Duration) -> Result<M, RecvTimeoutError> {
        self.recv_timeout(wait)
    }
}

/// Runs the actor until a stop message or a fatal error. It waits only between steps.
pub(super) fn run_actor<A: Actor>(
    actor: &mut A,
    inbox: &mut impl Inbox<A::Message>,
) -> Result<(), Fatal> {
    loop {
        while let Some(message) = inbox.try_next() {
            if !actor.take(message)? {
                return Ok(());
            }
        }
        let Some(wait) = actor.step()? else { continue };
        match inbox.next(wait) {
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

/// Time until a deadline on the monotone clock, at most one minute, so that a clock that jumps
/// delays the loop by no more than that.
pub(super) fn wait_until(deadline_ms: u64, now_ms: u64) -> Duration {
    Duration::from_millis(deadline_ms.saturating_sub(now_ms).min(60_000))
}
