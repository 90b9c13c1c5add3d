//! `run`: the daemon.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

use super::endpoints::{connect_config, redis_sink};
use super::{Outcome, load, logs};
use crate::action::Verb;
use crate::cli::{Global, RunArgs};
use crate::config::{Loaded, PostgresConfig};
use crate::daemon::{Daemon, Mode, Settings};
use crate::pipeline::{LaneId, LaneSpec, Routes, Urgency};
use crate::rules::SinkId;
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
    runtime.block_on(follow(loaded, mode))
}

async fn follow(Loaded { config, rules, .. }: Loaded, mode: Mode) -> anyhow::Result<Outcome> {
    let stop = stop_signal()?;
    let settings = settings(&config.postgres, mode)?;
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
    let (lanes, routes) = lanes(sinks, mode);
    let daemon = Daemon::new(settings, Arc::new(rules), lanes, routes);
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
        mode,
    })
}

/// Each sink's lanes: what they are for, and what waits in them for its turn.
const LANES: [(LaneClass, Urgency); 4] = [
    (LaneClass::Precise, Urgency::Prompt),
    (LaneClass::Tags, Urgency::Prompt),
    (LaneClass::Scan, Urgency::Prompt),
    (LaneClass::Scan, Urgency::Paced),
];

/// The least time between two runs of fallbacks that changes ask for again and again.
const FALLBACK_EVERY: Duration = Duration::from_secs(10);

/// The lanes of all sinks, and which of them does which verb.
fn lanes(sinks: Vec<Arc<RedisConfig>>, mode: Mode) -> (Vec<LaneSpec>, Routes) {
    let mut lanes = Vec::new();
    for sink in &sinks {
        for (class, urgency) in LANES {
            let lane = match mode {
                Mode::Live => Lane::Redis(RedisLane::new(Arc::clone(sink), class)),
                Mode::DryRun => Lane::DryRun(DryRunLane::new(sink.name())),
            };
            let pace = (urgency == Urgency::Paced).then_some(FALLBACK_EVERY);
            lanes.push(LaneSpec { sink: sink.name().to_owned(), lane, pace });
        }
    }
    let route = move |sink: SinkId, verb: Verb, urgency: Urgency| {
        let sink = sink.0 as usize;
        // Rules send a sink only what it supports.
        let class = sinks[sink].lane_class(verb).unwrap_or(LaneClass::Precise);
        // Only scans cost enough to be held back.
        let urgency = if class == LaneClass::Scan { urgency } else { Urgency::Prompt };
        let at = LANES.iter().position(|&lane| lane == (class, urgency)).unwrap_or_default();
        LaneId(sink * LANES.len() + at)
    };
    (lanes, Box::new(route))
}
