//! The command line: parse, run, exit code. All the rest is in the library.

use clap::Parser;
use kariz_loadgen::{cli::Cli, job};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match job::run(&cli, std::env::args().collect()) {
        Ok(verdict) => ExitCode::from(verdict.exit_code()),
        Err(error) => {
            eprintln!("kariz-loadgen: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
