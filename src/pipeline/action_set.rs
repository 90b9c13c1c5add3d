//! What waits for a lane: distinct actions in the order in which they came, each with the oldest
//! transaction that asked for it.
//!
//! The actions stand in pages, each the batch that a sink will get. A hash table knows where an
//! action stands, and holds no second copy of it.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::ops::Range;
use std::time::Instant;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::progress::TxnId;
use crate::action::{Action, Batch, Verb};

/// How many actions go to a sink together at most: some hundred kilobytes, which Redis removes in
/// some milliseconds, in commands between which it serves others. With fewer the way there and back
/// would be most of the time, since a lane has one batch in flight.
pub(super) const PAGE_ACTIONS_MAX: usize = 4096;

/// How many bytes of values one page holds before the next one is begun.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// What an action costs in memory beside its value: its entry, owner, hash and place.
const ACTION_BYTES: usize = 48;

/// What a page takes beside its actions, with its share of the set that holds it: measured for a
/// set of one action, which allocates nine times.
const PAGE_BYTES: usize = 1024;

/// How many bytes of values a page has held at most that is kept for reuse.
const SPARE_PAGE_BYTES_MAX: usize = 256 << 10;

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
    /// What is known of the actions that are put from now on.
    visible: Visible,
}

/// By when the transactions of some actions were visible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Visible {
    /// There is none yet.
    #[default]
    Nobody,
    /// All of them by then.
    By(Instant),
    /// That is not known of all.
    Unknown,
}

impl Visible {
    /// All of both.
    fn and(self, other: Visible) -> Visible {
        match (self, other) {
            (Visible::Nobody, known) | (known, Visible::Nobody) => known,
            (Visible::By(one), Visible::By(other)) => Visible::By(one.max(other)),
            _ => Visible::Unknown,
        }
    }

    /// The time, if it is known.
    pub(super) fn by(self) -> Option<Instant> {
        match self {
            Visible::By(at) => Some(at),
            Visible::Nobody | Visible::Unknown => None,
        }
    }
}

impl From<Option<Instant>> for Visible {
    fn from(at: Option<Instant>) -> Self {
        at.map_or(Visible::Unknown, Visible::By)
    }
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
    /// By when all of their transactions were visible.
    pub(super) visible: Visible,
}

impl Page {
    fn push(&mut self, action: Action<'_>, owner: TxnId, hash: u64) {
        self.batch.push(action);
        self.owners.push(owner);
        self.hashes.push(hash);
    }

    /// Adds the actions of another page that stand there.
    fn extend(&mut self, other: &Page, range: Range<usize>) {
        self.visible = self.visible.and(other.visible);
        for at in range {
            self.push(other.batch.get(at), other.owners[at], other.hashes[at]);
        }
    }

    fn is_full(&self) -> bool {
        self.batch.len() >= PAGE_ACTIONS_MAX || self.batch.value_bytes() >= PAGE_BYTES_MAX
    }

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
        self.hasher.hash_one((action.verb, action.value))
    }

    /// Adds an action for a transaction, unless its equal waits already.
    pub(super) fn put(&mut self, action: Action<'_>, owner: TxnId) -> Put<'_> {
        let hash = self.hash(action);
        let (pages, first) = (&self.pages, self.first_page);
        let page_of = |place: &Place| place.page.wrapping_sub(first) as usize;
        let is_equal = |place: &Place| {
            let page = &pages[page_of(place)];
            page.hashes[place.slot as usize] == hash
                && page.batch.get(place.slot as usize) == action
        };
        let hash_of = |place: &Place| pages[page_of(place)].hashes[place.slot as usize];
        match self.places.entry(hash, is_equal, hash_of) {
            Entry::Occupied(found) => {
                let place = found.get();
                let page = &mut self.pages[page_of(place)];
                page.visible = page.visible.and(self.visible);
                Put::Merged(&mut page.owners[place.slot as usize])
            }
            Entry::Vacant(vacant) => {
                let last = self.pages.back().filter(|page| !page.is_full());
                let slot = last.map_or(0, |page| page.batch.len() as u32);
                if last.is_none() {
                    self.pages.push_back(self.spare.pop().unwrap_or_default());
                    self.bytes += PAGE_BYTES;
                }
                let number = first.wrapping_add(self.pages.len() as u32 - 1);
                vacant.insert(Place { page: number, slot });
                if let Some(page) = self.pages.back_mut() {
                    page.push(action, owner, hash);
                    page.visible = page.visible.and(self.visible);
                }
                self.bytes += action.value.len() + ACTION_BYTES;
                Put::Added
            }
        }
    }

    /// What is known of the transactions of the actions that are put from now on.
    pub(super) fn set_visible(&mut self, visible: Visible) {
        self.visible = visible;
    }

    /// What is known of the transactions of all actions.
    pub(super) fn set_all_visible(&mut self, visible: Visible) {
        self.pages.iter_mut().for_each(|page| page.visible = visible);
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

    /// Takes the actions that have waited longest, so many of them as long as there are enough and
    /// their values are not long.
    pub(super) fn take_exactly(&mut self, most: usize) -> Option<Page> {
        let mut page = self.take()?;
        if page.batch.len() > most {
            let mut first = Page::default();
            first.extend(&page, 0..most);
            self.put_back(&page, most);
            return Some(first);
        }
        while page.batch.len() < most && page.batch.value_bytes() < PAGE_BYTES_MAX {
            let Some(next) = self.take() else { break };
            let more = (most - page.batch.len()).min(next.batch.len());
            page.extend(&next, 0..more);
            self.put_back(&next, more);
        }
        Some(page)
    }

    /// Puts what a page holds from `from` on in front of what waits.
    fn put_back(&mut self, page: &Page, from: usize) {
        let mut rest = self.spare.pop().unwrap_or_default();
        rest.extend(page, from..page.batch.len());
        if rest.owners.is_empty() {
            return self.spare.push(rest);
        }
        self.first_page = self.first_page.wrapping_sub(1);
        self.bytes += PAGE_BYTES + rest.batch.value_bytes() + ACTION_BYTES * rest.batch.len();
        self.pages.push_front(rest);
        let Some(rest) = self.pages.front() else { return };
        let (pages, first) = (&self.pages, self.first_page);
        for (slot, &hash) in rest.hashes.iter().enumerate() {
            let place = Place { page: first, slot: slot as u32 };
            self.places.insert_unique(hash, place, |place| {
                pages[place.page.wrapping_sub(first) as usize].hashes[place.slot as usize]
            });
        }
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
            kept.visible = page.visible;
            for (action, &owner) in page.batch.iter().zip(&page.owners) {
                match is_meant(action) {
                    true => owners.push(owner),
                    // Equal ones were merged before.
                    false => drop(kept.put(action, owner)),
                }
            }
        }
        kept.visible = self.visible;
        *self = kept;
        owners
    }

    /// Keeps an emptied page's memory for later, unless long values made that large.
    pub(super) fn recycle(&mut self, mut page: Page) {
        if self.spare.len() < SPARE_PAGES_MAX && page.batch.value_bytes() <= SPARE_PAGE_BYTES_MAX {
            page.batch.clear();
            page.owners.clear();
            page.hashes.clear();
            page.visible = Visible::Nobody;
            self.spare.push(page);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

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
    fn as_many_as_a_request_holds_are_taken_whatever_the_pages() {
        let mut set = ActionSet { first_page: 1, ..ActionSet::default() };
        let owner = Progress::default().begin();
        let put = |set: &mut ActionSet, number: usize| {
            let value = number.to_string();
            let put = set.put(Action { verb: Verb::PurgeKey, value: value.as_bytes() }, owner);
            matches!(put, Put::Added)
        };
        let count = 3 * PAGE_ACTIONS_MAX + 10;
        assert!((0..count).all(|number| put(&mut set, number)));
        let mut taken = Vec::new();
        while let Some(page) = set.take_exactly(1000) {
            let rest = count - taken.len();
            assert_eq!(page.batch.len(), rest.min(1000));
            assert_eq!((page.owners.len(), page.hashes.len()), (rest.min(1000), rest.min(1000)));
            let value = |action: Action<'_>| String::from_utf8(action.value.to_vec()).unwrap();
            taken.extend(page.batch.iter().map(value));
            assert_eq!(set.len(), count - taken.len());
            // What waits still is known, wherever it stands now.
            assert!((taken.len()..count).all(|number| !put(&mut set, number)));
        }
        assert_eq!(taken, (0..count).map(|number| number.to_string()).collect::<Vec<_>>());
        assert!(set.is_empty() && set.bytes() == 0);
        assert!(put(&mut set, 0));
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
