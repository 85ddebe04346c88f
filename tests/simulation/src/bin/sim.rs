//! Runs worlds: `sim --seeds N`, or `sim --seed X --shrink` for one that failed.

use harmonylite::model::planted_bugs::{BUGS, Bug, plant};
use harmonylite_simulation::coverage::EXPECTED;
use harmonylite_simulation::plan::Plan;
use harmonylite_simulation::shrink::shrink;
use harmonylite_simulation::suite::{Suite, repeat_command, run_suite};
use harmonylite_simulation::world::run;
use std::process::ExitCode;

const HELP: &str =
    "sim [--seeds N] [--start S] [--seconds T] [--threads N] [--bug NAME] [--keep-going] [--quiet]
sim --seed X [--bug NAME] [--shrink]      one world, with its trace";

/// In a run of at least this many worlds every fault and repair must happen.
const COVERAGE_WORLDS_MIN: u64 = 1_000;

#[derive(Default)]
struct Options {
    seeds: Option<u64>,
    start: u64,
    seconds: Option<u64>,
    threads: Option<usize>,
    bug: Option<Bug>,
    seed: Option<u64>,
    shrink: bool,
    keep_going: bool,
    quiet: bool,
}

fn options() -> Result<Options, String> {
    let mut options = Options::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || {
            words
                .next()
                .and_then(|w| w.replace('_', "").parse::<u64>().ok())
                .ok_or(format!("{word} needs a number"))
        };
        match word.as_str() {
            "--seeds" => options.seeds = Some(number()?),
            "--start" => options.start = number()?,
            "--seconds" => options.seconds = Some(number()?),
            "--threads" => options.threads = Some(number()? as usize),
            "--seed" => options.seed = Some(number()?),
            "--bug" => {
                let name = words.next().unwrap_or_default();
                options.bug = Some(
                    *BUGS
                        .iter()
                        .find(|b| format!("{b:?}").eq_ignore_ascii_case(&name))
                        .ok_or(format!("bugs: {BUGS:?}"))?,
                );
            }
            "--shrink" => options.shrink = true,
            "--keep-going" => options.keep_going = true,
            "--quiet" => options.quiet = true,
            _ => return Err(HELP.to_owned()),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(help) => {
            eprintln!("{help}");
            return ExitCode::from(2);
        }
    };
    let ok = match options.seed {
        Some(seed) => one(seed, &options),
        None => many(&options),
    };
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(seed: u64, options: &Options) -> bool {
    plant(options.bug);
    let mut plan = Plan::from_seed(seed);
    if options.shrink {
        plan = shrink(&plan);
        println!(
            "shrunken to {} actions, nodes {}, fates {:?}",
            plan.actions.len(),
            plan.nodes,
            plan.fates
        );
    }
    let outcome = run(&plan, true);
    for line in &outcome.trace {
        println!("{line}");
    }
    println!("{}", outcome.failure.as_deref().unwrap_or("passed"));
    outcome.failure.is_none()
}

fn many(options: &Options) -> bool {
    let seeds = options.seeds.unwrap_or(if options.seconds.is_some() { u64::MAX } else { 1_000 });
    let result = run_suite(&Suite {
        start: options.start,
        seeds,
        seconds: options.seconds,
        threads: options.threads.unwrap_or(2),
        bug: options.bug,
        keep_going: options.keep_going,
    });
    for (seed, failure) in &result.failed {
        println!("seed {seed}: {}", failure.chars().take(600).collect::<String>());
        println!("    again: {}", repeat_command(*seed, options.bug));
    }
    if !options.quiet {
        for (mark, count) in result.marks.iter() {
            println!("{count:>12}  {mark}");
        }
    }
    println!(
        "{} worlds, {} transactions, {} failed, {:.1} s",
        result.worlds,
        result.transactions,
        result.failed.len(),
        result.seconds
    );
    let complete = result.worlds < COVERAGE_WORLDS_MIN || options.bug.is_some();
    let missing: Vec<&str> =
        EXPECTED.iter().copied().filter(|m| !complete && result.marks.count(m) == 0).collect();
    if !missing.is_empty() {
        println!("never happened: {missing:?}");
    }
    result.failed.is_empty() && missing.is_empty()
}
