//! Runs many worlds at once, for the tests and the `sim` program.

use crate::coverage::Marks;
use crate::plan::Plan;
use crate::world::run;
use harmonylite::model::planted_bugs::{Bug, plant};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The worlds to run.
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    /// The first seed.
    pub start: u64,
    /// The most worlds.
    pub seeds: u64,
    /// The seconds after which no new world starts.
    pub seconds: Option<u64>,
    /// The number of threads. A single world uses no threads.
    pub threads: usize,
    /// The planted bug to switch on.
    pub bug: Option<Bug>,
    /// Whether to continue after a failure.
    pub keep_going: bool,
}

/// The results of a suite.
#[derive(Debug, Default)]
pub struct Result {
    /// Counts.
    pub marks: Marks,
    /// The number of worlds.
    pub worlds: u64,
    /// The number of transactions of all applications.
    pub transactions: u64,
    /// The failed seeds and their failures, in order.
    pub failed: Vec<(u64, String)>,
    /// The elapsed time.
    pub seconds: f64,
}

/// Runs the worlds.
// This is the only real clock here. It decides when to stop, and never affects a world.
#[allow(clippy::disallowed_methods)]
pub fn run_suite(suite: &Suite) -> Result {
    let began = std::time::Instant::now();
    let (next, stop) = (AtomicU64::new(suite.start), AtomicBool::new(false));
    let end = suite.start.saturating_add(suite.seeds);
    let total = Mutex::new(Result::default());
    std::thread::scope(|scope| {
        for _ in 0..suite.threads.max(1) {
            scope.spawn(|| {
                plant(suite.bug);
                let mut own = Result::default();
                while !stop.load(Ordering::Relaxed)
                    && suite.seconds.is_none_or(|s| began.elapsed().as_secs() < s)
                {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let outcome = run(&Plan::from_seed(seed), false);
                    own.marks.merge(&outcome.marks);
                    own.worlds += 1;
                    own.transactions += outcome.transactions;
                    if let Some(failure) = outcome.failure {
                        own.failed.push((seed, failure));
                        stop.store(!suite.keep_going, Ordering::Relaxed);
                    }
                }
                let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                total.marks.merge(&own.marks);
                total.worlds += own.worlds;
                total.transactions += own.transactions;
                total.failed.extend(own.failed);
            });
        }
    });
    let mut result = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    result.failed.sort();
    result.seconds = began.elapsed().as_secs_f64();
    result
}

/// Returns the command that repeats a failure.
pub fn repeat_command(seed: u64, bug: Option<Bug>) -> String {
    let bug = bug.map_or(String::new(), |b| format!(" --bug {b:?}"));
    format!(
        "cargo run --profile sim -p harmonylite-simulation --bin sim -- --seed {seed}{bug} --shrink"
    )
}
