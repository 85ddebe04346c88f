//! `harmonylite demo`: three nodes on this machine write at once and end up equal.

use super::exit::Exit;
use crate::demo;
use anyhow::Result;
use std::process::ExitCode;

/// What a shell reports for a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// Plays it; ends with 1 if the nodes differ.
pub(crate) fn run(keep: bool, seconds: u64) -> Result<ExitCode> {
    match demo::run(keep, seconds) {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(Exit::General.into()),
        Err(error) if demo::is_interrupt(&error) => {
            super::show::print("interrupted; processes are ended and files removed\n");
            Ok(ExitCode::from(INTERRUPTED))
        }
        Err(error) => Err(error),
    }
}
