//! Which LSN may be confirmed: the end of the last transaction before which, in stream order,
//! nothing is unfinished.
//!
//! Pure: no I/O, no clock. Its memory is bounded by the number of unfinished actions: a transaction
//! that owns none is folded into the one before it.

use std::collections::HashMap;

use super::sink_set::SinkSet;
use crate::failpoint::Failpoint;
use crate::lsn::Lsn;

/// A transaction that is not finished yet.
///
/// It is valid until the transaction is closed and its last action is finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TxnId(u32);

/// No entry.
const NONE: u32 = u32::MAX;

/// The unfinished transactions, in stream order, and what was confirmed before them.
#[derive(Debug)]
pub struct Progress {
    entries: Vec<Entry>,
    free: Vec<u32>,
    first: u32,
    last: u32,
    next_order: u64,
    confirmed_lsn: Lsn,
    /// Whom the answers to unfinished transactions' lookups leave out, if anybody.
    left_out: HashMap<TxnId, SinkSet>,
    broken: Option<Failpoint>,
}

/// One transaction, linked to its neighbours in stream order.
#[derive(Clone, Copy, Debug)]
struct Entry {
    before: u32,
    after: u32,
    /// Its place in the stream.
    order: u64,
    unfinished: u32,
    stage: Stage,
    /// Where its own commit record ends; zero until that has arrived.
    own_lsn: Lsn,
    /// What may be confirmed when this transaction and all before it are finished.
    end_lsn: Lsn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its commit record has not arrived.
    Open,
    Closed,
}

impl Default for Progress {
    fn default() -> Self {
        Progress {
            entries: Vec::new(),
            free: Vec::new(),
            first: NONE,
            last: NONE,
            next_order: 0,
            confirmed_lsn: Lsn::ZERO,
            left_out: HashMap::new(),
            broken: None,
        }
    }
}

impl Progress {
    /// Does on purpose what is wrong, in a debug build.
    pub fn break_as(&mut self, broken: Option<Failpoint>) {
        self.broken = broken;
    }

    /// Whether this is to be done wrong.
    pub fn is_broken_as(&self, failpoint: Failpoint) -> bool {
        cfg!(debug_assertions) && self.broken == Some(failpoint)
    }

    /// The LSN up to which everything is finished. It never decreases while a stream lasts.
    pub fn confirmed_lsn(&self) -> Lsn {
        self.confirmed_lsn
    }

    /// Whether nothing is unfinished.
    pub fn is_idle(&self) -> bool {
        self.first == NONE
    }

    /// How many transactions are remembered.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether no transaction is remembered.
    pub fn is_empty(&self) -> bool {
        self.is_idle()
    }

    /// A transaction begins, after every other in stream order.
    pub fn begin(&mut self) -> TxnId {
        let entry = Entry {
            before: self.last,
            after: NONE,
            order: self.next_order,
            unfinished: 0,
            stage: Stage::Open,
            own_lsn: Lsn::ZERO,
            end_lsn: Lsn::ZERO,
        };
        self.next_order += 1;
        let at = match self.free.pop() {
            Some(at) => {
                self.entries[at as usize] = entry;
                at
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        match self.last {
            NONE => self.first = at,
            last => self.entries[last as usize].after = at,
        }
        self.last = at;
        TxnId(at)
    }

    /// The transaction gets another action.
    pub fn add(&mut self, txn: TxnId) {
        self.entries[txn.0 as usize].unfinished += 1;
    }

    /// One of the transaction's actions is finished.
    pub fn finish(&mut self, txn: TxnId) {
        self.entries[txn.0 as usize].unfinished -= 1;
        self.retire_if_finished(txn);
    }

    /// The transaction's commit record has arrived: it gets no more actions.
    pub fn close(&mut self, txn: TxnId, end_lsn: Lsn) {
        let entry = &mut self.entries[txn.0 as usize];
        entry.stage = Stage::Closed;
        entry.own_lsn = end_lsn;
        entry.end_lsn = entry.end_lsn.max(end_lsn);
        self.retire_if_finished(txn);
    }

    /// The server has sent everything up to `lsn`, and no transaction is open.
    pub fn advance(&mut self, lsn: Lsn) {
        match self.last {
            NONE => self.confirmed_lsn = self.confirmed_lsn.max(lsn),
            last => {
                let entry = &mut self.entries[last as usize];
                if entry.stage == Stage::Closed {
                    entry.end_lsn = entry.end_lsn.max(lsn);
                }
            }
        }
    }

    /// The stream is over: no position of it is confirmed any more, and finishing what is left of
    /// its transactions confirms nothing. Closes the one that is open, if any.
    pub fn void(&mut self) {
        let mut at = self.first;
        while at != NONE {
            let entry = &mut self.entries[at as usize];
            entry.end_lsn = Lsn::ZERO;
            entry.stage = Stage::Closed;
            let after = entry.after;
            self.retire_if_finished(TxnId(at));
            at = after;
        }
        self.confirmed_lsn = Lsn::ZERO;
    }

    /// The answers to the transaction's lookups leave out these sinks, which have done it before.
    pub(super) fn leave_out(&mut self, txn: TxnId, sinks: SinkSet) {
        match sinks.is_empty() {
            true => self.left_out.remove(&txn),
            false => self.left_out.insert(txn, sinks),
        };
    }

    /// Whom the answers to the transaction's lookups leave out.
    pub(super) fn left_out(&self, txn: TxnId) -> SinkSet {
        self.left_out.get(&txn).copied().unwrap_or_default()
    }

    /// One lookup is for two transactions from now on: its answer leaves out only whom both do.
    pub(super) fn share(&mut self, one: TxnId, other: TxnId) {
        if !self.left_out.is_empty() && one != other {
            let sinks = self.left_out(one).shared_with(self.left_out(other));
            self.leave_out(one, sinks);
            self.leave_out(other, sinks);
        }
    }

    /// For each bound the end of the last closed transaction whose place in the stream is before
    /// it; without a bound, of the last one at all.
    pub fn ends_before(&self, bounds: &[Option<u64>]) -> Vec<Lsn> {
        let mut ends = vec![self.confirmed_lsn; bounds.len()];
        let mut at = self.first;
        while let Some(entry) = self.entries.get(at as usize) {
            for (end, bound) in ends.iter_mut().zip(bounds) {
                // An open one has no end yet.
                if bound.is_none_or(|bound| entry.order < bound) {
                    *end = entry.end_lsn.max(*end);
                }
            }
            at = entry.after;
        }
        ends
    }

    /// Whether `this` comes before `other` in stream order.
    pub fn is_older(&self, this: TxnId, other: TxnId) -> bool {
        self.entries[this.0 as usize].order < self.entries[other.0 as usize].order
    }

    /// The oldest of some transactions.
    pub fn oldest_of(&self, txns: &[TxnId]) -> Option<TxnId> {
        txns.iter().copied().min_by_key(|&txn| self.order(txn))
    }

    /// The place in the stream of the oldest transaction that is not finished.
    pub fn oldest(&self) -> Option<u64> {
        Some(self.entries.get(self.first as usize)?.order)
    }

    /// The place in the stream that the next transaction gets.
    pub fn next_order(&self) -> u64 {
        self.next_order
    }

    /// The transaction's place in the stream, which no other one ever gets.
    pub fn order(&self, txn: TxnId) -> u64 {
        self.entries[txn.0 as usize].order
    }

    /// Where the transaction's commit record ends, whatever has become of its stream; zero until
    /// that has arrived.
    pub fn end_lsn(&self, txn: TxnId) -> Lsn {
        self.entries[txn.0 as usize].own_lsn
    }

    fn retire_if_finished(&mut self, txn: TxnId) {
        let Entry { before, after, unfinished, stage, end_lsn, .. } = self.entries[txn.0 as usize];
        if unfinished > 0 || stage == Stage::Open {
            return;
        }
        match before {
            NONE => {
                self.first = after;
                self.confirmed_lsn = self.confirmed_lsn.max(end_lsn);
            }
            before => {
                let before = &mut self.entries[before as usize];
                before.after = after;
                before.end_lsn = before.end_lsn.max(end_lsn);
            }
        }
        match after {
            NONE => self.last = before,
            after => self.entries[after as usize].before = before,
        }
        if !self.left_out.is_empty() {
            self.left_out.remove(&txn);
        }
        self.free.push(txn.0);
    }
}
