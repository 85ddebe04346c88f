//! `harmonylite completions SHELL`: prints a completion script.

use super::args::Cli;
use super::show;
use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;
use std::process::ExitCode;

/// Prints it to stdout.
pub(crate) fn run(shell: Shell) -> Result<ExitCode> {
    // Into memory first: the generator panics when the pipe is closed (`| head`).
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "harmonylite", &mut script);
    show::print(&String::from_utf8_lossy(&script));
    Ok(ExitCode::SUCCESS)
}
