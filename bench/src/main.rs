//! Benchmarks: the released program between a private Postgres and a private Redis; `rules` alone
//! needs no server.
//!
//! `bench [SCENARIO]…` runs all scenarios, or those named; environment variables give the sizes
//! ([`size`]). Results go to standard output and to `target/bench/`, progress to standard error.
//! Every ratio compares runs of the same call, interleaved: this machine, this hour.

mod backlog;
mod bed;
mod daemon;
#[cfg(test)]
mod guard;
mod plot;
mod process;
mod recvlogical;
mod report;
mod scenarios;
mod size;
mod sql;
mod stats;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::report::Report;
use crate::scenarios::{SCENARIOS, Scenario};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let mut report = Report::begin()?;
    for scenario in chosen(&names)? {
        eprintln!("{}: {}", scenario.name, scenario.about);
        let section = (scenario.run)().with_context(|| scenario.name.to_owned())?;
        report.add(scenario, section)?;
    }
    report.finish()
}

/// The scenarios with these names; all if there are none.
fn chosen(names: &[String]) -> Result<Vec<&'static Scenario>> {
    if names.is_empty() {
        return Ok(SCENARIOS.iter().collect());
    }
    let find = |name: &String| match SCENARIOS.iter().find(|scenario| scenario.name == name) {
        Some(scenario) => Ok(scenario),
        None => {
            let known: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
            bail!("no scenario {name:?}; there are {}", known.join(", "))
        }
    };
    names.iter().map(find).collect()
}
