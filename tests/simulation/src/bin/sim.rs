//! Lives through worlds: `sim --seeds N`, or `sim --seed X --shrink` for one that failed.

use harmonylite::planted::{BUGS, Bug, plant};
use harmonylite_simulation::coverage::{EXPECTED, Marks};
use harmonylite_simulation::plan::Plan;
use harmonylite_simulation::shrink::shrink;
use harmonylite_simulation::world::run;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const HELP: &str = "sim [--seeds N] [--start S] [--seconds T] [--threads N] [--bug NAME] [--keep-going] [--quiet]
sim --seed X [--bug NAME] [--shrink]      one world, with its trace";

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
        let mut number = || words.next().and_then(|w| w.replace('_', "").parse::<u64>().ok()).ok_or(format!("{word} needs a number"));
        match word.as_str() {
            "--seeds" => options.seeds = Some(number()?),
            "--start" => options.start = number()?,
            "--seconds" => options.seconds = Some(number()?),
            "--threads" => options.threads = Some(number()? as usize),
            "--seed" => options.seed = Some(number()?),
            "--bug" => {
                let name = words.next().unwrap_or_default();
                options.bug = Some(*BUGS.iter().find(|b| format!("{b:?}").eq_ignore_ascii_case(&name)).ok_or(format!("bugs: {BUGS:?}"))?);
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
        println!("shrunken to {} actions, nodes {}, fates {:?}", plan.actions.len(), plan.nodes, plan.fates);
    }
    let outcome = run(&plan, true);
    for line in &outcome.trace {
        println!("{line}");
    }
    println!("{}", outcome.failure.as_deref().unwrap_or("passed"));
    outcome.failure.is_none()
}

fn many(options: &Options) -> bool {
    // The only real clock here: it decides when to stop, never what happens in a world.
    #[allow(clippy::disallowed_methods)]
    let began = std::time::Instant::now();
    let (next, stop) = (AtomicU64::new(options.start), AtomicBool::new(false));
    let end = options.seeds.map_or(if options.seconds.is_some() { u64::MAX } else { options.start + 1_000 }, |n| options.start + n);
    let total = Mutex::new((Marks::default(), 0_u64, 0_u64, Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..options.threads.unwrap_or(2) {
            scope.spawn(|| {
                plant(options.bug);
                let (mut marks, mut worlds, mut transactions, mut failed) = (Marks::default(), 0, 0, Vec::new());
                while !stop.load(Ordering::Relaxed) && options.seconds.is_none_or(|s| began.elapsed().as_secs() < s) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let outcome = run(&Plan::from_seed(seed), false);
                    marks.merge(&outcome.marks);
                    (worlds, transactions) = (worlds + 1, transactions + outcome.transactions);
                    if let Some(failure) = outcome.failure {
                        failed.push((seed, failure));
                        stop.store(!options.keep_going, Ordering::Relaxed);
                    }
                }
                let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                total.0.merge(&marks);
                (total.1, total.2) = (total.1 + worlds, total.2 + transactions);
                total.3.extend(failed);
            });
        }
    });
    let (marks, worlds, transactions, mut failed) = total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    failed.sort();
    for (seed, failure) in &failed {
        println!("seed {seed}: {}", failure.chars().take(600).collect::<String>());
        let bug = options.bug.map_or(String::new(), |b| format!(" --bug {b:?}"));
        println!("    again: cargo run -p harmonylite-simulation --bin sim -- --seed {seed}{bug} --shrink");
    }
    if !options.quiet {
        for (mark, count) in marks.iter() {
            println!("{count:>12}  {mark}");
        }
    }
    println!("{worlds} worlds, {transactions} transactions, {} failed, {} s", failed.len(), began.elapsed().as_secs());
    let missing: Vec<&str> = EXPECTED.iter().copied().filter(|m| marks.count(m) == 0).collect();
    if worlds >= 1_000 && options.bug.is_none() && !missing.is_empty() {
        println!("never happened: {missing:?}");
    }
    failed.is_empty() && (worlds < 1_000 || options.bug.is_some() || missing.is_empty())
}
