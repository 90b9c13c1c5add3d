//! When there is too much of what waits, and how it becomes less.

use super::{CROWDED_BYTES, LaneId, Mark, Plan, Stage, Urgency, WAITING_BYTES_MAX};
use crate::action::Action;
use crate::rules::{RuleId, SinkId};

impl Plan {
    /// Whether the stream may go on: no bound is reached.
    pub fn has_room(&self) -> bool {
        self.bounded().all(|lane| !self.is_full(LaneId(lane)))
            && self.invisible_bytes + self.unreplayed_bytes() < WAITING_BYTES_MAX
            && self.told_bytes() < WAITING_BYTES_MAX
    }

    /// The lanes to be asked whether they are full: of a pool, one speaks for all.
    fn bounded(&self) -> impl Iterator<Item = usize> {
        let speaks = |&lane: &usize| {
            let pool = self.pools.iter().find(|pool| pool.contains(&lane));
            pool.is_none_or(|pool| pool.start == lane)
        };
        (0..self.lanes.len()).filter(speaks)
    }

    /// Whether a lane's lookups may go on: there is room for what they ask for, or only they can
    /// make any.
    pub fn has_room_for_answers(&self, lane: LaneId) -> bool {
        let is_full = |(at, stage): (usize, &Stage)| match stage {
            Stage::Lookup | Stage::Purge => false,
            Stage::Remove | Stage::Tell => self.is_full(LaneId(at)),
        };
        let is_told = |lane: usize| self.stages[lane] == Stage::Tell;
        !self.stages.iter().enumerate().any(is_full)
            && (self.told_bytes() < WAITING_BYTES_MAX
                || self.afterwards.first_awaits(lane, &self.lanes, is_told))
            && self.has_room_for_purges(lane)
    }

    /// The memory that messages take which wait for the rest of their transactions.
    fn told_bytes(&self) -> usize {
        if !self.orders {
            return 0;
        }
        let is_told = |&lane: &usize| self.stages[lane] == Stage::Tell;
        let lanes = (0..self.stages.len()).filter(is_told).map(LaneId);
        let once_more: usize = lanes.map(|lane| self.repeated.load(lane).bytes).sum();
        self.afterwards.bytes_of(|lane| self.stages[lane] == Stage::Tell) + once_more
    }

    /// Whether so much waits to be told, or of a rule to be looked up, that a coarser action should
    /// take the place of more of it: neither is to stop the reader.
    pub fn is_crowded(&self, rule: RuleId) -> bool {
        let lookups = self.routes.lookups.get(&rule);
        let is_told = |lane: usize| self.stages[lane] == Stage::Tell;
        let told = self.open.as_ref().map_or(0, |open| open.group.bytes_of(is_told));
        lookups.is_some_and(|lane| self.lanes[lane.0].bytes() >= CROWDED_BYTES)
            || self.told_bytes() + told >= CROWDED_BYTES - CROWDED_BYTES / 8
    }

    /// Whether a lane has no room for more, so that it stops the reader. Purges do so only where
    /// their sink cannot purge everything instead.
    pub fn is_full(&self, lane: LaneId) -> bool {
        match self.stages[lane.0] {
            Stage::Purge => self.is_full_of_purges(lane),
            _ => {
                let again = self.repeated.load(lane).bytes;
                self.pooled_bytes(lane) + again >= WAITING_BYTES_MAX
            }
        }
    }

    /// The memory that a lane's waiting actions take, together with those of its pool.
    fn pooled_bytes(&self, lane: LaneId) -> usize {
        match self.pools.iter().find(|pool| pool.contains(&lane.0)) {
            Some(pool) => pool.clone().map(|lane| self.lanes[lane].bytes()).sum(),
            None => self.lanes[lane.0].bytes(),
        }
    }

    /// Calls `look` with some of the actions that wait for a lane, spread evenly.
    pub fn sample(&mut self, lane: LaneId, count: usize, look: impl FnMut(Action<'_>)) {
        if let Some(lane) = self.lanes[lane.0].prompt_mut() {
            lane.waiting_mut().sample(count, look);
        }
    }

    /// Puts one coarse action of a sink in the place of those that wait for a lane and that it
    /// reaches. The oldest of their transactions owns it, so that none of them is confirmed before
    /// it is done. Answers how many there were.
    pub fn collapse(
        &mut self,
        lane: LaneId,
        is_reached: impl Fn(Action<'_>) -> bool,
        sink: SinkId,
        coarse: Action<'_>,
    ) -> usize {
        let Some(prompt) = self.lanes[lane.0].prompt_mut() else { return 0 };
        let owners = prompt.waiting_mut().extract(is_reached);
        let end = prompt.position();
        let Some(oldest) = self.progress.oldest_of(&owners) else { return 0 };
        let to = self.route(sink, coarse, Urgency::Prompt, self.redelete_of(lane));
        let visible = self.now.into();
        let position = self.lanes[to.0].put(&mut self.progress, coarse, oldest, visible);
        owners.iter().for_each(|&owner| self.progress.finish(owner));
        let instead = Mark { lane: to, position };
        self.afterwards.redirect(lane, end, instead);
        self.answered.iter_mut().for_each(|marks| marks.redirect(lane, end, instead));
        if let Some(open) = &mut self.open {
            open.group.after.redirect(lane, end, instead);
        }
        self.release();
        owners.len()
    }
}
