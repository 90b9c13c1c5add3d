//! The lanes of the configured sinks and of lookups, and which of them does what.

use std::collections::HashMap;
use std::sync::Arc;
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
use crate::sinks::redis::{LaneClass, RedisConfig, RedisLane, TagMode};
use crate::sinks::{DryRunLane, Endpoint, Lane};

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
const REDIS: [Class; 5] = [
    (LaneClass::Precise, Stage::Remove, Urgency::Prompt),
    (LaneClass::Tags, Stage::Remove, Urgency::Prompt),
    (LaneClass::Scan, Stage::Remove, Urgency::Prompt),
    (LaneClass::Scan, Stage::Remove, Urgency::Paced),
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
const REDELETED: [Verb; 4] = [Verb::Delete, Verb::DeleteMatching, Verb::Tag, Verb::TagMatching];

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
    // Where each sink's lanes begin.
    let mut firsts = Vec::new();
    for (at, (sink, spec)) in sinks.iter().zip(rules.sinks()).enumerate() {
        let (id, first, work) = (SinkId(at as u32), lanes.len(), work(sink.name()));
        firsts.push(first);
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
        let mut add = |stage: Stage, urgency, lane: &dyn Fn() -> Lane| {
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
            lanes.push(LaneSpec { pace, after, purges_all, again, request_actions, ..spec });
        };
        match sink {
            Endpoint::Redis(config) => {
                let lane = |class| Lane::Redis(RedisLane::new(Arc::clone(config), class));
                for &(class, stage, urgency) in classes {
                    add(stage, urgency, &|| lane(class));
                }
                if more {
                    add(Stage::Tell, Urgency::Prompt, &|| lane(LaneClass::Publish));
                }
                for _ in redeletes(rules, id, work) {
                    for (class, urgency) in REDELETING {
                        add(Stage::Remove, urgency, &|| lane(class));
                    }
                }
            }
            Endpoint::Cdn(sink) => {
                let lane = || Lane::Cdn(CdnLane::new(Arc::clone(sink)));
                cdn(again).for_each(|(_, urgency)| add(Stage::Purge, urgency, &lane));
                if more {
                    add(Stage::Purge, Urgency::Prompt, &lane);
                }
            }
            Endpoint::CloudFront(sink) => {
                let lane = |part| CloudFrontLane::new(Arc::clone(sink), part);
                let lane = |part| Lane::CloudFront(Box::new(lane(part)));
                cdn(again).for_each(|(part, urgency)| {
                    add(Stage::Purge, urgency, &|| lane(part));
                });
                if more {
                    add(Stage::Purge, Urgency::Prompt, &|| lane(Part::OnceMore));
                }
            }
        }
        if let Endpoint::Redis(config) = sink {
            let more_at = first + classes.len();
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
    let route = move |sink: SinkId, verb: Verb, urgency: Urgency| {
        let sink = sink.0 as usize;
        LaneId(firsts[sink] + place(&sinks[sink], verb, urgency))
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

/// Which of a sink's lanes does a verb.
fn place(sink: &Endpoint, verb: Verb, urgency: Urgency) -> usize {
    let place = match sink {
        Endpoint::Redis(config) => {
            // Rules send a sink only what it supports.
            let class = config.lane_class(verb).unwrap_or(LaneClass::Precise);
            // Only scans cost enough to be held back.
            let urgency = if class == LaneClass::Scan { urgency } else { Urgency::Prompt };
            REDIS.iter().position(|lane| (lane.0, lane.2) == (class, urgency))
        }
        Endpoint::Cdn(_) | Endpoint::CloudFront(_) => {
            // A purge of everything costs so much that nothing asks for it again and again.
            let urgency = if verb == Verb::PurgeAll { Urgency::Paced } else { urgency };
            CDN.iter().position(|lane| lane.1 == urgency)
        }
    };
    place.unwrap_or_default()
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
                    && matches!(verb, Verb::Tag | Verb::TagMatching)
            };
            let is_done_here = |verb| config.lane_class(verb) == Some(class) && !is_counter(verb);
            let verbs = REDELETED.into_iter().filter(|&verb| is_done_here(verb));
            let lane = LaneId(first + at);
            if let Some(base) = base {
                let by = verbs.map(|verb| RedeletedBy { redelete, verb, lane });
                lanes[base].redeleted_by.extend(by);
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
