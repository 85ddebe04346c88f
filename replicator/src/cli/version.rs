//! `harmonylite version`: the versions of the program and its parts.

use super::show;
use anyhow::Result;
use std::process::ExitCode;

/// The licences of all parts, written by scripts/licenses.py.
const LICENSES: &str = include_str!("../../licenses.txt");

/// Prints the versions, or the licences.
pub(crate) fn run(licenses: bool) -> Result<ExitCode> {
    if licenses {
        show::print(LICENSES);
    } else {
        show::print(&format!(
            "harmonylite {}\nSQLite {}\n{}\n",
            env!("CARGO_PKG_VERSION"),
            rusqlite::version(),
            crate::embedded::inside()
        ));
    }
    Ok(ExitCode::SUCCESS)
}
