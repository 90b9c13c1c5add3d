//! `check`: finds mistakes in the configuration and in what it points to.

use anyhow::Context;

use super::endpoints::{connect_config, lookup_config, replica_configs, sinks};
use super::{Misconfigured, Outcome, block_on, load, print, style};
use crate::check::{Finding, Group, Status, Summary, Targets, file, json, live, text};
use crate::cli::{CheckArgs, Global};
use crate::config::{Config, Kept, Loaded, state_dir};
use crate::postgres::ConnectConfig;
use crate::sinks::Endpoint;

pub(super) fn check(global: &Global, args: &CheckArgs) -> anyhow::Result<Outcome> {
    let loaded = load(global)?;
    let mut findings = file(&loaded);
    if !args.offline {
        findings.extend(look(&loaded)?);
    }
    let shown = match args.json {
        true => json(&findings).context("cannot write JSON")?,
        false => text(&findings, style(&std::io::stdout())),
    };
    print(&shown)?;
    Ok(outcome(&findings, args))
}

fn outcome(findings: &[Finding], args: &CheckArgs) -> Outcome {
    let Summary { warning, failed, .. } = Summary::of(findings);
    // A rule that fails its own test is a mistake in the configuration, whatever the servers say.
    let is_mistake =
        |found: &Finding| found.group == Group::Configuration && found.status == Status::Failed;
    if findings.iter().any(is_mistake) {
        Outcome::Misconfigured
    } else if failed > 0 || args.strict && warning > 0 {
        Outcome::Failed
    } else {
        Outcome::Done
    }
}

/// Asks the servers.
fn look(loaded: &Loaded) -> anyhow::Result<Vec<Finding>> {
    let Endpoints { connect, lookups, replicas, sinks } = endpoints(&loaded.config)?;
    let postgres = &loaded.config.postgres;
    let state_dir = state_dir(&loaded.config);
    let targets = Targets {
        postgres,
        connect: &connect,
        lookups: &lookups,
        replicas: &replicas,
        state_dir: state_dir.as_deref(),
        rules: &loaded.rules,
        sinks: &sinks,
    };
    block_on(async { Ok(live(targets).await) })
}

/// What the configuration points to.
struct Endpoints {
    connect: ConnectConfig,
    lookups: ConnectConfig,
    replicas: Vec<ConnectConfig>,
    sinks: Vec<Endpoint>,
}

/// What the configuration points to; everything that is wrong with it, together.
fn endpoints(config: &Config) -> Result<Endpoints, Misconfigured> {
    let connect = connect_config(&config.postgres);
    let lookups = lookup_config(&config.postgres);
    let sinks = sinks(config, Kept::Nothing);
    let mut problems: Vec<String> =
        connect.as_ref().err().map(ToString::to_string).into_iter().collect();
    problems.extend(sinks.iter().filter_map(|sink| sink.as_ref().err()).map(ToString::to_string));
    if config.postgres.lookup_url.is_some() {
        problems.extend(lookups.as_ref().err().map(ToString::to_string));
    }
    let replicas = replica_configs(&config.postgres);
    problems.extend(replicas.as_ref().err().map(ToString::to_string));
    let replicas = replicas.map(|of| of.map_or_else(Vec::new, |replicas| replicas.connects));
    match (connect, lookups, replicas, sinks.into_iter().collect::<Result<_, _>>()) {
        (Ok(connect), Ok(lookups), Ok(replicas), Ok(sinks)) => {
            Ok(Endpoints { connect, lookups, replicas, sinks })
        }
        _ => Err(Misconfigured::new(problems.join("\nerror: "))),
    }
}
