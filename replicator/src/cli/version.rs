//! `harmonylite version`: what this program is made of.

use anyhow::Result;
use std::process::ExitCode;

/// Prints it.
pub(crate) fn run() -> Result<ExitCode> {
    println!("harmonylite {}", env!("CARGO_PKG_VERSION"));
    println!("SQLite {}", rusqlite::version());
    println!("{}", harmonylite::embedded::inside());
    Ok(ExitCode::SUCCESS)
}
