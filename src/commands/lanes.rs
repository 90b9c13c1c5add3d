//! The lanes of the configured sinks and of lookups, and which of them does what.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Misconfigured;
use super::endpoints::lookup_config;
use crate::action::{Action, Verb};
use crate::config::{Config, PostgresConfig};
use crate::lookups::{LookupLane, Pool};
use crate::pipeline::{
    LaneId, LaneSpec, Pace, RedeletedBy, Repeats, Routes, Since, Stage, Urgency,
};
use crate::rules::{FALLBACK_EVERY, RedeleteId, Rule, RuleId, RuleSet, SinkId};
use crate::sinks::cdn::CdnLane;
use crate::sinks::cdn::cloudfront::{CloudFrontLane, Part};
use crate::sinks::redis::{
    ClusterLane, Fallbacks, LaneClass, Ledger, RedisConfig, RedisLane, SHARDS, ServerRecord,
    TagMode, Topology,
};
use crate::sinks::{DryRunLane, Endpoint, Lane};
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

/// The lanes of a Redis for what one list of times of `redelete_after` does again: four for the
/// first time, and two for the others, so that no key waits for a pattern.
const REDELETING: [(LaneClass, Urgency); 6] = [
    (LaneClass::Precise, Urgency::Prompt),
    (LaneClass::Tags, Urgency::Prompt),
    (LaneClass::Scan, Urgency::Prompt),
    (LaneClass::Scan, Urgency::Paced),
    (LaneClass::Precise, Urgency::Prompt),
    (LaneClass::Scan, Urgency::Prompt),
];

/// How many of them are for the first time.
const FIRST_TIME: usize = 4;

/// The verbs that a reader can undo.
const REDELETED: [Verb; 8] = [
    Verb::Delete,
    Verb::DeleteMatching,
    Verb::Tag,
    Verb::TagMatching,
    Verb::Expire,
    Verb::ExpireMatching,
    Verb::ExpireTag,
    Verb::ExpireTagMatching,
];

/// The lanes of a CDN. Purges that every update may ask for wait for their turn in one of their
/// own, and repeats, which nothing leads to, in the last.
const CDN: [(Part, Urgency); 3] = [
    (Part::Prompt, Urgency::Prompt),
    (Part::Paced, Urgency::Paced),
    (Part::Repeats, Urgency::Prompt),
];

/// The lanes of a CDN, with or without that of repeats.
fn cdn(repeats: bool) -> impl Iterator<Item = (Part, Urgency)> {
    CDN.into_iter().take(CDN.len() - usize::from(!repeats))
}

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
        let after = caches_before(config, sink.name(), &lanes);
        let purges_all = spec.purges.all;
        let repeats = repeats(config, sink.name(), work, first);
        let again = repeats.is_some();
        let more = work != Work::Left && tells_of_redeletes(rules, id);
        let request_actions = match sink {
            Endpoint::Cdn(sink) => sink.request_items(),
            Endpoint::CloudFront(sink) => sink.request_items(),
            Endpoint::Redis(_) => None,
        };
        let mut add = |stage: Stage, urgency, joins_pool, lane: &dyn Fn() -> Lane| {
            let lane = match work {
                Work::Done => lane(),
                Work::Shown => Lane::DryRun(DryRunLane::of(sink.clone())),
                Work::Held => Lane::Hold,
                Work::Left => Lane::Left,
            };
            let pace = (urgency == Urgency::Paced).then(|| pace(rules));
            // Whatever is done again is not done again once more.
            let again = repeats.clone().filter(|repeats| repeats.to != LaneId(lanes.len()));
            let after = after.clone();
            let spec = LaneSpec::new(sink.name(), lane, stage);
            let spec = LaneSpec { pace, after, purges_all, again, request_actions, ..spec };
            lanes.push(LaneSpec { joins_pool, ..spec });
        };
        match sink {
            Endpoint::Redis(config) => {
                let lane = |class| match &topology {
                    None => Lane::Redis(RedisLane::new(Arc::clone(config), class)),
                    Some(topology) => {
                        Lane::Cluster(Box::new(ClusterLane::new(Arc::clone(topology), class)))
                    }
                };
                for &(class, stage, urgency) in classes {
                    for shard in 0..lanes_of(class, topology.is_some()) {
                        add(stage, urgency, shard > 0, &|| lane(class));
                    }
                }
                if more {
                    add(Stage::Tell, Urgency::Prompt, false, &|| lane(LaneClass::Publish));
                }
                for _ in redeletes(rules, id, work) {
                    for (class, urgency) in REDELETING {
                        add(Stage::Remove, urgency, false, &|| lane(class));
                    }
                }
            }
            Endpoint::Cdn(sink) => {
                let lane = || Lane::Cdn(CdnLane::new(Arc::clone(sink)));
                cdn(again).for_each(|(_, urgency)| add(Stage::Purge, urgency, false, &lane));
                if more {
                    add(Stage::Purge, Urgency::Prompt, false, &lane);
                }
            }
            Endpoint::CloudFront(sink) => {
                let lane = |part| CloudFrontLane::new(Arc::clone(sink), part);
                let lane = |part| Lane::CloudFront(Box::new(lane(part)));
                cdn(again).for_each(|(part, urgency)| {
                    add(Stage::Purge, urgency, false, &|| lane(part));
                });
                if more {
                    add(Stage::Purge, Urgency::Prompt, false, &|| lane(Part::OnceMore));
                }
            }
        }
        if let Endpoint::Redis(config) = sink {
            let more_at = first + lanes_before(classes, topology.is_some());
            if more {
                lanes[more_at - 1].once_more = Some(LaneId(more_at));
            }
            let redeletes = redeletes(rules, id, work);
            redelete(rules, config, &redeletes, &mut lanes[first..], first);
        } else if more {
            let more_at = LaneId(lanes.len() - 1);
            lanes[first].once_more = Some(more_at);
            lanes[first + 1].once_more = Some(more_at);
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

/// The lists of times after which a sink deletes something again.
fn redeletes(rules: &RuleSet, sink: SinkId, work: Work) -> Vec<RedeleteId> {
    let asks = |rule: &&Rule, id: RedeleteId| {
        rule.redelete == Some(id) && asks(rule, sink, Verb::is_redeleted)
    };
    let ids = (0..rules.redeletes().len()).map(|at| RedeleteId(at as u8));
    let is_asked = |id: &RedeleteId| rules.rules().iter().any(|rule| asks(&rule, *id));
    ids.filter(|id| work != Work::Left && is_asked(id)).collect()
}

/// Whether a sink is told, or purges, what a rule with such a list deletes.
fn tells_of_redeletes(rules: &RuleSet, sink: SinkId) -> bool {
    let mut rules = rules.rules().iter().filter(|rule| rule.redelete.is_some());
    rules.any(|rule| asks(rule, sink, Verb::is_afterwards))
}

/// Whether a rule asks a sink for some verb.
fn asks(rule: &Rule, sink: SinkId, is_meant: impl Fn(Verb) -> bool) -> bool {
    let steps = rule.steps.iter().map(|step| (step.verb, &step.sinks));
    let coarse = rule.fallback.iter().map(|coarse| (coarse.verb, &coarse.sinks));
    steps.chain(coarse).any(|(verb, sinks)| is_meant(verb) && sinks.contains(&sink))
}

/// Leads what is to be deleted again to the lanes that do so: the last of `lanes`, which are those
/// of a Redis and begin at `first`.
fn redelete(
    rules: &RuleSet,
    config: &RedisConfig,
    redeletes: &[RedeleteId],
    lanes: &mut [LaneSpec],
    first: usize,
) {
    let mut begin = lanes.len() - redeletes.len() * REDELETING.len();
    for &redelete in redeletes {
        for (offset, &(class, urgency)) in REDELETING[..FIRST_TIME].iter().enumerate() {
            let at = begin + offset;
            let base = REDIS.iter().position(|lane| (lane.0, lane.2) == (class, urgency));
            // A counter needs no repeat, whatever it is called.
            let is_counter = |verb| {
                config.tag_mode() == TagMode::Version
                    && matches!(Verb::deleting(verb), Verb::Tag | Verb::TagMatching)
            };
            let is_done_here = |verb| config.lane_class(verb) == Some(class) && !is_counter(verb);
            let verbs = REDELETED.into_iter().filter(|&verb| is_done_here(verb));
            let lane = LaneId(first + at);
            if let Some(base) = base {
                let by: Vec<_> = verbs.map(|verb| RedeletedBy { redelete, verb, lane }).collect();
                let before = lanes_before(&REDIS[..base], config.is_cluster());
                let of_class = before..before + lanes_of(class, config.is_cluster());
                lanes[of_class].iter_mut().for_each(|lane| lane.redeleted_by.extend(&by));
            }
            // What lookups find is paced the second time too, and so goes to the lane of patterns.
            if (class, urgency) == (LaneClass::Scan, Urgency::Prompt)
                && let Some(found) = REDIS.iter().position(|lane| lane.0 == LaneClass::Found)
            {
                let verbs = REDELETED.into_iter().filter(|&verb| is_paced(config, verb));
                let at = lanes_before(&REDIS[..found], config.is_cluster());
                lanes[at].redeleted_by.extend(verbs.map(|verb| RedeletedBy {
                    redelete,
                    verb,
                    lane,
                }));
            }
            let to = begin + FIRST_TIME + usize::from(class != LaneClass::Precise);
            let after = Arc::clone(&rules.redeletes()[usize::from(redelete.0)]);
            let (to, from) = (LaneId(first + to), Since::Visible);
            lanes[at].again = Some(Repeats { to, after, from });
        }
        begin += REDELETING.len();
    }
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
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::super::endpoints;
    use super::*;
    use crate::config::{Kept, parse};

    #[test]
    fn a_clusters_lanes_stand_where_its_actions_are_routed() {
        let text = "[postgres]\nurl = \"postgres://h/d\"\n\
            [redis.a]\nurl = \"redis://h\"\n\
            [redis.b]\ncluster = [\"redis://h\"]\n\
            [redis.c]\nurl = \"redis://h\"\n\
            [[rule]]\ntable = \"public.t\"\ndelete = [\"key:{id}\"]\n\
            publish = { channel = \"c\", message = \"m\" }\n";
        let loaded = parse("t", text).unwrap();
        let sinks = endpoints::sinks(&loaded.config, Kept::Nothing);
        let sinks = sinks.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
        let rules = Arc::new(loaded.rules);
        let (lanes, routes) = lanes(&loaded.config, sinks, &rules, None, |_| Work::Done);
        let at = |sink, verb, urgency| {
            let action = Action { verb, value: b"c\0x" };
            (routes.actions)(SinkId(sink), action, urgency).0
        };
        let classes = |sink| {
            use Urgency::{Paced, Prompt};
            let verbs = [Verb::Delete, Verb::Tag, Verb::DeleteMatching];
            let prompt = verbs.map(|verb| at(sink, verb, Prompt));
            let rest = [at(sink, Verb::DeleteMatching, Paced), at(sink, Verb::Publish, Prompt)];
            [&prompt[..], &rest].concat()
        };
        let tags = 6 + SHARDS;
        let scans = tags + SHARDS;
        assert_eq!(classes(0), [0, 1, 2, 3, 5]);
        assert_eq!(classes(1), [6, tags, scans, scans + 1, scans + 3]);
        let first = scans + 4;
        assert_eq!(classes(2), [first, first + 1, first + 2, first + 3, first + 5]);
        assert_eq!(lanes.len(), first + 6);
        let pooled = |lane: &LaneSpec| lane.joins_pool;
        assert_eq!(lanes.iter().filter(|lane| pooled(lane)).count(), 2 * (SHARDS - 1));
        assert!(!pooled(&lanes[6]) && pooled(&lanes[7]) && !pooled(&lanes[tags]));
        assert!(lanes[scans].stage == Stage::Remove && lanes[scans + 1].pace.is_some());
        assert_eq!(lanes[scans + 3].stage, Stage::Tell);
    }

    #[test]
    fn every_shard_of_a_cluster_leads_to_the_lanes_that_delete_again() {
        let text = "[postgres]\nurl = \"postgres://h/d\"\n\
            [redis.a]\nurl = \"redis://h\"\n\
            [redis.b]\ncluster = [\"redis://h\"]\n\
            [[rule]]\ntable = \"public.t\"\ndelete = [\"key:{id}\"]\n\
            redelete_after = [\"1s\"]\n";
        let loaded = parse("t", text).unwrap();
        let sinks = endpoints::sinks(&loaded.config, Kept::Nothing);
        let sinks = sinks.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
        let rules = Arc::new(loaded.rules);
        let (lanes, _) = lanes(&loaded.config, sinks, &rules, None, |_| Work::Done);
        for (sink, shards) in [("a", 1), ("b", SHARDS)] {
            let leads = lanes.iter().filter(|lane| lane.sink == sink).flat_map(|lane| {
                lane.redeleted_by.iter().filter(|by| by.verb == Verb::Delete).map(|by| by.lane)
            });
            let leads: Vec<LaneId> = leads.collect();
            assert_eq!(leads, vec![leads[0]; shards], "{sink}");
            let again = &lanes[leads[0].0];
            let to = again.again.as_ref().map(|repeats| &lanes[repeats.to.0]);
            assert!(again.sink == sink && to.is_some_and(|to| to.sink == sink), "{sink}");
        }
    }

    #[test]
    fn what_lookups_find_has_a_lane_of_its_own_where_it_is_paced() {
        let text = "[postgres]\nurl = \"postgres://h/d\"\n\
            [redis.a]\nurl = \"redis://h\"\n\
            [redis.b]\nurl = \"redis://h\"\nmax_keys_per_second = 10\n\
            [redis.c]\ncluster = [\"redis://h\"]\nmax_keys_per_second = 10\n\
            [[rule]]\ntable = \"public.t\"\nlookup = \"SELECT 1 AS x WHERE 1 = {id}\"\n\
            delete = [\"key:{x}\"]\nredelete_after = [\"1s\"]\n";
        let loaded = parse("t", text).unwrap();
        let sinks = endpoints::sinks(&loaded.config, Kept::Nothing);
        let sinks = sinks.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
        let rules = Arc::new(loaded.rules);
        let (lanes, routes) = lanes(&loaded.config, sinks, &rules, None, |_| Work::Done);
        for (sink, name, is_paced) in [(0, "a", false), (1, "b", true), (2, "c", true)] {
            let to = |verb, urgency| {
                let lane = (routes.actions)(SinkId(sink), Action { verb, value: b"v" }, urgency);
                assert_eq!(lanes[lane.0].sink, name);
                lane
            };
            for verb in [Verb::Delete, Verb::Expire] {
                let found = to(verb, Urgency::Found);
                assert_eq!(found != to(verb, Urgency::Prompt), is_paced);
                let by = |by: &&RedeletedBy| by.verb == verb;
                let again = lanes[found.0].redeleted_by.iter().find(by).unwrap().lane;
                assert!(lanes[again.0].sink == name && lanes[again.0].again.is_some());
                let pattern = match verb {
                    Verb::Delete => Verb::DeleteMatching,
                    _ => Verb::ExpireMatching,
                };
                let patterns = to(pattern, Urgency::Prompt);
                let by = |by: &&RedeletedBy| by.verb == pattern;
                let of_patterns = lanes[patterns.0].redeleted_by.iter().find(by).unwrap().lane;
                assert_eq!(again == of_patterns, is_paced, "they are paced then, too");
            }
            for verb in [Verb::Tag, Verb::Bump, Verb::DeleteMatching] {
                assert_eq!(to(verb, Urgency::Found), to(verb, Urgency::Prompt));
            }
        }
    }
}
