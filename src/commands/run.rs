//! `run`: the daemon.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

use super::endpoints::{connect_config, lookup_config, redis_sink};
use super::{Outcome, load, logs};
use crate::action::{Action, Verb};
use crate::cli::{Global, RunArgs};
use crate::config::{Loaded, PostgresConfig, state_dir};
use crate::daemon::{Daemon, Mode, Settings};
use crate::lookups::{LookupLane, Pool};
use crate::parked::Parked;
use crate::pipeline::{LaneId, LaneSpec, Pace, Routes, Stage, Urgency};
use crate::rules::{FALLBACK_EVERY, RuleId, RuleSet, SinkId};
use crate::sinks::redis::{LaneClass, RedisConfig, RedisLane};
use crate::sinks::{DryRunLane, Lane};

pub(super) fn run(global: &Global, args: &RunArgs) -> anyhow::Result<Outcome> {
    logs::start(global)?;
    let loaded = load(global)?;
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Live };
    // One thread: what comes from the stream goes to the sinks without a switch in between.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(follow(loaded, mode, args.assume_gap))
}

async fn follow(
    Loaded { config, rules, .. }: Loaded,
    mode: Mode,
    assume_gap: bool,
) -> anyhow::Result<Outcome> {
    let stop = stop_signal()?;
    let state_dir = state_dir(&config).filter(|_| mode == Mode::Live);
    let mut settings = settings(&config.postgres, mode)?;
    settings.assume_gap = assume_gap;
    settings.state_dir = state_dir.clone();
    let sinks = config.redis.iter().map(redis_sink).collect::<Result<Vec<_>, _>>()?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        postgres = settings.connect.target(),
        slot = settings.slot,
        rules = rules.rules().len(),
        "starting"
    );
    for sink in &sinks {
        info!(sink = sink.name(), target = sink.target(), "sink");
    }
    let rules = Arc::new(rules);
    let looks_up = rules.rules().iter().any(|rule| rule.lookup.is_some());
    let pool = match looks_up {
        true => Some(Pool::new(lookup_config(&config.postgres)?)),
        false => None,
    };
    let (lanes, routes) = lanes(sinks, &rules, pool.as_ref(), mode);
    let daemon = Daemon::new(settings, rules, lanes, routes, Parked::open(state_dir.as_deref()));
    match daemon.run(stop).await {
        Ok(()) => Ok(Outcome::Done),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            error!(cause, hint = error.hint(), "{error}");
            Ok(Outcome::Misconfigured)
        }
    }
}

/// Completes on SIGTERM and on Ctrl-C.
pub(super) fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => info!("stopping on SIGTERM"),
            _ = interrupt.recv() => info!("stopping on SIGINT"),
        }
    })
}

fn settings(config: &PostgresConfig, mode: Mode) -> anyhow::Result<Settings> {
    Ok(Settings {
        connect: connect_config(config)?,
        slot: config.slot.clone(),
        create_slot: config.create_slot,
        visibility: config.visibility,
        heartbeat: config.heartbeat,
        messages: config.messages,
        on_gap: config.on_gap,
        assume_gap: false,
        state_dir: None,
        mode,
    })
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
fn lanes(
    sinks: Vec<Arc<RedisConfig>>,
    rules: &Arc<RuleSet>,
    lookups: Option<&Pool>,
    mode: Mode,
) -> (Vec<LaneSpec>, Routes) {
    let mut lanes = Vec::new();
    // Most configurations publish nothing, and then nothing is kept in order for it.
    let publishes = publishes(rules);
    let classes = if publishes { &LANES[..] } else { &LANES[..LANES.len() - 1] };
    for sink in &sinks {
        for &(class, stage, urgency) in classes {
            let lane = match mode {
                Mode::Live => Lane::Redis(RedisLane::new(Arc::clone(sink), class)),
                Mode::DryRun => Lane::DryRun(DryRunLane::new(sink.name())),
            };
            let pace = (urgency == Urgency::Paced).then(|| pace(rules));
            lanes.push(LaneSpec { sink: sink.name().to_owned(), lane, stage, pace });
        }
    }
    let mut lookup_lanes = HashMap::new();
    for (at, rule) in rules.rules().iter().enumerate() {
        let Some(pool) = lookups.filter(|_| rule.lookup.is_some()) else { continue };
        let id = RuleId(at as u32);
        lookup_lanes.insert(id, LaneId(lanes.len()));
        lanes.push(LaneSpec {
            sink: "postgres".to_owned(),
            lane: Lane::Lookup(LookupLane::new(pool.clone(), Arc::clone(rules), id)),
            stage: Stage::Lookup,
            pace: None,
        });
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
