//! What was done and is to be done again, some time later: an edge that missed just before its purge
//! may have filled from a shield that still had the old object, and a reader that read before a
//! commit may have filled a cache after its delete.
//!
//! In: actions that were done, with a time. Out: those that are due, each after every delay, which
//! all count from that time. An action that is done anew while its repeat waits is merged, and
//! nothing is lost by that: the repeats of the newer one come later than those that they stand for.
//! So that they come at all, however often it is done anew, the oldest repeat of each action stays
//! as it is, and only a second one behind it is put off.
//!
//! Pure: the clock is handed in.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashTable;

use super::afterwards::Load;
use super::lane::keep_older;
use super::progress::{Progress, TxnId};
use crate::action::{Action, Verb};

/// What an entry takes beside its value, with its share of the table and of what is allocated.
const ENTRY_BYTES: usize = size_of::<Entry>() + 24 + SINCE_BYTES;

/// What it takes in the order of all, where nodes are half full at worst.
const SINCE_BYTES: usize = 2 * size_of::<(Instant, u32)>();

/// No entry.
const NONE: u32 = u32::MAX;

/// What of one lane or several waits to be done again.
#[derive(Debug)]
pub(super) struct Again {
    /// In ascending order.
    delays: Arc<[Duration]>,
    /// For each delay, what waits for it, in the order of the times from which that counts.
    queues: Vec<Ends>,
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// The older entry of each action.
    places: HashTable<u32>,
    hasher: foldhash::fast::RandomState,
    load: Load,
    /// How many wait since when.
    since: BTreeMap<Instant, u32>,
}

/// That something was done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Once {
    /// From then on they count.
    pub(super) from: Instant,
    /// How many of the first delays are of no use.
    pub(super) skip: u8,
    /// When it was done.
    pub(super) done_at: Instant,
}

/// What was taken out for something that stands for it.
#[derive(Debug, Default)]
pub(super) struct Extracted {
    pub(super) owners: Vec<TxnId>,
    /// From when on the delays of the youngest count.
    latest_from: Option<Instant>,
    /// When the first was done.
    since: Option<Instant>,
}

/// The first and the last of a queue.
#[derive(Clone, Copy, Debug)]
struct Ends {
    first: u32,
    last: u32,
}

/// An action that was done, linked to its neighbours in its queue.
#[derive(Debug)]
struct Entry {
    verb: Verb,
    value: Box<[u8]>,
    /// For whom it waits.
    owner: TxnId,
    /// From when on its delays count.
    from: Instant,
    /// When the first that it stands for was done.
    since: Instant,
    /// Which delay it waits for.
    delay: u8,
    before: u32,
    after: u32,
    /// A later one of the same action.
    younger: u32,
}

impl Entry {
    fn action(&self) -> Action<'_> {
        Action { verb: self.verb, value: &self.value }
    }
}

impl Again {
    /// What is done again after each of `delays`, which are in ascending order.
    pub(super) fn new(delays: Arc<[Duration]>) -> Self {
        let empty = Ends { first: NONE, last: NONE };
        Again {
            queues: vec![empty; delays.len()],
            delays,
            entries: Vec::new(),
            free: Vec::new(),
            places: HashTable::new(),
            hasher: foldhash::fast::RandomState::default(),
            load: Load::default(),
            since: BTreeMap::new(),
        }
    }

    /// What waits.
    pub(super) fn load(&self) -> Load {
        self.load
    }

    /// The transactions for which something waits, some of them several times.
    pub(super) fn owners(&self) -> impl Iterator<Item = TxnId> + '_ {
        self.waiting().map(|at| self.entry(at).owner)
    }

    /// When the first of what waits was done.
    pub(super) fn oldest_since(&self) -> Option<Instant> {
        self.since.keys().next().copied()
    }

    /// Calls `look` with some of what waits, spread evenly.
    pub(super) fn sample(&self, count: usize, mut look: impl FnMut(Action<'_>)) {
        let step = (self.load.actions / count.max(1)).max(1);
        self.waiting().step_by(step).for_each(|at| look(self.entry(at).action()));
    }

    /// Takes out what `is_meant` picks.
    pub(super) fn extract(&mut self, is_meant: impl Fn(Action<'_>) -> bool) -> Extracted {
        let meant = |&at: &u32| is_meant(self.entry(at).action());
        let picked: Vec<u32> = self.waiting().filter(meant).collect();
        let mut extracted = Extracted::default();
        for at in picked {
            let Entry { owner, from, since, .. } = *self.entry(at);
            extracted.owners.push(owner);
            extracted.latest_from = extracted.latest_from.max(Some(from));
            let oldest = extracted.since.map_or(since, |oldest| oldest.min(since));
            extracted.since = Some(oldest);
            self.remove(at);
        }
        extracted
    }

    /// Adds an action that stands for others, at the last delay of the youngest.
    pub(super) fn add_coarse(
        &mut self,
        progress: &mut Progress,
        coarse: Action<'_>,
        instead_of: &Extracted,
    ) {
        let Extracted { owners, latest_from, since } = instead_of;
        if let (Some(oldest), Some(from), Some(since)) =
            (progress.oldest_of(owners), *latest_from, *since)
        {
            let last = self.delays.len().saturating_sub(1) as u8;
            self.add_behind(progress, coarse, oldest, (from, since), last);
        }
        owners.iter().for_each(|&owner| progress.finish(owner));
    }

    /// The delays.
    pub(super) fn delays(&self) -> &Arc<[Duration]> {
        &self.delays
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let firsts = self.queues.iter().map(|queue| queue.first).filter(|&first| first != NONE);
        firsts.map(|first| self.due_at(first)).min()
    }

    /// An action was done for a transaction. A purge of everything stands for all that waits: its
    /// repeats come later than any of those.
    pub(super) fn add(
        &mut self,
        progress: &mut Progress,
        action: Action<'_>,
        owner: TxnId,
        done: Once,
    ) {
        let covered = match action.verb {
            Verb::PurgeAll => self.extract(|action| action.verb != Verb::PurgeAll),
            _ => Extracted::default(),
        };
        let oldest = progress.oldest_of(&covered.owners);
        let oldest = oldest.filter(|&oldest| progress.is_older(oldest, owner)).unwrap_or(owner);
        let since = covered.since.map_or(done.done_at, |since| since.min(done.done_at));
        self.add_behind(progress, action, oldest, (done.from, since), done.skip);
        covered.owners.iter().for_each(|&owner| progress.finish(owner));
    }

    /// Puts one purge of everything in the place of all single ones, at the last delay of the
    /// youngest. Answers how many there were.
    pub(super) fn collapse(&mut self, progress: &mut Progress) -> usize {
        let singles = self.extract(|action| action.verb != Verb::PurgeAll);
        self.add_coarse(progress, Action::PURGE_ALL, &singles);
        singles.owners.len()
    }

    /// Calls `give` with what is due and counts from before `limit`. What has missed several delays
    /// comes once for all of them. Answers since when the oldest of it waited.
    pub(super) fn take_due(
        &mut self,
        progress: &mut Progress,
        now: Instant,
        limit: Option<Instant>,
        mut give: impl FnMut(&mut Progress, Action<'_>, TxnId),
    ) -> Option<Instant> {
        let mut oldest: Option<Instant> = None;
        for delay in 0..self.queues.len() {
            loop {
                let at = self.queues[delay].first;
                if at == NONE || self.due_at(at) > now {
                    break;
                }
                let Entry { owner, from, since, .. } = *self.entry(at);
                if limit.is_some_and(|limit| from >= limit) {
                    break;
                }
                oldest = Some(oldest.map_or(since, |oldest| oldest.min(since)));
                give(progress, self.entry(at).action(), owner);
                let mut later = delay + 1..self.delays.len();
                match later.find(|&later| from + self.delays[later] > now) {
                    Some(later) => {
                        self.unlink(at);
                        self.link(at, later as u8);
                    }
                    None => {
                        self.remove(at);
                        progress.finish(owner);
                    }
                }
            }
        }
        oldest
    }

    fn entry(&self, at: u32) -> &Entry {
        &self.entries[at as usize]
    }

    fn entry_mut(&mut self, at: u32) -> &mut Entry {
        &mut self.entries[at as usize]
    }

    fn due_at(&self, at: u32) -> Instant {
        let entry = self.entry(at);
        entry.from + self.delays[usize::from(entry.delay)]
    }

    /// Everything that waits, queue by queue.
    fn waiting(&self) -> impl Iterator<Item = u32> + '_ {
        let listed = |at: u32| (at != NONE).then_some(at);
        self.queues.iter().flat_map(move |queue| {
            std::iter::successors(listed(queue.first), move |&at| listed(self.entry(at).after))
        })
    }

    fn hash(&self, action: Action<'_>) -> u64 {
        self.hasher.hash_one((action.verb, action.value))
    }

    /// The older entry of an action.
    fn find(&self, action: Action<'_>) -> Option<u32> {
        let is_it = |&at: &u32| self.entry(at).action() == action;
        self.places.find(self.hash(action), is_it).copied()
    }

    /// Adds an action behind the older entry of the same, if there is one.
    fn add_behind(
        &mut self,
        progress: &mut Progress,
        action: Action<'_>,
        owner: TxnId,
        (from, since): (Instant, Instant),
        delay: u8,
    ) {
        let first = self.find(action);
        let second = first.map(|first| self.entry(first).younger).filter(|&at| at != NONE);
        if let Some(second) = second {
            self.unlink(second);
            let entry = self.entry_mut(second);
            keep_older(progress, &mut entry.owner, owner);
            entry.from = entry.from.max(from);
            let was = entry.since;
            entry.since = was.min(since);
            self.forget_since(was);
            self.remember_since(was.min(since));
            return self.link(second, delay);
        }
        progress.add(owner);
        let at = self.insert(action, owner, (from, since));
        match first {
            Some(first) => self.entry_mut(first).younger = at,
            None => self.place(at),
        }
        self.link(at, delay);
    }

    fn remember_since(&mut self, since: Instant) {
        *self.since.entry(since).or_default() += 1;
    }

    fn forget_since(&mut self, since: Instant) {
        if let Some(count) = self.since.get_mut(&since) {
            *count -= 1;
            if *count == 0 {
                self.since.remove(&since);
            }
        }
    }

    fn insert(
        &mut self,
        action: Action<'_>,
        owner: TxnId,
        (from, since): (Instant, Instant),
    ) -> u32 {
        let Action { verb, value } = action;
        let (before, after, younger) = (NONE, NONE, NONE);
        self.load += Load { actions: 1, bytes: ENTRY_BYTES + value.len() };
        self.remember_since(since);
        let value = value.into();
        let entry = Entry { verb, value, owner, from, since, delay: 0, before, after, younger };
        match self.free.pop() {
            Some(at) => {
                self.entries[at as usize] = entry;
                at
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        }
    }

    fn place(&mut self, at: u32) {
        let hash = self.hash(self.entry(at).action());
        let Again { places, entries, hasher, .. } = self;
        places.insert_unique(hash, at, |&at| {
            let Entry { verb, value, .. } = &entries[at as usize];
            hasher.hash_one((*verb, &**value))
        });
    }

    /// Forgets an entry; the younger one of the same action takes its place.
    fn remove(&mut self, at: u32) {
        self.unlink(at);
        let action = self.entry(at).action();
        let hash = self.hash(action);
        let first = self.find(action);
        if first == Some(at) {
            let younger = self.entry(at).younger;
            if let Ok(place) = self.places.find_entry(hash, |&other| other == at) {
                place.remove();
            }
            if younger != NONE {
                self.place(younger);
            }
        } else if let Some(first) = first {
            self.entry_mut(first).younger = NONE;
        }
        self.forget_since(self.entry(at).since);
        let value = std::mem::take(&mut self.entry_mut(at).value);
        self.load -= Load { actions: 1, bytes: ENTRY_BYTES + value.len() };
        match self.load.actions {
            // What a burst has grown is not kept for ever.
            0 => {
                self.entries = Vec::new();
                self.free = Vec::new();
                self.places = HashTable::new();
            }
            _ => self.free.push(at),
        }
    }

    /// Lets an entry wait for a delay, behind those that were done before it.
    fn link(&mut self, at: u32, delay: u8) {
        let (from, queue) = (self.entry(at).from, usize::from(delay));
        let (mut before, mut after) = (self.queues[queue].last, NONE);
        // Nearly always none is younger.
        while before != NONE && self.entry(before).from > from {
            after = before;
            before = self.entry(before).before;
        }
        let entry = self.entry_mut(at);
        (entry.delay, entry.before, entry.after) = (delay, before, after);
        match before {
            NONE => self.queues[queue].first = at,
            before => self.entry_mut(before).after = at,
        }
        match after {
            NONE => self.queues[queue].last = at,
            after => self.entry_mut(after).before = at,
        }
    }

    fn unlink(&mut self, at: u32) {
        let Entry { before, after, delay, .. } = *self.entry(at);
        let queue = usize::from(delay);
        match before {
            NONE => self.queues[queue].first = after,
            before => self.entry_mut(before).after = after,
        }
        match after {
            NONE => self.queues[queue].last = before,
            after => self.entry_mut(after).before = before,
        }
    }
}
