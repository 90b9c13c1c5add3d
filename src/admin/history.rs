//! What of the last minutes the status page plots when it is opened, so that whoever comes because
//! something is wrong sees how it began. Its bound is in constants, and it goes with the process.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::time::MissedTickBehavior;

use super::serve::Shared;
use crate::metrics::Ended;
use crate::status::Published;

/// The time between two samples. The log's end is looked at as often.
const SAMPLE_EVERY: Duration = Duration::from_secs(2);

/// How many are kept: 10 minutes, in 20 KiB.
const SAMPLES_MAX: usize = 300;

/// The last samples, oldest first.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<(Instant, Sample)>);

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sample {
    lag_bytes: Option<u64>,
    lag_seconds: Option<f64>,
    /// Totals.
    changes: u64,
    done: u64,
    waiting: u64,
}

impl Sample {
    fn of(published: &Published) -> Self {
        let Published { status, counts } = published;
        let changes = counts.rules.iter().flat_map(|rule| rule.changes().map(|(_, count)| count));
        Sample {
            lag_bytes: status.postgres.lag_bytes,
            lag_seconds: status.postgres.lag_seconds,
            changes: changes.sum(),
            done: counts.sinks.iter().map(|sink| sink.actions_ended(Ended::Done)).sum(),
            waiting: status.sinks.iter().map(|sink| sink.waiting).sum(),
        }
    }
}

/// The samples as they are told: a list for each number, oldest first.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct Told {
    /// How long ago, so that the reader's clock may be another.
    age_seconds: Vec<f64>,
    lag_bytes: Vec<Option<u64>>,
    lag_seconds: Vec<Option<f64>>,
    /// Changes that concerned rules since the process started.
    changes: Vec<u64>,
    /// Actions that sinks have done since then.
    done: Vec<u64>,
    /// Actions that waited.
    waiting: Vec<u64>,
}

impl History {
    fn note(&mut self, at: Instant, sample: Sample) {
        if self.0.len() >= SAMPLES_MAX {
            self.0.pop_front();
        }
        self.0.push_back((at, sample));
    }

    /// All of them, at this time.
    pub(super) fn told(&self, now: Instant) -> Told {
        let mut told = Told::default();
        for (at, sample) in &self.0 {
            told.age_seconds.push(now.saturating_duration_since(*at).as_millis() as f64 / 1e3);
            told.lag_bytes.push(sample.lag_bytes);
            told.lag_seconds.push(sample.lag_seconds);
            told.changes.push(sample.changes);
            told.done.push(sample.done);
            told.waiting.push(sample.waiting);
        }
        told
    }
}

/// Takes samples for ever.
pub(super) async fn keep(shared: &Shared) {
    let mut clock = tokio::time::interval(SAMPLE_EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        let sample = Sample::of(&shared.board.look());
        let mut history = shared.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.note(Instant::now(), sample);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_samples_go_and_ages_are_told() {
        let (mut history, start) = (History::default(), Instant::now());
        assert_eq!(history.told(start), Told::default());
        for second in 0..SAMPLES_MAX as u64 + 2 {
            let sample = Sample { done: second, ..Sample::default() };
            history.note(start + Duration::from_secs(second), sample);
        }
        let told = history.told(start + Duration::from_secs(SAMPLES_MAX as u64 + 1));
        assert_eq!((told.done.len(), told.age_seconds.len()), (SAMPLES_MAX, SAMPLES_MAX));
        assert_eq!((told.done[0], told.age_seconds[0]), (2, SAMPLES_MAX as f64 - 1.0));
        assert_eq!(told.age_seconds.last(), Some(&0.0));
    }
}
