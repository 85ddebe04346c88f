//! The `harmonylite` program: reads the command line, calls the library, says what went wrong.

mod cli;
mod demo;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = cli::args::go_style(std::env::args_os());
    match cli::dispatch(arguments) {
        Ok(code) => code,
        Err(error) => cli::exit::Failure::of(&error).report(),
    }
}
