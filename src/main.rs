//! The `walpurge` command.

use std::process::ExitCode;

use clap::Parser;
use walpurge::cli::Cli;
use walpurge::commands;

fn main() -> ExitCode {
    commands::execute(Cli::parse()).into()
}
