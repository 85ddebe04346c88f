//! Defects that tests switch on one by one, to prove that the simulation finds them. Without the
//! feature `planted-bugs` the compiler removes them.

/// A defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Bug {
    /// Remote rows are applied before local changes have their versions.
    NoAbsorbFirst,
    /// Log entries of one row are merged before they are folded: only the last counts.
    MergedEntries,
    /// A version is the time alone, also if the row has that version already.
    NoPlusOne,
    /// The loser of a unique clash is deleted, and the delete is not published.
    SilentCompensation,
    /// Of two equal times the smaller site wins.
    TieBroken,
    /// A database that went back in time keeps its site.
    SameSite,
    /// The cursor is stored before the rows.
    CursorFirst,
    /// The node does not check that its own last batch is still in the stream.
    NoOwnAnchor,
    /// The node does not check that the cursor's message is still in the stream.
    NoCursorAnchor,
    /// After a loss only rows of the own site are published again.
    OwnRowsOnly,
    /// Gaps are not noticed.
    NoGapRepair,
    /// Tombstones are dropped whatever their age.
    TombstoneEarly,
    /// A compensation takes the present time instead of the version just above.
    CompensationNow,
    /// A row from a node that lacks a column leaves that column unchanged.
    MissingColumnsStay,
    /// Publishing continues while the broker is checked, and any go-ahead counts.
    NoHold,
    /// Any answer ends a gap, also one of a node that misses the same.
    AnyAnswer,
    /// A batch of a former schema is applied by the names of its columns.
    AdmitByName,
    /// A table that was rebuilt is not compared.
    NoComparison,
    /// A batch neither announces nor carries the change of the schema in its transaction: the row
    /// of a migration tool arrives without the migration.
    BookkeepingAhead,
    /// A retry applies what can be read, also if its bytes are damaged.
    RetryDamaged,
    /// A joining database takes what it has published itself for data of the cluster.
    OwnDataReplaces,
}

/// All of them.
pub const BUGS: [Bug; 21] = [
    Bug::NoAbsorbFirst,
    Bug::MergedEntries,
    Bug::NoPlusOne,
    Bug::SilentCompensation,
    Bug::TieBroken,
    Bug::SameSite,
    Bug::CursorFirst,
    Bug::NoOwnAnchor,
    Bug::NoCursorAnchor,
    Bug::OwnRowsOnly,
    Bug::NoGapRepair,
    Bug::TombstoneEarly,
    Bug::CompensationNow,
    Bug::MissingColumnsStay,
    Bug::NoHold,
    Bug::AnyAnswer,
    Bug::AdmitByName,
    Bug::NoComparison,
    Bug::BookkeepingAhead,
    Bug::RetryDamaged,
    Bug::OwnDataReplaces,
];

#[cfg(feature = "planted-bugs")]
mod switch {
    use super::Bug;
    use std::cell::Cell;

    // A world has one thread, so a thread's switch is a world's.
    thread_local!(static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) });

    /// Switches one defect on in this thread, or all off.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    /// Whether it is on.
    pub fn planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(feature = "planted-bugs")]
pub use switch::{plant, planted};

/// Whether it is on: never, without the feature.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn planted(_: Bug) -> bool {
    false
}
