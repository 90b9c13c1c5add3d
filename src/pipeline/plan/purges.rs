//! How many purges wait, and what becomes of those that are too many.
//!
//! A purge waits in its transaction's group until that is complete and visible, then in its lane's
//! queue until the caches have lost what is stale, then in its lane. It is not to stop the reader
//! in any of these places: where too many wait for a lane, the largest of the three becomes one
//! purge of everything, which runs after all that they would have run after and belongs to the
//! oldest of their transactions. Those in the other two places stay exact: a CDN that works need
//! not wait for a cache that is down to get rid of what is due already.
//!
//! A purge of everything may have a lane of its own with a pace, so that neither an outage nor a
//! bulk load empties an edge again and again. While it rests, single purges of the same sink go
//! out as ever: the pace is for what is expensive, and nobody should see a stale page for its sake.
//! When it starts, it takes over whatever waits in their lane, since none of that is sent yet.
//! In a lane without a pace it is sent next anyway, and takes over what joins it there at once.
//!
//! What single *invisible* transactions hold beside their purges counts against their own bound:
//! whether they become visible is no matter of the CDN's.

use super::{
    ActionSet, CROWDED_BYTES, Hidden, Invisible, LaneId, Plan, PlannedLane, Replicas, Routes,
    Stage, Urgency, put,
};
use crate::action::{Action, Batch, Verb};
use crate::lsn::Lsn;
use crate::pipeline::action_set::Visible;
use crate::pipeline::afterwards::{Group, Load};
use crate::pipeline::progress::{Progress, TxnId};

/// How many purges wait for a lane before a purge of everything takes their place: more than any
/// CDN takes within minutes.
const PURGES_MAX: usize = 100_000;

/// How much memory they may take.
const PURGE_BYTES_MAX: usize = CROWDED_BYTES;

/// How many wildcards of one transaction its single paths are compared with.
const WILDCARDS_MAX: usize = 16;

/// The lanes of purges.
pub(super) struct Purges {
    /// For each lane of the plan.
    lanes: Vec<Option<PurgeLane>>,
    pub(super) actions_max: usize,
}

struct PurgeLane {
    /// The lane of the same sink that purges everything; `None`: it cannot.
    coarse: Option<LaneId>,
    /// What groups of open and invisible transactions hold for it.
    grouped: Load,
    /// How many purges a purge of everything has replaced since that was last asked.
    collapsed: usize,
}

impl Purges {
    pub(super) fn new(lanes: &[PlannedLane], routes: &Routes) -> Self {
        let lane = |lane: &PlannedLane| {
            let route = |sink| (routes.actions)(sink, Action::PURGE_ALL, Urgency::Paced);
            let coarse = lane.purge_all.map(route);
            let is_purge = lane.stage == Stage::Purge;
            is_purge.then(|| PurgeLane { coarse, grouped: Load::default(), collapsed: 0 })
        };
        Purges { lanes: lanes.iter().map(lane).collect(), actions_max: PURGES_MAX }
    }

    /// The lane that purges everything of the same sink, if one does.
    pub(super) fn coarse(&self, lane: LaneId) -> Option<LaneId> {
        self.lanes[lane.0].as_ref()?.coarse
    }

    /// The actions have left their group.
    pub(super) fn leave_group(&mut self, lane: LaneId, load: Load) {
        if let Some(lane) = &mut self.lanes[lane.0] {
            lane.grouped -= load;
        }
    }

    /// There are no groups any more.
    pub(super) fn leave_all_groups(&mut self) {
        self.lanes.iter_mut().flatten().for_each(|lane| lane.grouped = Load::default());
    }

    fn join_group(&mut self, lane: LaneId, load: Load) {
        if let Some(lane) = &mut self.lanes[lane.0] {
            lane.grouped += load;
        }
    }

    pub(super) fn is_too_much(&self, load: Load) -> bool {
        load.actions >= self.actions_max || load.bytes >= PURGE_BYTES_MAX
    }

    /// A purge of everything has replaced so many.
    pub(super) fn count_collapsed(&mut self, lane: LaneId, collapsed: usize) {
        if let Some(lane) = &mut self.lanes[lane.0] {
            lane.collapsed += collapsed;
        }
    }

    /// The lanes whose purges a purge of everything through `lane` stands for, but for itself.
    fn covered(&self, lane: LaneId) -> impl Iterator<Item = LaneId> {
        let covered = move |(at, other): (usize, &Option<PurgeLane>)| {
            (at != lane.0 && other.as_ref()?.coarse == Some(lane)).then_some(LaneId(at))
        };
        self.lanes.iter().enumerate().filter_map(covered)
    }

    /// Puts a purge into a group of a transaction. One of everything stands for all others.
    pub(super) fn put(
        &mut self,
        progress: &mut Progress,
        group: &mut Group,
        lane: LaneId,
        action: Action<'_>,
        txn: TxnId,
    ) {
        let lanes = self.lanes.len();
        let set = group.actions_for(lane, lanes);
        self.leave_group(lane, Load::of(set));
        put(progress, set, action, txn);
        self.join_group(lane, Load::of(set));
        if action.verb == Verb::PurgeAll {
            for covered in self.covered(lane).collect::<Vec<_>>() {
                let set = group.actions_for(covered, lanes);
                self.leave_group(covered, Load::of(set));
                set.extract(|_| true).into_iter().for_each(|owner| progress.finish(owner));
            }
        }
    }
}

/// Of one transaction's purges, drops single paths that one of its own wildcards reaches: each of
/// them would be charged for. Where there are many wildcards, the first ones count.
pub(super) fn drop_covered(progress: &mut Progress, actions: &mut ActionSet) {
    let prefix = |action: Action<'_>| match action.verb {
        Verb::PurgePath => action.value.strip_suffix(b"*").map(<[u8]>::to_vec),
        _ => None,
    };
    let prefixes: Vec<_> = actions.iter().filter_map(prefix).take(WILDCARDS_MAX).collect();
    if prefixes.is_empty() {
        return;
    }
    let is_reached = |action: Action<'_>| {
        action.verb == Verb::PurgePath
            && !action.value.ends_with(b"*")
            && prefixes.iter().any(|prefix| action.value.starts_with(prefix))
    };
    actions.extract(is_reached).into_iter().for_each(|owner| progress.finish(owner));
}

impl Plan {
    /// The open transaction asks for a purge. It waits in the transaction's group, whether that is
    /// visible or not: it needs its end in any case.
    pub(super) fn push_purge(&mut self, lane: LaneId, action: Action<'_>) {
        let Plan { open, purges, progress, .. } = self;
        let Some(open) = open else { return };
        if purges.coarse(lane).is_some_and(|coarse| open.group.purges_all(coarse)) {
            return;
        }
        purges.put(progress, &mut open.group, lane, action, open.txn);
        match purges.coarse(lane) {
            Some(_) => self.bound_purges(lane),
            None => self.cut_purges(None),
        }
    }

    /// Of a sink that cannot purge everything, an open transaction's purges go out in parts where
    /// there are too many: they would stop the reader, and so their own transaction's end.
    pub(super) fn cut_purges(&mut self, answering: Option<LaneId>) {
        for at in 0..self.stages.len() {
            let Some(open) = self.open.as_ref().filter(|open| open.hidden != Some(Hidden::All))
            else {
                return;
            };
            let Some(set) = open.group.actions.get(at) else { return };
            let is_too_much =
                set.bytes() >= PURGE_BYTES_MAX / 2 || set.len() >= self.purges.actions_max / 2;
            if self.is_bounding(LaneId(at)) && is_too_much {
                self.cut(LaneId(at), answering);
            }
        }
    }

    /// Whether purges wait for a lane that cannot become fewer.
    fn is_bounding(&self, lane: LaneId) -> bool {
        self.stages[lane.0] == Stage::Purge && self.purges.coarse(lane).is_none()
    }

    /// Whether the purges of a lane stop the reader.
    pub(super) fn is_full_of_purges(&self, lane: LaneId) -> bool {
        self.is_bounding(lane) && self.purges.is_too_much(self.purge_loads(lane).1)
    }

    /// Whether a lane's lookups may bring purges that cannot become fewer, or only they can make
    /// room for them.
    pub(super) fn has_room_for_purges(&self, answering: LaneId) -> bool {
        let awaits = |lane: usize| {
            self.afterwards.first_awaits(answering, &self.lanes, |other| other == lane)
        };
        let mut lanes = 0..self.stages.len();
        lanes.all(|lane| !self.is_full_of_purges(LaneId(lane)) || awaits(lane))
    }

    /// What waits for a lane in groups, in its queue and in itself, and together with what it is
    /// to do again.
    pub(super) fn purge_loads(&self, lane: LaneId) -> ([Load; 3], Load) {
        let planned = &self.lanes[lane.0];
        let grouped = self.purges.lanes[lane.0].as_ref().map_or(Load::default(), |l| l.grouped);
        let waiting = Load { actions: planned.waiting(), bytes: planned.bytes() };
        let loads = [grouped, self.afterwards.queue(lane).load(), waiting];
        let mut all = self.repeated.load(lane);
        loads.iter().for_each(|&load| all += load);
        (loads, all)
    }

    /// Lets one purge of everything take the place of purges that are too many.
    pub(super) fn bound_purges(&mut self, lane: LaneId) {
        let Some(coarse) = self.purges.coarse(lane) else { return };
        let ([grouped, queued, waiting], _) = self.purge_loads(lane);
        let mut places = [
            (waiting.bytes, Self::collapse_waiting as fn(&mut Plan, LaneId, LaneId) -> usize),
            (queued.bytes, Self::collapse_queue),
            (grouped.bytes, Self::collapse_groups),
        ];
        places.sort_by_key(|&(bytes, _)| std::cmp::Reverse(bytes));
        for (_, collapse) in places {
            if !self.purges.is_too_much(self.purge_loads(lane).1) {
                return;
            }
            let collapsed = collapse(self, lane, coarse);
            self.purges.count_collapsed(lane, collapsed);
        }
    }

    /// What is due already is purged with everything else at once.
    pub(super) fn collapse_waiting(&mut self, lane: LaneId, coarse: LaneId) -> usize {
        let Some(prompt) = self.lanes[lane.0].prompt_mut() else { return 0 };
        let owners = prompt.waiting_mut().extract(|action| action.verb != Verb::PurgeAll);
        let Some(oldest) = self.progress.oldest_of(&owners) else { return 0 };
        self.lanes[coarse.0].put(&mut self.progress, Action::PURGE_ALL, oldest, Visible::Unknown);
        owners.iter().for_each(|&owner| self.progress.finish(owner));
        owners.len()
    }

    /// What waits for caches becomes one that waits for all of them.
    fn collapse_queue(&mut self, lane: LaneId, coarse: LaneId) -> usize {
        let (after, owners) = self.afterwards.queue_mut(lane).drain();
        let Some(oldest) = self.progress.oldest_of(&owners) else { return 0 };
        let queue = self.afterwards.queue_mut(coarse);
        queue.push_coarse(&mut self.progress, Action::PURGE_ALL, oldest, &after);
        owners.iter().for_each(|&owner| self.progress.finish(owner));
        owners.len()
    }

    /// Each open or invisible transaction purges everything.
    fn collapse_groups(&mut self, lane: LaneId, coarse: LaneId) -> usize {
        let Plan { open, invisible, invisible_bytes, replicas, purges, progress, .. } = self;
        let mut collapse = |group: &mut Group, txn: TxnId| {
            let purged = group.actions.get(lane.0).map_or(0, |set| set.len());
            if purged > 0 && !group.purges_all(lane) {
                purges.put(progress, group, coarse, Action::PURGE_ALL, txn);
                return purged;
            }
            0
        };
        let mut collapsed = 0;
        let mut collapse_all = |all: &mut [Invisible], bytes: &mut usize| {
            for hidden in all {
                if let Some(group) = &mut hidden.group {
                    *bytes -= group.bytes();
                    collapsed += collapse(group, hidden.txn);
                    *bytes += group.bytes();
                }
            }
        };
        collapse_all(invisible, invisible_bytes);
        if let Some(Replicas { waiting, bytes, .. }) = replicas {
            collapse_all(waiting, bytes);
        }
        collapsed + open.as_mut().map_or(0, |open| collapse(&mut open.group, open.txn))
    }

    /// A batch of purges begins. If it purges everything, that stands for all single ones of the
    /// same sink that are not sent yet.
    pub(super) fn take_purges(&mut self, lane: LaneId, batch: &mut Batch) {
        if let Some(all) = batch.iter().position(|action| action.verb == Verb::PurgeAll) {
            self.take_over(lane, all);
        }
        let owners = (0..batch.len()).filter_map(|at| self.lanes[lane.0].owner(at));
        let ends = owners.map(|owner| self.progress.end_lsn(owner));
        for end in ends.filter(|&end| end > Lsn::ZERO) {
            let (oldest, newest) = batch.range;
            batch.range = match oldest {
                Lsn::ZERO => (end, end),
                _ => (oldest.min(end), newest.max(end)),
            };
        }
    }

    /// The action at `all` of the lane's batch stands for all single purges of its sink that wait.
    fn take_over(&mut self, lane: LaneId, all: usize) {
        for covered in self.purges.covered(lane).collect::<Vec<_>>() {
            let Some(prompt) = self.lanes[covered.0].prompt_mut() else { continue };
            for owner in prompt.waiting_mut().extract(|_| true) {
                self.lanes[lane.0].own(&mut self.progress, all, owner);
                self.progress.finish(owner);
            }
        }
    }

    /// How many purges one of everything has replaced since this was last asked, with their lane.
    pub fn take_collapsed(&mut self) -> Option<(LaneId, usize)> {
        let mut lanes = self.purges.lanes.iter_mut().enumerate();
        lanes.find_map(|(at, lane)| {
            let collapsed = std::mem::take(&mut lane.as_mut()?.collapsed);
            (collapsed > 0).then_some((LaneId(at), collapsed))
        })
    }
}
