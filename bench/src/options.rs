//! The options of `harmonylite bench`.

use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// What to measure, and where the results go.
#[derive(Clone, Debug, Default, Args)]
pub struct Options {
    /// Short runs: less exact, about a minute in all
    #[arg(long)]
    pub quick: bool,
    /// Only these measurements
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME,NAME")]
    pub only: Vec<Measurement>,
    /// SQL that creates your tables, for --workload
    #[arg(long, value_name = "FILE", requires = "workload")]
    pub schema: Option<PathBuf>,
    /// Run your own mix of transactions instead (TOML, docs/benchmark.md)
    #[arg(long, value_name = "FILE", requires = "schema", conflicts_with = "only")]
    pub workload: Option<PathBuf>,
    /// Measure another program that takes the same configuration file
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
    /// Try settings around the defaults, in turns, and recommend
    #[arg(long, conflicts_with = "only")]
    pub sweep: bool,
    /// Write one page with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write the results as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Compare with the floors of the project's own machine; status 1 if one is missed
    #[arg(long)]
    pub floors: bool,
    /// Transactions of each run of `deferred`
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub transactions: u64,
    /// Rows of `series-integer`, `series-uuid` and `series-uuid7`
    #[arg(long, value_name = "N", default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub rows: u64,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Measurement {
    /// What the triggers cost the application
    Cost,
    /// 100,000 rows in transactions of 1,000; CPU of each process
    Bulk,
    /// The same with UUID keys and an index
    Uuid,
    /// Single-row commits as fast as one connection can
    Single,
    /// From a commit to a peer's reader at 50 commits a second
    Latency,
    /// CPU and memory of a node with nothing to do
    Idle,
    /// What an application pays while rows of another node come in
    Beside,
    /// How fast a node catches up after an outage
    CatchUp,
    /// Several nodes write the same rows; all must end equal
    Conflicts,
    /// How much larger the database is than without us
    Growth,
    /// One large transaction: memory, and how long it keeps an application waiting
    Hold,
    /// Deferred transactions that fail, of 10,000. Takes minutes, so it runs only by name
    Deferred,
    /// What a row costs as a table with integer keys grows to --rows. Runs only by name
    SeriesInteger,
    /// The same with UUID keys and an index. Takes minutes, so it runs only by name
    SeriesUuid,
    /// The same with UUIDs that begin with the time (version 7). Runs only by name
    SeriesUuid7,
    /// Save and restore a database of 1 GB. Takes minutes and 10 GB, so it runs only by name
    Snapshots,
}

impl Measurement {
    /// Those that take too long for a run of all.
    pub(crate) const BY_NAME: [Self; 5] =
        [Self::Deferred, Self::SeriesInteger, Self::SeriesUuid, Self::SeriesUuid7, Self::Snapshots];
}

impl Options {
    /// Returns whether a measurement runs.
    pub(crate) fn wants(&self, part: Measurement) -> bool {
        if self.only.is_empty() {
            !Measurement::BY_NAME.contains(&part)
        } else {
            self.only.contains(&part)
        }
    }

    /// Returns the greater number, or the smaller one of a short run.
    pub(crate) fn scale<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}
