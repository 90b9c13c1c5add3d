//! How far each sink has come on its own, and what it need not do a second time.
//!
//! A sink that works is ahead of one that is down, and so of what is confirmed. What it has done is
//! found now and then by looking at everything that is unfinished, so that it costs nothing when
//! actions come and go. In the next stream, transactions that a sink has done leave it out.

use super::{LaneId, Plan};
use crate::lsn::Lsn;
use crate::pipeline::progress::{Progress, TxnId};
use crate::pipeline::sink_set::SinkSet;
use crate::rules::SinkId;

/// What is known of the sinks.
#[derive(Default)]
pub(super) struct Sinks {
    /// How many of them there are; 0: their positions are not kept.
    count: usize,
    /// For each lane, the sinks that it works for.
    lanes: Vec<SinkSet>,
    /// Up to where each of them had done everything when the stream started.
    done: Vec<Lsn>,
    /// The furthest of them.
    done_max: Lsn,
}

impl Sinks {
    /// Those that have done the transaction that ends there.
    fn that_have_done(&self, end_lsn: Lsn) -> SinkSet {
        let ids = (0..).map(SinkId).zip(&self.done);
        ids.filter(|&(_, &done_lsn)| end_lsn <= done_lsn).map(|(sink, _)| sink).collect()
    }

    /// Whether a lane has nothing to do for others than these.
    pub(super) fn serves_only(&self, lane: LaneId, sinks: SinkSet) -> bool {
        !sinks.is_empty() && self.lanes.get(lane.0).is_some_and(|served| served.is_within(sinks))
    }
}

impl Plan {
    /// Lets the positions of `count` sinks be known; `lanes` says for each lane which of them it
    /// works for. Of more sinks than can be told apart none is known.
    pub fn know_sinks(&mut self, count: usize, lanes: Vec<Vec<SinkId>>) {
        if count > SinkSet::SINKS_MAX {
            return;
        }
        let lanes = lanes.into_iter().map(|sinks| sinks.into_iter().collect()).collect();
        self.sinks = Sinks { count, lanes, ..Sinks::default() };
    }

    /// A stream starts. `done` says for each sink up to where it has done everything that the
    /// stream will bring: transactions that end there or before leave it out.
    pub fn resume(&mut self, done: Vec<Lsn>) {
        if self.sinks.count == done.len() {
            self.sinks.done_max = done.iter().copied().max().unwrap_or_default();
            self.sinks.done = done;
        }
    }

    /// The stream is over: what the next one brings is not known to be done by anybody.
    pub(super) fn forget_resumed(&mut self) {
        self.sinks.done = Vec::new();
        self.sinks.done_max = Lsn::ZERO;
    }

    /// The open transaction, which has asked for nothing yet, will end at `end_lsn`: the sinks that
    /// have done it are left out.
    pub fn leave_out(&mut self, end_lsn: Lsn) {
        if end_lsn > self.sinks.done_max || end_lsn == Lsn::ZERO {
            return;
        }
        let Some(open) = &mut self.open else { return };
        open.left_out = self.sinks.that_have_done(end_lsn);
        if !self.routes.lookups.is_empty() {
            self.progress.leave_out(open.txn, open.left_out);
        }
    }

    /// The open transaction leaves out nobody from now on: what follows is not a part of it.
    pub fn leave_out_nobody(&mut self) {
        let Some(open) = &mut self.open else { return };
        open.left_out = SinkSet::default();
        self.progress.leave_out(open.txn, open.left_out);
    }

    /// For each sink the LSN up to which it has done everything that this stream has brought: the
    /// end of the last transaction before the oldest one that it has not finished, in stream order.
    /// It never decreases while a stream lasts, unless fallbacks take the place of what is owed to
    /// replicas. None at all where positions are not kept.
    pub fn sink_positions(&self) -> Vec<Lsn> {
        if self.sinks.count == 1 {
            // What is not done is not done on that one.
            return vec![self.progress.confirmed_lsn()];
        }
        let mut oldest: Vec<Option<u64>> = vec![None; self.sinks.count];
        for (at, served) in self.sinks.lanes.iter().enumerate() {
            let Some(order) = self.oldest_of(LaneId(at)) else { continue };
            for (sink, oldest) in (0..).map(SinkId).zip(&mut oldest) {
                if served.contains(sink) {
                    *oldest = Some(oldest.map_or(order, |oldest| oldest.min(order)));
                }
            }
        }
        self.progress.ends_before(&oldest)
    }

    /// The place in the stream of the oldest transaction with an unfinished action for a lane,
    /// wherever that action is.
    fn oldest_of(&self, lane: LaneId) -> Option<u64> {
        if self.progress.is_idle() {
            return None;
        }
        let unreplayed = self.replicas.iter().flat_map(|replicas| &replicas.waiting);
        let hidden = self.invisible.iter().chain(unreplayed).flat_map(|hidden| {
            let afterwards = hidden.group.iter().flat_map(|group| group.actions.get(lane.0));
            hidden.actions.get(lane.0).into_iter().chain(afterwards)
        });
        let open = self.open.iter().flat_map(|open| open.group.actions.get(lane.0));
        let sets = hidden.chain(open).chain(self.afterwards.queue(lane).actions());
        let owners = sets.flat_map(|set| set.owners()).chain(self.lanes[lane.0].owners());
        let owners = owners.chain(self.repeated.owners(lane));
        oldest(&self.progress, owners)
    }
}

fn oldest(progress: &Progress, owners: impl Iterator<Item = TxnId>) -> Option<u64> {
    // Neighbours often have the same one.
    let (mut last, mut oldest) = (None, None);
    for owner in owners {
        if last != Some(owner) {
            let order = progress.order(owner);
            oldest = Some(oldest.map_or(order, |oldest: u64| oldest.min(order)));
            last = Some(owner);
        }
    }
    oldest
}
