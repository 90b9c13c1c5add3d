//! What lookups bring, for the transactions that asked.

use super::{CROWDED_BYTES, LaneId, Manner, Mark, Plan, Stage, TxnId, put};
use crate::action::Action;
use crate::rules::SinkId;

impl Plan {
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
        manner: impl Into<Manner>,
    ) {
        let Manner { urgency, redelete } = manner.into();
        // Who asked was visible when the lookup was.
        let visible = self.lanes[lane.0].visible();
        let Some(txn) = self.lanes[lane.0].owner(index) else { return };
        let left_out = self.progress.left_out(txn);
        for &sink in sinks.iter().filter(|&&sink| !left_out.contains(sink)) {
            let to = self.route(sink, action, urgency, redelete);
            if self.stages[to.0].is_afterwards() {
                self.answer_afterwards(lane, txn, to, action);
            } else {
                let position = self.lanes[to.0].put(&mut self.progress, action, txn, visible);
                if self.orders {
                    self.answered[lane.0].add(Mark { lane: to, position });
                }
            }
        }
    }

    /// Adds an action to what runs after a transaction, which waits for the lane that answers.
    fn answer_afterwards(
        &mut self,
        answering: LaneId,
        txn: TxnId,
        lane: LaneId,
        action: Action<'_>,
    ) {
        if let Some(open) = self.open.as_mut().filter(|open| open.txn == txn) {
            if self.stages[lane.0] == Stage::Purge {
                self.push_purge(lane, action);
                return self.cut_purges(Some(answering));
            }
            put(&mut self.progress, open.group.actions_for(lane, self.stages.len()), action, txn);
            return self.cut_messages(Some(answering));
        }
        let Plan { progress, stages, answered, afterwards, .. } = self;
        let found = &answered[answering.0];
        afterwards.answer(progress, txn, lane, action, found);
        // What can become coarser needs no parts.
        if self.purges.coarse(lane).is_some() {
            self.bound_purges(lane);
        } else if afterwards.part(
            lane,
            CROWDED_BYTES,
            |lane| stages[lane.0] == Stage::Lookup,
            found,
        ) {
            self.release();
        }
    }

    /// Whoever waited for an answer waits for what it asks for.
    pub(super) fn await_answered(&mut self, lane: LaneId) {
        let (answered, lanes) = (std::mem::take(&mut self.answered[lane.0]), &self.lanes);
        if let Some(open) = self.open.as_mut()
            && open.group.after.await_lane(lane, lanes)
        {
            open.group.after.extend(&answered);
        }
        self.afterwards.await_more(lane, lanes, &answered);
    }
}
