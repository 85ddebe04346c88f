//! The tables that the configuration selects for replication.

use globset::GlobSet;

/// Patterns for table names. The default selects every table.
#[derive(Clone, Debug, Default)]
pub struct TableFilter {
    /// Tables to replicate. Empty means all.
    pub include: GlobSet,
    /// Tables to leave out, even if `include` matches.
    pub exclude: GlobSet,
}

impl TableFilter {
    /// Whether the filter selects a table.
    pub fn selects(&self, table: &str) -> bool {
        (self.include.is_empty() || self.include.is_match(table)) && !self.exclude.is_match(table)
    }
}
