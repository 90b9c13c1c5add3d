//! What is to be done next: actions wait for their transaction to be visible, some for the rest of
//! it to be done, then for their lane, and are merged while they wait.
//!
//! Pure: no I/O, no clock. The stream calls [`begin`](Plan::begin), [`push`](Plan::push) and
//! [`commit`](Plan::commit); the barrier calls [`show`](Plan::show); a lane's driver calls
//! [`take`](Plan::take) and [`done`](Plan::done). What may be confirmed follows from all of them.

use std::collections::HashMap;
use std::time::Instant;

use super::action_set::ActionSet;
use super::afterwards::{Afterwards, Group, Mark, Marks};
use super::lane::{LanePlan, PromptLane, Stage, put};
use super::paced::{Pace, PacedLane};
use super::progress::{Progress, TxnId};
use crate::action::{Action, Batch, Verb};
use crate::failpoint::Failpoint;
use crate::lsn::Lsn;
use crate::rules::{Cause, Emission, RuleId, SinkId};
use crate::snapshot::Snapshot;

/// What can be busy on its own: one class of work of one sink, or one rule's lookups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LaneId(pub usize);

/// Which lane takes what.
pub struct Routes {
    /// A sink's verbs.
    pub actions: Box<dyn Fn(SinkId, Verb, Urgency) -> LaneId + Send>,
    /// A rule's lookups.
    pub lookups: HashMap<RuleId, LaneId>,
}

/// Whether an action may be held back, so that many of them become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// It runs as soon as its lane is idle.
    Prompt,
    /// It is coarse and asked for again and again: at most once in a while.
    Paced,
}

impl Urgency {
    /// Every update of a table may ask for the same scan.
    pub fn of(emission: &Emission<'_>) -> Self {
        match emission.fallback {
            Some(Cause::Absent) => Urgency::Paced,
            _ => Urgency::Prompt,
        }
    }
}

/// What of a transaction waits until other sessions can see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hidden {
    /// Everything.
    All,
    /// Only its lookups, which would not see its rows.
    Lookups,
}

/// How much memory one lane's waiting actions, or the actions of invisible transactions, or those
/// that run afterwards, may take before the reader stops. With one of them at its bound the daemon
/// stays within 64 MiB.
pub(super) const WAITING_BYTES_MAX: usize = 16 << 20;

/// From where on what must not stop the reader is asked for in a coarser way.
const CROWDED_BYTES: usize = WAITING_BYTES_MAX / 2;

/// How many invisible transactions' emptied sets are kept.
const SPARE_SETS_MAX: usize = 1;

/// A lane, as the plan sees it.
pub struct PlannedLane {
    /// When its actions run.
    pub stage: Stage,
    /// How often; `None`: as soon as it is idle.
    pub pace: Option<Pace>,
}

/// Everything that is to be done, in flight or waiting.
pub struct Plan {
    routes: Routes,
    lanes: Vec<LanePlan>,
    stages: Vec<Stage>,
    /// Whether any lane comes after others: else nobody asks what comes before what.
    tells: bool,
    /// Transactions whose actions may not run yet, in stream order.
    invisible: Vec<Invisible>,
    /// The memory that they take.
    invisible_bytes: usize,
    /// Empty sets of earlier transactions, whose memory is used again.
    spare: Vec<Vec<ActionSet>>,
    afterwards: Afterwards,
    /// For each lane, what the batch of lookups that is being answered asks for.
    answered: Vec<Marks>,
    open: Option<Open>,
    snapshot: Option<Snapshot>,
    progress: Progress,
}

/// The transaction that the stream is in.
struct Open {
    txn: TxnId,
    /// What of it goes to the last of `Plan::invisible`.
    hidden: Option<Hidden>,
    /// What of it runs afterwards, and after what.
    group: Group,
}

/// A committed transaction that other sessions cannot see yet.
struct Invisible {
    txn: TxnId,
    xid: u32,
    /// Its hidden actions, for each lane.
    actions: Vec<ActionSet>,
    /// What of it runs afterwards, once it is complete.
    group: Option<Group>,
}

impl Invisible {
    /// The memory that its actions take.
    fn bytes(&self) -> usize {
        let sets: usize = self.actions.iter().map(ActionSet::bytes).sum();
        let group = self.group.as_ref().map_or(0, Group::bytes);
        size_of_val(self.actions.as_slice()) + sets + group
    }
}

impl Plan {
    /// A plan for `lanes`, to which `routes` lead.
    pub fn new(lanes: Vec<PlannedLane>, routes: Routes) -> Self {
        let stages: Vec<Stage> = lanes.iter().map(|lane| lane.stage).collect();
        let lane = |lane: PlannedLane| match lane.pace {
            Some(pace) => LanePlan::Paced(PacedLane::new(pace)),
            None => LanePlan::Prompt(PromptLane::default()),
        };
        Plan {
            routes,
            lanes: lanes.into_iter().map(lane).collect(),
            tells: stages.iter().any(|stage| stage.comes_afterwards()),
            invisible: Vec::new(),
            invisible_bytes: 0,
            spare: Vec::new(),
            afterwards: Afterwards::default(),
            answered: stages.iter().map(|_| Marks::default()).collect(),
            open: None,
            snapshot: None,
            progress: Progress::default(),
            stages,
        }
    }

    /// Does on purpose what is wrong, in a debug build.
    pub fn break_as(&mut self, broken: Option<Failpoint>) {
        self.progress.break_as(broken);
    }

    /// A transaction begins. `hidden` is its ID and what of it waits to be visible; `None` where
    /// there is nothing to wait for.
    pub fn begin(&mut self, hidden: Option<(u32, Hidden)>) {
        let txn = self.progress.begin();
        let hidden =
            hidden.filter(|&(xid, _)| !self.snapshot.as_ref().is_some_and(|s| s.shows(xid)));
        if let Some((xid, _)) = hidden {
            self.invisible.push(Invisible { txn, xid, actions: Vec::new(), group: None });
        }
        let group = Group::new(txn, self.progress.order(txn));
        self.open = Some(Open { txn, hidden: hidden.map(|(_, what)| what), group });
    }

    /// The open transaction's place in the stream.
    pub fn open_order(&self) -> Option<u64> {
        self.open.as_ref().map(|open| open.group.order)
    }

    /// The open transaction asks for an action at some sinks. Without an open transaction nothing
    /// happens.
    pub fn push(&mut self, sinks: &[SinkId], action: Action<'_>, urgency: Urgency) {
        for &sink in sinks {
            let lane = (self.routes.actions)(sink, action.verb, urgency);
            self.push_to(lane, action);
        }
    }

    /// The open transaction asks for a rule's lookup.
    pub fn look_up(&mut self, rule: RuleId, lookup: Action<'_>) {
        if let Some(&lane) = self.routes.lookups.get(&rule) {
            self.push_to(lane, lookup);
        }
    }

    fn push_to(&mut self, lane: LaneId, action: Action<'_>) {
        let Some(open) = &mut self.open else { return };
        let is_hidden = match open.hidden {
            None => false,
            Some(Hidden::All) => true,
            Some(Hidden::Lookups) => self.stages[lane.0] == Stage::Lookup,
        };
        if is_hidden {
            let Some(hidden) = self.invisible.last_mut() else { return };
            if hidden.actions.is_empty() {
                hidden.actions = self.spare.pop().unwrap_or_default();
                hidden.actions.resize_with(self.lanes.len(), ActionSet::default);
                self.invisible_bytes += size_of_val(hidden.actions.as_slice());
            }
            let set = &mut hidden.actions[lane.0];
            let before = set.bytes();
            put(&mut self.progress, set, action, open.txn);
            self.invisible_bytes += set.bytes() - before;
        } else if self.stages[lane.0].comes_afterwards() {
            let set = open.group.actions_for(lane, self.lanes.len());
            put(&mut self.progress, set, action, open.txn);
            if open.group.bytes() >= CROWDED_BYTES {
                self.cut();
            }
        } else {
            let position = self.lanes[lane.0].put(&mut self.progress, action, open.txn);
            if self.tells {
                open.group.after.add(Mark { lane, position });
            }
        }
    }

    /// What is to be told of the open transaction goes out in parts: there is too much of it.
    fn cut(&mut self) {
        let Some(open) = &mut self.open else { return };
        let mut rest = Group::new(open.txn, open.group.order);
        rest.after.extend(&open.group.after);
        self.afterwards.push(std::mem::replace(&mut open.group, rest));
        self.release();
    }

    /// The open transaction is complete.
    pub fn commit(&mut self, end_lsn: Lsn) {
        let Some(open) = self.open.take() else { return };
        match self.invisible.pop_if(|hidden| hidden.txn == open.txn) {
            Some(mut hidden) if !hidden.actions.is_empty() => {
                if self.tells {
                    self.invisible_bytes += open.group.bytes();
                    hidden.group = Some(open.group);
                }
                self.invisible.push(hidden);
            }
            // Without hidden actions it has nothing to wait for.
            _ => self.end(open.group),
        }
        self.progress.close(open.txn, end_lsn);
    }

    /// Nothing more comes for a group from the stream.
    fn end(&mut self, group: Group) {
        let asks = |(lane, stage): (usize, &Stage)| {
            *stage == Stage::Lookup && group.after.await_lane(LaneId(lane), &self.lanes)
        };
        if group.is_due(&self.lanes) {
            self.hand_on(group);
        // An answer may bring something for it.
        } else if !group.actions.is_empty()
            || self.tells && self.stages.iter().enumerate().any(asks)
        {
            self.afterwards.push(group);
        }
    }

    /// The server has sent everything up to `lsn`.
    pub fn advance(&mut self, lsn: Lsn) {
        if self.open.is_none() {
            self.progress.advance(lsn);
        }
    }

    /// Whether transactions wait to become visible.
    pub fn wants_snapshot(&self) -> bool {
        !self.invisible.is_empty()
    }

    /// The actions of every transaction that the snapshot shows may run from now on.
    pub fn show(&mut self, snapshot: Snapshot) {
        for hidden in std::mem::take(&mut self.invisible) {
            if !snapshot.shows(hidden.xid) {
                self.invisible.push(hidden);
                continue;
            }
            self.invisible_bytes -= hidden.bytes();
            self.reveal(hidden);
        }
        self.snapshot = Some(snapshot);
    }

    fn reveal(&mut self, hidden: Invisible) {
        let Invisible { txn, mut actions, group, .. } = hidden;
        let is_open = self.open.as_ref().is_some_and(|open| open.txn == txn);
        let fresh = || Group::new(txn, self.progress.order(txn));
        let mut group = match &mut self.open {
            Some(open) if is_open => {
                open.hidden = None;
                std::mem::replace(&mut open.group, fresh())
            }
            _ => group.unwrap_or_else(fresh),
        };
        for (lane, actions) in actions.iter_mut().enumerate() {
            let lane = LaneId(lane);
            if self.stages[lane.0].comes_afterwards() {
                if !actions.is_empty() {
                    *group.actions_for(lane, self.lanes.len()) = std::mem::take(actions);
                }
                continue;
            }
            self.lanes[lane.0].absorb(&mut self.progress, actions, txn, |position| {
                if self.tells {
                    group.after.add(Mark { lane, position });
                }
            });
        }
        if self.spare.len() < SPARE_SETS_MAX {
            self.spare.push(actions);
        }
        match &mut self.open {
            Some(open) if is_open => open.group = group,
            _ => self.end(group),
        }
    }

    /// The next batch for an idle lane. It is the lane's until [`done`](Self::done).
    pub fn take(&mut self, lane: LaneId, now: impl FnOnce() -> Instant) -> Option<Batch> {
        self.lanes[lane.0].take(now)
    }

    /// The place in the stream of the oldest transaction that is not finished.
    pub fn oldest(&self) -> Option<u64> {
        self.progress.oldest()
    }

    /// The place in the stream of the transaction that asked for the lookup at `index` of the
    /// lane's batch.
    pub fn asker(&self, lane: LaneId, index: usize) -> Option<u64> {
        Some(self.progress.order(self.lanes[lane.0].owner(index)?))
    }

    /// A lookup of the lane's batch, the one at `index`, asks for an action at some sinks.
    pub fn answer(
        &mut self,
        lane: LaneId,
        index: usize,
        sinks: &[SinkId],
        action: Action<'_>,
        urgency: Urgency,
    ) {
        let Some(txn) = self.lanes[lane.0].owner(index) else { return };
        for &sink in sinks {
            let to = (self.routes.actions)(sink, action.verb, urgency);
            if self.stages[to.0].comes_afterwards() {
                self.tell(lane, txn, to, action);
            } else {
                let position = self.lanes[to.0].put(&mut self.progress, action, txn);
                if self.tells {
                    self.answered[lane.0].add(Mark { lane: to, position });
                }
            }
        }
    }

    /// Adds an action to what runs after a transaction, which waits for the lane that answers.
    fn tell(&mut self, answering: LaneId, txn: TxnId, lane: LaneId, action: Action<'_>) {
        let Plan { progress, stages, answered, afterwards, .. } = self;
        let (lanes, order) = (stages.len(), progress.order(txn));
        let found = &answered[answering.0];
        let mut add =
            |group: &mut Group| put(progress, group.actions_for(lane, lanes), action, txn);
        let part = |group: &mut Group| {
            let is_huge = group.bytes() >= CROWDED_BYTES;
            is_huge.then(|| group.part(|lane| stages[lane.0] == Stage::Lookup, found))
        };
        let mut has_parted = false;
        if let Some(open) = self.open.as_mut().filter(|open| open.txn == txn) {
            add(&mut open.group);
            if let Some(part) = part(&mut open.group) {
                afterwards.push(part);
                has_parted = true;
            }
        } else {
            let is_known = afterwards.change(order, |group| {
                add(group);
                let part = part(group);
                has_parted = part.is_some();
                part
            });
            if !is_known {
                // Its stream broke off before it was complete.
                let mut group = Group::new(txn, order);
                add(&mut group);
                group.after.extend(found);
                afterwards.push(group);
            }
        }
        if has_parted {
            self.release();
        }
    }

    /// Every action of the lane's batch is finished.
    pub fn done(&mut self, lane: LaneId, batch: Batch) {
        if self.stages[lane.0] == Stage::Lookup && self.tells {
            // Whoever waited for an answer waits for what it asks for.
            let (answered, lanes) = (std::mem::take(&mut self.answered[lane.0]), &self.lanes);
            if let Some(open) = self.open.as_mut()
                && open.group.after.await_lane(lane, lanes)
            {
                open.group.after.extend(&answered);
            }
            self.afterwards.await_more(lane, lanes, &answered);
        }
        self.lanes[lane.0].done(&mut self.progress, batch);
        self.release();
    }

    /// Hands the groups whose turn it is to their lanes.
    fn release(&mut self) {
        for group in self.afterwards.take_due(&self.lanes) {
            self.hand_on(group);
        }
    }

    fn hand_on(&mut self, group: Group) {
        for (lane, mut actions) in group.actions.into_iter().enumerate() {
            self.lanes[lane].absorb(&mut self.progress, &mut actions, group.txn, |_| {});
        }
    }

    /// The stream broke off. What is visible still runs. The next stream starts with everything
    /// that this one's server was not told, and confirms positions of its own alone: it may come
    /// from another server, where a position means something else.
    pub fn disconnect(&mut self) {
        let progress = &mut self.progress;
        let mut drop_all = |actions: &mut ActionSet| {
            while let Some(page) = actions.take() {
                page.owners.iter().for_each(|&owner| progress.finish(owner));
            }
        };
        if let Some(mut open) = self.open.take() {
            open.group.actions.iter_mut().for_each(&mut drop_all);
        }
        for mut hidden in std::mem::take(&mut self.invisible) {
            hidden.actions.iter_mut().for_each(&mut drop_all);
            if let Some(mut group) = hidden.group {
                group.actions.iter_mut().for_each(&mut drop_all);
            }
        }
        self.invisible_bytes = 0;
        self.progress.void();
        self.snapshot = None;
        self.set_hurry(false);
    }

    /// Lets what has a pace run as soon as it can, for the end of this stream.
    pub fn hurry(&mut self) {
        self.set_hurry(true);
    }

    fn set_hurry(&mut self, in_hurry: bool) {
        for lane in &mut self.lanes {
            if let LanePlan::Paced(lane) = lane {
                lane.hurry(in_hurry);
            }
        }
    }

    /// Whether everything that was asked for is done.
    pub fn is_idle(&self) -> bool {
        self.progress.is_idle()
    }

    /// Whether a lane has nothing waiting and nothing in flight.
    pub fn is_lane_idle(&self, lane: LaneId) -> bool {
        self.lanes[lane.0].is_idle()
    }

    /// How many actions wait for a lane.
    pub fn waiting(&self, lane: LaneId) -> usize {
        self.lanes[lane.0].waiting()
    }

    /// The LSN up to which everything that this stream has brought is done.
    pub fn confirmed_lsn(&self) -> Lsn {
        self.progress.confirmed_lsn()
    }
}

mod bounds;
#[cfg(test)]
mod tests;
