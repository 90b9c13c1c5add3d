//! Keeps the replay slot a window behind, in a task of its own and on a connection of its own.
//!
//! Nothing waits for it: what it cannot do now it tries again later, and losing the slot is no
//! gap. Whether WAL is let go is the server's affair; the keeper only says what is not needed.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tracing::{debug, info, warn};

use super::said::Said;
use super::slots::{Slots, held};
use super::times::{Pair, Times};
use super::times_file::{Origin, read_times, write_times};
use crate::amount::bytes;
use crate::config::{ReplayConfig, replay_slot};
use crate::lsn::Lsn;
use crate::postgres::{
    ChosenHost, ConnectConfig, PgError, PgErrorKind, ServerIdentity, SlotInfo, connect_client,
    server_identity,
};

/// The wait before connecting again.
const RECONNECT_WAIT: Duration = Duration::from_secs(2);

/// How many times as long as a round took there is none after it: the server reads all WAL that
/// the slot holds to move it.
const REST: u32 = 20;

/// How often the slot is looked at, at least: so much later it is noticed that it holds too much.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How many positions there are in as much WAL as the slot may hold, at least.
const PAIRS_PER_MAX_WAL: u64 = 16;

/// How long the slot may hold more than `max_wal` before it is made anew: Postgres notes every 15 s
/// from where on WAL is needed.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many times `max_wal` end that patience.
const PATIENCE_FACTOR: u64 = 2;

/// What a keeper needs to know.
#[derive(Clone)]
pub struct KeeperSettings {
    /// Where Postgres is.
    pub connect: ConnectConfig,
    /// The main slot.
    pub slot: String,
    /// Its plugin.
    pub plugin: &'static str,
    /// How much is kept; `None`: nothing.
    pub replay: Option<ReplayConfig>,
    /// Where times are kept over restarts.
    pub state_dir: Option<PathBuf>,
}

/// Keeps the replay slot while somebody streams. Ends when it is dropped.
pub struct Keeper {
    server: watch::Sender<Option<Server>>,
    horizon: watch::Receiver<Option<Horizon>>,
    _task: JoinSet<()>,
}

/// How far back one can replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Horizon {
    /// The replay slot.
    pub slot: String,
    /// The first position whose time is known, at or behind the slot's own.
    pub from: Pair,
}

/// The server that streams.
#[derive(Clone, PartialEq, Eq)]
struct Server {
    host: ChosenHost,
    identity: ServerIdentity,
}

impl Keeper {
    /// Starts the task, which waits for [`follow`](Self::follow). Must be called within a runtime.
    pub fn start(settings: KeeperSettings) -> Self {
        let (server, servers) = watch::channel(None);
        let (horizons, horizon) = watch::channel(None);
        let mut task = JoinSet::new();
        task.spawn(Task::new(settings, servers, horizons).run());
        Keeper { server, horizon, _task: task }
    }

    /// How far back one can replay, where that is known.
    pub fn horizon(&self) -> Option<Horizon> {
        self.horizon.borrow().clone()
    }

    /// A stream has started: works on its server from now on.
    pub fn follow(&self, host: ChosenHost, identity: ServerIdentity) {
        let server = Some(Server { host, identity });
        self.server.send_if_modified(|known| {
            let is_new = *known != server;
            *known = server;
            is_new
        });
    }
}

struct Task {
    settings: KeeperSettings,
    /// The replay slot.
    name: String,
    servers: watch::Receiver<Option<Server>>,
    horizons: watch::Sender<Option<Horizon>>,
    /// `None`: nothing was read yet.
    origin: Option<Origin>,
    times: Times,
    /// Since when the slot holds more than it may.
    over_since: Option<Instant>,
    said: Said,
    saving: Option<JoinHandle<std::io::Result<()>>>,
    /// What is on disk.
    saved: Option<Times>,
}

impl Task {
    fn new(
        settings: KeeperSettings,
        servers: watch::Receiver<Option<Server>>,
        horizons: watch::Sender<Option<Horizon>>,
    ) -> Self {
        let name = replay_slot(&settings.slot);
        Task {
            said: Said::new(&name),
            name,
            settings,
            servers,
            horizons,
            origin: None,
            times: Times::default(),
            over_since: None,
            saving: None,
            saved: None,
        }
    }

    async fn run(mut self) {
        let mut servers = self.servers.clone();
        loop {
            let server = servers.borrow_and_update().clone();
            let Some(server) = server else {
                if servers.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let error = tokio::select! {
                biased;
                changed = servers.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                Err(error) = self.keep(&server) => error,
            };
            self.said.trouble(&error);
            tokio::time::sleep(RECONNECT_WAIT).await;
        }
    }

    /// Works on one connection until it breaks. Dropping it in between leaves a statement to the
    /// server that may be run again.
    async fn keep(&mut self, server: &Server) -> Result<Infallible, PgError> {
        let mut connection = connect_client(&self.settings.connect, &server.host).await?;
        if server_identity(&connection.client).await? != server.identity {
            let operation = "keep the replay slot: an ordinary connection reaches another server";
            return Err(PgError::new(PgErrorKind::Config, operation));
        }
        let slots = Slots::new(&connection.client).await?;
        let Some(config) = self.settings.replay else {
            self.warn_of_leftover(&slots).await?;
            drop(connection);
            // Nothing to do until a stream starts on another server.
            return std::future::pending().await;
        };
        self.recall(&server.identity, &slots).await?;
        loop {
            let start = Instant::now();
            self.round(&slots, config).await?;
            let wait = Times::period(config.window).min(LOOK_EVERY).max(REST * start.elapsed());
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                error = connection.task.ended() => return Err(error),
            }
        }
    }

    /// A slot that an earlier configuration asked for holds WAL for nobody.
    async fn warn_of_leftover(&self, slots: &Slots<'_>) -> Result<(), PgError> {
        let Some(slot) = slots.slot(&self.name).await? else { return Ok(()) };
        let is_ours = slot.usable_for(self.settings.plugin, self.settings.connect.dbname());
        if is_ours.is_ok() {
            self.said.leftover(held(&slot, slots.clock().await?.lsn));
        }
        Ok(())
    }

    /// Reads what an earlier run has kept, once for a server.
    async fn recall(&mut self, server: &ServerIdentity, slots: &Slots<'_>) -> Result<(), PgError> {
        let (system_id, timeline) = (server.system_id.clone(), server.timeline.clone());
        let origin = Origin { system_id, timeline };
        if self.origin.as_ref() == Some(&origin) {
            return Ok(());
        }
        let position = slots.slot(&self.name).await?.and_then(|slot| slot.confirmed_flush_lsn);
        let (kept, why) = match &self.settings.state_dir {
            None => (None, Some("neither state_dir nor $STATE_DIRECTORY is set".to_owned())),
            Some(directory) => match read_times(directory, &origin) {
                Ok(times) => (times, None),
                Err(error) => (None, Some(error.to_string())),
            },
        };
        self.times = kept.unwrap_or_default();
        self.saved = None;
        if position.is_some_and(|lsn| self.times.first_from(lsn).is_none()) {
            const UNKNOWN: &str = "it is not known since when the replay slot stands where it \
                does: its window begins now, and what it holds already is kept for as long";
            match why {
                Some(why) => warn!(slot = self.name, why, "{UNKNOWN}"),
                None => info!(slot = self.name, "{UNKNOWN}"),
            }
        }
        self.origin = Some(origin);
        Ok(())
    }

    /// Looks at both slots, and moves, makes or renews the one for replays.
    async fn round(&mut self, slots: &Slots<'_>, config: ReplayConfig) -> Result<(), PgError> {
        let now = slots.clock().await?;
        let Some(slot) = slots.slot(&self.name).await? else {
            self.tell_horizon(None);
            self.make(slots).await?;
            self.note(now, config);
            return self.save().await;
        };
        if slot.is_lost() {
            slots.drop(&self.name).await?;
            warn!(slot = self.name, "WAL of the replay slot is gone; it is made anew");
            return self.make(slots).await;
        }
        slot.usable(self.settings.plugin, self.settings.connect.dbname())?;
        self.note(now, config);
        self.tell_horizon(slot.confirmed_flush_lsn);
        if slot.active {
            // Somebody else looks at it or moves it.
            return self.save().await;
        }
        let slot = self.advance(slots, slot, now, config).await?;
        if let Some(position) = slot.confirmed_flush_lsn {
            self.times.forget_before(position);
        }
        self.tell_horizon(slot.confirmed_flush_lsn);
        self.said.is_kept_up();
        self.save().await
    }

    /// One can replay from the slot's position on.
    fn tell_horizon(&self, position: Option<Lsn>) {
        let from = position.and_then(|position| self.times.first_from(position));
        let horizon = from.map(|from| Horizon { slot: self.name.clone(), from });
        self.horizons.send_if_modified(|known| {
            let is_new = *known != horizon;
            *known = horizon;
            is_new
        });
    }

    fn note(&mut self, now: Pair, config: ReplayConfig) {
        let (period, bytes) = (Times::period(config.window), config.max_wal / PAIRS_PER_MAX_WAL);
        self.times.note_now_and_then(now, period, bytes);
    }

    async fn make(&mut self, slots: &Slots<'_>) -> Result<(), PgError> {
        let main = &self.settings.slot;
        let is_there = slots.slot(main).await?.is_some_and(|slot| {
            let (plugin, dbname) = (self.settings.plugin, self.settings.connect.dbname());
            !slot.temporary
                && slot.confirmed_flush_lsn.is_some()
                && slot.usable_for(plugin, dbname).is_ok()
        });
        if !is_there {
            debug!(slot = main, "no slot to copy for replays yet");
            return Ok(());
        }
        slots.copy(main, &self.name).await?;
        let made = slots.slot(&self.name).await?.and_then(|slot| slot.confirmed_flush_lsn);
        let from_lsn = made.map(|lsn| lsn.to_string());
        info!(slot = self.name, from_lsn, "made the replay slot");
        Ok(())
    }

    /// Moves the slot as far as the window lets, and further where it holds too much.
    async fn advance(
        &mut self,
        slots: &Slots<'_>,
        slot: SlotInfo,
        now: Pair,
        config: ReplayConfig,
    ) -> Result<SlotInfo, PgError> {
        let mut slot = slot;
        let position = slot.confirmed_flush_lsn.unwrap_or_default();
        let due = self.times.before_window(now.at, config.window);
        if due.is_some() {
            self.said.is_whole();
        }
        if let Some(to) = due.filter(|&to| to > position) {
            slot = self.moved(slots, to, slot).await?;
        }
        if held(&slot, now.lsn) > config.max_wal {
            return self.shorten(slots, slot, now, config).await;
        }
        self.over_since = None;
        self.said.is_within();
        Ok(slot)
    }

    /// Moves a slot that holds too much further than the window lets.
    async fn shorten(
        &mut self,
        slots: &Slots<'_>,
        slot: SlotInfo,
        now: Pair,
        config: ReplayConfig,
    ) -> Result<SlotInfo, PgError> {
        let mut slot = slot;
        let needs = slots.slot(&self.settings.slot).await?.and_then(|main| main.restart_lsn);
        let needs = needs.unwrap_or(now.lsn);
        let by_main = now.lsn.0.saturating_sub(needs.0);
        // Letting go of what the main slot keeps anyway frees nothing.
        let is_by_main = by_main > config.max_wal;
        let may_hold =
            if is_by_main { by_main.saturating_add(config.max_wal) } else { config.max_wal };
        if held(&slot, now.lsn) > may_hold {
            // Some room, so that this is not needed again at once.
            let floor = Lsn(now.lsn.0.saturating_sub(config.max_wal / 4 * 3)).min(needs);
            let mut position = slot.confirmed_flush_lsn.unwrap_or_default();
            if position < floor {
                let kept = self.times.first_from(floor).unwrap_or(now);
                slot = self.moved(slots, kept.lsn, slot).await?;
                position = kept.lsn;
                self.said.shortened(kept, config);
            }
            if held(&slot, now.lsn) > may_hold {
                // The server takes over from where on WAL is needed only with the next advance.
                slot = self.moved(slots, position, slot).await?;
            }
        }
        let held = held(&slot, now.lsn);
        if is_by_main {
            self.said.held_by_main(held, config);
        } else if held > config.max_wal {
            return self.renew(slots, slot, held, config).await;
        }
        self.over_since = None;
        Ok(slot)
    }

    async fn moved(
        &self,
        slots: &Slots<'_>,
        to: Lsn,
        before: SlotInfo,
    ) -> Result<SlotInfo, PgError> {
        slots.advance(&self.name, to).await?;
        Ok(slots.slot(&self.name).await?.unwrap_or(before))
    }

    /// Makes the slot anew, since advancing does not help: a transaction that was open at its
    /// position keeps all WAL since that one's start, and the main slot does not need it any more.
    async fn renew(
        &mut self,
        slots: &Slots<'_>,
        slot: SlotInfo,
        held: u64,
        config: ReplayConfig,
    ) -> Result<SlotInfo, PgError> {
        let since = *self.over_since.get_or_insert_with(Instant::now);
        if since.elapsed() < PATIENCE && held <= config.max_wal.saturating_mul(PATIENCE_FACTOR) {
            return Ok(slot);
        }
        slots.drop(&self.name).await?;
        self.make(slots).await?;
        self.over_since = None;
        let renewed = slots.slot(&self.name).await?.unwrap_or(slot);
        let from_lsn = renewed.confirmed_flush_lsn.map(|lsn| lsn.to_string());
        warn!(
            slot = self.name,
            from_lsn,
            held = bytes(held),
            max_wal = bytes(config.max_wal),
            hint = "raise postgres.replay.max_wal, or end transactions that stay open for long",
            "made the replay slot anew, since it held more WAL than it may because of a long \
             transaction; its window begins again"
        );
        Ok(renewed)
    }

    /// Keeps the times, beside the stream's thread.
    async fn save(&mut self) -> Result<(), PgError> {
        let (Some(directory), Some(origin)) = (&self.settings.state_dir, &self.origin) else {
            return Ok(());
        };
        if self.saved.as_ref() == Some(&self.times) {
            return Ok(());
        }
        // One that a broken connection left behind comes first.
        if let Some(saving) = self.saving.take() {
            let _ = saving.await;
        }
        let (directory, origin) = (directory.clone(), origin.clone());
        let times = self.times.clone();
        let shown = directory.display().to_string();
        let saving = tokio::task::spawn_blocking(move || write_times(&directory, &origin, &times));
        let saving = self.saving.insert(saving);
        let saved = saving.await;
        self.saving = None;
        if let Ok(saved) = saved {
            if saved.is_ok() {
                self.saved = Some(self.times.clone());
            }
            self.said.saved(saved.map_err(|error| format!("{shown}: {error}")));
        }
        Ok(())
    }
}
