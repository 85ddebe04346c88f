//! The command line: one file a subcommand.

mod args;
mod bench;
mod cleanup;
mod completions;
mod conflicts;
mod control;
mod database;
mod demo;
mod dispatch;
mod doctor;
mod exit;
mod log;
mod nodes;
mod progress;
mod quarantine;
mod reset_versions;
mod restore;
mod restore_as_new;
mod run;
mod schema;
mod schema_apply;
mod schema_cluster;
mod schema_diff;
mod schema_status;
mod show;
mod snapshot;
mod status;
mod table;
mod version;

use std::process::ExitCode;

/// The exit status that shells use for a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// Runs the `harmonylite` program with the arguments of this process.
pub fn main() -> ExitCode {
    let arguments = args::go_style(std::env::args_os());
    match dispatch::dispatch(arguments) {
        Ok(code) => code,
        Err(error) => exit::Failure::of(&error).report(),
    }
}
