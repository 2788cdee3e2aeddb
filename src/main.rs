//! The `lensgate` program: parses the command line, runs it, maps the result to an exit code.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // A wrong command line ends inside `parse`, with exit code 2.
    match lensgate::cli::run(lensgate::cli::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lensgate: {error:#}");
            ExitCode::FAILURE
        }
    }
}
