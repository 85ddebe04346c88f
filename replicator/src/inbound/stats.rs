//! The counters of the writing actor, for metrics and tests.

/// Counters since the start, for metrics and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Stats {
    pub transactions: u64,
    pub batches_applied: u64,
    pub rows_taken: u64,
    pub rows_skipped: u64,
    pub bytes_applied: u64,
    pub conflicts: u64,
    pub compensated: u64,
    pub quarantined: u64,
    pub held: u64,
    pub busy: u64,
    pub gaps: u64,
    pub losses: u64,
    pub rows_republished: u64,
    pub new_sites: u64,
    pub null_key_changes: u64,
    pub pruned: u64,
    pub drift_warnings: u64,
    pub newest_remote_ms: i64,
    pub last_applied_unix_ms: i64,
}
