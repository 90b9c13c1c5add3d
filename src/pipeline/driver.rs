//! A lane's driver: sends its batches one by one, each again and again until it is finished.
//!
//! In: batches. Out: reports of what became of them. It never gives up and never drops an action.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::plan::LaneId;
use crate::action::Batch;
use crate::failpoint::Place;
use crate::sinks::{Failure, Lane, Report};

/// What the first retry waits, about; each further one twice as long as the one before.
const RETRY_FIRST: Duration = Duration::from_millis(50);

/// The longest wait before a retry while the sink is down, so that it is served within two seconds
/// of its return.
const RETRY_OUTAGE_MAX: Duration = Duration::from_secs(2);

/// The longest wait before a retry while the sink refuses us: a person takes longer than that.
const RETRY_REFUSED_MAX: Duration = Duration::from_secs(10);

/// How often an outage that lasts is logged again.
const REMINDER: Duration = Duration::from_secs(30);

/// What a lane has to say.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly every outcome is the large one")]
pub(super) enum Outcome {
    /// The batch is finished, or as much of it as the report says.
    Done(LaneId, Batch, Report),
    /// The batch failed for this reason, and is tried again.
    Failing(LaneId, Failure),
    /// A lane that was failing without a batch works again.
    Working(LaneId),
}

/// A lane's driver, to be spawned.
pub(super) struct Driver {
    pub(super) id: LaneId,
    /// The sink's name.
    pub(super) sink: String,
    pub(super) lane: Lane,
    /// Each with the place from which on it is to be done.
    pub(super) batches: mpsc::Receiver<(Batch, usize)>,
    pub(super) outcomes: mpsc::UnboundedSender<Outcome>,
}

impl Driver {
    /// Works until the other end of `batches` is dropped.
    pub(super) async fn run(mut self) {
        while let Some((batch, from)) = self.next().await {
            let report = self.send(&batch, from).await;
            Place::Answered.pass();
            for rejected in &report.rejected {
                let verb = batch.get(rejected.index).verb.key();
                let (sink, reason) = (&self.sink, &rejected.reason);
                error!(sink, verb, reason, "an action can never succeed and was given up");
            }
            if self.outcomes.send(Outcome::Done(self.id, batch, report)).is_err() {
                return;
            }
        }
    }

    /// The next batch; until it comes, the lane looks after what it has done.
    async fn next(&mut self) -> Option<(Batch, usize)> {
        let mut outage: Option<Outage> = None;
        let mut wait = Duration::ZERO;
        while let Some(look_at) = self.lane.look_at() {
            let looking =
                tokio::time::sleep(wait.max(look_at.saturating_duration_since(Instant::now())));
            tokio::select! {
                biased;
                next = self.batches.recv() => return next,
                () = looking => {}
            }
            // Not cut short by a batch that comes: what it has begun to repeat is finished first.
            wait = match self.lane.look().await {
                Ok(()) => {
                    if let Some(outage) = outage.take() {
                        outage.log_end(&self.sink);
                        // The receiver is gone only when everything ends.
                        let _ = self.outcomes.send(Outcome::Working(self.id));
                    }
                    Duration::ZERO
                }
                Err(failure) => {
                    let outage = outage.get_or_insert_with(Outage::begin);
                    outage.log(&self.sink, &failure, 0);
                    let wait = outage.next_wait(&failure);
                    let _ = self.outcomes.send(Outcome::Failing(self.id, failure));
                    wait
                }
            };
        }
        self.batches.recv().await
    }

    async fn send(&mut self, batch: &Batch, from: usize) -> Report {
        let mut outage: Option<Outage> = None;
        loop {
            match self.lane.send(batch, from).await {
                Ok(report) => {
                    if let Some(outage) = outage {
                        outage.log_end(&self.sink);
                    }
                    return report;
                }
                Err(failure) => {
                    let outage = outage.get_or_insert_with(Outage::begin);
                    outage.log(&self.sink, &failure, batch.len());
                    let wait = outage.next_wait(&failure);
                    // The receiver is gone only when everything ends.
                    let _ = self.outcomes.send(Outcome::Failing(self.id, failure));
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }
}

/// A run of failures.
struct Outage {
    since: Instant,
    attempts: u32,
    logged: Option<Instant>,
    wait: Duration,
}

impl Outage {
    fn begin() -> Self {
        Outage { since: Instant::now(), attempts: 0, logged: None, wait: RETRY_FIRST }
    }

    /// Logs the first failure, then one every [`REMINDER`].
    fn log(&mut self, sink: &str, failure: &Failure, actions: usize) {
        self.attempts += 1;
        if self.logged.is_some_and(|logged| logged.elapsed() < REMINDER) {
            return;
        }
        self.logged = Some(Instant::now());
        let attempts = self.attempts;
        match failure {
            Failure::Outage { message } => {
                warn!(sink, attempts, actions, "the sink is down, trying again: {message}");
            }
            Failure::Held => {
                let hint = "mode = \"on\", then SIGHUP";
                warn!(sink, actions, hint, "the sink is held by its mode, and so is the WAL");
            }
            Failure::Refused { message, hint } => {
                error!(
                    sink,
                    attempts, actions, hint, "the sink refuses us, trying again: {message}"
                );
            }
        }
    }

    fn log_end(&self, sink: &str) {
        let (attempts, seconds) = (self.attempts, self.since.elapsed().as_secs_f32());
        info!(sink, "the sink works again, after {attempts} attempts, {seconds:.1} s");
    }

    /// Twice as long every time up to a bound, and anywhere in the upper half of that, so that
    /// many daemons do not come back together.
    fn next_wait(&mut self, failure: &Failure) -> Duration {
        let longest = match failure {
            Failure::Outage { .. } => RETRY_OUTAGE_MAX,
            Failure::Held | Failure::Refused { .. } => RETRY_REFUSED_MAX,
        };
        let wait = self.wait.min(longest);
        self.wait = (self.wait * 2).min(longest);
        wait.mul_f64(0.5 + 0.5 * fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::redis::UNKNOWN_SENDS_MAX;

    #[test]
    fn an_action_with_an_unknown_error_is_held_for_about_a_minute() {
        let mut outage = Outage::begin();
        let failure = Failure::Outage { message: String::new() };
        let held: Duration = (1..UNKNOWN_SENDS_MAX).map(|_| outage.next_wait(&failure)).sum();
        assert!((40..80).contains(&held.as_secs()), "{held:?}");
    }
}
