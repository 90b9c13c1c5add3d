//! The plan and the lanes that carry it out.
//!
//! It gives every idle lane what waits for it, and tells the plan what is finished. One task owns
//! it; batches travel to the lanes' drivers and back, so nothing is shared and nothing is locked.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::driver::{Driver, Outcome};
use super::plan::{LaneId, Plan, Routes};
use crate::action::Batch;
use crate::sinks::Lane;

/// A plan with lanes.
pub struct Dispatcher {
    plan: Plan,
    lanes: Vec<LaneHandle>,
    outcomes: mpsc::UnboundedReceiver<Outcome>,
    done: Done,
    /// Aborted when the dispatcher is dropped.
    _drivers: JoinSet<()>,
}

/// A lane to be driven.
pub struct LaneSpec {
    /// The sink's name.
    pub sink: String,
    /// What sends its batches.
    pub lane: Lane,
    /// The least time between the starts of two batches.
    pub pace: Option<Duration>,
}

struct LaneHandle {
    batches: mpsc::Sender<Batch>,
    health: Health,
    pace: Option<Duration>,
    started: Option<Instant>,
}

impl LaneHandle {
    /// Whether a batch may start now, as far as the lane's pace goes.
    fn is_due(&self) -> bool {
        match (self.pace, self.started) {
            (Some(pace), Some(started)) => started.elapsed() >= pace,
            _ => true,
        }
    }
}

/// How a lane's last attempt went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Working,
    Failing,
}

/// What was done since the daemon started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Finished actions.
    pub actions: u64,
    /// Keys and items that they asked for.
    pub requested: u64,
    /// Those of them that existed.
    pub removed: u64,
    /// Actions that were given up.
    pub rejected: u64,
}

impl Dispatcher {
    /// Starts a driver for each of `lanes`, to which `routes` must lead. Must be called within a
    /// runtime.
    pub fn new(lanes: Vec<LaneSpec>, routes: Routes) -> Self {
        let plan = Plan::new(lanes.len(), routes);
        let (sender, outcomes) = mpsc::unbounded_channel();
        let mut drivers = JoinSet::new();
        let start = |(at, LaneSpec { sink, lane, pace }): (usize, LaneSpec)| {
            let (batches, receiver) = mpsc::channel(1);
            let (id, outcomes) = (LaneId(at), sender.clone());
            drivers.spawn(Driver { id, sink, lane, batches: receiver, outcomes }.run());
            LaneHandle { batches, health: Health::Working, pace, started: None }
        };
        let lanes = lanes.into_iter().enumerate().map(start).collect();
        Dispatcher { plan, lanes, outcomes, done: Done::default(), _drivers: drivers }
    }

    /// What is planned.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What is planned, for the stream and the barrier to change.
    pub fn plan_mut(&mut self) -> &mut Plan {
        &mut self.plan
    }

    /// What was done since the start.
    pub fn done(&self) -> Done {
        self.done
    }

    /// Gives every idle lane what waits for it. A lane with a pace gets nothing before its time, so
    /// this is to be called now and then even if nothing happens.
    pub fn dispatch(&mut self) {
        for (at, lane) in self.lanes.iter_mut().enumerate() {
            if !lane.is_due() {
                continue;
            }
            if let Some(batch) = self.plan.take(LaneId(at)) {
                lane.started = lane.pace.map(|_| Instant::now());
                // An idle lane's channel is empty, and its driver ends only with the dispatcher.
                let sent = lane.batches.try_send(batch);
                debug_assert!(sent.is_ok(), "an idle lane takes a batch");
            }
        }
    }

    /// Waits for the next outcome, and dispatches what it makes room for.
    ///
    /// Cancel safe: an outcome is applied at once when it is received.
    pub async fn turn(&mut self) {
        match self.outcomes.recv().await {
            Some(outcome) => self.apply(outcome),
            // The drivers hold the other end as long as the dispatcher lives.
            None => std::future::pending().await,
        }
        while let Ok(outcome) = self.outcomes.try_recv() {
            self.apply(outcome);
        }
        self.dispatch();
    }

    fn apply(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Done(lane, batch, report) => {
                self.lanes[lane.0].health = Health::Working;
                self.done.actions += batch.len() as u64;
                self.done.requested += report.requested;
                self.done.removed += report.removed;
                self.done.rejected += report.rejected.len() as u64;
                self.plan.done(lane, batch);
            }
            Outcome::Failing(lane) => self.lanes[lane.0].health = Health::Failing,
        }
    }

    /// Lets every lane work as fast as it can, for the end.
    pub fn hurry(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.pace = None);
    }

    /// Whether every lane that still has something to do is failing: waiting longer is of no use.
    pub fn is_stuck_or_idle(&self) -> bool {
        self.lanes
            .iter()
            .enumerate()
            .all(|(at, lane)| lane.health == Health::Failing || self.plan.is_lane_idle(LaneId(at)))
    }
}
