//! Runs five thousand worlds, the same ones each time. Every fault and repair must happen in them.

use harmonylite_simulation::coverage::EXPECTED;
use harmonylite_simulation::suite::{Suite, repeat_command, run_suite};

#[test]
fn no_world_loses_a_write_or_diverges() {
    let result = run_suite(&Suite {
        start: 0,
        seeds: 5_000,
        seconds: None,
        threads: 2,
        bug: None,
        keep_going: false,
    });
    if let Some((seed, failure)) = result.failed.first() {
        panic!("seed {seed}: {failure}\nagain: {}", repeat_command(*seed, None));
    }
    println!(
        "{} worlds, {} transactions, {:.1} s",
        result.worlds, result.transactions, result.seconds
    );
    let missing: Vec<_> = EXPECTED.iter().filter(|m| result.marks.count(m) == 0).collect();
    assert!(missing.is_empty(), "never happened: {missing:?}");
}
