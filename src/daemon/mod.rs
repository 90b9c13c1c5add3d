//! The daemon: connects, streams, and connects again, until it is told to stop.

mod connect;
mod flood;
mod gap;
mod history;
mod reader;
mod session;
mod warn;
mod watch;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

pub use connect::Mode;
use connect::{Attempt, Connected, connect};
use gap::Closing;
use history::History;
use reader::Interrupted;
use session::{Purpose, Session};

use crate::config::{OnGap, Visibility};
use crate::parked::Parked;
use crate::pipeline::{Dispatcher, LaneSpec, Routes};
use crate::postgres::{ConnectConfig, PgError, PgErrorKind};
use crate::rules::{Matcher, Messages, RuleSet};
use crate::state::{GapCause, Seen};

/// The first wait before connecting again.
const RECONNECT_FIRST: Duration = Duration::from_millis(100);

/// The longest wait before connecting again.
const RECONNECT_MAX: Duration = Duration::from_secs(5);

/// How long a slot may be in use by another session before that is logged: after a crash the
/// server needs a moment to notice.
const SLOT_IN_USE_PATIENCE: Duration = Duration::from_secs(3);

/// How often the slot is asked for once that has passed: a standby waits for ever, and each
/// attempt is an error in the server's log.
const SLOT_IN_USE_WAIT: Duration = Duration::from_secs(1);

/// How long a stream must last for its end to count as a new outage. One that breaks as soon as
/// it has started, at a change that the server cannot decode, is tried ever more slowly.
const LASTING: Duration = Duration::from_secs(5);

/// How often an outage that lasts is logged again.
const REMINDER: Duration = Duration::from_secs(30);

/// How long a stop waits for what is in flight.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// How the daemon follows Postgres.
pub struct Settings {
    /// Where Postgres is.
    pub connect: ConnectConfig,
    /// The slot.
    pub slot: String,
    /// Whether a missing slot is created.
    pub create_slot: bool,
    /// Whether actions wait until their transaction is visible.
    pub visibility: Visibility,
    /// The time between heartbeats.
    pub heartbeat: Option<Duration>,
    /// What messages may ask for.
    pub messages: Messages,
    /// What happens at a gap.
    pub on_gap: OnGap,
    /// Whether the operator says that there is one, which is to be closed whatever `on_gap` says.
    pub assume_gap: bool,
    /// Where positions are kept; `None`: in memory.
    pub state_dir: Option<PathBuf>,
    /// For real, or not.
    pub mode: Mode,
}

/// A daemon that is ready to run.
pub struct Daemon {
    settings: Settings,
    matcher: Matcher,
    dispatcher: Dispatcher,
    history: History,
}

/// Why the daemon ended by itself: no waiting mends it.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The slot belongs to another database or plugin.
    #[error(transparent)]
    Postgres(#[from] PgError),
    /// There is a gap, and `on_gap` is "halt".
    #[error("there is a gap: {0}; on_gap is \"halt\"")]
    Gap(GapCause),
}

impl Ended {
    /// What mends it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Ended::Postgres(error) => error.hint(),
            Ended::Gap(_) => Some(
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
    ) -> Self {
        let dispatcher = Dispatcher::new(lanes, routes, Arc::clone(&rules), parked);
        let history = History::open(&settings);
        Daemon { settings, matcher: Matcher::new(rules), dispatcher, history }
    }

    /// Works until `stop` completes; then finishes what is in flight and confirms it.
    ///
    /// # Errors
    /// Only what no waiting mends.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), Ended> {
        let mut stop = std::pin::pin!(stop);
        let mut outage = Outage::default();
        loop {
            let attempt = tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                attempt = connect(&self.settings, self.matcher.rules(), &mut self.history) => attempt,
                // What was received before goes on to the sinks while Postgres is away.
                () = turn_for_ever(&mut self.dispatcher) => continue,
            };
            let ended = match attempt {
                Ok(Attempt::Following(connected)) => {
                    outage.connected();
                    match self.stream(*connected, stop.as_mut()).await {
                        Ok(()) => return Ok(()),
                        Err(interrupted) => interrupted,
                    }
                }
                Ok(Attempt::Gap(_, cause)) if self.halts() => return Err(Ended::Gap(cause)),
                Ok(Attempt::Gap(prepared, cause)) => {
                    match self.close_gap(*prepared, &cause, stop.as_mut()).await {
                        Ok(Closing::Stopped) => return Ok(()),
                        Ok(Closing::Closed) => continue,
                        Err(interrupted) => interrupted,
                    }
                }
                Err(error) if is_final(&error) => return Err(error.into()),
                Err(error) => error.into(),
            };
            let Some(error) = self.take(ended) else { continue };
            let wait = outage.next_wait(&error);
            tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                () = tokio::time::sleep(wait) => {}
                () = turn_for_ever(&mut self.dispatcher) => {}
            }
        }
    }

    fn halts(&self) -> bool {
        self.settings.on_gap == OnGap::Halt && !self.history.is_assumed
    }

    /// Takes why a stream ended. Answers with what is to be waited out, if anything is.
    fn take(&mut self, interrupted: Interrupted) -> Option<PgError> {
        match interrupted {
            Interrupted::ByError(error) | Interrupted::ByTransaction(_, error) => {
                if *error.kind() == PgErrorKind::SlotLost && self.settings.create_slot {
                    self.history.pending = Some(GapCause::SlotLost);
                }
                Some(error)
            }
            Interrupted::ByCatalog => {
                info!("the tables have changed: starting again with what the catalog says now");
                None
            }
            Interrupted::ByGap(cause) => {
                self.history.pending = Some(cause);
                None
            }
            Interrupted::EndOfGap => None,
        }
    }

    async fn stream(
        &mut self,
        mut connected: Connected,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), Interrupted> {
        let Daemon { settings, matcher, dispatcher, history } = self;
        matcher.set_partitions(connected.partitions.take(), connected.catalog_lsn);
        let purpose = match settings.mode {
            Mode::Live => Purpose::Work,
            Mode::DryRun => Purpose::DryRun,
        };
        let keeper = &mut history.keeper;
        let mut session = Session::new(connected, settings, matcher, dispatcher, keeper, purpose);
        let mut ended = session.follow(stop.as_mut()).await;
        let mut skipped = None;
        if let Err(Interrupted::ByTransaction(commit, error)) = &ended
            && settings.mode == Mode::Live
            && history.failures.gives_up(commit.commit_lsn)
        {
            log_undecodable(*commit, error);
            match session.give_up_transaction(*commit, stop).await {
                Ok(true) => skipped = Some(commit.end_lsn),
                // The next start finds the same.
                Ok(false) => ended = Ok(()),
                Err(interrupted) => ended = Err(interrupted),
            }
        }
        match &ended {
            Ok(()) => session.stop(STOP_PATIENCE).await,
            Err(Interrupted::ByCatalog) => session.leave().await,
            // What is remembered tells of the gap, until it is closed.
            Err(Interrupted::ByGap(_)) => {}
            Err(_) => session.remember_now().await,
        }
        if skipped.is_some() {
            history.skip_to = skipped;
        }
        if ended.is_err() {
            self.dispatcher.plan_mut().disconnect();
        }
        ended
    }
}

async fn turn_for_ever(dispatcher: &mut Dispatcher) {
    loop {
        dispatcher.turn().await;
    }
}

/// Whether a person chose the wrong slot: nothing that the daemon waits for will change that.
fn is_final(error: &PgError) -> bool {
    matches!(
        error.kind(),
        PgErrorKind::SlotOfOtherDatabase { .. } | PgErrorKind::SlotOfOtherPlugin { .. }
    )
}

/// The time without a stream: how long it lasts, and what was said about it.
#[derive(Default)]
struct Outage {
    since: Option<Instant>,
    logged: Option<(Instant, PgErrorKind)>,
    attempts: u32,
    /// The start of the stream that came last.
    connected: Option<Instant>,
}

impl Outage {
    fn connected(&mut self) {
        if let (Some(since), Some(_)) = (self.since, &self.logged) {
            let (attempts, seconds) = (self.attempts, since.elapsed().as_secs_f32());
            info!("connected to Postgres again, after {attempts} attempts, {seconds:.1} s");
        }
        self.connected = Some(Instant::now());
    }

    /// Logs the error, if it is new or long ago, and says how long to wait.
    fn next_wait(&mut self, error: &PgError) -> Duration {
        if self.connected.take().is_some_and(|at| at.elapsed() >= LASTING) {
            *self = Outage::default();
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        self.attempts += 1;
        let is_in_use = matches!(error.kind(), PgErrorKind::SlotInUse { .. });
        let is_news = match &self.logged {
            None => !is_in_use || since.elapsed() > SLOT_IN_USE_PATIENCE,
            Some((at, kind)) => kind != error.kind() || at.elapsed() > REMINDER,
        };
        if is_news {
            self.logged = Some((Instant::now(), error.kind().clone()));
            log(error);
        }
        if is_in_use {
            let is_early = since.elapsed() <= SLOT_IN_USE_PATIENCE;
            return if is_early { RECONNECT_FIRST } else { SLOT_IN_USE_WAIT };
        }
        let doubled = RECONNECT_FIRST.saturating_mul(1 << (self.attempts - 1).min(10));
        doubled.min(RECONNECT_MAX).mul_f64(0.5 + 0.5 * fastrand::f64())
    }
}

fn log_undecodable(commit: Seen, error: &PgError) {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    let (commit_lsn, xid) = (commit.commit_lsn, commit.xid);
    error!(
        %commit_lsn,
        xid,
        cause,
        "the server cannot decode a transaction; every rule's fallback runs in place of the rest of it"
    );
}

fn log(error: &PgError) {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    let hint = error.hint();
    if error.is_configuration() {
        error!(cause, hint, "{error}; trying again");
    } else {
        warn!(cause, hint, "{error}; trying again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: PgErrorKind) -> PgError {
        PgError::new(kind, "stream changes")
    }

    fn ago(duration: Duration) -> Option<Instant> {
        Instant::now().checked_sub(duration)
    }

    #[test]
    fn a_stream_that_breaks_at_once_is_tried_ever_more_slowly() {
        let mut outage = Outage::default();
        for _ in 0..10 {
            outage.connected();
            outage.next_wait(&error(PgErrorKind::ConnectionLost));
        }
        assert!(outage.next_wait(&error(PgErrorKind::ConnectionLost)) >= RECONNECT_MAX / 2);
        outage.connected = ago(LASTING);
        assert!(outage.next_wait(&error(PgErrorKind::ConnectionLost)) <= RECONNECT_FIRST);
    }

    #[test]
    fn a_standby_asks_for_the_slot_often_at_first_and_then_slowly() {
        let mut outage = Outage::default();
        let in_use = error(PgErrorKind::SlotInUse { pid: None });
        assert_eq!(outage.next_wait(&in_use), RECONNECT_FIRST);
        outage.since = ago(2 * SLOT_IN_USE_PATIENCE);
        assert_eq!(outage.next_wait(&in_use), SLOT_IN_USE_WAIT);
    }
}
