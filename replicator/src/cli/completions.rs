//! `harmonylite completions SHELL`: prints a completion script.

use super::args::Cli;
use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;
use std::process::ExitCode;

/// Prints it to stdout.
pub(crate) fn run(shell: Shell) -> Result<ExitCode> {
    clap_complete::generate(shell, &mut Cli::command(), "harmonylite", &mut std::io::stdout());
    Ok(ExitCode::SUCCESS)
}
