//! The daemon: connects, streams, and connects again, until it is told to stop.

mod connect;
mod debt;
mod flood;
mod held;
mod reader;
mod replay;
mod replayed;
mod session;
mod warn;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

pub use connect::Mode;
use connect::{Connected, connect};
pub use debt::Debt;
use reader::Interrupted;
pub use replay::{Asked, Refused, Replay, ReplayEnd, ReplayFailure, Start};
pub use replayed::Seen;
use session::{Ended, Session};

use crate::config::Visibility;
use crate::parked::Parked;
use crate::pipeline::{Dispatcher, LaneSpec, Routes};
use crate::postgres::{ConnectConfig, PgError, PgErrorKind};
use crate::replay::Keeper;
use crate::rules::{Matcher, Messages, RuleSet};

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
#[derive(Clone)]
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
    /// For real, or not.
    pub mode: Mode,
    /// Keeps the slot for replays on the server that streams.
    pub keeper: Option<Arc<Keeper>>,
}

/// A daemon that is ready to run.
pub struct Daemon {
    settings: Settings,
    matcher: Matcher,
    dispatcher: Dispatcher,
    debt: Debt,
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
    ) -> Self {
        let dispatcher = Dispatcher::new(lanes, routes, Arc::clone(&rules), parked);
        Daemon { settings, matcher: Matcher::new(rules), dispatcher, debt }
    }

    /// What is owed, for the next daemon.
    pub fn into_debt(self) -> Debt {
        self.debt
    }

    /// Works until `stop` completes, and answers with what that says; before, it finishes what is
    /// in flight and confirms it.
    ///
    /// # Errors
    /// Only what no waiting mends: the slot belongs to another database or plugin.
    pub async fn run<T>(&mut self, stop: impl Future<Output = T>) -> Result<T, PgError> {
        let mut stop = std::pin::pin!(stop);
        let mut outage = Outage::default();
        loop {
            let attempt = tokio::select! {
                biased;
                why = &mut stop => return Ok(why),
                connected = connect(&self.settings, self.matcher.rules()) => connected,
                // What was received before goes on to the sinks while Postgres is away.
                () = turn_for_ever(&mut self.dispatcher) => continue,
            };
            let error = match attempt {
                Ok(connected) => {
                    outage.connected();
                    match self.stream(connected, stop.as_mut()).await {
                        Ok(why) => return Ok(why),
                        Err(Interrupted::ByError(error)) if is_final(&error) => return Err(error),
                        Err(Interrupted::ByError(error)) => error,
                        Err(Interrupted::ByCatalog) => {
                            info!(
                                "the tables have changed: starting again with what the catalog says now"
                            );
                            continue;
                        }
                    }
                }
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => error,
            };
            let wait = outage.next_wait(&error);
            tokio::select! {
                biased;
                why = &mut stop => return Ok(why),
                () = tokio::time::sleep(wait) => {}
                () = turn_for_ever(&mut self.dispatcher) => {}
            }
        }
    }

    async fn stream<T>(
        &mut self,
        mut connected: Connected,
        stop: std::pin::Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Interrupted> {
        let Daemon { settings, matcher, dispatcher, debt } = self;
        if let Some(keeper) = &settings.keeper {
            keeper.follow(connected.host.clone(), connected.server.clone());
        }
        debt.pay(matcher.rules(), dispatcher.plan_mut());
        matcher.set_partitions(connected.partitions.take(), connected.catalog_lsn);
        let mut session = Session::new(connected, settings, matcher, dispatcher, debt);
        let ended = session.follow(stop, |_| ()).await;
        let interrupted = match ended {
            Ok(Ended::Stopped(why)) => {
                session.stop(STOP_PATIENCE).await;
                return Ok(why);
            }
            // Only a replay ends so.
            Ok(Ended::Replayed) => Interrupted::ByCatalog,
            Err(interrupted) => interrupted,
        };
        if let Interrupted::ByCatalog = interrupted {
            session.leave().await;
        }
        self.dispatcher.plan_mut().disconnect();
        Err(interrupted)
    }
}

async fn turn_for_ever(dispatcher: &mut Dispatcher) {
    loop {
        dispatcher.turn().await;
    }
}

/// Whether a person has to choose another slot or setting: nothing that the daemon waits for will change that.
fn is_final(error: &PgError) -> bool {
    matches!(
        error.kind(),
        PgErrorKind::SlotOfOtherDatabase { .. }
            | PgErrorKind::SlotOfOtherPlugin { .. }
            | PgErrorKind::SynchronousStandby
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
