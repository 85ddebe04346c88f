//! Decides, row by row, whether a remote change wins.
//!
//! Arrives: the versions of one decoded row, and this database's version for its key. Leaves: a
//! [`Verdict`]. Owns: the greater version wins, and an equal one is a repetition. Pure, so a crash
//! loses nothing.

use crate::model::ids::Version;
use crate::model::planted_bugs::{Bug, planted};

/// The decision about a remote row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The row is newer than ours: write it. `concurrent` if its writer had not seen ours, which
    /// then goes to the journal.
    Take {
        /// See above.
        concurrent: bool,
    },
    /// The row is older than ours, or equal: write nothing. `concurrent` if neither writer had seen
    /// the other's row.
    Skip {
        /// See above.
        concurrent: bool,
    },
}

/// Compares the versions of one row (docs/design.md, section 2). `previous` is the version that the
/// remote writer had before its change. If it equals `remote`, it is unknown (the row was
/// republished). Then ours counts as unseen only if it was written here: a needless journal entry
/// is better than a local write lost without a trace.
pub fn resolve(local: Version, remote: Version, previous: Version, local_is_own: bool) -> Verdict {
    let wins = if planted(Bug::TieBroken) && remote.hlc == local.hlc {
        local.site != remote.site
    } else {
        remote > local
    };
    if wins {
        let unseen = if previous == remote { local_is_own } else { local > previous };
        // A site has seen its own writes.
        Verdict::Take { concurrent: unseen && local != Version::NONE && local.site != remote.site }
    } else {
        Verdict::Skip {
            concurrent: local.site != remote.site && previous != remote && local > previous,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{Hlc, Site};

    fn v(hlc: i64, site: i64) -> Version {
        Version { hlc: Hlc(hlc), site: Site(site) }
    }

    #[test]
    fn the_greater_version_wins_and_ties_go_to_the_greater_site() {
        assert_eq!(resolve(v(1, 1), v(2, 1), v(1, 1), false), Verdict::Take { concurrent: false });
        assert_eq!(
            resolve(v(2, 1), v(2, 2), Version::NONE, true),
            Verdict::Take { concurrent: true }
        );
        assert_eq!(
            resolve(v(2, 2), v(2, 1), Version::NONE, true),
            Verdict::Skip { concurrent: true }
        );
    }

    #[test]
    fn a_repetition_changes_nothing_and_is_no_conflict() {
        assert_eq!(resolve(v(2, 2), v(2, 2), v(1, 1), true), Verdict::Skip { concurrent: false });
    }

    #[test]
    fn a_repair_is_a_conflict_only_with_a_write_of_our_own() {
        assert_eq!(resolve(v(1, 7), v(2, 2), v(2, 2), true), Verdict::Take { concurrent: true });
        assert_eq!(resolve(v(1, 7), v(2, 2), v(2, 2), false), Verdict::Take { concurrent: false });
        assert_eq!(resolve(v(3, 7), v(2, 2), v(2, 2), true), Verdict::Skip { concurrent: false });
    }

    #[test]
    fn what_the_writer_had_seen_is_no_conflict() {
        assert_eq!(resolve(v(1, 1), v(3, 2), v(2, 3), false), Verdict::Take { concurrent: false });
        assert_eq!(
            resolve(Version::NONE, v(3, 2), Version::NONE, false),
            Verdict::Take { concurrent: false }
        );
    }
}
