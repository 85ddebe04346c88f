//! The simulation finds each planted bug within a stated number of worlds.
//!
//! A bug that is not found would show that the worlds do not cover the broken rule. Then the worlds
//! must become harder.

use harmonylite::model::planted_bugs::{BUGS, Bug};
use harmonylite_simulation::suite::{Suite, run_suite};

/// Returns the first seed, and the number of worlds within which a bug must be found. (Rare bugs
/// start near a world that finds them, so that the test stays short. From 0 on they take up to some
/// thousand worlds, NoHold more than 9,000.)
fn bound(bug: Bug) -> (u64, u64) {
    match bug {
        Bug::NoAbsorbFirst | Bug::MergedEntries | Bug::NoPlusOne | Bug::TieBroken => (0, 50),
        Bug::SilentCompensation | Bug::CompensationNow | Bug::NoGapRepair => (0, 100),
        Bug::SameSite | Bug::NoCursorAnchor | Bug::TombstoneEarly => (0, 400),
        Bug::AnyAnswer => (2_200, 400),
        Bug::OwnRowsOnly => (1_400, 400),
        Bug::RetryDamaged => (500, 400),
        Bug::OwnDataReplaces => (0, 400),
        Bug::CursorFirst => (900, 400),
        Bug::NoOwnAnchor => (2_100, 400),
        Bug::NoHold => (16_600, 400),
        Bug::MissingColumnsStay => (6_400, 400),
        Bug::AdmitByName | Bug::NoComparison | Bug::BookkeepingAhead => (0, 400),
    }
}

#[test]
fn every_planted_bug_is_found() {
    let mut missed = Vec::new();
    for bug in BUGS {
        let (start, seeds) = bound(bug);
        let suite =
            Suite { start, seeds, seconds: None, threads: 2, bug: Some(bug), keep_going: false };
        let result = run_suite(&suite);
        match result.failed.first() {
            Some((seed, failure)) => {
                let short: String = failure.chars().take(90).collect();
                println!(
                    "{bug:?}: found in world {seed} ({seeds} allowed from {start} on): {short}"
                );
            }
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
