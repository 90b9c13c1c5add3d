//! What can be seen of a plan from outside, for people: nothing is decided by it.

use super::{LaneId, Phase, Plan, Replicas};
use crate::pipeline::action_set::ActionSet;

impl Plan {
    /// How many actions of a lane are not finished: what waits for it, for visibility, or for the
    /// rest of its transaction, what it was given, and what it is to do again. It takes time in proportion to the
    /// transactions that wait.
    pub fn unfinished(&self, lane: LaneId) -> usize {
        let of = |sets: &[ActionSet]| sets.get(lane.0).map_or(0, ActionSet::len);
        let open = self.open.as_ref().map_or(0, |open| of(&open.group.actions));
        let unreplayed = self.replicas.iter().flat_map(|replicas| &replicas.waiting);
        let hidden = self.invisible.iter().chain(unreplayed);
        let hidden: usize = hidden
            .map(|hidden| {
                let grouped = hidden.group.as_ref().map_or(0, |group| of(&group.actions));
                of(&hidden.actions) + grouped
            })
            .sum();
        let afterwards = self.afterwards.queue(lane).load().actions;
        let plan = &self.lanes[lane.0];
        let repeats = self.repeated.load(lane).actions;
        plan.waiting() + plan.in_flight() + open + hidden + afterwards + repeats
    }

    /// The place in the stream of the oldest transaction that waits to be visible.
    pub fn oldest_unseen(&self) -> Option<u64> {
        let unseen = self.invisible.iter().find(|hidden| hidden.phase == Phase::Unseen)?;
        Some(self.progress.order(unseen.txn))
    }

    /// The place in the stream of the oldest transaction that waits for replicas and has not run.
    pub fn oldest_unreplayed(&self) -> Option<u64> {
        let Replicas { waiting, .. } = self.replicas.as_ref()?;
        let is_waiting = |phase: &Phase| matches!(phase, Phase::Unreplayed(_));
        let waiting = waiting.iter().filter(|hidden| is_waiting(&hidden.phase));
        waiting.map(|hidden| self.progress.order(hidden.txn)).min()
    }
}
