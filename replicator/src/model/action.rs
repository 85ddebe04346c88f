//! What every error of a stage answers: what happens next.

/// What the node does about an error (CONTRIBUTING.md, errors).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The error is temporary: wait and retry.
    Retry,
    /// This batch can never be applied: quarantine it, report that, and continue.
    Quarantine,
    /// Wait until this node (its schema, its program) can read the origin's batches.
    HoldOrigin,
    /// Continuing could harm data: end the process and report the reason.
    Stop,
}
