//! Is everything as the daemon needs it, and what mends what is not?
//!
//! In: a configuration. Out: a list of [`Finding`]s, each good, to be known, or to be mended with
//! the SQL or setting below it. [`file()`] looks at the configuration alone; [`live`] also asks the
//! servers, and tries rather than asks where it can do so without a trace: a temporary slot, a
//! Redis key of its own.
//!
//! Nothing ends early: what cannot be looked at says so in its place. Every step is bounded.
//! Absent on purpose: problems of the file itself (`config`), output and exit codes (`commands`).

mod database;
mod ddl;
mod failover;
mod file;
mod finding;
mod lookups;
mod plugins;
mod publication;
mod replay;
mod replicas;
mod server;
mod show;
mod sinks;
mod slot;
mod tables;

use std::path::Path;
use std::time::Duration;

pub use file::file;
pub use finding::{Finding, Group, Status, Summary};
pub use show::{json, text};

use crate::config::PostgresConfig;
use crate::postgres::ConnectConfig;
use crate::rules::RuleSet;
use crate::sinks::Endpoint;

/// How long one question to a server may take: all of them are about the catalog or a setting.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How many names or findings of a kind are listed.
const LISTED_MAX: usize = 8;

/// What [`live`] looks at.
#[derive(Clone, Copy)]
pub struct Targets<'a> {
    /// `[postgres]`.
    pub postgres: &'a PostgresConfig,
    /// Its `url`, fetched.
    pub connect: &'a ConnectConfig,
    /// Where lookups run.
    pub lookups: &'a ConnectConfig,
    /// The replicas that are waited for.
    pub replicas: &'a [ConnectConfig],
    /// Where state is kept.
    pub state_dir: Option<&'a Path>,
    /// The rules.
    pub rules: &'a RuleSet,
    /// The sinks, in the order of the rule set's.
    pub sinks: &'a [Endpoint],
}

/// Asks Postgres and every sink, at the same time.
pub async fn live(targets: Targets<'_>) -> Vec<Finding> {
    let database = Box::pin(database::database(targets));
    let sinks = Box::pin(sinks::sinks(targets.rules, targets.sinks));
    let (mut findings, of_sinks) = tokio::join!(database, sinks);
    findings.extend(of_sinks);
    findings
}
