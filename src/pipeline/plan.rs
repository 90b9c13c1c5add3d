//! What is to be done next: actions wait for their transaction to be visible, then for their lane,
//! and are merged while they wait.
//!
//! Pure: no I/O, no clock. The stream calls [`begin`](Plan::begin), [`push`](Plan::push) and
//! [`commit`](Plan::commit); the barrier calls [`show`](Plan::show); a lane's driver calls
//! [`take`](Plan::take) and [`done`](Plan::done). What may be confirmed follows from all of them.

use super::action_set::{ActionSet, Page, Put};
use super::progress::{Progress, TxnId};
use crate::action::{Action, Batch, Verb};
use crate::lsn::Lsn;
use crate::rules::SinkId;
use crate::snapshot::Snapshot;

/// What can be busy on its own: one class of work of one sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LaneId(pub usize);

/// Which lane of which sink takes which verb.
pub type Routes = Box<dyn Fn(SinkId, Verb, Urgency) -> LaneId + Send>;

/// Whether an action may be held back, so that many of them become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// It runs as soon as its lane is idle.
    Prompt,
    /// It is coarse and asked for again and again: at most once in a while.
    Paced,
}

/// How much memory one lane's waiting actions, or the actions of invisible transactions, may take
/// before the reader stops. With one lane at its bound the daemon stays within 64 MiB.
pub(super) const WAITING_BYTES_MAX: usize = 16 << 20;

/// Everything that is to be done, in flight or waiting.
pub struct Plan {
    routes: Routes,
    lanes: Vec<LanePlan>,
    /// Transactions whose actions may not run yet, in stream order.
    invisible: Vec<Invisible>,
    open: Option<Open>,
    snapshot: Option<Snapshot>,
    progress: Progress,
}

#[derive(Default)]
struct LanePlan {
    waiting: ActionSet,
    /// The owners of the actions that the sink has, and the memory of their page.
    in_flight: Option<Page>,
}

/// The transaction that the stream is in.
#[derive(Clone, Copy)]
struct Open {
    txn: TxnId,
    visibility: Visibility,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Visibility {
    Visible,
    /// Its actions are the last of `Plan::invisible`.
    Invisible,
}

/// A committed transaction that other sessions cannot see yet.
struct Invisible {
    txn: TxnId,
    xid: u32,
    /// Its actions, for each lane.
    actions: Vec<ActionSet>,
}

impl Plan {
    /// A plan for `lanes` lanes.
    pub fn new(lanes: usize, routes: Routes) -> Self {
        Plan {
            routes,
            lanes: std::iter::repeat_with(LanePlan::default).take(lanes).collect(),
            invisible: Vec::new(),
            open: None,
            snapshot: None,
            progress: Progress::default(),
        }
    }

    /// A transaction begins. `xid` is `None` where there is nothing to wait for.
    pub fn begin(&mut self, xid: Option<u32>) {
        let txn = self.progress.begin();
        let hidden = xid.filter(|&xid| !self.snapshot.as_ref().is_some_and(|s| s.shows(xid)));
        let visibility = match hidden {
            None => Visibility::Visible,
            Some(xid) => {
                self.invisible.push(Invisible { txn, xid, actions: Vec::new() });
                Visibility::Invisible
            }
        };
        self.open = Some(Open { txn, visibility });
    }

    /// The open transaction asks for an action at some sinks. Without an open transaction nothing
    /// happens.
    pub fn push(&mut self, sinks: &[SinkId], action: Action<'_>, urgency: Urgency) {
        let Some(Open { txn, visibility }) = self.open else { return };
        for &sink in sinks {
            let lane = (self.routes)(sink, action.verb, urgency);
            match visibility {
                Visibility::Visible => {
                    put(&mut self.progress, &mut self.lanes[lane.0].waiting, action, txn);
                }
                Visibility::Invisible => {
                    let Some(hidden) = self.invisible.last_mut() else { return };
                    hidden.actions.resize_with(self.lanes.len(), ActionSet::default);
                    put(&mut self.progress, &mut hidden.actions[lane.0], action, txn);
                }
            }
        }
    }

    /// The open transaction is complete.
    pub fn commit(&mut self, end_lsn: Lsn) {
        if let Some(open) = self.open.take() {
            if open.visibility == Visibility::Invisible {
                self.drop_if_actionless(open.txn);
            }
            self.progress.close(open.txn, end_lsn);
        }
    }

    /// An invisible transaction without actions has nothing to wait for.
    fn drop_if_actionless(&mut self, txn: TxnId) {
        let is_actionless = |hidden: &Invisible| hidden.txn == txn && hidden.actions.is_empty();
        if self.invisible.last().is_some_and(is_actionless) {
            self.invisible.pop();
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
        let last = self.invisible.len().saturating_sub(1);
        for (at, hidden) in std::mem::take(&mut self.invisible).into_iter().enumerate() {
            if !snapshot.shows(hidden.xid) {
                self.invisible.push(hidden);
                continue;
            }
            if let Some(open) = &mut self.open
                && at == last
            {
                open.visibility = Visibility::Visible;
            }
            for (lane, mut actions) in hidden.actions.into_iter().enumerate() {
                while let Some(page) = actions.take() {
                    let waiting = &mut self.lanes[lane].waiting;
                    for action in page.batch.iter() {
                        put(&mut self.progress, waiting, action, hidden.txn);
                        self.progress.finish(hidden.txn);
                    }
                }
            }
        }
        self.snapshot = Some(snapshot);
    }

    /// The next batch for an idle lane. It is the lane's until [`done`](Self::done).
    pub fn take(&mut self, lane: LaneId) -> Option<Batch> {
        let lane = &mut self.lanes[lane.0];
        if lane.in_flight.is_some() {
            return None;
        }
        let mut page = lane.waiting.take()?;
        let batch = std::mem::take(&mut page.batch);
        lane.in_flight = Some(page);
        Some(batch)
    }

    /// Every action of the lane's batch is finished.
    pub fn done(&mut self, lane: LaneId, batch: Batch) {
        let lane = &mut self.lanes[lane.0];
        let Some(mut page) = lane.in_flight.take() else { return };
        for &owner in &page.owners {
            self.progress.finish(owner);
        }
        page.batch = batch;
        lane.waiting.recycle(page);
    }

    /// The stream broke off. What is visible still runs. The next stream starts with everything
    /// that this one's server was not told, and confirms positions of its own alone: it may come
    /// from another server, where a position means something else.
    pub fn disconnect(&mut self) {
        self.open = None;
        for mut hidden in std::mem::take(&mut self.invisible) {
            for actions in &mut hidden.actions {
                while let Some(page) = actions.take() {
                    page.owners.iter().for_each(|&owner| self.progress.finish(owner));
                }
            }
        }
        self.progress.void();
        self.snapshot = None;
    }

    /// Whether the stream may go on: no bound is reached.
    pub fn has_room(&self) -> bool {
        let hidden = self.invisible.iter().flat_map(|hidden| &hidden.actions);
        self.lanes.iter().all(|lane| lane.waiting.bytes() < WAITING_BYTES_MAX)
            && hidden.map(ActionSet::bytes).sum::<usize>() < WAITING_BYTES_MAX
    }

    /// Whether everything that was asked for is done.
    pub fn is_idle(&self) -> bool {
        self.progress.is_idle()
    }

    /// Whether a lane has nothing waiting and nothing in flight.
    pub fn is_lane_idle(&self, lane: LaneId) -> bool {
        let lane = &self.lanes[lane.0];
        lane.in_flight.is_none() && lane.waiting.is_empty()
    }

    /// How many actions wait for a lane.
    pub fn waiting(&self, lane: LaneId) -> usize {
        self.lanes[lane.0].waiting.len()
    }

    /// The LSN up to which everything that this stream has brought is done.
    pub fn confirmed_lsn(&self) -> Lsn {
        self.progress.confirmed_lsn()
    }
}

/// Puts an action into a set for a transaction. Merging keeps the oldest one: it alone can be
/// confirmed when the action is done, and none after it is confirmed before.
fn put(progress: &mut Progress, set: &mut ActionSet, action: Action<'_>, txn: TxnId) {
    match set.put(action, txn) {
        Put::Added => progress.add(txn),
        Put::Merged(owner) => {
            if progress.is_older(txn, *owner) {
                let younger = std::mem::replace(owner, txn);
                progress.add(txn);
                progress.finish(younger);
            }
        }
    }
}

#[cfg(test)]
mod tests;
