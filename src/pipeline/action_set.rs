//! What waits for a lane: distinct actions in the order in which they came, each with the oldest
//! transaction that asked for it.
//!
//! The actions stand in pages, each the batch that a sink will get. A hash table knows where an
//! action stands, and holds no second copy of it.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use hashbrown::HashTable;

use super::progress::TxnId;
use crate::action::{Action, Batch, Verb};

/// How many actions go to a sink together at most: some tens of kilobytes, which Redis removes in
/// well under a millisecond.
const PAGE_ACTIONS_MAX: usize = 1024;

/// How many bytes of values one page holds before the next one is begun.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// What an action costs in memory beside its value: its entry, owner, hash and place.
const ACTION_BYTES: usize = 48;

/// What a page takes beside its actions, with its share of the set that holds it: measured for a
/// set of one action, which allocates nine times.
const PAGE_BYTES: usize = 1024;

/// How many bytes of values a page has held at most that is kept for reuse.
const SPARE_PAGE_BYTES_MAX: usize = 128 << 10;

/// Emptied pages that are kept for reuse.
const SPARE_PAGES_MAX: usize = 4;

/// Distinct waiting actions.
#[derive(Debug, Default)]
pub(super) struct ActionSet {
    places: HashTable<Place>,
    pages: VecDeque<Page>,
    /// The number of the first page; numbers wrap around.
    first_page: u32,
    spare: Vec<Page>,
    bytes: usize,
    hasher: foldhash::fast::RandomState,
}

/// Where an action stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    page: u32,
    slot: u32,
}

/// Actions that will be sent together.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// The actions.
    pub(super) batch: Batch,
    /// For each, the transaction that waits for it.
    pub(super) owners: Vec<TxnId>,
    hashes: Vec<u64>,
}

impl Page {
    /// Whether one of its actions has that hash.
    pub(super) fn holds(&self, hash: u64) -> bool {
        self.hashes.contains(&hash)
    }
}

/// What became of an action that was put into the set.
pub(super) enum Put<'s> {
    /// It is new.
    Added,
    /// It waits already, for this transaction, which may be exchanged for an older one.
    Merged(&'s mut TxnId),
}

impl ActionSet {
    /// The memory that the waiting actions take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// How many batches they make.
    pub(super) fn pages(&self) -> usize {
        self.pages.len()
    }

    /// How many actions wait.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// The transactions that wait, some of them several times.
    pub(super) fn owners(&self) -> impl Iterator<Item = TxnId> + '_ {
        self.pages.iter().flat_map(|page| page.owners.iter().copied())
    }

    /// What the action that has waited longest does.
    pub(super) fn first_verb(&self) -> Option<Verb> {
        Some(self.pages.front()?.batch.iter().next()?.verb)
    }

    /// The owner of the action that has waited longest.
    pub(super) fn first_owner_mut(&mut self) -> Option<&mut TxnId> {
        self.pages.front_mut()?.owners.first_mut()
    }

    /// What a page of this set knows the action by.
    pub(super) fn hash(&self, action: Action<'_>) -> u64 {
        self.hasher.hash_one((action.verb as u8, action.value))
    }

    /// Adds an action for a transaction, unless its equal waits already.
    pub(super) fn put(&mut self, action: Action<'_>, owner: TxnId) -> Put<'_> {
        let hash = self.hash(action);
        let (pages, first) = (&self.pages, self.first_page);
        let at = |place: &Place| (place.page.wrapping_sub(first) as usize, place.slot as usize);
        let is_equal = |place: &Place| {
            let (page, slot) = at(place);
            pages[page].batch.get(slot) == action
        };
        if let Some(place) = self.places.find(hash, is_equal) {
            let (page, slot) = at(place);
            return Put::Merged(&mut self.pages[page].owners[slot]);
        }
        self.append(action, owner, hash);
        Put::Added
    }

    fn append(&mut self, action: Action<'_>, owner: TxnId, hash: u64) {
        let is_full = self.pages.back().is_none_or(|page| {
            page.batch.len() >= PAGE_ACTIONS_MAX || page.batch.value_bytes() >= PAGE_BYTES_MAX
        });
        if is_full {
            self.pages.push_back(self.spare.pop().unwrap_or_default());
            self.bytes += PAGE_BYTES;
        }
        let number = self.first_page.wrapping_add(self.pages.len() as u32 - 1);
        let Some(page) = self.pages.back_mut() else { return };
        let place = Place { page: number, slot: page.batch.len() as u32 };
        page.batch.push(action);
        page.owners.push(owner);
        page.hashes.push(hash);
        self.bytes += action.value.len() + ACTION_BYTES;
        let (pages, first) = (&self.pages, self.first_page);
        self.places.insert_unique(hash, place, |place| {
            pages[place.page.wrapping_sub(first) as usize].hashes[place.slot as usize]
        });
    }

    /// Takes the actions that have waited longest. They merge with nothing any more.
    pub(super) fn take(&mut self) -> Option<Page> {
        let page = self.pages.pop_front()?;
        let number = self.first_page;
        self.first_page = self.first_page.wrapping_add(1);
        self.bytes -= PAGE_BYTES + page.batch.value_bytes() + ACTION_BYTES * page.batch.len();
        if self.pages.is_empty() {
            self.places.clear();
            // A table that a burst has grown is not kept for ever.
            if self.places.capacity() > 4 * PAGE_ACTIONS_MAX {
                self.places = HashTable::new();
            }
            return Some(page);
        }
        for (slot, &hash) in page.hashes.iter().enumerate() {
            let place = Place { page: number, slot: slot as u32 };
            if let Ok(found) = self.places.find_entry(hash, |&other| other == place) {
                found.remove();
            }
        }
        Some(page)
    }

    /// The actions that wait, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Action<'_>> {
        self.pages.iter().flat_map(|page| page.batch.iter())
    }

    /// Calls `look` with the actions that wait, at most about `count` of them, spread evenly.
    pub(super) fn sample(&self, count: usize, mut look: impl FnMut(Action<'_>)) {
        let step = (self.len() / count.max(1)).max(1);
        self.iter().step_by(step).for_each(&mut look);
    }

    /// Takes out the actions that `is_meant` picks, and answers with their owners. The others keep
    /// their order.
    pub(super) fn extract(&mut self, is_meant: impl Fn(Action<'_>) -> bool) -> Vec<TxnId> {
        let mut owners = Vec::new();
        let mut kept = ActionSet::default();
        while let Some(page) = self.take() {
            for (action, &owner) in page.batch.iter().zip(&page.owners) {
                match is_meant(action) {
                    true => owners.push(owner),
                    // Equal ones were merged before.
                    false => drop(kept.put(action, owner)),
                }
            }
        }
        *self = kept;
        owners
    }

    /// Keeps an emptied page's memory for later, unless long values made that large.
    pub(super) fn recycle(&mut self, mut page: Page) {
        if self.spare.len() < SPARE_PAGES_MAX && page.batch.value_bytes() <= SPARE_PAGE_BYTES_MAX {
            page.batch.clear();
            page.owners.clear();
            page.hashes.clear();
            self.spare.push(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Verb;
    use crate::pipeline::Progress;

    #[test]
    fn a_giants_memory_is_not_kept() {
        let mut set = ActionSet::default();
        let owner = Progress::default().begin();
        for (bytes, kept) in [(3 * PAGE_BYTES_MAX, 0), (10, 1)] {
            let _ = set.put(Action { verb: Verb::Delete, value: &vec![b'x'; bytes] }, owner);
            let page = set.take().expect("a page");
            set.recycle(page);
            assert_eq!(set.spare.len(), kept, "{bytes}");
        }
    }

    #[test]
    fn page_numbers_wrap_around() {
        let mut set = ActionSet { first_page: u32::MAX, ..ActionSet::default() };
        let owner = Progress::default().begin();
        let values: Vec<String> = (0..3 * PAGE_ACTIONS_MAX).map(|at| at.to_string()).collect();
        for expected_new in [true, false] {
            for value in &values {
                let put = set.put(Action { verb: Verb::Delete, value: value.as_bytes() }, owner);
                assert_eq!(matches!(put, Put::Added), expected_new);
            }
        }
        for taken in (1..=3).rev() {
            assert_eq!(set.len(), taken * PAGE_ACTIONS_MAX);
            assert_eq!(set.take().map(|page| page.batch.len()), Some(PAGE_ACTIONS_MAX));
        }
        assert!(set.is_empty() && set.bytes() == 0);
    }
}
