//! One lane of the plan: what waits for it, what it has been given, and how far it has come.

use std::time::Instant;

use super::action_set::{ActionSet, Page, Put, Visible};
use super::paced::PacedLane;
use super::progress::{Progress, TxnId};
use crate::action::{Action, Batch, Verb};
use crate::failpoint::Failpoint;

/// What a lane's actions wait for, and what waits for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It asks the database, and what it does brings more actions.
    Lookup,
    /// It removes what is stale.
    Remove,
    /// It tells others, once everything that the transaction removes is removed.
    Tell,
    /// It purges an edge, once the caches from which that fills have lost what is stale.
    Purge,
}

impl Stage {
    /// Whether its actions wait for other lanes.
    pub fn is_afterwards(self) -> bool {
        matches!(self, Stage::Tell | Stage::Purge)
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
    /// Adds an action for a transaction, which was visible by then.
    pub(super) fn put(
        &mut self,
        progress: &mut Progress,
        action: Action<'_>,
        txn: TxnId,
        visible: Visible,
    ) -> Position {
        match self {
            LanePlan::Prompt(lane) => {
                lane.waiting.set_visible(visible);
                lane.put(progress, action, txn)
            }
            LanePlan::Paced(lane) => lane.put(progress, action, txn),
        }
    }

    /// Adds actions that have owners already, and empties their set. Calls `mark` with the
    /// positions that stand for all of them. Their transactions were visible by then.
    pub(super) fn absorb(
        &mut self,
        progress: &mut Progress,
        actions: &mut ActionSet,
        visible: Visible,
        mut mark: impl FnMut(Position),
    ) {
        if let LanePlan::Prompt(lane) = self
            && lane.waiting.is_empty()
            && !actions.is_empty()
            && !progress.is_broken_as(Failpoint::MergeInFlight)
        {
            std::mem::swap(&mut lane.waiting, actions);
            lane.waiting.set_all_visible(visible);
            return mark(lane.position());
        }
        while let Some(page) = actions.take() {
            for (action, &owner) in page.batch.iter().zip(&page.owners) {
                mark(self.put(progress, action, owner, visible));
                progress.finish(owner);
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
            LanePlan::Paced(lane) => lane.owner(index),
        }
    }

    /// By when the transactions of the batch in flight were visible.
    pub(super) fn visible(&self) -> Visible {
        match self {
            LanePlan::Prompt(lane) => {
                lane.in_flight.as_ref().map_or(Visible::Nobody, |page| page.visible)
            }
            LanePlan::Paced(_) => Visible::Unknown,
        }
    }

    /// Makes a transaction the owner of an action of the batch in flight if it is older.
    pub(super) fn own(&mut self, progress: &mut Progress, index: usize, txn: TxnId) {
        let owner = match self {
            LanePlan::Prompt(lane) => {
                lane.in_flight.as_mut().and_then(|page| page.owners.get_mut(index))
            }
            LanePlan::Paced(lane) => lane.owner_mut(index),
        };
        if let Some(owner) = owner {
            keep_older(progress, owner, txn);
        }
    }

    /// The transactions that have unfinished actions here, some of them several times.
    pub(super) fn owners(&self) -> Box<dyn Iterator<Item = TxnId> + '_> {
        match self {
            LanePlan::Prompt(lane) => {
                let in_flight = lane.in_flight.iter().flat_map(|page| page.owners.iter().copied());
                Box::new(in_flight.chain(lane.waiting.owners()))
            }
            LanePlan::Paced(lane) => Box::new(lane.owners()),
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

    /// How many actions it has been given and not finished.
    pub(super) fn in_flight(&self) -> usize {
        match self {
            LanePlan::Prompt(lane) => lane.in_flight.as_ref().map_or(0, |page| page.owners.len()),
            LanePlan::Paced(lane) => lane.in_flight(),
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
    /// How many actions a batch has, if there are so many; `None`: as they come. Positions count
    /// pages, so that nobody may wait for such a lane.
    batch: Option<usize>,
}

impl PromptLane {
    /// A lane whose batches have so many actions, if there are as many.
    pub(super) fn new(batch: Option<usize>) -> Self {
        PromptLane { batch, ..PromptLane::default() }
    }

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
        let mut page = match self.batch {
            Some(most) => self.waiting.take_exactly(most),
            None => self.waiting.take(),
        }?;
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
///
/// A purge of everything stands for every other purge in its set: it is not sent yet either.
pub(super) fn put(progress: &mut Progress, set: &mut ActionSet, action: Action<'_>, txn: TxnId) {
    match action.verb {
        Verb::PurgeKey | Verb::PurgePath if set.first_verb() == Some(Verb::PurgeAll) => {
            if let Some(owner) = set.first_owner_mut() {
                keep_older(progress, owner, txn);
            }
            return;
        }
        Verb::PurgeAll if set.first_verb().is_some_and(|verb| verb != Verb::PurgeAll) => {
            let owners = set.extract(|_| true);
            if let Some(oldest) = progress.oldest_of(&owners) {
                put(progress, set, action, oldest);
            }
            owners.iter().for_each(|&owner| progress.finish(owner));
        }
        _ => {}
    }
    match set.put(action, txn) {
        Put::Added => progress.add(txn),
        Put::Merged(owner) => {
            if action.verb == Verb::Lookup {
                progress.share(*owner, txn);
            }
            keep_older(progress, owner, txn);
        }
    }
}

/// Moves actions that have owners already from one set to another.
pub(super) fn move_all(progress: &mut Progress, from: &mut ActionSet, to: &mut ActionSet) {
    while let Some(page) = from.take() {
        for (action, &owner) in page.batch.iter().zip(&page.owners) {
            put(progress, to, action, owner);
            progress.finish(owner);
        }
        from.recycle(page);
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
