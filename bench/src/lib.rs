//! What `harmonylite bench` measures: nodes and a broker as real processes, looked at from outside
//! with ordinary SQLite connections.
//!
//! Arrives: a program that takes HarmonyLite's configuration file, a nats-server, [`Options`].
//! Leaves: a table, an HTML page, JSON. Owns: it knows nothing of the program but its flags, its
//! configuration and what a reader of the database sees, so that any such program can be measured;
//! no process outlives it, and no file either. A crash leaves a folder in the temporary directory,
//! never a process.

mod broker;
mod cluster;
mod database;
mod html;
mod machine;
mod measure;
mod options;
mod plot;
mod process;
mod progress;
mod random;
mod report;
mod sample;
mod sweep;
mod time;
mod usage;
mod workload;

pub use options::{Measurement, Options};
pub use time::Interrupted;
pub use workload::WorkloadError;

use anyhow::{Context, Result};
use machine::Machine;
use report::Report;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

/// The processes that are measured.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The program under test.
    pub program: PathBuf,
    /// Its name and version, for the report.
    pub version: String,
    /// Whether it is this program, whose commands are known.
    pub own: bool,
    /// The nats-server.
    pub server: PathBuf,
    /// A script for /bin/sh that runs a program, sends it the signals that it reads by name, and
    /// kills it at the end of its input.
    pub lifeline: &'static str,
}

impl Parts {
    /// Returns the same with another program.
    ///
    /// # Errors
    /// It does not exist.
    pub fn with_program(self, path: PathBuf) -> Result<Self> {
        let program = path.canonicalize().with_context(|| format!("{}", path.display()))?;
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let said = machine::first_line(Command::new(&program).arg("-version"));
        let version = format!("{name} {said}").trim().to_owned();
        Ok(Self { program, version, own: false, ..self })
    }
}

/// Measures, and prints and writes the results. Returns whether everything held: no nodes ended
/// unequal, and with [`Options::floors`] no floor was missed.
///
/// # Errors
/// A process does not start or ends, rows do not arrive, a file cannot be written;
/// [`Interrupted`] after a signal.
pub fn run(parts: Parts, options: &Options) -> Result<bool> {
    let _signals = time::listen()?;
    let parts = match &options.binary {
        Some(path) => parts.with_program(path.clone())?,
        None => parts,
    };
    let files = options.schema.as_deref().zip(options.workload.as_deref());
    let own = files.map(|(schema, workload)| workload::load(schema, workload)).transpose()?;
    let steps = match &own {
        _ if options.sweep => sweep::steps(options.quick),
        Some(_) => 2,
        None => measure::steps(options),
    };
    let machine = Machine::look(&parts);
    let mut report = Report::new(machine, options.floors, options.quick, steps);
    match own {
        own if options.sweep => {
            let workload = own.map_or_else(workload::shop, Ok)?;
            sweep::measure(&parts, &workload, &mut report, options.quick)?;
        }
        Some(workload) => workload::measure(&parts, &workload, &mut report, options.quick)?,
        None => measure::all(&parts, options, &mut report)?,
    }
    finish(options, report)
}

fn finish(options: &Options, mut report: Report) -> Result<bool> {
    // The moving line ends before the table.
    report.progress = progress::Progress::default();
    let mut text = report.table();
    if cfg!(debug_assertions) {
        text += "This is a debug build: the numbers say little.\n";
    }
    // A reader that ends early is no error.
    let _ = std::io::stdout().write_all(text.as_bytes());
    if let Some(path) = &options.json {
        report.write(path)?;
    }
    if let Some(path) = &options.html {
        html::write(&report, path)?;
    }
    Ok(report.passed())
}
