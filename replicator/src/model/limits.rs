//! All bounds with their reasons. The simulation shrinks them, so that parts, spills and splits
//! happen.

/// The bounds of one node. Every real node runs with [`Limits::default`].
#[derive(Clone, Debug)]
pub struct Limits {
    /// A batch that has more bytes goes to a temporary file, and one that arrives does with half of
    /// them (16 MiB: a small machine can spare this, and a file costs little beside so many rows).
    pub batch_memory_bytes_max: u64,
    /// Greatest uncompressed size of a batch. A larger transaction is split and loses its atomicity
    /// (1 GiB: the disk space that a receiver spends on one batch).
    pub batch_atomic_bytes_max: u64,
    /// Greatest payload of one part. The broker's own limit less room for headers applies too (900
    /// KB: docs/design.md section 3).
    pub part_bytes_max: usize,
    /// Tables in one batch (SQLite itself is slow long before).
    pub batch_tables_max: u64,
    /// Columns of a table: SQLite's own compile-time ceiling.
    pub columns_max: u64,
    /// Length of a name in bytes (SQLite has no limit; no honest schema has a longer name).
    pub name_bytes_max: u64,
    /// Changes of the schema in one batch. A node that made more of them than that before it could
    /// publish one holds its peers until a person makes their schemas equal.
    pub schema_changes_max: u64,
    /// One change of the schema in a batch, in bytes: the texts of what one migration creates.
    pub schema_change_bytes_max: u64,
    /// One value: SQLite's SQLITE_MAX_LENGTH default.
    pub value_bytes_max: u64,
    /// Sites named by one batch (a republish names every site whose rows it carries).
    pub sites_max: u64,
    /// Bytes of deliveries that wait to be applied (the back-pressure on the broker).
    pub inbox_bytes_max: usize,
    /// Decompressed bytes that wait to be applied, at most, and the most of one batch: a larger one
    /// is decompressed twice, in pieces (1 MiB: few batches are larger).
    pub plain_bytes_max: usize,
    /// Rows applied in one write transaction, so that the application gets its turn. One batch is
    /// never divided.
    pub apply_rows_max: u64,
    /// Entries in the conflict journal. The oldest are dropped.
    pub conflicts_max: u64,
    /// Bytes of the conflict journal. The oldest entries are dropped.
    pub conflict_bytes_max: u64,
    /// Batches in quarantine. The origin of another one is held; no batch is dropped automatically.
    pub quarantine_max: u64,
    /// Older cursors, kept at growing distances. After a loss the newest one that still matches is
    /// used.
    pub cursor_trail_max: usize,
    /// Least number of messages between two kept cursors.
    pub cursor_trail_step: u64,
    /// Rows read in one write transaction of a republication (about 20 ms of work).
    pub republish_rows_max: u64,
    /// Bytes of rows in one write transaction of a republication, so that one step is one batch of
    /// moderate size. A stream with a bound makes it smaller, see
    /// [`crate::model::config::NodeConfig::republish_bytes_max`].
    pub republish_bytes_max: u64,
    /// Bytes of rows that are republished in a minute because other nodes miss them: nobody on the
    /// account can make a node publish more. A bounded stream makes it smaller.
    pub republish_minute_bytes_max: u64,
    /// Log entries that one batch folds. A longer log is read in pieces, which may split a
    /// transaction.
    pub batch_entries_max: u64,
    /// How long a table that was dropped, and is not there again with rows, is waited for,
    /// milliseconds (2 s: a tool that rebuilds it without a transaction takes less between two
    /// statements, and nothing is applied or published meanwhile). 0: not at all.
    pub dropped_table_wait_ms: u64,
    /// Acknowledged log entries whose mark waits for a quiet moment (absorbing them takes some 20
    /// ms, for which a remote batch would have to wait).
    pub bookkeeping_entries_max: u64,
    /// Rows that are published and not absorbed, kept in memory so that the next fold need not read
    /// their entries again (some 4 MB of integer keys, twice as much of UUIDs).
    pub folded_rows_max: usize,
    /// Log entries absorbed in one transaction, for which the application waits: some 20 ms.
    pub absorb_entries_max: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            batch_memory_bytes_max: 16 << 20,
            batch_atomic_bytes_max: 1 << 30,
            part_bytes_max: 900_000,
            batch_tables_max: 10_000,
            columns_max: 32_767,
            name_bytes_max: 4_096,
            schema_changes_max: 1_000,
            schema_change_bytes_max: 4 << 20,
            value_bytes_max: 1_000_000_000,
            sites_max: 100_000,
            inbox_bytes_max: 16 << 20,
            plain_bytes_max: 1 << 20,
            apply_rows_max: 2_000,
            conflicts_max: 10_000,
            conflict_bytes_max: 64 << 20,
            quarantine_max: 1_000,
            cursor_trail_max: 64,
            cursor_trail_step: 64,
            republish_rows_max: 10_000,
            republish_bytes_max: 8 << 20,
            republish_minute_bytes_max: 512 << 20,
            batch_entries_max: 4_000_000,
            dropped_table_wait_ms: 2_000,
            bookkeeping_entries_max: 10_000,
            folded_rows_max: 100_000,
            absorb_entries_max: 10_000,
        }
    }
}
