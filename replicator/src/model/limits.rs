//! Every bound in one place, each with its reason. The simulation shrinks them, so that parts,
//! spills and splits happen.

/// The bounds of one node. [`Limits::default`] is what every real node runs with.
#[derive(Clone, Debug)]
pub struct Limits {
    /// A batch whose uncompressed rows exceed this goes to a temporary file, at both ends (64 MiB:
    /// what a small machine can spare twice).
    pub batch_memory_bytes_max: u64,
    /// A batch is never larger than this uncompressed; beyond it a transaction is split and its
    /// atomicity lost (1 GiB: what a receiver is willing to hold on disk for one batch).
    pub batch_atomic_bytes_max: u64,
    /// Largest payload of one part. The broker's own limit less room for headers applies too (900
    /// KB: docs/design.md section 3).
    pub part_bytes_max: usize,
    /// Tables in one batch (SQLite itself gets slow long before).
    pub batch_tables_max: u64,
    /// Columns of a table: SQLite's own compile-time ceiling.
    pub columns_max: u64,
    /// Length of a name in bytes (SQLite has no limit; a name beyond this is an attack, not a
    /// schema).
    pub name_bytes_max: u64,
    /// One value: SQLite's SQLITE_MAX_LENGTH default.
    pub value_bytes_max: u64,
    /// Sites named by one batch (a republish names every site whose rows it carries).
    pub sites_max: u64,
    /// Bytes of deliveries that may wait to be applied (the back-pressure on the broker).
    pub inbox_bytes_max: usize,
    /// Rows applied in one write transaction before the application gets its turn; one batch is
    /// never divided.
    pub apply_rows_max: u64,
    /// Entries in the conflict journal; the oldest are dropped.
    pub conflicts_max: u64,
    /// Batches in quarantine; beyond it the node stops applying rather than dropping one.
    pub quarantine_max: u64,
    /// Older cursors kept at growing distances, to find the newest that still matches after a loss.
    pub cursor_trail_max: usize,
    /// Messages between two kept cursors, at least.
    pub cursor_trail_step: u64,
    /// Rows looked at in one write transaction when many are logged for publication (some 20 ms of
    /// work).
    pub relog_rows_max: u64,
    /// Log entries that one batch may fold; beyond it the log is taken in pieces and a transaction
    /// may be split.
    pub batch_entries_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            batch_memory_bytes_max: 64 << 20,
            batch_atomic_bytes_max: 1 << 30,
            part_bytes_max: 900_000,
            batch_tables_max: 10_000,
            columns_max: 32_767,
            name_bytes_max: 4_096,
            value_bytes_max: 1_000_000_000,
            sites_max: 100_000,
            inbox_bytes_max: 16 << 20,
            apply_rows_max: 2_000,
            conflicts_max: 10_000,
            quarantine_max: 1_000,
            cursor_trail_max: 64,
            cursor_trail_step: 64,
            relog_rows_max: 10_000,
            batch_entries_max: 4_000_000,
        }
    }
}
