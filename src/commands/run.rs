//! `run`: the daemon.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info};

use super::endpoints::{connect_config, lookup_config, redis_sink};
use super::{Outcome, load, logs};
use crate::action::{Action, Verb};
use crate::cli::{Global, RunArgs};
use crate::config::{Config, Loaded, PostgresConfig, SinkMode, Style, state_dir};
use crate::daemon::{Daemon, Debt, Mode, Settings};
use crate::lookups::{LookupLane, Pool};
use crate::parked::Parked;
use crate::pipeline::{LaneId, LaneSpec, Pace, Routes, Stage, Urgency};
use crate::rules::{FALLBACK_EVERY, RuleId, RuleSet, SinkId, rule_names};
use crate::sinks::redis::{LaneClass, RedisConfig, RedisLane};
use crate::sinks::{DryRunLane, Lane};
use crate::state::Owed;

pub(super) fn run(global: &Global, args: &RunArgs) -> anyhow::Result<Outcome> {
    logs::start(global)?;
    let loaded = load(global)?;
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Live };
    // One thread: what comes from the stream goes to the sinks without a switch in between.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(follow(global, loaded, mode))
}

async fn follow(global: &Global, loaded: Loaded, mode: Mode) -> anyhow::Result<Outcome> {
    let mut stop = std::pin::pin!(stop_signal()?);
    let mut hangup = signal(SignalKind::hangup()).context("cannot watch for SIGHUP")?;
    let mut parts = Parts::new(loaded, mode)?;
    info!(version = env!("CARGO_PKG_VERSION"), "starting");
    let mut owed = Owed::open(parts.state_dir.as_deref());
    loop {
        parts.announce();
        let due = owed.settle(parts.sinks(), parts.rules());
        let mut daemon = parts.daemon(Debt::new(owed, due));
        let why = async {
            tokio::select! {
                () = &mut stop => None,
                parts = reloaded(global, mode, &mut hangup) => Some(parts),
            }
        };
        match daemon.run(why).await {
            Ok(None) => return Ok(Outcome::Done),
            Ok(Some(new)) => parts = new,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                error!(cause, hint = error.hint(), "{error}");
                return Ok(Outcome::Misconfigured);
            }
        }
        owed = daemon.into_debt().into_owed();
    }
}

/// Waits for a SIGHUP after which the configuration is good, and says what is wrong otherwise.
async fn reloaded(global: &Global, mode: Mode, hangup: &mut Signal) -> Parts {
    loop {
        // It ends only with the process.
        hangup.recv().await;
        let loaded = load(global).map_err(|error| error.render(Style::Plain));
        match loaded
            .and_then(|loaded| Parts::new(loaded, mode).map_err(|error| format!("{error:#}")))
        {
            Ok(parts) => {
                info!("taking the new configuration on SIGHUP");
                return parts;
            }
            Err(told) => error!(
                hint = "walpurge check",
                "the new configuration is not taken, and the old one stays: {}",
                told.trim_end()
            ),
        }
    }
}

/// What a daemon is made of.
struct Parts {
    config: Config,
    settings: Settings,
    rules: Arc<RuleSet>,
    sinks: Vec<Arc<RedisConfig>>,
    lookups: Option<Pool>,
    state_dir: Option<PathBuf>,
}

impl Parts {
    /// Fetches secrets and reads files, so that what is wrong with them is known before anything
    /// is stopped for it.
    fn new(Loaded { config, rules, .. }: Loaded, mode: Mode) -> anyhow::Result<Self> {
        let settings = settings(&config.postgres, mode)?;
        let sinks = config.redis.iter().map(redis_sink).collect::<Result<Vec<_>, _>>()?;
        let looks_up = rules.rules().iter().any(|rule| rule.lookup.is_some());
        let lookups = match looks_up {
            true => Some(Pool::new(lookup_config(&config.postgres)?)),
            false => None,
        };
        let state_dir = state_dir(&config).filter(|_| mode == Mode::Live);
        Ok(Parts { config, settings, rules: Arc::new(rules), sinks, lookups, state_dir })
    }

    fn announce(&self) {
        let (postgres, slot) = (self.settings.connect.target(), &self.settings.slot);
        info!(postgres, slot, rules = self.rules.rules().len(), "configured");
        for (sink, config) in self.sinks.iter().zip(&self.config.redis) {
            info!(sink = sink.name(), target = sink.target(), mode = config.mode.name(), "sink");
        }
    }

    /// Each sink's name, and whether it gets actions.
    fn sinks(&self) -> impl Iterator<Item = (String, bool)> {
        self.config.redis.iter().map(|sink| (sink.name.clone(), sink.mode != SinkMode::Off))
    }

    /// Each rule's name, and whether it is enabled.
    fn rules(&self) -> impl Iterator<Item = (String, bool)> {
        let names = rule_names(&self.config.rules);
        names.into_iter().zip(self.config.rules.iter().map(|rule| rule.enabled))
    }

    fn daemon(&self, debt: Debt) -> Daemon {
        let sinks = self.sinks.iter().cloned().zip(self.config.redis.iter().map(|sink| sink.mode));
        let mode = self.settings.mode;
        let (lanes, routes) = lanes(sinks.collect(), &self.rules, self.lookups.as_ref(), mode);
        let parked = Parked::open(self.state_dir.as_deref());
        Daemon::new(self.settings.clone(), Arc::clone(&self.rules), lanes, routes, parked, debt)
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
    sinks: Vec<(Arc<RedisConfig>, SinkMode)>,
    rules: &Arc<RuleSet>,
    lookups: Option<&Pool>,
    mode: Mode,
) -> (Vec<LaneSpec>, Routes) {
    let mut lanes = Vec::new();
    // Most configurations publish nothing, and then nothing is kept in order for it.
    let publishes = publishes(rules);
    let classes = if publishes { &LANES[..] } else { &LANES[..LANES.len() - 1] };
    for (sink, switch) in &sinks {
        for &(class, stage, urgency) in classes {
            let lane = match (mode, switch) {
                (_, SinkMode::Off) => Lane::Off,
                (Mode::DryRun, _) => Lane::DryRun(DryRunLane::new(sink.name())),
                (Mode::Live, SinkMode::Hold) => Lane::Hold,
                (Mode::Live, SinkMode::On) => Lane::Redis(RedisLane::new(Arc::clone(sink), class)),
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
        let class = sinks[sink].0.lane_class(verb).unwrap_or(LaneClass::Precise);
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
