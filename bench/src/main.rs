//! Measures the cost and the speed of replication with two real nodes and one nats-server with its
//! defaults, and compares them with floors.
//!
//! `make bench` runs everything with a release build. `--quick` gives a short run for work in
//! progress, `--only latency` a single measurement. The exit status is 1 if a floor is missed.
//! `baseline.json` has the last results of the project's own machine (2 cores).

mod bare;
mod broker;
mod cost;
mod deferred;
mod flow;
mod hold;
mod idle;
mod latency;
mod pair;
mod report;

use anyhow::Result;
use broker::BrokerKind;
use clap::{Parser, ValueEnum};
use pair::Pair;
use report::Report;
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures two nodes and a broker on this machine.
#[derive(Debug, Parser)]
#[command(name = "harmonylite-bench")]
struct Options {
    /// Short runs: less exact, a few seconds in all
    #[arg(long)]
    quick: bool,
    /// Write the results to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only these measurements
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME,NAME")]
    only: Vec<Measurement>,
    /// Transactions of each run of `deferred`
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    transactions: u64,
    /// The program to measure; without it, the `harmonylite` beside this one
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Measurement {
    /// 100,000 rows in transactions of 1,000
    Bulk,
    /// Single-row commits as fast as one connection can
    Single,
    /// From a commit to a peer's reader at 50 commits a second
    Latency,
    /// What the triggers cost the application
    Cost,
    /// CPU and memory of a node with nothing to do
    Idle,
    /// How long an application waits while a large transaction of the other node is applied
    Hold,
    /// Deferred transactions that fail, of 10,000. Takes minutes, so it runs only by name
    Deferred,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let mut report = Report::default();
    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    if wanted(Measurement::Cost) {
        // This comes first, while nothing else runs.
        cost::measure(&mut report, options.quick)?;
    }
    if [
        Measurement::Bulk,
        Measurement::Single,
        Measurement::Latency,
        Measurement::Idle,
        Measurement::Hold,
    ]
    .into_iter()
    .any(wanted)
    {
        let pair = Pair::start(options.program.clone(), BrokerKind::Plain)?;
        if wanted(Measurement::Bulk) {
            flow::bulk(&pair, &mut report, options.quick)?;
        }
        if wanted(Measurement::Single) {
            flow::single(&pair, &mut report, options.quick)?;
        }
        if wanted(Measurement::Latency) {
            latency::measure(&pair, &mut report, options.quick)?;
        }
        if wanted(Measurement::Idle) {
            idle::measure(&pair, &mut report, options.quick)?;
        }
        if wanted(Measurement::Hold) {
            // This comes last, because it uses memory, which `idle` measures.
            hold::measure(&pair, &mut report, options.quick)?;
        }
    }
    if wanted(Measurement::Latency) {
        let pair = Pair::start(options.program.clone(), BrokerKind::Embedded)?;
        latency::measure_synced(&pair, &mut report, options.quick)?;
    }
    if options.only.contains(&Measurement::Deferred) {
        let count = if options.quick { 300 } else { options.transactions };
        deferred::measure(options.program.clone(), &mut report, count)?;
    }
    print!("{}", report.table());
    if cfg!(debug_assertions) {
        println!(
            "This is a debug build: the numbers say little. `make bench` makes a release build."
        );
    }
    let passed = report.passed();
    if let Some(path) = &options.json {
        report.write(path)?;
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
