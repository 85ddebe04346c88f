//! What every error of a stage answers: what happens next.

/// What the node does about an error (CONTRIBUTING.md, errors).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It passes by itself: wait and try again.
    Retry,
    /// This batch will never get better: set it aside, go on, say so.
    Quarantine,
    /// Wait until this node (its schema, its program) can read the origin's batches.
    HoldOrigin,
    /// Going on could harm data: end the process and say why.
    Stop,
}
