//! The plan and the lanes that carry it out.
//!
//! It gives every idle lane what waits for it, and tells the plan what is finished. One task owns
//! it; batches travel to the lanes' drivers and back, so nothing is shared and nothing is locked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::driver::{Driver, Outcome};
use super::lane::Stage;
use super::paced::Pace;
use super::plan::{LaneId, Plan, PlannedLane, Routes, Urgency};
use super::trace::trace;
use crate::action::Batch;
use crate::parked::{Parked, Record};
use crate::rules::lookup::Found;
use crate::rules::{Bulk, Facts, RuleSet};
use crate::sinks::Lane;

/// How many transactions' lookups are counted at most. Beyond, counting begins anew.
const BULKS_MAX: usize = 10_000;

/// A plan with lanes.
pub struct Dispatcher {
    plan: Plan,
    rules: Arc<RuleSet>,
    lanes: Vec<LaneHandle>,
    outcomes: mpsc::UnboundedReceiver<Outcome>,
    done: Done,
    parked: Parked,
    /// What each transaction's lookups have asked for, by its place in the stream.
    bulks: HashMap<u64, Bulk>,
    /// Aborted when the dispatcher is dropped.
    _drivers: JoinSet<()>,
}

/// A lane to be driven.
pub struct LaneSpec {
    /// The sink's name.
    pub sink: String,
    /// What sends its batches.
    pub lane: Lane,
    /// When its actions run.
    pub stage: Stage,
    /// How often; `None`: as soon as it is idle.
    pub pace: Option<Pace>,
}

struct LaneHandle {
    sink: String,
    batches: mpsc::Sender<(Batch, usize)>,
    health: Health,
    stage: Stage,
    /// How many of its actions are finished.
    done: u64,
    /// A batch of which a part is done, and where to go on.
    rest: Option<(Batch, usize)>,
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
    pub fn new(lanes: Vec<LaneSpec>, routes: Routes, rules: Arc<RuleSet>, parked: Parked) -> Self {
        let (sender, outcomes) = mpsc::unbounded_channel();
        let mut drivers = JoinSet::new();
        let (mut handles, mut planned) = (Vec::new(), Vec::new());
        for (at, LaneSpec { sink, lane, stage, pace }) in lanes.into_iter().enumerate() {
            let (batches, receiver) = mpsc::channel(1);
            let (id, outcomes) = (LaneId(at), sender.clone());
            let name = sink.clone();
            drivers.spawn(Driver { id, sink: name, lane, batches: receiver, outcomes }.run());
            let health = Health::Working;
            handles.push(LaneHandle { sink, batches, health, stage, done: 0, rest: None });
            planned.push(PlannedLane { stage, pace });
        }
        Dispatcher {
            plan: Plan::new(planned, routes),
            rules,
            lanes: handles,
            outcomes,
            done: Done::default(),
            parked,
            bulks: HashMap::new(),
            _drivers: drivers,
        }
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

    /// How many actions of each sink were finished since the start, in the order of the sinks.
    pub fn done_by_sink(&self) -> Vec<(&str, u64)> {
        let mut done: Vec<(&str, u64)> = Vec::new();
        for lane in self.lanes.iter().filter(|lane| lane.stage != Stage::Lookup) {
            match done.iter_mut().find(|(sink, _)| *sink == lane.sink) {
                Some((_, actions)) => *actions += lane.done,
                None => done.push((&lane.sink, lane.done)),
            }
        }
        done
    }

    /// Keeps what the stream brought and nobody can do. To be called before its transaction is
    /// confirmed.
    pub fn park(&mut self, record: &Record) {
        self.parked.park(record);
    }

    /// Gives every idle lane what waits for it. A lane with a pace gets nothing before its time, so
    /// this is to be called now and then even if nothing happens.
    pub fn dispatch(&mut self) {
        for (at, lane) in self.lanes.iter_mut().enumerate() {
            if lane.stage == Stage::Lookup && !self.plan.has_room_for_answers() {
                continue;
            }
            let next = lane
                .rest
                .take()
                .or_else(|| self.plan.take(LaneId(at), Instant::now).map(|batch| (batch, 0)));
            if let Some(next) = next {
                // An idle lane's channel is empty, and its driver ends only with the dispatcher.
                let sent = lane.batches.try_send(next);
                debug_assert!(sent.is_ok(), "an idle lane takes a batch");
            }
        }
    }

    /// Gives every idle lane what waits for it, waits for the next outcome, and dispatches what it
    /// makes room for.
    ///
    /// Cancel safe: an outcome is applied at once when it is received.
    pub async fn turn(&mut self) {
        self.dispatch();
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
                self.done.requested += report.requested;
                self.done.removed += report.removed;
                self.done.rejected += report.rejected.len() as u64;
                for rejected in &report.rejected {
                    let (sink, action) = (&self.lanes[lane.0].sink, batch.get(rejected.index));
                    self.parked.park(&Record::action(sink, &rejected.reason, action));
                }
                if !report.found.is_empty() {
                    self.answer(lane, &report.found);
                }
                if let Some(rest) = report.rest {
                    self.lanes[lane.0].rest = Some((batch, rest));
                    return;
                }
                self.done.actions += batch.len() as u64;
                self.lanes[lane.0].done += batch.len() as u64;
                self.plan.done(lane, batch);
                if !self.bulks.is_empty() {
                    self.forget_bulks();
                }
            }
            Outcome::Failing(lane) => self.lanes[lane.0].health = Health::Failing,
        }
    }

    /// Hands on what lookups ask for, for the transactions that asked for them.
    fn answer(&mut self, lane: LaneId, found: &Found) {
        let Dispatcher { plan, rules, bulks, .. } = self;
        found.emissions(rules, |lookup, emission| {
            let Some(order) = plan.asker(lane, lookup) else { return };
            let bulk = bulks.entry(order).or_default();
            bulk.found(rules, &emission, |emission| {
                if tracing::enabled!(tracing::Level::DEBUG) {
                    trace(rules, emission, Facts::default());
                }
                let urgency = Urgency::of(emission);
                plan.answer(lane, lookup, emission.sinks, emission.action, urgency);
            });
        });
    }

    /// Forgets what was counted of transactions that are finished.
    fn forget_bulks(&mut self) {
        let oldest = self.plan.oldest();
        self.bulks.retain(|&order, _| oldest.is_some_and(|oldest| order >= oldest));
        if self.bulks.len() > BULKS_MAX {
            self.bulks.clear();
        }
    }

    /// Lets every lane work as fast as it can, for the end.
    pub fn hurry(&mut self) {
        self.plan.hurry();
    }

    /// Whether every lane that still has something to do is failing: waiting longer is of no use.
    pub fn is_stuck_or_idle(&self) -> bool {
        self.lanes
            .iter()
            .enumerate()
            .all(|(at, lane)| lane.health == Health::Failing || self.plan.is_lane_idle(LaneId(at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{Action, Verb};
    use crate::lsn::Lsn;
    use crate::pipeline::Urgency;
    use crate::rules::SinkId;
    use crate::sinks::DryRunLane;

    #[tokio::test]
    async fn what_the_stream_left_behind_goes_out_when_it_is_gone() {
        let lane = Lane::DryRun(DryRunLane::new("cache"));
        let stage = Stage::Remove;
        let lane = LaneSpec { sink: "cache".into(), lane, stage, pace: None };
        let routes = Routes { actions: Box::new(|_, _, _| LaneId(0)), lookups: HashMap::new() };
        let mut dispatcher = Dispatcher::new(vec![lane], routes, Arc::default(), Parked::default());
        let plan = dispatcher.plan_mut();
        plan.begin(None);
        plan.push(&[SinkId(0)], Action { verb: Verb::Delete, value: b"k" }, Urgency::Prompt);
        plan.commit(Lsn(1));
        plan.disconnect();
        let turned = tokio::time::timeout(std::time::Duration::from_secs(20), dispatcher.turn());
        assert!(turned.await.is_ok(), "nothing was sent");
        assert_eq!(dispatcher.done().actions, 1);
    }
}
