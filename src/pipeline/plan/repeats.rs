//! What lanes have done and do again, later: see [`Again`].
//!
//! Repeats have a lane of their own for each sink, so that what is done there is known to be no
//! first time. They wait beside it until they are due, then in it like any other action, and their
//! transaction is not finished before they are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{LaneId, Plan, PlannedLane};
use crate::action::{Action, Batch};
use crate::pipeline::afterwards::Load;
use crate::pipeline::again::Again;
use crate::pipeline::progress::TxnId;

/// That what a lane does is done again.
#[derive(Clone, Debug)]
pub struct Repeats {
    /// By that lane.
    pub to: LaneId,
    /// So long after it was done the first time: in ascending order, and at most 255 times.
    pub after: Arc<[Duration]>,
}

/// What is done again.
pub(super) struct Repeated {
    /// For each lane of the plan, which one does its actions again.
    to: Vec<Option<LaneId>>,
    /// For each lane of the plan, what waits to be done again by it.
    waiting: Vec<Option<Again>>,
}

impl Repeated {
    pub(super) fn new(lanes: &[PlannedLane]) -> Self {
        let mut waiting: Vec<Option<Again>> = lanes.iter().map(|_| None).collect();
        for repeats in lanes.iter().filter_map(|lane| lane.again.as_ref()) {
            waiting[repeats.to.0].get_or_insert_with(|| Again::new(Arc::clone(&repeats.after)));
        }
        let to = lanes.iter().map(|lane| lane.again.as_ref().map(|repeats| repeats.to)).collect();
        Repeated { to, waiting }
    }

    /// What waits until it is due, to be done again by that lane.
    pub(super) fn load(&self, lane: LaneId) -> Load {
        self.waiting[lane.0].as_ref().map_or(Load::default(), Again::load)
    }

    /// For whom it waits.
    pub(super) fn owners(&self, lane: LaneId) -> impl Iterator<Item = TxnId> + '_ {
        self.waiting[lane.0].iter().flat_map(Again::owners)
    }
}

impl Plan {
    /// Of the lane's batch, the actions that `is_done` picks were done at `now`: they are done again,
    /// where that is asked for. To be called before [`done`](Plan::done), so that nothing is
    /// confirmed in between.
    pub fn repeat(
        &mut self,
        lane: LaneId,
        batch: &Batch,
        is_done: impl Fn(usize) -> bool,
        now: impl FnOnce() -> Instant,
    ) {
        let Some(to) = self.repeated.to[lane.0] else { return };
        let Some(again) = &mut self.repeated.waiting[to.0] else { return };
        let now = now();
        for (index, action) in batch.iter().enumerate().filter(|&(index, _)| is_done(index)) {
            if let Some(owner) = self.lanes[lane.0].owner(index) {
                again.add(&mut self.progress, action, owner, now);
            }
        }
        self.bound_repeats(to);
    }

    /// Lets one purge of everything stand for repeats that are too many, where the sink has one.
    fn bound_repeats(&mut self, to: LaneId) {
        if self.purges.coarse(to).is_none() {
            return;
        }
        let mut collapsed = 0;
        if self.purges.is_too_much(self.purge_loads(to).1)
            && let Some(again) = &mut self.repeated.waiting[to.0]
        {
            collapsed += again.collapse(&mut self.progress);
        }
        if self.purges.is_too_much(self.purge_loads(to).1) {
            // Most of it is due already.
            collapsed += self.collapse_waiting(to, to);
        }
        self.purges.count_collapsed(to, collapsed);
    }

    /// Hands what is due to the lane that does it again, if that is idle: what waits here still
    /// merges with what is done anew.
    pub(super) fn take_repeats(&mut self, lane: LaneId, now: impl FnOnce() -> Instant) {
        let Plan { repeated, lanes, progress, .. } = self;
        let (Some(again), planned) = (&mut repeated.waiting[lane.0], &mut lanes[lane.0]) else {
            return;
        };
        if again.load() == Load::default() || planned.in_flight() > 0 {
            return;
        }
        again.take_due(progress, now(), |progress, action: Action<'_>, owner| {
            planned.put(progress, action, owner);
        });
    }

    /// When something is due that is to be done again; `None`: nothing is, or its lane is busy.
    pub fn next_repeat(&self) -> Option<Instant> {
        let idle = self.repeated.waiting.iter().zip(&self.lanes).filter_map(|(again, lane)| {
            again.as_ref().filter(|_| lane.in_flight() == 0)?.next_due()
        });
        idle.min()
    }
}
