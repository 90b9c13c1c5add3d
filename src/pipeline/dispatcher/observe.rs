//! What of a dispatcher's work is counted and can be seen; nothing is decided by it.

use std::sync::Arc;
use std::time::Instant;

use super::Dispatcher;
use super::lane::{Health, LaneHandle};
use crate::action::Batch;
use crate::metrics::{Counts, Ended, SinkCounts};
use crate::pipeline::LaneId;
use crate::sinks::{Failure, Report};
use crate::status::{ErrorStatus, PastError, SinkState, SinkStatus};
use crate::tail::Tap;

impl Dispatcher {
    /// Takes why a lane's batch is sent again.
    pub(super) fn failing(&mut self, lane: LaneId, failure: Failure) {
        let handle = &mut self.lanes[lane.0];
        handle.health = Health::Failing;
        let state = match failure {
            Failure::Outage { .. } => SinkState::Down,
            Failure::Refused { .. } => SinkState::Refused,
            Failure::Held => SinkState::Held,
        };
        if let Some(counts) = handle.sink_id.and_then(|sink| self.counts.sink(sink)) {
            count_charges(handle, counts);
            counts.retries.add(u64::from(state != SinkState::Held));
        }
        let (message, hint) = failure.into_parts();
        let mut error = ErrorStatus::now(message, hint);
        if let Some(known) = &handle.trouble {
            error.since_seconds = known.1.since_seconds;
        }
        handle.trouble = Some(Box::new((state, error)));
    }

    /// A lane's batch is done: what went wrong there is over.
    pub(super) fn works(&mut self, lane: LaneId) {
        let handle = &mut self.lanes[lane.0];
        handle.health = Health::Working;
        if let Some(trouble) = handle.trouble.take()
            && trouble.0 != SinkState::Held
        {
            handle.past = Some(Box::new(trouble.1.over_now()));
        }
    }

    /// Counts a batch that is finished.
    pub(super) fn count(&self, lane: LaneId, batch: &Batch, report: &Report) {
        let Some(sink) = self.lanes[lane.0].sink_id.and_then(|sink| self.counts.sink(sink)) else {
            return;
        };
        if report.rejected.is_empty() {
            sink.ended(batch.iter(), Ended::Done);
        } else {
            let is_rejected = |at| report.rejected.iter().any(|rejected| rejected.index == at);
            let (parked, done): (Vec<_>, Vec<_>) =
                batch.iter().enumerate().partition(|(at, _)| is_rejected(*at));
            sink.ended(parked.into_iter().map(|(_, action)| action), Ended::Parked);
            sink.ended(done.into_iter().map(|(_, action)| action), Ended::Done);
        }
        count_charges(&self.lanes[lane.0], sink);
        sink.batch_actions.observe(batch.len() as f64);
        sink.keys_requested.add(report.requested);
        sink.keys_removed.add(report.removed);
        // The first action is the oldest, or nearly.
        let came = self.plan.asker(lane, 0).and_then(|order| self.arrivals.of(order));
        // A repeat is late on purpose.
        if let Some(came) = came.filter(|_| !self.lanes[lane.0].repeats) {
            sink.commit_to_done.observe(came.elapsed().as_secs_f64());
        }
    }

    /// What is counted.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Tells single invalidations there.
    pub fn tell(&mut self, tap: Tap) {
        self.tap = tap;
    }

    /// Where single invalidations are told.
    pub fn tap(&self) -> &Tap {
        &self.tap
    }

    /// The stream has brought the transactions from the place `first` on.
    pub fn arrived(&mut self, first: u64, now: Instant) {
        if self.plan.next_order() > first {
            self.arrivals.note(first, self.plan.oldest().unwrap_or(first), now);
        }
    }

    /// When a transaction came.
    pub fn arrival_of(&self, order: u64) -> Option<Instant> {
        self.arrivals.of(order)
    }

    /// How each sink is doing, in the order of the configuration.
    pub fn sinks(&self) -> Vec<SinkStatus> {
        let mut sinks: Vec<SinkStatus> = Vec::new();
        for counts in &self.counts.sinks {
            sinks.push(SinkStatus {
                name: counts.name.clone(),
                kind: counts.kind.key().to_owned(),
                state: SinkState::Up,
                done: counts.actions_ended(Ended::Done),
                retries: counts.retries.get(),
                ..SinkStatus::default()
            });
        }
        for (at, lane) in self.lanes.iter().enumerate() {
            let Some(status) = lane.sink_id.and_then(|sink| sinks.get_mut(sink.0 as usize)) else {
                continue;
            };
            if let Some(charges) = &lane.charges {
                status.charges = Some(charges.month().into());
            }
            status.waiting += self.plan.unfinished(LaneId(at)) as u64;
            let known = status.last_error.as_ref().map_or(0.0, |known| known.until_seconds);
            if let Some(past) = lane.past.as_ref().filter(|past| past.until_seconds > known) {
                status.last_error = Some(PastError::clone(past));
            }
            if lane.is_off {
                status.state = SinkState::Off;
            } else if let Some(trouble) = &lane.trouble
                // Of several, what lasts longest.
                && status.error.as_ref().is_none_or(|known| known.since_seconds > trouble.1.since_seconds)
            {
                (status.state, status.error) = (trouble.0, Some(trouble.1.clone()));
            }
        }
        sinks
    }
}

/// Counts what a lane's sink was charged since it was last asked.
fn count_charges(lane: &LaneHandle, counts: &SinkCounts) {
    if let Some(charges) = &lane.charges {
        counts.items_charged.add(charges.take());
    }
}
