//! Transactions that other sessions cannot see yet, and what they ask for when these can.

use std::time::Instant;

use super::{Covered, Group, LaneId, Mark, Phase, Plan, Stage, TxnId};
use crate::lsn::Lsn;
use crate::pipeline::action_set::{ActionSet, Visible};
use crate::snapshot::Snapshot;

/// How many invisible transactions' emptied sets are kept.
const SPARE_SETS_MAX: usize = 1;

/// A committed transaction that readers cannot see yet, or not everywhere.
pub(super) struct Invisible {
    pub(super) txn: TxnId,
    pub(super) xid: u32,
    /// Its end in the log.
    pub(super) end_lsn: Lsn,
    pub(super) phase: Phase,
    /// Whether rules' fallbacks may take the place of all its actions.
    pub(super) covered: Covered,
    /// By when it was visible, as far as that is known.
    pub(super) visible: Visible,
    /// Its hidden actions, for each lane.
    pub(super) actions: Vec<ActionSet>,
    /// What of it runs afterwards, once it is complete.
    pub(super) group: Option<Group>,
}

impl Invisible {
    /// The memory that its actions take.
    pub(super) fn bytes(&self) -> usize {
        let sets: usize = self.actions.iter().map(ActionSet::bytes).sum();
        let group = self.group.as_ref().map_or(0, Group::bytes);
        size_of_val(self.actions.as_slice()) + sets + group
    }
}

impl Plan {
    /// Whether transactions wait to become visible.
    pub fn wants_snapshot(&self) -> bool {
        self.invisible.iter().any(|hidden| matches!(hidden.phase, Phase::Unseen))
    }

    /// The actions of every transaction that the snapshot shows may run from now on.
    pub fn show(&mut self, snapshot: Snapshot) {
        let is_first = self.snapshot.is_none();
        self.seen_by = self.now.into();
        for mut hidden in std::mem::take(&mut self.invisible) {
            match snapshot.shows(hidden.xid) {
                true => {
                    // Nobody has seen it hidden.
                    if is_first && hidden.phase == Phase::Unseen {
                        hidden.visible = self.visible_by(true, hidden.end_lsn);
                    }
                    self.seen(hidden);
                }
                false => self.invisible.push(hidden),
            }
        }
        self.snapshot = Some(snapshot);
    }

    /// The time is now. To be called before what is heard of the server is handed in, and after it
    /// has come: what is visible by now is known to be visible by then.
    pub fn tick(&mut self, now: Instant) {
        self.now = Some(now);
    }

    /// The log up to `lsn` was written by then, so that a transaction that ends before it, and that
    /// nobody has ever seen hidden, counts as visible by then.
    pub fn written_by(&mut self, lsn: Lsn, at: Instant) {
        self.written = Some((lsn, at));
    }

    /// By when a transaction was visible that is visible now, where the last snapshot was the first
    /// that was asked for it and shows it.
    pub(super) fn visible_by(&self, is_seen_first: bool, end_lsn: Lsn) -> Visible {
        let now = self.now.into();
        if !is_seen_first {
            return now;
        }
        // A replica that has replayed it may have done so just now.
        if self.replicas.is_some() {
            return now;
        }
        match (self.seen_by, self.written) {
            (Visible::By(seen), Some((lsn, at))) if end_lsn <= lsn => Visible::By(seen.min(at)),
            (seen, _) => seen,
        }
    }

    pub(super) fn reveal(&mut self, hidden: Invisible) {
        let Invisible { txn, mut actions, group, visible, .. } = hidden;
        let visible = match visible {
            Visible::By(_) if self.replicas.is_none() => visible,
            _ => self.now.into(),
        };
        let is_open = self.open.as_ref().is_some_and(|open| open.txn == txn);
        let order = self.progress.order(txn);
        let mut group = match &mut self.open {
            Some(open) if is_open => {
                open.hidden = None;
                open.visible = visible;
                std::mem::take(&mut open.group)
            }
            _ => group.unwrap_or_default(),
        };
        for (lane, actions) in actions.iter_mut().enumerate() {
            let lane = LaneId(lane);
            if self.stages[lane.0] == Stage::Tell {
                if !actions.is_empty() {
                    *group.actions_for(lane, self.lanes.len()) = std::mem::take(actions);
                }
                continue;
            }
            self.lanes[lane.0].absorb(&mut self.progress, actions, visible, |position| {
                if self.orders {
                    group.after.add(Mark { lane, position });
                }
            });
        }
        if self.spare.len() < SPARE_SETS_MAX && !actions.is_empty() {
            self.spare.push(actions);
        }
        match &mut self.open {
            Some(open) if is_open => {
                open.group = group;
                self.cut_purges(None);
            }
            _ => self.end(order, group),
        }
    }
}
