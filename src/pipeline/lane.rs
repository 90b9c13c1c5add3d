//! One lane of the plan: what waits for it, what it has been given, and how far it has come.

use std::time::Instant;

use super::action_set::{ActionSet, Page, Put};
use super::paced::PacedLane;
use super::progress::{Progress, TxnId};
use crate::action::{Action, Batch};
use crate::failpoint::Failpoint;

/// What a lane's actions wait for, and what waits for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It asks the database, and what it does brings more actions.
    Lookup,
    /// It removes what is stale.
    Remove,
    /// It purges CDNs, once the cache sinks have finished the same transaction.
    Purge,
    /// It tells others, once everything else of the transaction is done.
    Tell,
}

impl Stage {
    /// Whether its actions wait for the rest of their transaction.
    pub(super) fn comes_afterwards(self) -> bool {
        matches!(self, Stage::Purge | Stage::Tell)
    }
}

/// A point that a lane has to reach before an action that was put into it is finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// What is counted: all of the lane, or one action of a paced one.
    pub(super) track: u32,
    pub(super) number: u64,
}

/// One lane.
pub(super) enum LanePlan {
    /// Everything runs as soon as the lane is idle.
    Prompt(PromptLane),
    /// Each action runs at most once in a while.
    Paced(PacedLane),
}

impl LanePlan {
    /// Adds an action for a transaction.
    pub(super) fn put(
        &mut self,
        progress: &mut Progress,
        action: Action<'_>,
        txn: TxnId,
    ) -> Position {
        match self {
            LanePlan::Prompt(lane) => lane.put(progress, action, txn),
            LanePlan::Paced(lane) => lane.put(progress, action, txn),
        }
    }

    /// Adds all of a transaction's actions, which it owns already, and empties their set. Calls
    /// `mark` with the positions that stand for all of them.
    pub(super) fn absorb(
        &mut self,
        progress: &mut Progress,
        actions: &mut ActionSet,
        txn: TxnId,
        mut mark: impl FnMut(Position),
    ) {
        if let LanePlan::Prompt(lane) = self
            && lane.waiting.is_empty()
            && !actions.is_empty()
            && !progress.is_broken_as(Failpoint::MergeInFlight)
        {
            std::mem::swap(&mut lane.waiting, actions);
            return mark(lane.position());
        }
        while let Some(page) = actions.take() {
            for action in page.batch.iter() {
                mark(self.put(progress, action, txn));
                progress.finish(txn);
            }
            actions.recycle(page);
        }
    }

    /// The actions that wait; none of a paced lane, in which there are few.
    pub(super) fn prompt_mut(&mut self) -> Option<&mut PromptLane> {
        match self {
            LanePlan::Prompt(lane) => Some(lane),
            LanePlan::Paced(_) => None,
        }
    }

    /// The next batch, if the lane is idle.
    pub(super) fn take(&mut self, now: impl FnOnce() -> Instant) -> Option<Batch> {
        match self {
            LanePlan::Prompt(lane) => lane.take(),
            LanePlan::Paced(lane) => lane.take(now),
        }
    }

    /// The batch that the lane was given is finished.
    pub(super) fn done(&mut self, progress: &mut Progress, batch: Batch) {
        match self {
            LanePlan::Prompt(lane) => lane.done(progress, batch),
            LanePlan::Paced(lane) => lane.done(progress),
        }
    }

    /// The transaction that an action of the batch in flight belongs to.
    pub(super) fn owner(&self, index: usize) -> Option<TxnId> {
        match self {
            LanePlan::Prompt(lane) => lane.in_flight.as_ref()?.owners.get(index).copied(),
            LanePlan::Paced(_) => None,
        }
    }

    /// Whether everything up to a position is finished.
    pub(super) fn has_reached(&self, position: Position) -> bool {
        match self {
            LanePlan::Prompt(lane) => lane.done >= position.number,
            LanePlan::Paced(lane) => lane.has_reached(position),
        }
    }

    /// The memory that the waiting actions take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            LanePlan::Prompt(lane) => lane.waiting.bytes(),
            LanePlan::Paced(lane) => lane.bytes(),
        }
    }

    /// How many actions wait.
    pub(super) fn waiting(&self) -> usize {
        match self {
            LanePlan::Prompt(lane) => lane.waiting.len(),
            LanePlan::Paced(lane) => lane.waiting(),
        }
    }

    /// Whether nothing waits and nothing is in flight.
    pub(super) fn is_idle(&self) -> bool {
        match self {
            LanePlan::Prompt(lane) => lane.in_flight.is_none() && lane.waiting.is_empty(),
            LanePlan::Paced(lane) => lane.is_idle(),
        }
    }
}

/// A lane without a pace.
#[derive(Default)]
pub(super) struct PromptLane {
    waiting: ActionSet,
    /// The owners of the actions that the lane has, and the memory of their page.
    in_flight: Option<Page>,
    /// How many batches it has been given.
    taken: u64,
    /// How many of them are finished.
    done: u64,
}

impl PromptLane {
    fn put(&mut self, progress: &mut Progress, action: Action<'_>, txn: TxnId) -> Position {
        let is_in_flight = |page: &Page| page.holds(self.waiting.hash(action));
        let merges = progress.is_broken_as(Failpoint::MergeInFlight);
        if !(merges && self.in_flight.as_ref().is_some_and(is_in_flight)) {
            put(progress, &mut self.waiting, action, txn);
        }
        self.position()
    }

    /// What waits.
    pub(super) fn waiting_mut(&mut self) -> &mut ActionSet {
        &mut self.waiting
    }

    /// Behind everything that waits. An action may stand in an earlier batch; none is far away.
    pub(super) fn position(&self) -> Position {
        Position { track: 0, number: self.taken + self.waiting.pages() as u64 }
    }

    fn take(&mut self) -> Option<Batch> {
        if self.in_flight.is_some() {
            return None;
        }
        let mut page = self.waiting.take()?;
        let batch = std::mem::take(&mut page.batch);
        self.in_flight = Some(page);
        self.taken += 1;
        Some(batch)
    }

    fn done(&mut self, progress: &mut Progress, batch: Batch) {
        let Some(mut page) = self.in_flight.take() else { return };
        self.done += 1;
        page.owners.iter().for_each(|&owner| progress.finish(owner));
        page.batch = batch;
        self.waiting.recycle(page);
    }
}

/// Puts an action into a set for a transaction. Merging keeps the oldest one: it alone can be
/// confirmed when the action is done, and none after it is confirmed before.
pub(super) fn put(progress: &mut Progress, set: &mut ActionSet, action: Action<'_>, txn: TxnId) {
    match set.put(action, txn) {
        Put::Added => progress.add(txn),
        Put::Merged(owner) => keep_older(progress, owner, txn),
    }
}

/// Makes `txn` the owner of an action if it is older than the one that is.
pub(super) fn keep_older(progress: &mut Progress, owner: &mut TxnId, txn: TxnId) {
    let keeps_newest = progress.is_broken_as(Failpoint::MergeNewest);
    if progress.is_older(txn, *owner) != keeps_newest {
        let younger = std::mem::replace(owner, txn);
        progress.add(txn);
        progress.finish(younger);
    }
}
