//! The `harmonylite` program. The command line is in the library: `harmonylite::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    harmonylite::cli::main()
}
