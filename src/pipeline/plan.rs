//! What is to be done next: actions wait for their transaction to be visible, some for the rest of
//! it to be done, then for their lane, and are merged while they wait.
//!
//! Pure: no I/O, no clock. The stream calls [`begin`](Plan::begin), [`push`](Plan::push) and
//! [`commit`](Plan::commit); the barrier calls [`show`](Plan::show); a lane's driver calls
//! [`take`](Plan::take) and [`done`](Plan::done). What may be confirmed follows from all of them.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Instant;

use super::action_set::{ActionSet, Visible};
use super::afterwards::{Afterwards, Bundle, Group, Load, Mark, Marks};
use super::lane::{LanePlan, PromptLane, Stage, put};
use super::paced::PacedLane;
use super::progress::{Progress, TxnId};
use super::sink_set::SinkSet;
use crate::action::{Action, Batch};
use crate::failpoint::Failpoint;
use crate::lsn::Lsn;
use crate::rules::{RuleId, SinkId};
use crate::snapshot::Snapshot;
pub use manner::{Manner, Urgency};
pub use planned::PlannedLane;
use positions::Sinks;
use purges::Purges;
use repeats::Repeated;
pub use repeats::{RedeletedBy, Repeats, Since};
use replicas::{Covered, Phase, Replicas};
use visible::Invisible;

/// What can be busy on its own: one class of work of one sink, or one rule's lookups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LaneId(pub usize);

/// Which lane takes an action of a sink.
pub type Route = Box<dyn Fn(SinkId, Action<'_>, Urgency) -> LaneId + Send>;

/// Which lane takes what.
pub struct Routes {
    /// A sink's actions. The same one may go elsewhere later (a cluster's slots move): each of a
    /// sink's lanes of one class can do what any of them can.
    pub actions: Route,
    /// A rule's lookups.
    pub lookups: HashMap<RuleId, LaneId>,
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

/// Everything that is to be done, in flight or waiting.
pub struct Plan {
    routes: Routes,
    lanes: Vec<LanePlan>,
    stages: Vec<Stage>,
    /// Lanes that share one bound: the shards of a cluster's class.
    pools: Vec<Range<usize>>,
    /// Whether any lane is of [`Stage::Tell`] or [`Stage::Purge`]: else nobody asks what comes
    /// before what.
    orders: bool,
    /// Transactions whose actions may not run yet, in stream order.
    invisible: Vec<Invisible>,
    /// The memory that they take.
    invisible_bytes: usize,
    /// What waits for replicas; `None`: nothing does.
    replicas: Option<Replicas>,
    /// Empty sets of earlier transactions, whose memory is used again.
    spare: Vec<Vec<ActionSet>>,
    afterwards: Afterwards,
    purges: Purges,
    repeated: Repeated,
    /// For each lane, which others do its actions that are to be done again.
    redeleted_by: Vec<Vec<RedeletedBy>>,
    /// The time, as far as it was said.
    now: Option<Instant>,
    /// For each lane, what the batch of lookups that is being answered asks for.
    answered: Vec<Marks>,
    open: Option<Open>,
    snapshot: Option<Snapshot>,
    /// By when what the snapshot shows was visible.
    seen_by: Visible,
    /// The log up to there was written by then.
    written: Option<(Lsn, Instant)>,
    progress: Progress,
    sinks: Sinks,
}

/// The transaction that the stream is in.
struct Open {
    txn: TxnId,
    /// Its place in the stream.
    order: u64,
    /// What of it goes to the last of `Plan::invisible`.
    hidden: Option<Hidden>,
    /// What of it runs afterwards, and after what.
    group: Group,
    /// The sinks that have done it before.
    left_out: SinkSet,
    /// By when it was visible, if it is.
    visible: Visible,
}

impl Plan {
    /// A plan for `lanes`, to which `routes` lead.
    pub fn new(lanes: Vec<PlannedLane>, routes: Routes) -> Self {
        let stages: Vec<Stage> = lanes.iter().map(|lane| lane.stage).collect();
        let afterwards = Afterwards::new(lanes.iter().map(|lane| lane.before(&stages)));
        let purges = Purges::new(&lanes, &routes);
        let repeated = Repeated::new(&lanes, &stages);
        let redeleted_by = lanes.iter().map(|lane| lane.redeleted_by.clone()).collect();
        let lane = |lane: PlannedLane| match lane.pace {
            Some(pace) => LanePlan::Paced(PacedLane::new(pace)),
            None => LanePlan::Prompt(PromptLane::new(lane.batch())),
        };
        Plan {
            routes,
            lanes: lanes.into_iter().map(lane).collect(),
            orders: stages.iter().any(|stage| stage.is_afterwards()),
            pools: Vec::new(),
            invisible: Vec::new(),
            invisible_bytes: 0,
            replicas: None,
            spare: Vec::new(),
            afterwards,
            purges,
            repeated,
            redeleted_by,
            now: None,
            answered: stages.iter().map(|_| Marks::default()).collect(),
            open: None,
            snapshot: None,
            seen_by: Visible::Unknown,
            written: None,
            progress: Progress::default(),
            sinks: Sinks::default(),
            stages,
        }
    }

    /// The lanes of each range share one bound, as if they were one.
    pub fn know_pools(&mut self, pools: Vec<Range<usize>>) {
        self.pools = pools;
    }

    /// Does on purpose what is wrong, in a debug build.
    pub fn break_as(&mut self, broken: Option<Failpoint>) {
        self.progress.break_as(broken);
    }

    /// A transaction begins. `hidden` is its ID and what of it waits to be visible; `None` where
    /// there is nothing to wait for.
    pub fn begin(&mut self, hidden: Option<(u32, Hidden)>) {
        self.begin_until(hidden, Lsn(u64::MAX));
    }

    /// The same, where it is known where the transaction ends in the log.
    pub fn begin_until(&mut self, hidden: Option<(u32, Hidden)>, end_lsn: Lsn) {
        let txn = self.progress.begin();
        let is_wanted = hidden.is_some();
        let is_seen = |xid| self.snapshot.as_ref().is_some_and(|snapshot| snapshot.shows(xid));
        let hidden = hidden.filter(|&(xid, _)| !is_seen(xid) || self.is_unreplayed(end_lsn));
        if let Some((xid, _)) = hidden {
            let phase = if is_seen(xid) { Phase::Unreplayed(None) } else { Phase::Unseen };
            let (covered, actions, group) = (Covered::Yes, Vec::new(), None);
            let visible = Visible::Unknown;
            self.invisible.push(Invisible {
                txn,
                xid,
                end_lsn,
                phase,
                covered,
                visible,
                actions,
                group,
            });
        }
        let visible = self.visible_by(hidden.is_none() && is_wanted, end_lsn);
        let order = self.progress.order(txn);
        let hidden = hidden.map(|(_, what)| what);
        let (group, left_out) = (Group::default(), SinkSet::default());
        self.open = Some(Open { txn, order, hidden, group, left_out, visible });
    }

    /// The open transaction's place in the stream.
    pub fn open_order(&self) -> Option<u64> {
        self.open.as_ref().map(|open| open.order)
    }

    /// The open transaction asks for an action at some sinks. Without an open transaction nothing
    /// happens.
    pub fn push(&mut self, sinks: &[SinkId], action: Action<'_>, manner: impl Into<Manner>) {
        let Some(left_out) = self.open.as_ref().map(|open| open.left_out) else { return };
        let Manner { urgency, redelete } = manner.into();
        for &sink in sinks.iter().filter(|&&sink| !left_out.contains(sink)) {
            let lane = self.route(sink, action, urgency, redelete);
            self.push_to(lane, action);
        }
    }

    /// The open transaction asks for a rule's lookup.
    pub fn look_up(&mut self, rule: RuleId, lookup: Action<'_>) {
        let Some(left_out) = self.open.as_ref().map(|open| open.left_out) else { return };
        if let Some(&lane) = self.routes.lookups.get(&rule)
            && !self.sinks.serves_only(lane, left_out)
        {
            self.push_to(lane, lookup);
        }
    }

    fn push_to(&mut self, lane: LaneId, action: Action<'_>) {
        let Some(open) = &mut self.open else { return };
        let stage = self.stages[lane.0];
        let is_hidden = match open.hidden {
            None => false,
            Some(Hidden::All) => true,
            Some(Hidden::Lookups) => stage == Stage::Lookup,
        };
        if stage == Stage::Purge {
            self.push_purge(lane, action);
        } else if is_hidden {
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
        } else if stage == Stage::Tell {
            let set = open.group.actions_for(lane, self.lanes.len());
            put(&mut self.progress, set, action, open.txn);
            self.cut_messages(None);
        } else {
            let (txn, visible) = (open.txn, open.visible);
            let position = self.lanes[lane.0].put(&mut self.progress, action, txn, visible);
            if self.orders {
                open.group.after.add(Mark { lane, position });
            }
        }
    }

    /// What is to be told of the open transaction goes out in parts, where there is too much of it:
    /// see [`cut`](Self::cut).
    fn cut_messages(&mut self, answering: Option<LaneId>) {
        let stages = &self.stages;
        let told = |open: &Open| open.group.bytes_of(|at| stages[at] == Stage::Tell);
        if self.open.as_ref().is_some_and(|open| told(open) >= CROWDED_BYTES) {
            for at in 0..self.stages.len() {
                if self.stages[at] == Stage::Tell {
                    self.cut(LaneId(at), answering);
                }
            }
        }
    }

    /// What of the open transaction waits for a lane is to run after what has been asked for up to
    /// now. While lookups are being answered, it waits for none, but for what they have found.
    fn cut(&mut self, lane: LaneId, answering: Option<LaneId>) {
        let Some(open) = &mut self.open else { return };
        let actions = std::mem::take(open.group.actions_for(lane, self.stages.len()));
        if actions.is_empty() {
            return;
        }
        self.purges.leave_group(lane, Load::of(&actions));
        let queue = self.afterwards.queue_mut(lane);
        let mut after = queue.marks(&open.group.after);
        if let Some(answering) = answering {
            after = after.only(|lane| self.stages[lane.0] != Stage::Lookup);
            after.extend(&queue.marks(&self.answered[answering.0]));
        }
        queue.push(&mut self.progress, Bundle::new(after, actions, None));
        self.release();
    }

    /// The open transaction is complete.
    pub fn commit(&mut self, end_lsn: Lsn) {
        let Some(open) = self.open.take() else { return };
        let waits = open.hidden == Some(Hidden::All) && !open.group.is_empty();
        match self.invisible.pop_if(|hidden| hidden.txn == open.txn) {
            Some(mut hidden) if waits || !hidden.actions.is_empty() => {
                if self.orders {
                    self.invisible_bytes += open.group.bytes();
                    hidden.group = Some(open.group);
                }
                hidden.end_lsn = end_lsn;
                match hidden.phase {
                    Phase::Unseen => self.invisible.push(hidden),
                    _ => self.seen(hidden),
                }
            }
            // Without hidden actions it has nothing to wait for.
            _ => self.end(open.order, open.group),
        }
        self.progress.close(open.txn, end_lsn);
    }

    /// Nothing more comes for a group from the stream, and it is visible.
    fn end(&mut self, order: u64, group: Group) {
        if !self.orders {
            return;
        }
        let Group { after, actions } = group;
        for (lane, mut actions) in actions.into_iter().enumerate() {
            if actions.is_empty() {
                continue;
            }
            let lane = LaneId(lane);
            self.purges.leave_group(lane, Load::of(&actions));
            if self.stages[lane.0] == Stage::Purge {
                purges::drop_covered(&mut self.progress, &mut actions);
            }
            let queue = self.afterwards.queue_mut(lane);
            let bundle = Bundle::new(queue.marks(&after), actions, Some(order));
            if bundle.is_due(&self.lanes) {
                actions = bundle.actions;
                self.hand_on(lane, &mut actions);
            } else {
                queue.push(&mut self.progress, bundle);
            }
        }
        // An answer may bring something for it.
        if after.await_any(|lane| self.stages[lane.0] == Stage::Lookup, &self.lanes) {
            self.afterwards.remember(order, after);
        }
    }

    /// The server has sent everything up to `lsn`.
    pub fn advance(&mut self, lsn: Lsn) {
        if self.open.is_none() {
            self.progress.advance(lsn);
        }
    }

    /// The next batch for an idle lane. It is the lane's until [`done`](Self::done).
    pub fn take(&mut self, lane: LaneId, now: impl Fn() -> Instant) -> Option<Batch> {
        self.take_repeats(lane, &now);
        let mut batch = self.lanes[lane.0].take(&now)?;
        self.taken(lane, now);
        if self.stages[lane.0] == Stage::Purge {
            self.take_purges(lane, &mut batch);
        }
        Some(batch)
    }

    /// The place in the stream of the oldest transaction that is not finished.
    pub fn oldest(&self) -> Option<u64> {
        self.progress.oldest()
    }

    /// The place in the stream that the next transaction gets.
    pub fn next_order(&self) -> u64 {
        self.progress.next_order()
    }

    /// Every action of the lane's batch is finished.
    pub fn done(&mut self, lane: LaneId, batch: Batch) {
        let is_lookup = self.orders && self.stages[lane.0] == Stage::Lookup;
        if is_lookup {
            self.await_answered(lane);
        }
        self.lanes[lane.0].done(&mut self.progress, batch);
        if is_lookup {
            self.afterwards.forget(&self.lanes, |lane| self.stages[lane.0] == Stage::Lookup);
        }
        self.release();
    }

    /// Hands what is due to its lanes.
    fn release(&mut self) {
        if self.orders {
            for (lane, mut actions) in self.afterwards.take_due(&self.lanes) {
                self.hand_on(lane, &mut actions);
            }
        }
    }

    fn hand_on(&mut self, lane: LaneId, actions: &mut ActionSet) {
        self.lanes[lane.0].absorb(&mut self.progress, actions, Visible::Unknown, |_| {});
    }

    /// The stream broke off. What is visible still runs. The next stream starts with everything
    /// that this one's server was not told, and confirms positions of its own alone: it may come
    /// from another server, where a position means something else.
    pub fn disconnect(&mut self) {
        if let Some(open) = self.open.take() {
            self.drop_all(open.group.actions);
        }
        for hidden in std::mem::take(&mut self.invisible) {
            self.drop_hidden(hidden);
        }
        self.invisible_bytes = 0;
        self.forget_resumed();
        for hidden in self.replicas.as_mut().map(Replicas::disconnect).unwrap_or_default() {
            self.drop_hidden(hidden);
        }
        self.purges.leave_all_groups();
        self.progress.void();
        self.snapshot = None;
        self.written = None;
        self.set_hurry(false);
    }

    fn drop_hidden(&mut self, hidden: Invisible) {
        self.drop_all(hidden.actions);
        let grouped = hidden.group.map(|group| group.actions).unwrap_or_default();
        for (lane, actions) in grouped.iter().enumerate() {
            self.purges.leave_group(LaneId(lane), Load::of(actions));
        }
        self.drop_all(grouped);
    }

    fn drop_all(&mut self, sets: Vec<ActionSet>) {
        for mut actions in sets {
            while let Some(page) = actions.take() {
                page.owners.iter().for_each(|&owner| self.progress.finish(owner));
            }
        }
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

mod answers;
mod bounds;
mod manner;
mod observe;
mod planned;
mod positions;
mod purges;
mod repeats;
mod replicas;
#[cfg(test)]
mod tests;
mod visible;
