//! The plan and the lanes that carry it out.
//!
//! It gives every idle lane what waits for it, and tells the plan what is finished. One task owns
//! it; batches travel to the lanes' drivers and back, so nothing is shared and nothing is locked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::warn;

use self::coarser::REPEATS_BYTES_MAX;
pub use self::lane::LaneSpec;
use self::lane::{Health, LaneHandle, join_pool, served};
use super::driver::{Driver, Outcome};
use super::lane::Stage;
use super::plan::{LaneId, Plan, PlannedLane, Routes};
use crate::failpoint::{Failpoint, Place};
use crate::metrics::{Arrivals, Counts};
use crate::parked::{Parked, Record};
use crate::rules::{Bulk, RuleSet, SinkId};
use crate::sinks::Lane;
use crate::tail::Tap;

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
    counts: Arc<Counts>,
    tap: Tap,
    /// When what waits came.
    arrivals: Arrivals,
    /// From where on it is tried to make less of what is to be deleted again, in bytes.
    repeats_bytes_max: usize,
    /// Aborted when the dispatcher is dropped.
    _drivers: JoinSet<()>,
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
        let (mut handles, mut planned, mut repeating) = (Vec::new(), Vec::new(), Vec::new());
        let mut pools = Vec::new();
        for (at, spec) in lanes.into_iter().enumerate() {
            let LaneSpec { sink, lane, stage, pace, after, .. } = spec;
            let LaneSpec { purges_all, again, redeleted_by, once_more, .. } = spec;
            let joins_pool = spec.joins_pool;
            let request_actions = spec.request_actions;
            repeating.extend(once_more);
            repeating.extend(again.as_ref().map(|again| again.to));
            if joins_pool {
                join_pool(&mut pools, at);
            }
            let (batches, receiver) = mpsc::channel(1);
            let (id, outcomes) = (LaneId(at), sender.clone());
            let is_off = matches!(lane, Lane::Left);
            let (name, charges) = (sink.clone(), lane.charges());
            drivers.spawn(Driver { id, sink: name, lane, batches: receiver, outcomes }.run());
            let of_name = rules.sinks().iter().position(|known| known.name == sink);
            let sink_id = of_name.filter(|_| stage != Stage::Lookup).map(|at| SinkId(at as u32));
            handles.push(LaneHandle {
                sink,
                batches,
                health: Health::Working,
                trouble: None,
                past: None,
                is_off,
                stage,
                sink_id,
                is_stopping: false,
                done: 0,
                rest: None,
                repeats: false,
                charges,
            });
            let purge_all = sink_id.filter(|_| purges_all);
            planned.push(PlannedLane {
                stage,
                pace,
                after,
                purge_all,
                again,
                redeleted_by,
                once_more,
                request_actions,
            });
        }
        for lane in repeating {
            handles[lane.0].repeats = true;
        }
        let lookups = routes.lookups.clone();
        let mut plan = Plan::new(planned, routes);
        plan.know_pools(pools);
        plan.break_as(Failpoint::set());
        plan.know_sinks(rules.sinks().len(), served(&handles, &lookups, &rules));
        Dispatcher {
            plan,
            counts: Arc::new(Counts::new(&rules)),
            rules,
            lanes: handles,
            outcomes,
            done: Done::default(),
            parked,
            bulks: HashMap::new(),
            tap: Tap::default(),
            arrivals: Arrivals::default(),
            repeats_bytes_max: REPEATS_BYTES_MAX,
            _drivers: drivers,
        }
    }

    /// What is planned.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What is planned, for the stream and the barrier to change.
    pub fn plan_mut(&mut self) -> &mut Plan {
        self.plan.tick(now());
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
        while let Some((lane, actions)) = self.plan.take_collapsed() {
            let sink = &self.lanes[lane.0].sink;
            let hint = "the WAL is held until it is done";
            warn!(sink, actions, hint, "too much waits to be purged: everything is purged instead");
        }
        self.bound_repeats();
        for (at, lane) in self.lanes.iter_mut().enumerate() {
            if lane.stage == Stage::Lookup && !self.plan.has_room_for_answers(LaneId(at)) {
                continue;
            }
            let next = lane
                .rest
                .take()
                .or_else(|| self.plan.take(LaneId(at), now).map(|batch| (batch, 0)));
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
        let due = self.plan.next_repeat().map(tokio::time::Instant::from_std);
        tokio::select! {
            outcome = self.outcomes.recv() => match outcome {
                Some(outcome) => self.apply(outcome),
                // The drivers hold the other end as long as the dispatcher lives.
                None => std::future::pending().await,
            },
            () = at(due) => {}
        }
        while let Ok(outcome) = self.outcomes.try_recv() {
            self.apply(outcome);
        }
        self.dispatch();
    }

    fn apply(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Done(lane, batch, report) => {
                self.works(lane);
                self.lanes[lane.0].is_stopping = false;
                self.done.requested += report.requested;
                self.done.removed += report.removed;
                self.done.rejected += report.rejected.len() as u64;
                for rejected in &report.rejected {
                    let (sink, action) = (&self.lanes[lane.0].sink, batch.get(rejected.index));
                    self.parked.park(&Record::action(sink, &rejected.reason, action));
                }
                if !report.found.is_empty() {
                    Place::BeforeAnswer.pass();
                    self.answer(lane, &report.found);
                    Place::AfterAnswer.pass();
                }
                if let Some(rest) = report.rest {
                    self.lanes[lane.0].rest = Some((batch, rest));
                    return;
                }
                self.count(lane, &batch, &report);
                self.done.actions += batch.len() as u64;
                self.lanes[lane.0].done += batch.len() as u64;
                let is_done = |at| report.rejected.iter().all(|rejected| rejected.index != at);
                self.plan.repeat(lane, &batch, is_done, now);
                self.plan.done(lane, batch);
                if cfg!(debug_assertions) && self.is_another_sink_busy(lane) {
                    Place::BetweenSinks.pass();
                }
                if !self.bulks.is_empty() {
                    self.forget_bulks();
                }
            }
            Outcome::Failing(lane, failure) => self.failing(lane, failure),
            Outcome::Working(lane) => {
                self.lanes[lane.0].health = Health::Working;
                self.lanes[lane.0].trouble = None;
            }
        }
    }

    fn is_another_sink_busy(&self, lane: LaneId) -> bool {
        let sink = &self.lanes[lane.0].sink;
        let mut others = self.lanes.iter().enumerate().filter(|(_, other)| other.sink != *sink);
        others.any(|(at, _)| !self.plan.is_lane_idle(LaneId(at)))
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

/// The time, as timers count it: tests stop it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Waits until then; without a time, for ever.
async fn at(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

mod answers;
mod coarser;
mod lane;
mod observe;
#[cfg(test)]
mod tests;
