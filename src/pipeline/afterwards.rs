//! What runs only after the rest of its transaction: first what is stale is removed everywhere,
//! then others are told.
//!
//! A group holds the actions of one transaction that are to run afterwards, and the positions that
//! lanes have to reach before. Pure.

use super::action_set::ActionSet;
use super::lane::{LanePlan, Position};
use super::plan::LaneId;
use super::progress::TxnId;

/// A position of one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) lane: LaneId,
    pub(super) position: Position,
}

/// Positions that lanes have to reach.
#[derive(Debug, Default)]
pub(super) struct Marks(Vec<Mark>);

impl Marks {
    /// Adds one, or moves it on.
    pub(super) fn add(&mut self, mark: Mark) {
        let is_same = |other: &&mut Mark| {
            other.lane == mark.lane && other.position.track == mark.position.track
        };
        match self.0.iter_mut().find(is_same) {
            Some(other) => {
                other.position.number = other.position.number.max(mark.position.number);
            }
            None => self.0.push(mark),
        }
    }

    fn are_reached(&self, lanes: &[LanePlan]) -> bool {
        self.0.iter().all(|mark| lanes[mark.lane.0].has_reached(mark.position))
    }

    /// Whether one of them is in a lane and not reached yet.
    pub(super) fn await_lane(&self, lane: LaneId, lanes: &[LanePlan]) -> bool {
        self.0.iter().any(|mark| mark.lane == lane && !lanes[lane.0].has_reached(mark.position))
    }

    /// A lane has fewer batches now: `end` is behind all that wait, and `instead` is where the rest
    /// went.
    pub(super) fn redirect(&mut self, lane: LaneId, end: Position, instead: Mark) {
        let mut is_beyond = false;
        for mark in self.0.iter_mut().filter(|mark| mark.lane == lane) {
            is_beyond = true;
            mark.position.number = mark.position.number.min(end.number);
        }
        if is_beyond {
            self.add(instead);
        }
    }

    pub(super) fn extend(&mut self, others: &Marks) {
        others.0.iter().for_each(|&mark| self.add(mark));
    }

    fn bytes(&self) -> usize {
        self.0.capacity() * size_of::<Mark>()
    }
}

/// One transaction's actions that run afterwards.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) txn: TxnId,
    /// Its transaction's place in the stream.
    pub(super) order: u64,
    pub(super) after: Marks,
    /// For each lane; none at all if there is none.
    pub(super) actions: Vec<ActionSet>,
}

impl Group {
    pub(super) fn new(txn: TxnId, order: u64) -> Self {
        Group { txn, order, after: Marks::default(), actions: Vec::new() }
    }

    /// The memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        let sets: usize = self.actions.iter().map(ActionSet::bytes).sum();
        size_of::<Group>() + self.after.bytes() + size_of_val(self.actions.as_slice()) + sets
    }

    /// Whether its turn has come.
    pub(super) fn is_due(&self, lanes: &[LanePlan]) -> bool {
        self.after.are_reached(lanes)
    }

    /// Parts with its actions, of which there are too many to wait for lookups that bring ever
    /// more: they are to run after what is asked for already, and what was found.
    pub(super) fn part(&mut self, is_lookup: impl Fn(LaneId) -> bool, found: &Marks) -> Group {
        let removals = self.after.0.iter().filter(|mark| !is_lookup(mark.lane));
        let mut after = Marks(removals.copied().collect());
        after.extend(found);
        let actions = std::mem::take(&mut self.actions);
        Group { txn: self.txn, order: self.order, after, actions }
    }

    /// The actions for a lane.
    pub(super) fn actions_for(&mut self, lane: LaneId, lanes: usize) -> &mut ActionSet {
        if self.actions.is_empty() {
            self.actions.resize_with(lanes, ActionSet::default);
        }
        &mut self.actions[lane.0]
    }
}

/// Groups of committed transactions, in stream order.
#[derive(Debug, Default)]
pub(super) struct Afterwards {
    groups: Vec<Group>,
    bytes: usize,
}

impl Afterwards {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, group: Group) {
        self.bytes += group.bytes();
        self.groups.push(group);
    }

    /// The actions for a lane.
    pub(super) fn actions_of(&self, lane: LaneId) -> impl Iterator<Item = &ActionSet> {
        self.groups.iter().filter_map(move |group| group.actions.get(lane.0))
    }

    /// Lets the groups that wait for a lane wait for more.
    pub(super) fn await_more(&mut self, lane: LaneId, lanes: &[LanePlan], more: &Marks) {
        for group in self.groups.iter_mut().filter(|group| group.after.await_lane(lane, lanes)) {
            self.bytes -= group.bytes();
            group.after.extend(more);
            self.bytes += group.bytes();
        }
    }

    /// A lane's actions went elsewhere: see [`Marks::redirect`].
    pub(super) fn redirect(&mut self, lane: LaneId, end: Position, instead: Mark) {
        for group in &mut self.groups {
            group.after.redirect(lane, end, instead);
        }
    }

    /// Whether the first group waits for that lane, which alone can make room then.
    pub(super) fn first_awaits(&self, lane: LaneId, lanes: &[LanePlan]) -> bool {
        self.groups.first().is_some_and(|group| group.after.await_lane(lane, lanes))
    }

    /// Changes the last group of the transaction at that place in the stream, and puts the part in
    /// front of it that `change` has cut off; answers whether there is such a group.
    pub(super) fn change(
        &mut self,
        order: u64,
        change: impl FnOnce(&mut Group) -> Option<Group>,
    ) -> bool {
        let Some(at) = self.groups.iter().rposition(|group| group.order == order) else {
            return false;
        };
        let group = &mut self.groups[at];
        self.bytes -= group.bytes();
        let part = change(group);
        self.bytes += group.bytes();
        if let Some(part) = part {
            self.bytes += part.bytes();
            self.groups.insert(at, part);
        }
        true
    }

    /// Takes out the groups whose turn it is.
    pub(super) fn take_due(&mut self, lanes: &[LanePlan]) -> Vec<Group> {
        if self.groups.is_empty() {
            return Vec::new();
        }
        let due: Vec<Group> = self.groups.extract_if(.., |group| group.is_due(lanes)).collect();
        self.bytes -= due.iter().map(Group::bytes).sum::<usize>();
        due
    }
}
