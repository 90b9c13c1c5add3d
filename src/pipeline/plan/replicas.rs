//! Transactions that the primary shows and replicas may not: readers that fill the cache from such a
//! replica would put the old row back.
//!
//! Their actions wait until every replica that is waited for has replayed the end of their commit
//! record, at most for a while. Then they run, and stay owed: they run once more when the replicas
//! have caught up, and nothing of them is confirmed before. Too much that is owed becomes every
//! rule's fallback, of which there are two at most: one that waits for a position that does not
//! move, and one that gathers what came later.

use std::time::{Duration, Instant};

use super::{
    ActionSet, Group, Invisible, LaneId, Mark, Plan, Stage, Urgency, WAITING_BYTES_MAX, put,
};
use crate::action::{Action, Verb};
use crate::lsn::Lsn;
use crate::pipeline::action_set::Visible;
use crate::pipeline::progress::TxnId;
use crate::rules::{Cause, RedeleteId, RuleSet, SinkId};

/// How much memory what is owed to replicas may take before fallbacks take its place.
const OWED_BYTES_MAX: usize = WAITING_BYTES_MAX / 2;

/// How many fallbacks wait for replicas at most.
const COARSE_MAX: usize = 2;

/// What a transaction waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// To be visible on the server that streams.
    Unseen,
    /// To be replayed, since it was noticed that it is visible.
    Unreplayed(Option<Instant>),
    /// To be replayed. It has run already.
    Owed,
    /// The same, for the fallbacks that stand for others.
    Coarse,
}

/// Whether rules' fallbacks do all that a transaction asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Covered {
    Yes,
    No,
}

/// What waits for replicas.
pub(super) struct Replicas {
    /// Up to where all that are waited for have replayed the log.
    replayed_lsn: Lsn,
    pub(super) waiting: Vec<Invisible>,
    pub(super) bytes: usize,
    /// Every rule's fallback.
    fallbacks: Vec<Fallback>,
    /// Whether every rule has one.
    is_covered: bool,
}

struct Fallback {
    sinks: Vec<SinkId>,
    verb: Verb,
    value: Vec<u8>,
    redelete: Option<RedeleteId>,
}

impl Replicas {
    fn push(&mut self, hidden: Invisible) {
        self.bytes += hidden.bytes();
        self.waiting.push(hidden);
    }

    /// The stream broke off: what waits is not to run, since the next stream brings it again.
    pub(super) fn disconnect(&mut self) -> Vec<Invisible> {
        self.bytes = 0;
        self.replayed_lsn = Lsn::ZERO;
        std::mem::take(&mut self.waiting)
    }
}

impl Plan {
    /// Lets every transaction wait for replicas too. `rules` have the fallbacks for the case that
    /// those stay behind.
    pub fn await_replicas(&mut self, rules: &RuleSet) {
        let mut fallbacks = Vec::new();
        rules.all_fallbacks(Cause::Gap, |emission| {
            let Action { verb, value } = emission.action;
            let (sinks, value) = (emission.sinks.to_vec(), value.to_vec());
            let redelete = rules.redelete_of(emission.rule);
            fallbacks.push(Fallback { sinks, verb, value, redelete });
        });
        let is_covered = rules.rules().iter().all(|rule| !rule.fallback.is_empty());
        let (replayed_lsn, waiting, bytes) = (Lsn::ZERO, Vec::new(), 0);
        self.replicas = Some(Replicas { replayed_lsn, waiting, bytes, fallbacks, is_covered });
    }

    /// Whether somebody waits for replicas, or soon will.
    pub fn wants_replicas(&self) -> bool {
        let waits = |replicas: &Replicas| !replicas.waiting.is_empty();
        self.replicas.as_ref().is_some_and(|replicas| waits(replicas) || !self.invisible.is_empty())
    }

    /// The open transaction asks for what is in no rule's fallback.
    pub fn keep_exact(&mut self) {
        let Some(open) = &self.open else { return };
        if let Some(hidden) = self.invisible.last_mut().filter(|hidden| hidden.txn == open.txn) {
            hidden.covered = Covered::No;
        }
    }

    /// The memory that what waits for replicas takes.
    pub(super) fn unreplayed_bytes(&self) -> usize {
        self.replicas.as_ref().map_or(0, |replicas| replicas.bytes)
    }

    /// Whether some replica may not show a transaction that ends there.
    pub(super) fn is_unreplayed(&self, end_lsn: Lsn) -> bool {
        self.replicas.as_ref().is_some_and(|replicas| end_lsn > replicas.replayed_lsn)
    }

    /// A transaction is visible on the server that streams. It was counted as invisible.
    pub(super) fn seen(&mut self, mut hidden: Invisible) {
        if !self.is_unreplayed(hidden.end_lsn) {
            self.invisible_bytes -= hidden.bytes();
            return self.reveal(hidden);
        }
        if hidden.phase == Phase::Unseen {
            hidden.phase = Phase::Unreplayed(None);
        }
        let is_open = self.open.as_ref().is_some_and(|open| open.txn == hidden.txn);
        match &mut self.replicas {
            Some(replicas) if !is_open => {
                self.invisible_bytes -= hidden.bytes();
                replicas.push(hidden);
            }
            _ => self.invisible.push(hidden),
        }
    }

    /// Every replica that is waited for has replayed the log up to `lsn`. What waits for more since
    /// `max_wait` runs now and stays owed.
    pub fn replayed(&mut self, lsn: Lsn, now: Instant, max_wait: Duration) {
        let Some(replicas) = &mut self.replicas else { return };
        replicas.replayed_lsn = lsn;
        // What is owed for the transaction that the stream is in waits for its end.
        let open = self.open.as_ref().map(|open| open.txn);
        let is_due = |hidden: &mut Invisible| hidden.end_lsn <= lsn && Some(hidden.txn) != open;
        let due: Vec<_> = replicas.waiting.extract_if(.., is_due).collect();
        replicas.bytes -= due.iter().map(Invisible::bytes).sum::<usize>();
        let mut waiting = std::mem::take(&mut replicas.waiting);
        due.into_iter().for_each(|hidden| self.reveal(hidden));
        for hidden in &mut waiting {
            if is_overdue(&mut hidden.phase, now, max_wait) {
                self.run_now(hidden);
                hidden.phase = Phase::Owed;
            }
        }
        if let Some(replicas) = &mut self.replicas {
            replicas.waiting.append(&mut waiting);
        }
        self.replayed_open(lsn, now, max_wait);
        self.collapse_owed();
    }

    /// The same for the transaction that the stream is in. It waits for its end at least where a
    /// rule has no fallback that could be owed.
    fn replayed_open(&mut self, lsn: Lsn, now: Instant, max_wait: Duration) {
        let is_covered = self.replicas.as_ref().is_some_and(|replicas| replicas.is_covered);
        let Some(last) = self.invisible.last_mut() else { return };
        let is_covered = is_covered && last.covered == Covered::Yes;
        let (txn, end_lsn) = (last.txn, last.end_lsn);
        let is_replayed = last.phase != Phase::Unseen && end_lsn <= lsn;
        let is_overdue = is_overdue(&mut last.phase, now, max_wait);
        if !(is_replayed || is_overdue && is_covered) {
            return;
        }
        let Some(hidden) = self.invisible.pop() else { return };
        self.invisible_bytes -= hidden.bytes();
        if !is_replayed {
            // What comes of it later would run only once. So everything that it may ask for is
            // owed.
            self.owe(txn, end_lsn);
        }
        self.reveal(hidden);
    }

    /// Runs a transaction's actions, which it keeps.
    fn run_now(&mut self, hidden: &Invisible) {
        let txn = hidden.txn;
        let mut group = Group::default();
        for (lane, actions) in hidden.actions.iter().enumerate() {
            for action in actions.iter() {
                if self.stages[lane].is_afterwards() {
                    self.put_afterwards(&mut group, LaneId(lane), action, txn);
                    continue;
                }
                let now = self.now.into();
                let position = self.lanes[lane].put(&mut self.progress, action, txn, now);
                if self.orders {
                    group.after.add(Mark { lane: LaneId(lane), position });
                }
            }
        }
        if let Some(afterwards) = &hidden.group {
            group.after.extend(&afterwards.after);
            for (lane, actions) in afterwards.actions.iter().enumerate() {
                for action in actions.iter() {
                    self.put_afterwards(&mut group, LaneId(lane), action, txn);
                }
            }
        }
        self.end(self.progress.order(txn), group);
    }

    fn put_afterwards(&mut self, group: &mut Group, lane: LaneId, action: Action<'_>, txn: TxnId) {
        if self.stages[lane.0] == Stage::Purge {
            return self.purges.put(&mut self.progress, group, lane, action, txn);
        }
        put(&mut self.progress, group.actions_for(lane, self.lanes.len()), action, txn);
    }

    /// Lets every rule's fallback run when the replicas have replayed the log up to `end_lsn`, as a
    /// transaction of its own that nothing after it is confirmed before. Answers with its place in
    /// the stream. To be called between two transactions; without replicas nothing waits.
    pub fn owe_fallbacks(&mut self, end_lsn: Lsn) -> u64 {
        let txn = self.progress.begin();
        let order = self.progress.order(txn);
        self.owe(txn, end_lsn);
        self.progress.close(txn, Lsn::ZERO);
        order
    }

    fn owe(&mut self, txn: TxnId, end_lsn: Lsn) {
        let Some(replicas) = &mut self.replicas else { return };
        let fallbacks = std::mem::take(&mut replicas.fallbacks);
        let mut group = Group::default();
        let mut actions = Vec::new();
        actions.resize_with(self.lanes.len(), ActionSet::default);
        for Fallback { sinks, verb, value, redelete } in &fallbacks {
            for &sink in sinks {
                let action = Action { verb: *verb, value };
                let lane = self.route(sink, action, Urgency::Prompt, *redelete);
                match self.stages[lane.0].is_afterwards() {
                    true => self.put_afterwards(&mut group, lane, action, txn),
                    false => put(&mut self.progress, &mut actions[lane.0], action, txn),
                }
            }
        }
        if let Some(replicas) = &mut self.replicas {
            replicas.fallbacks = fallbacks;
            if group.is_empty() && actions.iter().all(ActionSet::is_empty) {
                // Nothing keeps the transaction, so that another one may get its ID.
                return;
            }
            let (phase, covered, group) = (Phase::Coarse, Covered::Yes, Some(group));
            let (xid, visible) = (0, Visible::Unknown);
            replicas.push(Invisible { txn, xid, end_lsn, phase, covered, visible, actions, group });
        }
    }

    /// Puts fallbacks in the place of what is owed, if that is too much.
    fn collapse_owed(&mut self) {
        let Some(replicas) = self
            .replicas
            .as_mut()
            .filter(|replicas| replicas.is_covered && replicas.bytes >= OWED_BYTES_MAX)
        else {
            return;
        };
        let mut coarse = 0;
        let gathered: Vec<_> = replicas
            .waiting
            .extract_if(.., |hidden| {
                coarse += usize::from(hidden.phase == Phase::Coarse);
                match hidden.phase {
                    Phase::Owed => hidden.covered == Covered::Yes,
                    Phase::Coarse => coarse >= COARSE_MAX,
                    Phase::Unseen | Phase::Unreplayed(_) => false,
                }
            })
            .collect();
        replicas.bytes -= gathered.iter().map(Invisible::bytes).sum::<usize>();
        let oldest = gathered.iter().min_by_key(|hidden| self.progress.order(hidden.txn));
        let Some(oldest) = oldest.map(|hidden| hidden.txn) else { return };
        let end_lsn = gathered.iter().map(|hidden| hidden.end_lsn).max().unwrap_or_default();
        self.owe(oldest, end_lsn);
        gathered.into_iter().for_each(|hidden| self.drop_hidden(hidden));
    }
}

/// Whether a transaction has waited too long, as far as it was known to wait.
fn is_overdue(phase: &mut Phase, now: Instant, max_wait: Duration) -> bool {
    match phase {
        Phase::Unreplayed(None) => {
            *phase = Phase::Unreplayed(Some(now));
            false
        }
        Phase::Unreplayed(Some(since)) => now.saturating_duration_since(*since) >= max_wait,
        Phase::Unseen | Phase::Owed | Phase::Coarse => false,
    }
}
