//! The lanes of the configured sinks and of lookups, and which of them does what.

mod adding;
mod redelete;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use adding::Adding;
use redelete::{Redeletes, tells_of_redeletes};

use super::Misconfigured;
use super::endpoints::lookup_config;
use crate::action::{Action, Verb};
use crate::config::{Config, PostgresConfig};
use crate::lookups::{LookupLane, Pool};
use crate::pipeline::{LaneId, LaneSpec, Pace, Repeats, Routes, Since, Stage, Urgency};
use crate::rules::{FALLBACK_EVERY, Rule, RuleId, RuleSet, SinkId};
use crate::sinks::cdn::CdnLane;
use crate::sinks::cdn::cloudfront::{CloudFrontLane, Part};
use crate::sinks::redis::{
    Fallbacks, LaneClass, Ledger, RedisConfig, SHARDS, ServerRecord, Topology,
};
use crate::sinks::{Endpoint, Lane};
use crate::state::{Fingerprint, Servers};

/// Gives every lane of each Redis what it needs to do again what another server may not know of.
/// What was done on which server is kept in `state_dir`.
pub(super) fn remember(
    lanes: &mut [LaneSpec],
    sinks: &[Endpoint],
    rules: &RuleSet,
    state_dir: Option<&Path>,
) {
    let mut servers = Servers::open(state_dir);
    servers.retain(|name| sinks.iter().any(|sink| sink.name() == name));
    let servers = Arc::new(Mutex::new(servers));
    for (at, sink) in sinks.iter().enumerate() {
        let Endpoint::Redis(config) = sink else { continue };
        if config.failover_window().is_zero() {
            continue;
        }
        let (name, target) = (config.name().to_owned(), Fingerprint::of(&config.key_space()));
        let coarse = Arc::new(coarse(rules, SinkId(at as u32)));
        let noted = servers.lock().unwrap_or_else(PoisonError::into_inner).noted(&name, &target);
        let servers = Arc::clone(&servers);
        let note = move |server: &str| {
            let mut servers = servers.lock().unwrap_or_else(PoisonError::into_inner);
            servers.note(&name, &target, server);
        };
        let own = lanes.iter_mut().filter(|spec| spec.sink == sink.name());
        if config.is_cluster() {
            let ledger = Arc::new(Ledger::new(noted.as_deref(), note));
            for spec in own {
                if let Lane::Cluster(lane) = &mut spec.lane {
                    lane.share(&ledger, &coarse);
                }
            }
            continue;
        }
        let record = Arc::new(ServerRecord::new(noted, note));
        for spec in own {
            if let Lane::Redis(lane) = &mut spec.lane {
                lane.share(Arc::clone(&record), Arc::clone(&coarse));
            }
        }
    }
}

/// Every fallback that reaches a sink, and the rules that reach it and have none there.
fn coarse(rules: &RuleSet, sink: SinkId) -> Fallbacks {
    // What a message told is no loss of the server's.
    let removes = |verb: Verb| !verb.is_afterwards();
    let mut fallbacks = Fallbacks::default();
    for rule in rules.rules() {
        let mut is_covered = false;
        for coarse in rule.fallback.iter().filter(|coarse| coarse.sinks.contains(&sink)) {
            fallbacks.batch.push(coarse.action());
            is_covered |= removes(coarse.verb);
        }
        if !is_covered && asks(rule, sink, removes) {
            fallbacks.uncovered.push(rule.name.clone());
        }
        if asks(rule, sink, |verb| verb == Verb::Tag) {
            fallbacks.tagged.push(rule.name.clone());
        }
    }
    fallbacks
}

/// What becomes of a sink's actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// They are done.
    Done,
    /// They are logged.
    Shown,
    /// They wait: the sink is held.
    Held,
    /// Nothing: the sink is off, or was not asked for.
    Left,
}

/// Where lookups go, if any rule has one.
pub(super) fn lookup_pool(
    config: &PostgresConfig,
    rules: &RuleSet,
) -> Result<Option<Pool>, Misconfigured> {
    let looks_up = rules.rules().iter().any(|rule| rule.lookup.is_some());
    looks_up.then(|| Ok(Pool::new(lookup_config(config)?))).transpose()
}

/// A lane of a sink: what it is for, when, and what waits in it for its turn.
type Class = (LaneClass, Stage, Urgency);

/// The lanes of a Redis.
const REDIS: [Class; 6] = [
    (LaneClass::Precise, Stage::Remove, Urgency::Prompt),
    (LaneClass::Tags, Stage::Remove, Urgency::Prompt),
    (LaneClass::Scan, Stage::Remove, Urgency::Prompt),
    (LaneClass::Scan, Stage::Remove, Urgency::Paced),
    (LaneClass::Found, Stage::Remove, Urgency::Prompt),
    (LaneClass::Publish, Stage::Tell, Urgency::Prompt),
];

/// The lanes of a CDN. Purges that every update may ask for wait for their turn in one of their
/// own, and repeats, which nothing leads to, in the last.
const CDN: [(Part, Urgency); 3] = [
    (Part::Prompt, Urgency::Prompt),
    (Part::Paced, Urgency::Paced),
    (Part::Repeats, Urgency::Prompt),
];

/// What a CDN sink does again, whose lanes begin at `first`.
fn repeats(config: &Config, sink: &str, work: Work, first: usize) -> Option<Repeats> {
    let sink = config.cdn.iter().find(|known| known.name == sink)?;
    let is_asked = work != Work::Left && !sink.repurge_after.is_empty();
    let (to, after) = (LaneId(first + CDN.len() - 1), Arc::clone(&sink.repurge_after));
    is_asked.then_some(Repeats { to, after, from: Since::Done })
}

/// The lanes of all sinks and of all lookups, and which of them does what.
pub(super) fn lanes(
    config: &Config,
    sinks: Vec<Endpoint>,
    rules: &Arc<RuleSet>,
    lookups: Option<&Pool>,
    work: impl Fn(&str) -> Work,
) -> (Vec<LaneSpec>, Routes) {
    let mut lanes = Vec::new();
    // Most configurations publish nothing, and then nothing is kept in order for it.
    let classes = if publishes(rules) { &REDIS[..] } else { &REDIS[..REDIS.len() - 1] };
    let mut places = Vec::new();
    for (at, (sink, spec)) in sinks.iter().zip(rules.sinks()).enumerate() {
        let (id, first, work) = (SinkId(at as u32), lanes.len(), work(sink.name()));
        let topology = topology(sink);
        places.push(Place { first, topology: topology.clone() });
        let adding = Adding {
            sink,
            rules,
            work,
            after: caches_before(config, sink.name(), &lanes),
            purges_all: spec.purges.all,
            repeats: repeats(config, sink.name(), work, first),
            tells_again: work != Work::Left && tells_of_redeletes(rules, id),
            lanes: &mut lanes,
        };
        match sink {
            Endpoint::Redis(config) => {
                let redeletes = Redeletes::of(rules, id, work);
                adding.redis(config, topology.as_ref(), classes, &redeletes);
            }
            Endpoint::Cdn(sink) => adding.cdn(|_| Lane::Cdn(CdnLane::new(Arc::clone(sink)))),
            Endpoint::CloudFront(sink) => adding.cdn(|part| {
                Lane::CloudFront(Box::new(CloudFrontLane::new(Arc::clone(sink), part)))
            }),
        }
    }
    let mut lookup_lanes = HashMap::new();
    for (at, rule) in rules.rules().iter().enumerate() {
        let Some(pool) = lookups.filter(|_| rule.lookup.is_some()) else { continue };
        let id = RuleId(at as u32);
        lookup_lanes.insert(id, LaneId(lanes.len()));
        let lane = Lane::Lookup(LookupLane::new(pool.clone(), Arc::clone(rules), id));
        lanes.push(LaneSpec::new("postgres", lane, Stage::Lookup));
    }
    let route = move |sink: SinkId, action: Action<'_>, urgency: Urgency| {
        let (sink, place) = (&sinks[sink.0 as usize], &places[sink.0 as usize]);
        let class = class(sink, action.verb, urgency);
        LaneId(place.first + place.topology.as_ref().map_or(class, |of| shard(of, class, action)))
    };
    (lanes, Routes { actions: Box::new(route), lookups: lookup_lanes })
}

/// The lanes of the caches from which a CDN's edge fills. Caches stand before CDNs.
fn caches_before(config: &Config, cdn: &str, lanes: &[LaneSpec]) -> Vec<LaneId> {
    let Some(cdn) = config.cdn.iter().find(|sink| sink.name == cdn) else { return Vec::new() };
    let is_before = |lane: &LaneSpec| lane.stage == Stage::Remove && cdn.after.contains(&lane.sink);
    let lanes = lanes.iter().enumerate().filter(|(_, lane)| is_before(lane));
    lanes.map(|(at, _)| LaneId(at)).collect()
}

/// Where a sink's lanes are.
struct Place {
    /// The first one.
    first: usize,
    /// Of a cluster: which of the lanes of a class works for which key.
    topology: Option<Arc<Topology>>,
}

fn topology(sink: &Endpoint) -> Option<Arc<Topology>> {
    match sink {
        Endpoint::Redis(config) if config.is_cluster() => {
            Some(Arc::new(Topology::new(Arc::clone(config))))
        }
        _ => None,
    }
}

/// How many lanes of a class a Redis has: in a cluster, those of exact keys and of tags are sharded,
/// so that a master that is down delays its own keys alone.
fn lanes_of(class: LaneClass, is_cluster: bool) -> usize {
    match class {
        LaneClass::Precise | LaneClass::Tags if is_cluster => SHARDS,
        _ => 1,
    }
}

/// How many lanes classes have together.
fn lanes_before(classes: &[Class], is_cluster: bool) -> usize {
    classes.iter().map(|lane| lanes_of(lane.0, is_cluster)).sum()
}

/// The place of an action among the lanes of a cluster, of which each class has several.
fn shard(topology: &Topology, class: usize, action: Action<'_>) -> usize {
    let before = lanes_before(&REDIS[..class], true);
    match lanes_of(REDIS[class].0, true) {
        1 => before,
        _ => before + topology.shard(action),
    }
}

/// Which of a sink's classes does a verb.
fn class(sink: &Endpoint, verb: Verb, urgency: Urgency) -> usize {
    let place = match sink {
        Endpoint::Redis(config) => {
            // Rules send a sink only what it supports.
            let class = match config.lane_class(verb).unwrap_or(LaneClass::Precise) {
                LaneClass::Precise if urgency == Urgency::Found && is_paced(config, verb) => {
                    LaneClass::Found
                }
                class => class,
            };
            // Only scans cost enough to be held back.
            let is_held_back = class == LaneClass::Scan && urgency == Urgency::Paced;
            let urgency = if is_held_back { Urgency::Paced } else { Urgency::Prompt };
            REDIS.iter().position(|lane| (lane.0, lane.2) == (class, urgency))
        }
        Endpoint::Cdn(_) | Endpoint::CloudFront(_) => {
            // A purge of everything costs so much that nothing asks for it again and again.
            let urgency = match (verb, urgency) {
                (Verb::PurgeAll, _) => Urgency::Paced,
                (_, Urgency::Found) => Urgency::Prompt,
                (_, urgency) => urgency,
            };
            CDN.iter().position(|lane| lane.1 == urgency)
        }
    };
    place.unwrap_or_default()
}

/// Whether a sink paces what lookups find for a verb.
fn is_paced(config: &RedisConfig, verb: Verb) -> bool {
    config.is_paced() && verb.deleting() == Verb::Delete
}

/// Whether a rule asks a sink for some verb.
fn asks(rule: &Rule, sink: SinkId, is_meant: impl Fn(Verb) -> bool) -> bool {
    let steps = rule.steps.iter().map(|step| (step.verb, &step.sinks));
    let coarse = rule.fallback.iter().map(|coarse| (coarse.verb, &coarse.sinks));
    steps.chain(coarse).any(|(verb, sinks)| is_meant(verb) && sinks.contains(&sink))
}

fn publishes(rules: &RuleSet) -> bool {
    rules.rules().iter().any(|rule| {
        rule.steps.iter().any(|step| step.verb == Verb::Publish)
            || rule.fallback.iter().any(|coarse| coarse.verb == Verb::Publish)
    })
}

/// How often each coarse action runs at most: as its rule says, the most often of several.
fn pace(rules: &RuleSet) -> Pace {
    let mut every: HashMap<(Verb, Vec<u8>), Duration> = HashMap::new();
    for rule in rules.rules() {
        for coarse in &rule.fallback {
            let known = every.entry((coarse.verb, coarse.value.clone()));
            let known = known.or_insert(rule.fallback_every);
            *known = rule.fallback_every.min(*known);
        }
    }
    Box::new(move |action: Action<'_>| {
        let known = every.get(&(action.verb, action.value.to_vec()));
        known.copied().unwrap_or(FALLBACK_EVERY)
    })
}

#[cfg(test)]
mod tests;
