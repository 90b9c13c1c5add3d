//! What transactions wait for whose lookups are not answered yet: an answer may bring something
//! that runs after all of that. Pure.

use super::marks::{Mark, Marks};
use crate::pipeline::lane::{LanePlan, Position};
use crate::pipeline::plan::LaneId;

/// How many are remembered apart. Beyond, the last one stands for those that come, too, and what
/// is brought for one of them waits for all of them.
const ASKERS_MAX: usize = 1024;

/// Transactions whose places in the stream are `first..=last`, maybe among others.
#[derive(Debug)]
struct Asker {
    first: u64,
    last: u64,
    after: Marks,
}

/// Complete transactions that wait for lookups.
#[derive(Debug, Default)]
pub(super) struct Askers(Vec<Asker>);

impl Askers {
    /// Remembers a transaction.
    pub(super) fn push(&mut self, order: u64, after: Marks) {
        let is_full = self.0.len() >= ASKERS_MAX;
        match self.0.last_mut().filter(|_| is_full) {
            Some(asker) => {
                asker.first = asker.first.min(order);
                asker.last = asker.last.max(order);
                asker.after.extend(&after);
            }
            None => self.0.push(Asker { first: order, last: order, after }),
        }
    }

    /// What a transaction waits for, or more; `None`: it is not known.
    pub(super) fn after(&self, order: u64) -> Option<Marks> {
        let is_it = |asker: &&Asker| (asker.first..=asker.last).contains(&order);
        let mut found = self.0.iter().filter(is_it).peekable();
        found.peek()?;
        let mut after = Marks::default();
        found.for_each(|asker| after.extend(&asker.after));
        Some(after)
    }

    /// Lets those that wait for a lane wait for more.
    pub(super) fn await_more(&mut self, lane: LaneId, lanes: &[LanePlan], more: &Marks) {
        let asking = self.0.iter_mut().filter(|asker| asker.after.await_lane(lane, lanes));
        asking.for_each(|asker| asker.after.extend(more));
    }

    /// See [`Marks::redirect`].
    pub(super) fn redirect(&mut self, lane: LaneId, end: Position, instead: Mark) {
        self.0.iter_mut().for_each(|asker| asker.after.redirect(lane, end, instead));
    }

    /// Forgets those that wait for no lookup any more.
    pub(super) fn forget(&mut self, lanes: &[LanePlan], is_lookup: impl Fn(LaneId) -> bool) {
        self.0.retain(|asker| asker.after.await_any(&is_lookup, lanes));
    }
}
