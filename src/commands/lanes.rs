//! The lanes of the configured sinks and of lookups, and which of them does what.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::Misconfigured;
use super::endpoints::lookup_config;
use crate::action::{Action, Verb};
use crate::config::PostgresConfig;
use crate::lookups::{LookupLane, Pool};
use crate::pipeline::{LaneId, LaneSpec, Pace, Routes, Stage, Urgency};
use crate::rules::{FALLBACK_EVERY, RuleId, RuleSet, SinkId};
use crate::sinks::redis::{LaneClass, RedisConfig, RedisLane};
use crate::sinks::{DryRunLane, Lane};

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

/// Each sink's lanes: what they are for, when, and what waits in them for its turn.
const LANES: [(LaneClass, Stage, Urgency); 5] = [
    (LaneClass::Precise, Stage::Remove, Urgency::Prompt),
    (LaneClass::Tags, Stage::Remove, Urgency::Prompt),
    (LaneClass::Scan, Stage::Remove, Urgency::Prompt),
    (LaneClass::Scan, Stage::Remove, Urgency::Paced),
    (LaneClass::Publish, Stage::Tell, Urgency::Prompt),
];

/// The lanes of all sinks and of all lookups, and which of them does what.
pub(super) fn lanes(
    sinks: Vec<Arc<RedisConfig>>,
    rules: &Arc<RuleSet>,
    lookups: Option<&Pool>,
    work: impl Fn(&str) -> Work,
) -> (Vec<LaneSpec>, Routes) {
    let mut lanes = Vec::new();
    // Most configurations publish nothing, and then nothing is kept in order for it.
    let publishes = publishes(rules);
    let classes = if publishes { &LANES[..] } else { &LANES[..LANES.len() - 1] };
    for sink in &sinks {
        for &(class, stage, urgency) in classes {
            let lane = match work(sink.name()) {
                Work::Done => Lane::Redis(RedisLane::new(Arc::clone(sink), class)),
                Work::Shown => Lane::DryRun(DryRunLane::new(sink.name())),
                Work::Held => Lane::Hold,
                Work::Left => Lane::Left,
            };
            let pace = (urgency == Urgency::Paced).then(|| pace(rules));
            lanes.push(LaneSpec { pace, ..LaneSpec::new(sink.name(), lane, stage) });
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
    let count = classes.len();
    let route = move |sink: SinkId, verb: Verb, urgency: Urgency| {
        let sink = sink.0 as usize;
        // Rules send a sink only what it supports.
        let class = sinks[sink].lane_class(verb).unwrap_or(LaneClass::Precise);
        // Only scans cost enough to be held back.
        let urgency = if class == LaneClass::Scan { urgency } else { Urgency::Prompt };
        let is_it = |lane: &(LaneClass, Stage, Urgency)| (lane.0, lane.2) == (class, urgency);
        LaneId(sink * count + LANES.iter().position(is_it).unwrap_or_default())
    };
    (lanes, Routes { actions: Box::new(route), lookups: lookup_lanes })
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
