//! Where is the batch under way being done, and what of it would a repeat not find?
//!
//! It is written down before it is done, and kept over the attempts of a batch: an attempt that
//! failed may have done what the next one finds done.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::super::config::NodeAddress;
use super::super::super::session::Keys;
use super::home::Home;
use super::ledger::Ledger;

/// What a batch has touched so far.
#[derive(Default)]
pub(super) struct Touched {
    pub(super) homes: BTreeSet<Home>,
    /// Keys that are taken off their tags' lists when they are deleted.
    pub(super) names: Keys,
    /// Whether there were more of them than are remembered.
    pub(super) has_more: bool,
}

/// A lane's record of what it does, which the exchanges with all nodes write at once.
pub(in super::super) struct Trace {
    pub(super) ledger: Arc<Ledger>,
    pub(super) lane: usize,
    /// How many bytes of names are remembered at most.
    names_max: usize,
    touched: Mutex<Touched>,
}

impl Trace {
    pub(super) fn new(ledger: Arc<Ledger>, lane: usize, names_max: usize) -> Self {
        Trace { ledger, lane, names_max, touched: Mutex::default() }
    }

    /// Something is about to be done at `node`, on a connection that was made when the node had
    /// `history`.
    pub(in super::super) fn meet(&self, node: &NodeAddress, history: &str) {
        let mut touched = self.lock();
        let is_known =
            touched.homes.iter().any(|home| home.node == *node && home.history == history);
        if !is_known {
            let home = Home { node: node.clone(), history: history.to_owned() };
            self.ledger.meet(self.lane, &home);
            touched.homes.insert(home);
        }
    }

    /// Keys are about to be deleted and taken off the lists that name them.
    pub(in super::super) fn meet_members(&self, keys: &Keys) {
        self.ledger.meet_members();
        let mut touched = self.lock();
        touched.names.append(keys);
        if touched.names.cost() > self.names_max {
            touched.names.clear();
            touched.has_more = true;
        }
    }

    /// What was touched, which is then somebody else's to remember; `with` takes its place.
    pub(super) fn swap(&self, with: Touched) -> Touched {
        std::mem::replace(&mut *self.lock(), with)
    }

    /// All places of the batch under way.
    pub(super) fn homes(&self) -> BTreeSet<Home> {
        self.lock().homes.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Touched> {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
