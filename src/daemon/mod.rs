//! The daemon: connects, streams, and connects again, until it is told to stop.

mod connect;
mod course;
mod debt;
mod flood;
mod gap;
mod held;
mod history;
mod interrupted;
mod outage;
mod published;
mod purpose;
mod reader;
mod replay;
mod replayed;
mod replicas;
mod report;
mod session;
mod settling;
mod stall;
mod warn;
mod watch;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info};

pub use connect::Mode;
use connect::{Attempt, Connected, connect};
pub use debt::Debt;
use gap::Closing;
pub use history::History;
use interrupted::Interrupted;
use outage::Outage;
pub use published::check_publication;
use purpose::Purpose;
pub use replay::{Asked, Refused, Replay, ReplayEnd, ReplayFailure, Start};
pub use replayed::Seen;
pub use replicas::ReplicaSettings;
use session::{Ended, Session};

use crate::config::{OnGap, Plugin, Visibility};
use crate::parked::Parked;
use crate::pipeline::{Dispatcher, LaneSpec, Plan, Routes};
use crate::postgres::{ConnectConfig, PgError, PgErrorKind};
use crate::replay::Keeper;
use crate::rules::{Matcher, Messages, RuleSet};
use crate::state::{Commit, GapCause, KnownSink};
use crate::status::{Board, ErrorStatus, Pulse, Role};

/// How long a stop waits for what is in flight.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// How the daemon follows Postgres.
#[derive(Clone)]
pub struct Settings {
    /// Where Postgres is.
    pub connect: ConnectConfig,
    /// The slot.
    pub slot: String,
    /// Its output plugin.
    pub plugin: Plugin,
    /// What pgoutput sends.
    pub publication: String,
    /// Whether a missing slot is created.
    pub create_slot: bool,
    /// Whether actions wait until their transaction is visible.
    pub visibility: Visibility,
    /// Which replicas to wait for; `None`: none.
    pub replicas: Option<ReplicaSettings>,
    /// The time between heartbeats.
    pub heartbeat: Option<Duration>,
    /// What messages may ask for.
    pub messages: Messages,
    /// What happens at a gap.
    pub on_gap: OnGap,
    /// Where positions are kept; `None`: in memory.
    pub state_dir: Option<PathBuf>,
    /// For real, or not.
    pub mode: Mode,
    /// The sinks, in the order of the configuration; none where their positions are not kept.
    pub sinks: Vec<KnownSink>,
    /// Keeps the slot for replays on the server that streams.
    pub keeper: Option<Arc<Keeper>>,
    /// Where it is published how the daemon is doing.
    pub board: Board,
}

impl Settings {
    /// Lets a plan wait for whom it has to.
    fn prepare(&self, plan: &mut Plan, rules: &RuleSet) {
        if self.replicas.is_some() && self.mode == Mode::Live {
            plan.await_replicas(rules);
        }
    }
}

/// A daemon that is ready to run.
pub struct Daemon {
    settings: Settings,
    matcher: Matcher,
    dispatcher: Dispatcher,
    debt: Debt,
    history: History,
}

/// Why the daemon ended by itself: no waiting mends it.
#[derive(Debug, thiserror::Error)]
pub enum Halt {
    /// Another slot or another setting has to be chosen.
    #[error(transparent)]
    Postgres(#[from] PgError),
    /// There is a gap, and `on_gap` is "halt".
    #[error("there is a gap: {0}; on_gap is \"halt\"")]
    Gap(GapCause),
}

impl Halt {
    /// What mends it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Halt::Postgres(error) => error.hint(),
            Halt::Gap(_) => Some(
                "walpurge run --assume-gap runs every rule's fallback once, makes the slot anew and \
                 goes on"
                    .to_owned(),
            ),
        }
    }
}

impl Daemon {
    /// A daemon that sends what `rules` ask for to `lanes`, which `routes` lead to. Must be called
    /// within a runtime.
    pub fn new(
        settings: Settings,
        rules: Arc<RuleSet>,
        lanes: Vec<LaneSpec>,
        routes: Routes,
        parked: Parked,
        debt: Debt,
        history: History,
    ) -> Self {
        let mut dispatcher = Dispatcher::new(lanes, routes, Arc::clone(&rules), parked);
        settings.prepare(dispatcher.plan_mut(), &rules);
        settings.board.begin(Arc::clone(dispatcher.counts()), |status| {
            (status.postgres.target, status.postgres.slot) =
                (settings.connect.target(), settings.slot.clone());
            status.sinks = dispatcher.sinks();
        });
        dispatcher.tell(settings.board.tap().clone());
        Daemon { settings, matcher: Matcher::new(rules), dispatcher, debt, history }
    }

    /// What is owed, and what is known of the history, for the next daemon.
    pub fn into_memory(self) -> (Debt, History) {
        (self.debt, self.history)
    }

    /// Works until `stop` completes, and answers with what that says; before, it finishes what is
    /// in flight and confirms it.
    ///
    /// # Errors
    /// Only what no waiting mends.
    pub async fn run<T>(&mut self, stop: impl Future<Output = T>) -> Result<T, Halt> {
        let mut stop = std::pin::pin!(stop);
        let mut outage = Outage::default();
        let pulse = self.settings.board.pulse().clone();
        loop {
            let attempt = tokio::select! {
                biased;
                why = &mut stop => return Ok(why),
                attempt = connect(&self.settings, self.matcher.rules(), &mut self.history) => attempt,
                // What was received before goes on to the sinks while Postgres is away.
                () = turn_for_ever(&mut self.dispatcher, &pulse) => continue,
            };
            let interrupted = match attempt {
                Ok(Attempt::Following(connected)) => {
                    outage.connected();
                    match self.stream(*connected, stop.as_mut()).await {
                        Ok(why) => return Ok(why),
                        Err(interrupted) => interrupted,
                    }
                }
                Ok(Attempt::Gap(_, cause)) if self.halts() => return Err(Halt::Gap(cause)),
                Ok(Attempt::Gap(prepared, cause)) => {
                    match self.close_gap(*prepared, &cause, stop.as_mut()).await {
                        Ok(Closing::Stopped(why)) => return Ok(why),
                        Ok(Closing::Closed) => continue,
                        Err(interrupted) => interrupted,
                    }
                }
                Err(error) => error.into(),
            };
            let Some(error) = self.take(interrupted) else { continue };
            if self.is_final(&error) {
                return Err(error.into());
            }
            let role = match error.kind() {
                PgErrorKind::SlotInUse { .. } => Role::Standby,
                _ => Role::Connecting,
            };
            let message = std::error::Error::source(&error);
            let message = message.map_or(String::new(), |cause| format!(": {cause}"));
            let board = &self.settings.board;
            let why = ErrorStatus::now(format!("{error}{message}"), error.hint());
            board.without_stream(role, why, self.dispatcher.sinks());
            let wait = outage.next_wait(&error);
            tokio::select! {
                biased;
                why = &mut stop => return Ok(why),
                () = tokio::time::sleep(wait) => {}
                () = turn_for_ever(&mut self.dispatcher, &pulse) => {}
            }
        }
    }

    fn halts(&self) -> bool {
        self.settings.on_gap == OnGap::Halt && !self.history.is_assumed
    }

    /// Takes why a stream ended. Answers with what is to be waited out, if anything is.
    fn take(&mut self, interrupted: Interrupted) -> Option<PgError> {
        match interrupted {
            Interrupted::Error(error) | Interrupted::Undecodable(_, error) => {
                let cause = match error.kind() {
                    PgErrorKind::SlotLost => Some(GapCause::SlotLost),
                    PgErrorKind::PublicationMissing => Some(GapCause::PublicationMissing),
                    _ => None,
                };
                if let Some(cause) = cause.filter(|_| self.settings.create_slot) {
                    self.history.pending = Some(cause);
                }
                Some(error)
            }
            Interrupted::Catalog => {
                info!("the tables have changed: starting again with what the catalog says now");
                None
            }
            Interrupted::Gap(cause) => {
                self.history.pending = Some(cause);
                None
            }
        }
    }

    /// Whether a person has to choose another slot or setting: nothing that the daemon waits for
    /// will change that.
    fn is_final(&self, error: &PgError) -> bool {
        match error.kind() {
            PgErrorKind::SlotOfOtherDatabase { .. }
            | PgErrorKind::SlotOfOtherPlugin { .. }
            | PgErrorKind::PublicationLacking { .. }
            | PgErrorKind::SynchronousStandby => true,
            // A slot of ours is made anew once there is a publication, which it takes.
            PgErrorKind::PublicationMissing => {
                !self.history.has_started || !self.settings.create_slot
            }
            _ => false,
        }
    }

    async fn stream<T>(
        &mut self,
        mut connected: Connected,
        mut stop: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Interrupted> {
        let Daemon { settings, matcher, dispatcher, debt, history } = self;
        let pulse = settings.board.pulse();
        if let Some(keeper) = &settings.keeper {
            keeper.follow(connected.host.clone(), connected.server.clone());
        }
        if settings.mode == Mode::Live {
            let (rules, plan) = (matcher.rules(), dispatcher.plan_mut());
            if let Some(publication) = &connected.tables.publication {
                debt.look(publication, rules);
            }
            debt.pay(settings.visibility, rules, plan, connected.catalog_lsn);
        }
        matcher.set_partitions(connected.partitions.take(), connected.catalog_lsn);
        let server = connected.server.clone();
        let purpose = match settings.mode {
            Mode::Live => Purpose::Work { positions: &mut history.positions, debt },
            Mode::DryRun => Purpose::DryRun,
        };
        let mut session = Session::new(connected, settings, matcher, dispatcher, purpose);
        let mut ended = session.follow(stop.as_mut(), |_| ()).await;
        let mut skipped = None;
        if let Err(Interrupted::Undecodable(commit, error)) = &ended
            && settings.mode == Mode::Live
            && history.failures.gives_up(commit.commit_lsn)
        {
            log_undecodable(*commit, error);
            match session.give_up_transaction(*commit, stop).await {
                Ok(None) => skipped = Some((commit.end_lsn, server)),
                // The next start finds the same.
                Ok(Some(why)) => ended = Ok(Ended::Stopped(why)),
                Err(interrupted) => ended = Err(interrupted),
            }
        }
        let interrupted = match ended {
            Ok(Ended::Stopped(why)) => {
                pulse.waiting(session.stop(STOP_PATIENCE)).await;
                return Ok(why);
            }
            // Only a replay and the closing of a gap end so.
            Ok(Ended::Replayed | Ended::GapCovered) => Interrupted::Catalog,
            Err(interrupted) => interrupted,
        };
        match &interrupted {
            Interrupted::Catalog => pulse.waiting(session.leave()).await,
            // What is remembered tells of the gap, until it is closed.
            Interrupted::Gap(_) => {}
            Interrupted::Error(_) | Interrupted::Undecodable(..) => {
                pulse.waiting(session.remember()).await;
            }
        }
        if skipped.is_some() {
            history.skip_to = skipped;
        }
        self.debt.disconnect(self.dispatcher.plan_mut());
        Err(interrupted)
    }
}

/// Takes what becomes of batches while something else is waited for.
async fn turn_for_ever(dispatcher: &mut Dispatcher, pulse: &Pulse) {
    let turning = async {
        loop {
            dispatcher.turn().await;
        }
    };
    pulse.waiting(turning).await
}

fn log_undecodable(commit: Commit, error: &PgError) {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    let (commit_lsn, xid) = (commit.commit_lsn, commit.xid);
    error!(
        %commit_lsn,
        xid,
        cause,
        "the server cannot decode a transaction; every rule's fallback runs in place of the rest of it"
    );
}
