//! Runs the demo and turns its end into an exit status.

use super::super::exit::Exit;
use super::super::{INTERRUPTED, show};
use super::play::{is_interrupt, play};
use anyhow::Result;
use std::process::ExitCode;

/// Runs `harmonylite demo`. The exit status is 1 if the nodes differ.
pub(in crate::cli) fn run(keep: bool, seconds: u64) -> Result<ExitCode> {
    match play(keep, seconds) {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(Exit::General.into()),
        Err(error) if is_interrupt(&error) => {
            show::print("interrupted; stopped the processes and removed the files\n");
            Ok(ExitCode::from(INTERRUPTED))
        }
        Err(error) => Err(error),
    }
}
