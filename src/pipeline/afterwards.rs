//! What runs only after the rest of its transaction: first what is stale is removed everywhere,
//! then others are told; first the caches, then the edges that fill from them.
//!
//! While a transaction is open or invisible, a [`Group`] gathers what it asks for. When it is
//! complete and visible, each lane's part of the group waits in the lane's [`Queue`] until the
//! lanes that come before have reached the positions up to which the transaction's actions stand.
//! Where few transactions wait, none of them waits for another. Pure.

mod askers;
mod marks;
mod queue;

use std::ops::{AddAssign, SubAssign};

use askers::Askers;
pub(super) use marks::{Mark, Marks};
pub(super) use queue::{Bundle, Queue};

use super::action_set::ActionSet;
use super::lane::{LanePlan, Position};
use super::plan::LaneId;
use super::progress::{Progress, TxnId};
use crate::action::{Action, Verb};

/// How much waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) actions: usize,
    /// The memory that it takes.
    pub(super) bytes: usize,
}

impl Load {
    pub(super) fn of(actions: &ActionSet) -> Self {
        Load { actions: actions.len(), bytes: actions.bytes() }
    }
}

impl AddAssign for Load {
    fn add_assign(&mut self, other: Load) {
        self.actions += other.actions;
        self.bytes += other.bytes;
    }
}

impl SubAssign for Load {
    fn sub_assign(&mut self, other: Load) {
        self.actions -= other.actions;
        self.bytes -= other.bytes;
    }
}

/// One transaction's actions that run afterwards, as long as it is not complete and visible.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) after: Marks,
    /// For each lane; none at all if there is none.
    pub(super) actions: Vec<ActionSet>,
}

impl Group {
    /// Whether nothing is to run.
    pub(super) fn is_empty(&self) -> bool {
        self.actions.iter().all(ActionSet::is_empty)
    }

    /// The memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        let sets: usize = self.actions.iter().map(ActionSet::bytes).sum();
        size_of::<Group>() + self.after.bytes() + size_of_val(self.actions.as_slice()) + sets
    }

    /// The memory that the actions of some lanes take.
    pub(super) fn bytes_of(&self, is_meant: impl Fn(usize) -> bool) -> usize {
        let sets = self.actions.iter().enumerate().filter(|&(lane, _)| is_meant(lane));
        sets.map(|(_, set)| set.bytes()).sum()
    }

    /// The actions for a lane.
    pub(super) fn actions_for(&mut self, lane: LaneId, lanes: usize) -> &mut ActionSet {
        if self.actions.is_empty() {
            self.actions.resize_with(lanes, ActionSet::default);
        }
        &mut self.actions[lane.0]
    }

    /// Whether it purges everything through that lane, so that it needs no single purge.
    pub(super) fn purges_all(&self, lane: LaneId) -> bool {
        let set = self.actions.get(lane.0);
        set.and_then(ActionSet::first_verb) == Some(Verb::PurgeAll)
    }
}

/// What waits for the rest of complete transactions.
#[derive(Debug)]
pub(super) struct Afterwards {
    /// For each lane.
    queues: Vec<Queue>,
    askers: Askers,
}

impl Afterwards {
    /// `before` says for each lane which lanes come before it.
    pub(super) fn new(before: impl Iterator<Item = Box<[bool]>>) -> Self {
        Afterwards { queues: before.map(Queue::new).collect(), askers: Askers::default() }
    }

    /// What waits for a lane.
    pub(super) fn queue(&self, lane: LaneId) -> &Queue {
        &self.queues[lane.0]
    }

    /// What waits for a lane.
    pub(super) fn queue_mut(&mut self, lane: LaneId) -> &mut Queue {
        &mut self.queues[lane.0]
    }

    /// The memory that what waits for some lanes takes.
    pub(super) fn bytes_of(&self, is_meant: impl Fn(usize) -> bool) -> usize {
        let queues = self.queues.iter().enumerate().filter(|&(lane, _)| is_meant(lane));
        queues.map(|(_, queue)| queue.load().bytes).sum()
    }

    /// Remembers what a complete transaction waits for: lookups, which may bring something for it.
    pub(super) fn remember(&mut self, order: u64, after: Marks) {
        self.askers.push(order, after);
    }

    /// Adds an action that an answer brings for a complete transaction. `found` is what its lookups
    /// have found in this batch.
    pub(super) fn answer(
        &mut self,
        progress: &mut Progress,
        txn: TxnId,
        lane: LaneId,
        action: Action<'_>,
        found: &Marks,
    ) {
        let order = progress.order(txn);
        let askers = &self.askers;
        self.queues[lane.0].push_answer(progress, (txn, order), action, |queue| {
            match askers.after(order) {
                Some(after) => queue.marks(&after),
                // Its stream broke off before it was complete.
                None => queue.marks(found),
            }
        });
    }

    /// Parts with what a lane's last answers have brought, if that is too much: see
    /// [`Queue::part`].
    pub(super) fn part(
        &mut self,
        lane: LaneId,
        bytes_max: usize,
        is_lookup: impl Fn(LaneId) -> bool,
        found: &Marks,
    ) -> bool {
        self.queues[lane.0].part(bytes_max, is_lookup, found)
    }

    /// Whether the first of what waits for one of some lanes waits for that lane, which alone can
    /// make room then.
    pub(super) fn first_awaits(
        &self,
        lane: LaneId,
        lanes: &[LanePlan],
        is_meant: impl Fn(usize) -> bool,
    ) -> bool {
        let mut queues = self.queues.iter().enumerate().filter(|&(at, _)| is_meant(at));
        queues.any(|(_, queue)| queue.first_awaits(lane, lanes))
    }

    /// Lets whatever waits for a lane wait for more.
    pub(super) fn await_more(&mut self, lane: LaneId, lanes: &[LanePlan], more: &Marks) {
        self.queues.iter_mut().for_each(|queue| queue.await_more(lane, lanes, more));
        self.askers.await_more(lane, lanes, more);
    }

    /// Forgets for which transactions lookups might bring something, where they are answered.
    pub(super) fn forget(&mut self, lanes: &[LanePlan], is_lookup: impl Fn(LaneId) -> bool) {
        self.askers.forget(lanes, is_lookup);
    }

    /// A lane's actions went elsewhere: see [`Marks::redirect`].
    pub(super) fn redirect(&mut self, lane: LaneId, end: Position, instead: Mark) {
        self.queues.iter_mut().for_each(|queue| queue.redirect(lane, end, instead));
        self.askers.redirect(lane, end, instead);
    }

    /// Takes out what is due, with its lanes.
    pub(super) fn take_due(&mut self, lanes: &[LanePlan]) -> Vec<(LaneId, ActionSet)> {
        let mut due = Vec::new();
        for (at, queue) in self.queues.iter_mut().enumerate() {
            queue.take_due(lanes, |actions| due.push((LaneId(at), actions)));
        }
        due
    }

    /// Lets fewer bundles wait apart.
    #[cfg(test)]
    pub(super) fn keep_bundles(&mut self, bundles_max: usize) {
        self.queues.iter_mut().for_each(|queue| queue.bundles_max = bundles_max);
    }
}
