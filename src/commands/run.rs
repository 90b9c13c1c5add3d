//! `run`: the daemon.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use secrecy::ExposeSecret;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info};

use super::announce::announce;
use super::endpoints::{connect_config, replica_configs, sinks};
use super::lanes::{Work, lanes, lookup_pool, remember};
use super::logs::Repeats;
use super::{Misconfigured, Outcome, load, logs};
use crate::admin::{Admin, AdminSettings, Token};
use crate::cli::{Global, RunArgs};
use crate::config::{
    AdminConfig, Config, Kept, Loaded, PostgresConfig, Secret, SinkMode, Style, admin_socket,
    state_dir,
};
use crate::daemon::{Daemon, Debt, History, Mode, Settings, check_publication};
use crate::lookups::Pool;
use crate::parked::{Parked, file_in};
use crate::postgres::ConnectConfig;
use crate::replay::{Keeper, KeeperSettings};
use crate::rules::{RuleSet, SinkId, rule_names};
use crate::service::Herald;
use crate::sinks::Endpoint;
use crate::state::{Duty, Fingerprint, KnownSink, Owed};
use crate::status::Board;

pub(super) fn run(global: &Global, args: &RunArgs) -> anyhow::Result<Outcome> {
    let left_out = logs::start_daemon(global)?;
    let loaded = load(global)?;
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Live };
    // One thread: what comes from the stream goes to the sinks without a switch in between.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(follow(global, loaded, mode, args.assume_gap, left_out))
}

async fn follow(
    global: &Global,
    loaded: Loaded,
    mode: Mode,
    assume_gap: bool,
    left_out: Repeats,
) -> anyhow::Result<Outcome> {
    let mut stop = std::pin::pin!(stop_signal()?);
    let mut hangup = signal(SignalKind::hangup()).context("cannot watch for SIGHUP")?;
    let mut parts = Parts::new(loaded, mode)?;
    info!(version = env!("CARGO_PKG_VERSION"), "starting");
    let board = parts.settings.board.clone();
    tokio::spawn(board.pulse().clone().beat());
    let herald = Herald::start(board.clone(), left_out);
    let mut admin: Option<Admin> = None;
    let mut owed = Owed::open(parts.settings.state_dir.as_deref());
    let mut history = History::open(&parts.settings, assume_gap);
    loop {
        announce(global, &parts);
        // One dry run more beside the daemon that works is not looked at.
        if mode == Mode::Live && !admin.as_ref().is_some_and(|open| open.is_of(&parts.admin)) {
            drop(admin.take());
            admin = Some(Admin::start(parts.admin.clone(), board.clone()));
        }
        herald.ready();
        board.tap().show_keys(parts.config.admin.show_keys);
        owed.settle_replicas(&parts.replicas());
        let due = owed.settle(parts.sinks(), parts.rules());
        let mut daemon = parts.daemon(Debt::new(owed, due), history);
        let why = async {
            tokio::select! {
                () = &mut stop => {
                    herald.stopping(None);
                    None
                }
                parts = reloaded(global, mode, &mut hangup, &herald) => Some(parts),
            }
        };
        match Box::pin(daemon.run(why)).await {
            Ok(None) => return Ok(Outcome::Done),
            Ok(Some(new)) => {
                parts = new;
                parts.settings.board = board.clone();
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                error!(cause, hint = error.hint(), "{error}");
                herald.stopping(Some(error.to_string()));
                return Ok(Outcome::Misconfigured);
            }
        }
        let (debt, known) = daemon.into_memory();
        owed = debt.into_owed();
        history = known.under(&parts.settings);
    }
}

/// Waits for a SIGHUP after which the configuration is good, and says what is wrong otherwise.
async fn reloaded(global: &Global, mode: Mode, hangup: &mut Signal, herald: &Herald) -> Parts {
    loop {
        // It ends only with the process.
        hangup.recv().await;
        herald.reloading();
        let loaded = load(global).map_err(|error| error.render(Style::Plain));
        let parts = loaded
            .and_then(|loaded| Parts::new(loaded, mode).map_err(|error| format!("{error:#}")));
        let checked = match parts {
            Ok(parts) => match Box::pin(check_publication(&parts.settings, &parts.rules)).await {
                Ok(()) => Ok(parts),
                Err(error) => Err(match error.hint() {
                    Some(hint) => format!("{error}; {hint}"),
                    None => error.to_string(),
                }),
            },
            Err(told) => Err(told),
        };
        match checked {
            Ok(parts) => {
                info!("taking the new configuration on SIGHUP");
                return parts;
            }
            Err(told) => {
                error!(
                    hint = "walpurge check",
                    "the new configuration is not taken, and the old one stays: {}",
                    told.trim_end()
                );
                herald.refused();
            }
        }
    }
}

/// What a daemon is made of.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) settings: Settings,
    pub(super) rules: Arc<RuleSet>,
    pub(super) sinks: Vec<Endpoint>,
    lookups: Option<Pool>,
    admin: AdminSettings,
}

impl Parts {
    /// Fetches secrets and reads files, so that what is wrong with them is known before anything
    /// is stopped for it.
    fn new(Loaded { config, rules, .. }: Loaded, mode: Mode) -> anyhow::Result<Self> {
        let mut settings = settings(&config.postgres, mode)?;
        settings.state_dir = state_dir(&config).filter(|_| mode == Mode::Live);
        let sinks = sinks(&config, Kept::all(settings.state_dir.as_deref()));
        let sinks = sinks.into_iter().collect::<Result<Vec<_>, _>>()?;
        let lookups = lookup_pool(&config.postgres, &rules)?;
        settings.sinks = known_sinks(&config, &settings, &sinks, &rules);
        let admin = admin_settings(&config.admin, settings.state_dir.as_deref())?;
        Ok(Parts { config, settings, rules: Arc::new(rules), sinks, lookups, admin })
    }

    /// Each sink's name, and whether it gets actions.
    fn sinks(&self) -> impl Iterator<Item = (String, bool)> {
        self.config.sinks().map(|(name, mode)| (name.to_owned(), mode != SinkMode::Off))
    }

    /// The replicas that are waited for, as they are called where they are owed something.
    fn replicas(&self) -> Vec<String> {
        let replicas = self.settings.replicas.iter().flat_map(|replicas| &replicas.connects);
        replicas.map(ConnectConfig::target).collect()
    }

    /// Each rule's name, and whether it is enabled.
    fn rules(&self) -> impl Iterator<Item = (String, bool)> {
        let names = rule_names(&self.config.rules);
        names.into_iter().zip(self.config.rules.iter().map(|rule| rule.enabled))
    }

    fn daemon(&self, debt: Debt, history: History) -> Daemon {
        let work = |name: &str| {
            let mode = self.config.sinks().find(|(sink, _)| *sink == name).map(|(_, mode)| mode);
            match (self.settings.mode, mode.unwrap_or_default()) {
                (_, SinkMode::Off) => Work::Left,
                (Mode::DryRun, _) => Work::Shown,
                (Mode::Live, SinkMode::Hold) => Work::Held,
                (Mode::Live, SinkMode::On) => Work::Done,
            }
        };
        let (mut lanes, routes) =
            lanes(&self.config, self.sinks.clone(), &self.rules, self.lookups.as_ref(), work);
        remember(&mut lanes, &self.sinks, &self.rules, self.settings.state_dir.as_deref());
        let parked = Parked::open(self.settings.state_dir.as_deref());
        let mut settings = self.settings.clone();
        settings.keeper = (settings.mode == Mode::Live)
            .then(|| Arc::new(keeper(&self.config.postgres, &settings)));
        Daemon::new(settings, Arc::clone(&self.rules), lanes, routes, parked, debt, history)
    }
}

/// Where one can look at the daemon.
fn admin_settings(
    config: &AdminConfig,
    state_dir: Option<&Path>,
) -> Result<AdminSettings, Misconfigured> {
    let token = config.token.as_ref().map(Secret::resolve).transpose();
    let token = token.map_err(Misconfigured::secret)?;
    if token.as_ref().is_some_and(|token| token.expose_secret().is_empty()) {
        return Err(Misconfigured::new("it is empty").at("admin.token"));
    }
    Ok(AdminSettings {
        listen: config.listen,
        token: token.map(|token| Token::new(token.expose_secret())),
        socket: admin_socket(),
        parked: state_dir.map(file_in),
    })
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
        plugin: config.plugin,
        publication: config.publication.clone(),
        create_slot: config.create_slot,
        visibility: config.visibility,
        replicas: replica_configs(config)?,
        heartbeat: config.heartbeat,
        messages: config.messages,
        on_gap: config.on_gap,
        state_dir: None,
        mode,
        sinks: Vec::new(),
        keeper: None,
        board: Board::default(),
    })
}

/// What the sinks' positions depend on, in the order of the configuration.
fn known_sinks(
    config: &Config,
    settings: &Settings,
    sinks: &[Endpoint],
    rules: &RuleSet,
) -> Vec<KnownSink> {
    // What was done before another replica was waited for may have come too early for it.
    let replicas = settings.replicas.iter().flat_map(|replicas| &replicas.connects);
    let replicas: Vec<_> = replicas.map(|connect| connect.target().to_string()).collect();
    let known = |((at, (name, mode)), sink): ((usize, (&str, SinkMode)), &Endpoint)| {
        let PostgresConfig { visibility, messages, .. } = &config.postgres;
        // Another version may make something else of the same rules.
        let version = env!("CARGO_PKG_VERSION");
        let asked = rules.asked_of(SinkId(at as u32));
        let asked = format!("{version} {visibility:?} {messages:?} {replicas:?} {asked}");
        // What a CDN's requests look like stands in its section.
        let section = config.cdn.iter().find(|cdn| cdn.name == name);
        let target = match sink {
            Endpoint::Redis(sink) => sink.key_space(),
            _ => format!("{:?} {section:?}", sink.target()),
        };
        let duty = match mode {
            SinkMode::Off => Duty::Off,
            SinkMode::On | SinkMode::Hold => Duty::Works,
        };
        let (target, rules) = (Fingerprint::of(&target), Fingerprint::of(&asked));
        KnownSink { name: name.to_owned(), target, rules, duty }
    };
    config.sinks().enumerate().zip(sinks).map(known).collect()
}

/// Keeps the slot for replays.
fn keeper(config: &PostgresConfig, settings: &Settings) -> Keeper {
    Keeper::start(KeeperSettings {
        connect: settings.connect.clone(),
        slot: config.slot.clone(),
        plugin: config.plugin.name(),
        replay: config.replay,
        state_dir: settings.state_dir.clone(),
    })
}
