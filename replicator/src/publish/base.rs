//! Keeps the rows of published entries that are not absorbed yet.
//!
//! Arrives: the present state of the log, at each collect. Leaves: the [`FoldBase`] from which the
//! collect starts. Owns: it is dropped with the next write transaction of the sidecar, unless that
//! only gave versions to a piece of the log: those are the versions that it holds. Memory only: it
//! is built again from the log.

use crate::capture::fold::{FoldFrom, FoldedRows};
use crate::capture::fold_base::FoldBase;
use crate::db::connection::DatabaseError;
use crate::db::layout::Layout;
use crate::model::ids::Site;
use crate::store::meta::Meta;
use rusqlite::Connection;

/// The rows after the published entries, or nothing. While there are more than fit, their entries
/// are read again at each collect, until the acknowledgement is written. It is due at once then.
#[derive(Debug)]
pub(super) struct PublishedRows {
    rows_max: usize,
    kept: Option<Kept>,
}

#[derive(Debug)]
struct Kept {
    rows: FoldBase,
    holds_for: HoldsFor,
    /// The last absorbed entry, at the last look.
    absorbed: i64,
    /// The rows of the last collect, and its last entry. They count as soon as they are published.
    collected: Option<(FoldedRows, i64)>,
}

/// The state for which the rows hold: no write transaction since but pieces, one layout, one
/// incarnation.
#[derive(Debug, PartialEq, Eq)]
struct HoldsFor {
    writes: i64,
    schema_version: i64,
    site: Site,
}

impl Kept {
    /// Takes the rows of the last collect, if they are published.
    fn take_collected(&mut self, sent: i64) {
        if let Some((rows, upto)) = self.collected.take().filter(|(_, upto)| *upto == sent) {
            self.rows.take(rows, upto);
        }
    }

    /// Returns whether the rows hold for a state of the log: what they begin with, and what they
    /// lack, is still there to read. Absorb decides whether a row that REPLACE may have removed is
    /// gone, which they do not know.
    fn holds(&self, from: &FoldFrom<'_>) -> bool {
        let is_complete = (from.absorbed..=from.sent).contains(&self.rows.upto());
        let is_decided = from.absorbed == self.absorbed || !self.rows.has_displaced();
        is_complete && from.absorbed >= self.absorbed && is_decided
    }
}

impl PublishedRows {
    /// Creates it for at most so many rows.
    pub(super) fn new(rows_max: usize) -> Self {
        Self { rows_max, kept: None }
    }

    /// Brings the rows up to date, inside the caller's read transaction.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn advance(
        &mut self,
        db: &Connection,
        layout: &Layout,
        meta: &Meta,
        from: &FoldFrom<'_>,
    ) -> Result<(), DatabaseError> {
        let holds_for = HoldsFor {
            writes: meta.writes - meta.pieces,
            schema_version: layout.schema_version,
            site: from.site,
        };
        self.kept.take_if(|kept| kept.holds_for != holds_for);
        self.kept.take_if(|kept| {
            kept.take_collected(from.sent);
            !kept.holds(from) || kept.rows.count() > self.rows_max
        });
        let after = self.kept.as_ref().map_or(from.absorbed, |kept| kept.rows.upto());
        let unread = usize::try_from(from.sent - after).unwrap_or(usize::MAX);
        if from.sent < from.absorbed || unread > self.rows_max {
            self.kept = None;
            return Ok(());
        }
        let (rows, absorbed) = (FoldBase::new(from.absorbed), from.absorbed);
        let kept = self.kept.get_or_insert(Kept { rows, holds_for, absorbed, collected: None });
        kept.absorbed = absorbed;
        let advanced = kept.rows.advance(db, layout, from);
        if advanced.is_err() {
            // Some of the entries may be folded.
            self.kept = None;
        }
        advanced
    }

    /// Keeps the rows of a collect that began with [`PublishedRows::rows`] and ended at `upto`, so
    /// that its entries need not be read again.
    pub(super) fn keep(&mut self, rows: FoldedRows, upto: i64) {
        if let Some(kept) = &mut self.kept {
            let fits = kept.rows.count() + rows.len() <= self.rows_max;
            kept.collected = fits.then_some((rows, upto));
        }
    }

    /// Returns the rows.
    pub(super) fn rows(&self) -> Option<&FoldBase> {
        self.kept.as_ref().map(|kept| &kept.rows)
    }
}

#[cfg(test)]
#[path = "base_tests.rs"]
mod tests;
