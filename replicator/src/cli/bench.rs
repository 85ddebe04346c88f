//! `harmonylite bench`: measures this program, or another one, on this machine.

use super::exit::{Exit, Failure};
use super::show;
use crate::embedded::{LIFELINE_SHELL, server_program};
use anyhow::{Context, Result};
use harmonylite_bench::{Interrupted, Options, Parts, WorkloadError};
use std::process::ExitCode;

const HINT: &str = "docs/benchmark.md describes the file, and names two examples";

/// Runs the measurements. The exit status is 1 if nodes ended unequal or a floor is missed.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let server = runtime.block_on(server_program(""))?;
    drop(runtime);
    let parts = Parts {
        program: std::env::current_exe().context("cannot find this program")?,
        version: format!("harmonylite {}", env!("CARGO_PKG_VERSION")),
        own: true,
        server,
        lifeline: LIFELINE_SHELL,
    };
    match harmonylite_bench::run(parts, options) {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(Exit::General.into()),
        Err(error) if error.is::<Interrupted>() => {
            show::print("interrupted; stopped the processes and removed the files\n");
            Ok(ExitCode::from(super::INTERRUPTED))
        }
        Err(error) => Err(match error.downcast_ref::<WorkloadError>() {
            Some(wrong) => Failure::new(Exit::Usage, wrong.to_string(), HINT).into(),
            None => error,
        }),
    }
}
