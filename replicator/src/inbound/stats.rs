//! The counters of the writing actor, for metrics and tests.

/// Counters since the start, for metrics and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Stats {
    pub transactions: u64,
    /// Transactions that were written although another connection had an open snapshot.
    pub snapshots_met: u64,
    /// Transactions that were rolled back, because a snapshot was opened meanwhile.
    pub snapshots_waited: u64,
    /// Own batches that were found in the stream without a stored acknowledgement.
    pub confirmed: u64,
    pub batches_applied: u64,
    pub rows_taken: u64,
    pub rows_skipped: u64,
    pub bytes_applied: u64,
    pub conflicts: u64,
    pub compensated: u64,
    /// Rows inserted under the key of another node's row.
    pub inserted_twice: u64,
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

impl Stats {
    /// Returns the number of remote rows, written or skipped.
    pub(super) fn rows_seen(&self) -> u64 {
        self.rows_taken + self.rows_skipped
    }
}
