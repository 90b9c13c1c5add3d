//! `run`: the daemon.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

use super::endpoints::{connect_config, redis_sink};
use super::lanes::{Work, lanes, lookup_pool};
use super::{Outcome, load, logs};
use crate::cli::{Global, RunArgs};
use crate::config::{Loaded, PostgresConfig, state_dir};
use crate::daemon::{Daemon, Mode, Settings};
use crate::parked::Parked;
use crate::replay::{Keeper, KeeperSettings};

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
    let mut settings = settings(&config.postgres, mode)?;
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
    let pool = lookup_pool(&config.postgres, &rules)?;
    let work = match mode {
        Mode::Live => Work::Done,
        Mode::DryRun => Work::Shown,
    };
    let (lanes, routes) = lanes(sinks, &rules, pool.as_ref(), |_| work);
    let state_dir = state_dir(&config).filter(|_| mode == Mode::Live);
    settings.keeper = (mode == Mode::Live).then(|| keeper(&config.postgres, &settings, &state_dir));
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

pub(super) fn settings(config: &PostgresConfig, mode: Mode) -> anyhow::Result<Settings> {
    Ok(Settings {
        connect: connect_config(config)?,
        slot: config.slot.clone(),
        create_slot: config.create_slot,
        visibility: config.visibility,
        heartbeat: config.heartbeat,
        messages: config.messages,
        mode,
        keeper: None,
    })
}

/// Keeps the slot for replays.
fn keeper(config: &PostgresConfig, settings: &Settings, state_dir: &Option<PathBuf>) -> Keeper {
    Keeper::start(KeeperSettings {
        connect: settings.connect.clone(),
        slot: config.slot.clone(),
        plugin: config.plugin.name(),
        replay: config.replay,
        state_dir: state_dir.clone(),
    })
}
