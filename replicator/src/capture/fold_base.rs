//! The state of the rows after the entries that are published and not absorbed yet.
//!
//! Arrives: such entries, or the rows that a collect made of them. Leaves: the state with which the
//! next fold begins. Owns: it holds as long as nothing is applied, and also when the versions of
//! some of its rows are stored. Such entries can be many, because absorbing waits (docs/design.md,
//! section 5a); with this a fold need not read them again at each commit. Memory only.

use crate::capture::fold::{FoldFrom, FoldedRows, Folding};
use crate::capture::row_states::{Place, RowStates, State};
use crate::db::connection::DatabaseError;
use crate::db::layout::{Layout, TableLayout};
use crate::model::batch::Value;
use rusqlite::Connection;

/// The rows after the absorbed entries up to one of them.
#[derive(Default)]
pub struct FoldBase {
    /// The entries up to here are folded.
    upto: i64,
    rows: RowStates,
}

impl std::fmt::Debug for FoldBase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FoldBase of {} rows up to {}", self.rows.count(), self.upto)
    }
}

impl FoldBase {
    /// Creates the state after the absorbed entries.
    pub fn new(absorbed: i64) -> Self {
        Self { upto: absorbed, ..Self::default() }
    }

    /// Returns the last folded entry.
    pub fn upto(&self) -> i64 {
        self.upto
    }

    /// Returns the number of rows.
    pub fn count(&self) -> usize {
        self.rows.count()
    }

    /// Returns whether REPLACE may have removed a row.
    pub fn has_displaced(&self) -> bool {
        self.rows.has_rare()
    }

    /// Folds the entries up to `from.sent`.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn advance(
        &mut self,
        db: &Connection,
        layout: &Layout,
        from: &FoldFrom<'_>,
    ) -> Result<(), DatabaseError> {
        if from.sent <= self.upto {
            return Ok(());
        }
        let from = FoldFrom { upto: from.sent, ..from.clone() };
        let mut folding = Folding::new(db, layout, &from, None);
        folding.rows = std::mem::take(&mut self.rows);
        folding.run(self.upto)?;
        self.rows = folding.rows;
        self.upto = from.upto;
        Ok(())
    }

    /// Takes the rows of a fold that began with this state and ended at `upto`, which is published
    /// now: what [`FoldBase::advance`] would read from the log again. Does nothing with rows that
    /// have a version which the log does not give them.
    pub fn take(&mut self, folded: FoldedRows, upto: i64) {
        let Some(mut states) = folded.into_states() else { return };
        let published = |state: State| State {
            marks: state.marks & !(State::NEW | State::DROPPED),
            previous: None,
            ..state
        };
        if self.rows.count() == 0 {
            for at in 0..states.count() {
                states.set_state(at, &published(states.state(at)));
            }
            self.rows = states;
        } else {
            let mut key = Vec::new();
            for at in 0..states.count() {
                states.key(at, &mut key);
                let (Place::Known(place) | Place::New(place)) =
                    self.rows.place(states.table(at), &key);
                self.rows.set_state(place, &published(states.state(at)));
            }
        }
        self.upto = upto;
    }

    pub(super) fn get(&self, table: &TableLayout, key: &[Value]) -> Option<State> {
        self.rows.find(table, key).map(|at| self.rows.state(at))
    }
}
