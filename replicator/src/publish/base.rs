//! Keeps the rows of published entries that are not absorbed yet.
//!
//! Arrives: the present state of the log, at each collect. Leaves: the [`FoldBase`] from which the
//! collect starts. Owns: it is dropped with the next write transaction of the sidecar, which gives
//! the rows stored versions. Memory only: it is built again from the log.

use crate::capture::fold::{FoldFrom, FoldedRows};
use crate::capture::fold_base::FoldBase;
use crate::db::connection::DatabaseError;
use crate::db::layout::Layout;
use crate::model::ids::Site;
use crate::store::meta::Meta;
use rusqlite::Connection;

/// With more such entries (one large transaction) their rows are read again at each collect, until
/// the acknowledgement is written. It is due at once then.
const ENTRIES_MAX: u64 = 50_000;

/// The rows after the published entries, or nothing.
#[derive(Debug, Default)]
pub(super) struct PublishedRows(Option<Kept>);

#[derive(Debug)]
struct Kept {
    rows: FoldBase,
    holds_for: HoldsFor,
    /// The rows of the last collect, and its last entry. They count as soon as they are published.
    collected: Option<(FoldedRows, i64)>,
}

/// The state for which the rows hold: no write transaction since, one layout, one incarnation.
#[derive(Debug, PartialEq, Eq)]
struct HoldsFor {
    writes: i64,
    schema_version: i64,
    site: Site,
}

impl PublishedRows {
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
        if from.sent < from.absorbed || from.sent.abs_diff(from.absorbed) > ENTRIES_MAX {
            self.0 = None;
            return Ok(());
        }
        let holds_for = HoldsFor {
            writes: meta.writes,
            schema_version: layout.schema_version,
            site: from.site,
        };
        self.0.take_if(|kept| kept.holds_for != holds_for || kept.rows.upto() > from.sent);
        let rows = FoldBase::new(from.absorbed);
        let kept = self.0.get_or_insert(Kept { rows, holds_for, collected: None });
        if let Some((rows, upto)) = kept.collected.take().filter(|(_, upto)| *upto == from.sent) {
            kept.rows.take(rows, upto);
        }
        let advanced = kept.rows.advance(db, layout, from);
        if advanced.is_err() {
            // Some of the entries may be folded.
            self.0 = None;
        }
        advanced
    }

    /// Keeps the rows of a collect that began with [`PublishedRows::rows`] and ended at `upto`, so
    /// that its entries need not be read again.
    pub(super) fn keep(&mut self, rows: FoldedRows, upto: i64, absorbed: i64) {
        if let Some(kept) = &mut self.0 {
            let fits = upto.abs_diff(absorbed) <= ENTRIES_MAX;
            kept.collected = fits.then_some((rows, upto));
        }
    }

    /// Returns the rows.
    pub(super) fn rows(&self) -> Option<&FoldBase> {
        self.0.as_ref().map(|kept| &kept.rows)
    }
}
