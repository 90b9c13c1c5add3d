//! The time without a stream: how often to try again, and what to say about it.

use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use crate::postgres::{PgError, PgErrorKind};

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

/// The time without a stream: how long it lasts, and what was said about it.
#[derive(Default)]
pub(super) struct Outage {
    since: Option<Instant>,
    logged: Option<(Instant, PgErrorKind)>,
    attempts: u32,
    /// The start of the stream that came last.
    connected: Option<Instant>,
}

impl Outage {
    pub(super) fn connected(&mut self) {
        if let (Some(since), Some(_)) = (self.since, &self.logged) {
            let (attempts, seconds) = (self.attempts, since.elapsed().as_secs_f32());
            info!("connected to Postgres again, after {attempts} attempts, {seconds:.1} s");
        }
        self.connected = Some(Instant::now());
    }

    /// Logs the error, if it is new or long ago, and says how long to wait.
    pub(super) fn next_wait(&mut self, error: &PgError) -> Duration {
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
