//! What lanes have done and do again, later: see [`Again`].
//!
//! Repeats have a lane of their own for each sink, so that what is done there is known to be no
//! first time. They wait beside it until they are due, then in it like any other action, and their
//! transaction is not finished before they are.
//!
//! A rule's deletes that are done again go to lanes of their own from the start
//! ([`RedeletedBy`]). Messages and purges that were sent while such a repeat was owed are sent
//! *once more* when all that was owed then is done.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{LaneId, Plan, PlannedLane, Stage, Urgency};
use crate::action::{Action, Batch, Verb};
use crate::pipeline::action_set::Visible;
use crate::pipeline::afterwards::Load;
use crate::pipeline::again::{Again, Once};
use crate::pipeline::progress::TxnId;
use crate::rules::{RedeleteId, SinkId};

/// That what a lane does is done again.
#[derive(Clone, Debug)]
pub struct Repeats {
    /// By that lane.
    pub to: LaneId,
    /// So long after that time: in ascending order, and at most 255 times.
    pub after: Arc<[Duration]>,
    /// From when on they count.
    pub from: Since,
}

/// From when on the delays of repeats count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// From when it was done the first time.
    Done,
    /// From when its transaction was visible, or it was sent, if nobody knows better. What was
    /// first sent after a delay had passed is not repeated at that delay.
    Visible,
}

/// A lane's actions of one verb go to another lane where they are to be done again.
#[derive(Clone, Copy, Debug)]
pub struct RedeletedBy {
    /// The list of times.
    pub redelete: RedeleteId,
    /// The verb, for keys of any type.
    pub verb: Verb,
    /// The lane, which has [`Repeats`].
    pub lane: LaneId,
}

/// What is done again.
pub(super) struct Repeated {
    /// For each lane of the plan, which one does its actions again.
    to: Vec<Option<(LaneId, Since)>>,
    /// For each lane of the plan, which one does its actions once more when repeats that are owed
    /// then are done.
    once_more: Vec<Option<LaneId>>,
    /// For each lane that does so, the lanes whose repeats it waits for.
    awaited: Vec<Vec<LaneId>>,
    /// For each lane of the plan, what waits to be done again by it.
    waiting: Vec<Option<Again>>,
    /// For each lane of the plan, since when the oldest waited that it was handed and has not done.
    handed: Vec<Option<Instant>>,
    /// For each lane of the plan, when it was given its batch.
    taken_at: Vec<Option<Instant>>,
    /// For each lane of the plan that is done once more, whether repeats were owed when it was given
    /// its batch.
    was_owed: Vec<bool>,
    /// For each lane of the plan, whose times its actions have.
    redelete: Vec<Option<RedeleteId>>,
}

impl Repeated {
    pub(super) fn new(lanes: &[PlannedLane], stages: &[Stage]) -> Self {
        let mut waiting: Vec<Option<Again>> = lanes.iter().map(|_| None).collect();
        let mut awaited: Vec<Vec<LaneId>> = lanes.iter().map(|_| Vec::new()).collect();
        let again = || lanes.iter().filter_map(|lane| lane.again.as_ref());
        for repeats in again() {
            waiting[repeats.to.0].get_or_insert_with(|| Again::new(Arc::clone(&repeats.after)));
        }
        for to in lanes.iter().filter_map(|lane| lane.once_more) {
            waiting[to.0].get_or_insert_with(|| Again::new([Duration::ZERO].into()));
            let before = lanes[to.0].before(stages);
            let owed = again().filter(|repeats| repeats.from == Since::Visible);
            let mut owed: Vec<_> = owed.map(|repeats| repeats.to).collect();
            owed.retain(|lane| before[lane.0]);
            owed.sort_unstable_by_key(|lane| lane.0);
            owed.dedup();
            awaited[to.0] = owed;
        }
        let mut redelete = vec![None; lanes.len()];
        for by in lanes.iter().flat_map(|lane| &lane.redeleted_by) {
            redelete[by.lane.0] = Some(by.redelete);
            if let Some(again) = &lanes[by.lane.0].again {
                redelete[again.to.0] = Some(by.redelete);
            }
        }
        let to = |lane: &PlannedLane| lane.again.as_ref().map(|again| (again.to, again.from));
        Repeated {
            to: lanes.iter().map(to).collect(),
            once_more: lanes.iter().map(|lane| lane.once_more).collect(),
            awaited,
            waiting,
            handed: vec![None; lanes.len()],
            taken_at: vec![None; lanes.len()],
            was_owed: vec![false; lanes.len()],
            redelete,
        }
    }

    /// What waits until it is due, to be done again by that lane.
    pub(super) fn load(&self, lane: LaneId) -> Load {
        self.waiting[lane.0].as_ref().map_or(Load::default(), Again::load)
    }

    /// For whom it waits.
    pub(super) fn owners(&self, lane: LaneId) -> impl Iterator<Item = TxnId> + '_ {
        self.waiting[lane.0].iter().flat_map(Again::owners)
    }

    /// What counts from when for a batch of a lane that is done now; `None`: none of it is repeated.
    fn once(&self, lane: LaneId, visible: Visible, now: Instant) -> Option<(LaneId, Once)> {
        let (to, from) = self.to[lane.0]?;
        if from == Since::Done {
            return Some((to, Once { from: now, skip: 0, done_at: now }));
        }
        let sent_at = self.taken_at[lane.0].unwrap_or(now);
        let from = visible.by().map_or(sent_at, |at| at.min(sent_at));
        let delays = self.waiting[to.0].as_ref()?.delays();
        let skip = delays.iter().position(|&delay| from + delay > sent_at)?;
        Some((to, Once { from, skip: skip as u8, done_at: now }))
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
        let once_more = self.repeated.once_more[lane.0];
        if self.repeated.to[lane.0].is_none() && once_more.is_none() {
            return;
        }
        let now = now();
        let visible = self.lanes[lane.0].visible();
        let again = self.repeated.once(lane, visible, now);
        let more = once_more.filter(|_| self.repeated.was_owed[lane.0]);
        let more = more.map(|to| (to, Once { from: now, skip: 0, done_at: now }));
        for (to, once) in again.into_iter().chain(more) {
            let Some(again) = &mut self.repeated.waiting[to.0] else { continue };
            for (index, action) in batch.iter().enumerate().filter(|&(index, _)| is_done(index)) {
                if let Some(owner) = self.lanes[lane.0].owner(index) {
                    again.add(&mut self.progress, action, owner, once);
                }
            }
            self.bound_repeats(to);
        }
    }

    /// A lane is given a batch.
    pub(super) fn taken(&mut self, lane: LaneId, now: impl FnOnce() -> Instant) {
        if let Some((_, Since::Visible)) = self.repeated.to[lane.0] {
            self.repeated.taken_at[lane.0] = Some(now());
        }
        // All that comes before has been done once, and so is known to be owed.
        if let Some(to) = self.repeated.once_more[lane.0] {
            self.repeated.was_owed[lane.0] = self.owed_since(to).is_some();
        }
    }

    /// Since when the oldest repeat is owed that a lane waits for which does things once more.
    fn owed_since(&self, lane: LaneId) -> Option<Instant> {
        let owed = self.repeated.awaited[lane.0].iter().filter_map(|&owed| {
            let handed = self.repeated.handed[owed.0].filter(|_| !self.lanes[owed.0].is_idle());
            let waiting = self.repeated.waiting[owed.0].as_ref().and_then(Again::oldest_since);
            handed.into_iter().chain(waiting).min()
        });
        owed.min()
    }

    /// Lets one purge of everything stand for repeats that are too many, where the sink has one.
    fn bound_repeats(&mut self, to: LaneId) {
        if self.stages[to.0] != Stage::Purge || self.purges.coarse(to).is_none() {
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

    /// Hands what is due to the lane that does it again, if that has done all before: what waits
    /// here still merges with what is done anew.
    pub(super) fn take_repeats(&mut self, lane: LaneId, now: impl FnOnce() -> Instant) {
        if self.repeated.load(lane) == Load::default() || !self.lanes[lane.0].is_idle() {
            return;
        }
        let is_once_more = !self.repeated.awaited[lane.0].is_empty();
        let limit = if is_once_more { self.owed_since(lane) } else { None };
        let Plan { repeated, lanes, progress, .. } = self;
        let (Some(again), planned) = (&mut repeated.waiting[lane.0], &mut lanes[lane.0]) else {
            return;
        };
        repeated.handed[lane.0] =
            again.take_due(progress, now(), limit, |progress, action: Action<'_>, owner| {
                planned.put(progress, action, owner, Visible::Unknown);
            });
    }

    /// When something is due that is to be done again; `None`: nothing is, or its lane is busy.
    pub fn next_repeat(&self) -> Option<Instant> {
        let timed = self.repeated.waiting.iter().zip(&self.repeated.awaited).zip(&self.lanes);
        let idle = timed.filter_map(|((again, awaited), lane)| {
            // What waits for others is not due at a time.
            again.as_ref().filter(|_| awaited.is_empty() && lane.is_idle())?.next_due()
        });
        idle.min()
    }

    /// The lane whose repeats are so many that something coarser should take their place, and what
    /// they take, in bytes.
    pub fn crowded_repeats(&self, bytes: usize) -> Option<LaneId> {
        let is_crowded = |&lane: &LaneId| {
            self.stages[lane.0] == Stage::Remove && self.repeated.load(lane).bytes >= bytes
        };
        (0..self.lanes.len()).map(LaneId).find(is_crowded)
    }

    /// Calls `look` with some of what a lane is to do again, spread evenly.
    pub fn sample_repeats(&self, lane: LaneId, count: usize, look: impl FnMut(Action<'_>)) {
        if let Some(again) = &self.repeated.waiting[lane.0] {
            again.sample(count, look);
        }
    }

    /// Puts one coarse action in the place of those that `lane` is to do again and that it reaches:
    /// it is done at the last delay of the youngest. Answers how many there were.
    pub fn collapse_repeats(
        &mut self,
        lane: LaneId,
        is_reached: impl Fn(Action<'_>) -> bool,
        sink: SinkId,
        coarse: Action<'_>,
    ) -> usize {
        let base = (self.routes.actions)(sink, coarse, Urgency::Prompt);
        let by = self.redeleted_by(base, coarse.verb, self.repeated.redelete[lane.0]);
        let waiting = &mut self.repeated.waiting;
        let Some((to, _)) = by.and_then(|by| self.repeated.to[by.0]) else { return 0 };
        if waiting[to.0].is_none() {
            return 0;
        }
        let Some(again) = &mut waiting[lane.0] else { return 0 };
        let reached = again.extract(is_reached);
        if let Some(again) = &mut waiting[to.0] {
            again.add_coarse(&mut self.progress, coarse, &reached);
        }
        reached.owners.len()
    }

    /// The lane that does a verb of another one, where that is to be done again.
    fn redeleted_by(
        &self,
        lane: LaneId,
        verb: Verb,
        redelete: Option<RedeleteId>,
    ) -> Option<LaneId> {
        let redelete = redelete?;
        let is_it = |by: &&RedeletedBy| (by.redelete, by.verb) == (redelete, verb.untyped());
        Some(self.redeleted_by[lane.0].iter().find(is_it)?.lane)
    }

    /// The lane that does an action.
    pub(super) fn route(
        &self,
        sink: SinkId,
        action: Action<'_>,
        urgency: Urgency,
        redelete: Option<RedeleteId>,
    ) -> LaneId {
        let lane = (self.routes.actions)(sink, action, urgency);
        self.redeleted_by(lane, action.verb, redelete).unwrap_or(lane)
    }

    /// Which list of times the actions of a lane have.
    pub(super) fn redelete_of(&self, lane: LaneId) -> Option<RedeleteId> {
        self.repeated.redelete[lane.0]
    }
}
