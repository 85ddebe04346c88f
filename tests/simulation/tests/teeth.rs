//! The simulation can bite: each planted bug is found within a stated number of worlds.
//!
//! A bug that is not found here would mean that the worlds do not meet what it breaks; then the worlds must get worse.

use harmonylite::planted::{BUGS, Bug};
use harmonylite_simulation::suite::{Suite, run_suite};

/// Within so many worlds it must be found.
fn bound(bug: Bug) -> u64 {
    match bug {
        Bug::NoAbsorbFirst | Bug::MergedEntries | Bug::NoPlusOne | Bug::TieBroken => 50,
        Bug::SilentCompensation | Bug::CompensationNow | Bug::NoGapRepair => 100,
        Bug::SameSite | Bug::CursorFirst | Bug::NoOwnAnchor | Bug::NoCursorAnchor | Bug::OwnRowsOnly | Bug::TombstoneEarly => 400,
        Bug::MissingColumnsStay | Bug::NoHold => 2_000,
    }
}

#[test]
fn every_planted_bug_is_found() {
    let mut missed = Vec::new();
    for bug in BUGS {
        let suite = Suite { start: 0, seeds: bound(bug), seconds: None, threads: 2, bug: Some(bug), keep_going: false };
        let result = run_suite(&suite);
        match result.failed.first() {
            Some((seed, failure)) => {
                let short: String = failure.chars().take(90).collect();
                println!("{bug:?}: found in world {seed} of {} allowed: {short}", suite.seeds);
            }
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
