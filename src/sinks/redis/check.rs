//! May and can this Redis do what the rules ask of it? Tried with the very commands, on a key of
//! our own.

mod trial;

use std::sync::Arc;
use std::time::Duration;

pub(super) use trial::TRIAL_KEY;
use trial::{ping, trial_key, try_verb, try_wait};

use super::cluster;
use super::config::{Address, RedisConfig};
use super::connection::Connection;
use super::rights::Duties;
use crate::action::Verb;
use crate::key_type::KeyType;
use crate::sinks::Failure;

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckLine {
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was looked at, and what came of it.
    pub what: String,
    /// The command or setting that mends it.
    pub hint: Option<String>,
}

/// Stands for every type: they take the same commands.
const ANY_TYPE: KeyType = KeyType::String;

/// Every verb, and so the order in which they are reported.
const VERBS: [Verb; 13] = [
    Verb::Delete,
    Verb::DeleteMatching,
    Verb::DeleteTyped(ANY_TYPE),
    Verb::Bump,
    Verb::BumpMatching,
    Verb::Tag,
    Verb::TagMatching,
    Verb::Expire,
    Verb::ExpireMatching,
    Verb::ExpireTyped(ANY_TYPE),
    Verb::ExpireTag,
    Verb::ExpireTagMatching,
    Verb::Publish,
];

/// Tries everything that `duties` need, on the real server.
///
/// The key that it uses has a random name under the sink's prefix, is gone ten seconds later
/// even where it cannot be deleted, and is the only one that it touches. Nothing is published.
pub async fn check(config: &RedisConfig, duties: &Duties) -> Vec<CheckLine> {
    if config.is_cluster() {
        return cluster::check(config, duties).await;
    }
    let mut lines = sentinels(config).await;
    lines.extend(check_server(config, duties, |_| true).await);
    lines
}

/// Tries one server, or one master of a cluster, with a key that `takes` allows: none of another
/// master's slots.
pub(super) async fn check_server(
    config: &RedisConfig,
    duties: &Duties,
    takes: impl Fn(&[u8]) -> bool,
) -> Vec<CheckLine> {
    let mut lines = Vec::new();
    let mut connection = match Connection::open(Arc::new(config.clone())).await {
        Ok(connection) => connection,
        Err(failure) => {
            lines.push(failed("connect", failure));
            return lines;
        }
    };
    match ping(&mut connection, config).await {
        Ok(line) => lines.push(line),
        Err(failure) => {
            lines.push(failed("PING", failure));
            return lines;
        }
    }
    if config.wait_replicas > 0 {
        let key = trial_key(config, &takes).filter(|_| config.is_cluster());
        match try_wait(config, duties, key.as_deref()).await {
            Ok(line) => lines.push(line),
            Err(failure) => lines.push(failed("wait_replicas", failure)),
        }
    }
    if config.is_cluster() && !config.failover_window.is_zero() {
        match cluster::try_window(&mut connection, config, duties).await {
            Ok(line) => lines.push(line),
            Err(failure) => {
                lines.push(failed("failover_window", failure));
                return lines;
            }
        }
    }
    for verb in VERBS {
        let is_it = |duty: &Verb| match duty.key_type() {
            None => *duty == verb,
            Some(_) => {
                verb.key_type().is_some()
                    && (duty.untyped(), duty.expires()) == (verb.untyped(), verb.expires())
            }
        };
        if !duties.verbs.iter().any(is_it) {
            continue;
        }
        let name = verb_name(verb);
        let key = trial_key(config, &takes);
        match try_verb(&mut connection, config, verb, duties, key.as_deref()).await {
            Ok(()) => lines.push(CheckLine { ok: true, what: name.to_owned(), hint: None }),
            Err(failure) => {
                lines.push(failed(name, failure));
                // Replies may be under way still.
                match Connection::open(Arc::new(config.clone())).await {
                    Ok(fresh) => connection = fresh,
                    Err(failure) => {
                        lines.push(failed("connect", failure));
                        break;
                    }
                }
            }
        }
    }
    lines
}

/// What each Sentinel says, one line each.
async fn sentinels(config: &RedisConfig) -> Vec<CheckLine> {
    let Address::Sentinel(sentinel) = &config.address else { return Vec::new() };
    let mut lines = Vec::new();
    for node in sentinel.nodes() {
        lines.push(match sentinel.ask(node, &mut None).await {
            Ok(answer) => {
                let down_after = Duration::from_millis(answer.down_after_ms);
                let window = config.failover_window;
                let is_short = !window.is_zero() && window <= down_after;
                let what = format!(
                    "sentinel {}: the master is {}:{}, of {} replicas, down after {down_after:?}",
                    node.target(),
                    answer.host,
                    answer.port,
                    answer.replicas
                );
                let hint = format!(
                    "a master that is cut off from its replicas goes on for {down_after:?} and \
                     loses it all: set failover_window above that, or wait_replicas = 1"
                );
                let is_covered = !is_short || config.wait_replicas > 0;
                CheckLine { ok: is_covered, what, hint: (!is_covered).then_some(hint) }
            }
            Err(failure) => failed(&format!("sentinel {}", node.target()), failure),
        });
    }
    lines
}

fn failed(what: &str, failure: Failure) -> CheckLine {
    let what = format!("{what}: {failure}");
    match failure {
        Failure::Outage { .. } | Failure::Held => CheckLine { ok: false, what, hint: None },
        Failure::Refused { hint, .. } => CheckLine { ok: false, what, hint: Some(hint) },
    }
}

/// A verb's name, of which two may share a rule key.
fn verb_name(verb: Verb) -> &'static str {
    match verb {
        Verb::BumpMatching => "bump by pattern",
        Verb::TagMatching => "tags by pattern",
        Verb::Expire => "delete with expire_in",
        Verb::ExpireMatching => "delete_matching with expire_in",
        Verb::DeleteTyped(_) => "delete_matching of a type",
        Verb::ExpireTyped(_) => "delete_matching of a type with expire_in",
        Verb::ExpireTag => "tags with expire_in",
        Verb::ExpireTagMatching => "tags by pattern with expire_in",
        verb => verb.key(),
    }
}
