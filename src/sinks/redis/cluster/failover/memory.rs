//! What has a lane done lately that the successor of a master may not know of? Pure: no I/O, no
//! clock.
//!
//! As on a single server, with two differences. Each batch knows the places where its keys were
//! ([`Homes`]), and is done again when one of these is gone, whatever becomes of the others. And
//! the members of tags that lie in other slots than their tag's set are remembered by name: with
//! the set on a master that lives on, nothing would tell of them any more.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::super::session::Keys;
use super::home::{Home, Homes};
use super::view::{State, View};
use crate::action::Batch;

/// Batches that were done within so short a time share an entry: what is done again goes in few
/// requests then.
const SHARE_WITHIN: Duration = Duration::from_millis(100);

/// How many actions an entry has at most, as many as the pipeline sends together.
const SHARED_ACTIONS_MAX: usize = 1024;

/// About what an entry costs beside its values.
const ENTRY_BYTES: usize = 240;

/// What an action costs beside its value.
const ACTION_BYTES: usize = 8;

/// What was done in one go, or nearly so.
pub(super) struct Entry {
    /// When the first of it was done.
    begun: Instant,
    /// When the last of it was done.
    at: Instant,
    pub(super) batch: Arc<Batch>,
    /// Keys that it deleted and that doing it again would not find.
    pub(super) names: Arc<Keys>,
    homes: Homes,
}

impl Entry {
    fn cost(&self) -> usize {
        let batch = self.batch.len() * ACTION_BYTES + self.batch.value_bytes();
        ENTRY_BYTES + batch + self.names.cost()
    }
}

/// What was done and is not remembered.
pub(super) struct Forgotten {
    at: Instant,
    homes: Homes,
    /// Whether names are among it, which no fallback brings back.
    pub(super) has_names: bool,
}

/// What was done, the oldest first.
pub(super) struct Memory {
    window: Duration,
    entries: VecDeque<Entry>,
    bytes: usize,
    forgotten: Option<Forgotten>,
}

impl Memory {
    pub(super) fn new(window: Duration) -> Self {
        Memory { window, entries: VecDeque::new(), bytes: 0, forgotten: None }
    }

    /// A batch was done just now.
    pub(super) fn remember(&mut self, batch: &Batch, names: Keys, homes: Homes, now: Instant) {
        let Some(names) = self.share(batch, names, &homes, now) else { return };
        let (batch, names) = (Arc::new(batch.clone()), Arc::new(names));
        let entry = Entry { begun: now, at: now, batch, names, homes };
        self.bytes += entry.cost();
        self.entries.push_back(entry);
    }

    /// Adds a batch to the newest entry, if they fit together; else the names come back.
    fn share(&mut self, batch: &Batch, names: Keys, homes: &Homes, now: Instant) -> Option<Keys> {
        let Some(last) = self.entries.back_mut() else { return Some(names) };
        let fits = last.homes == *homes
            && now.saturating_duration_since(last.begun) < SHARE_WITHIN
            && last.batch.len() + batch.len() <= SHARED_ACTIONS_MAX;
        if !fits {
            return Some(names);
        }
        let before = last.cost();
        let shared = Arc::make_mut(&mut last.batch);
        batch.iter().for_each(|action| shared.push(action));
        if !names.is_empty() {
            Arc::make_mut(&mut last.names).append(&names);
        }
        last.at = now;
        self.bytes += last.cost() - before;
        None
    }

    /// More was done than is remembered, until `now`.
    pub(super) fn forget(&mut self, homes: &BTreeSet<Home>, has_names: bool, now: Instant) {
        let mut all = homes.clone();
        let before = self.forgotten.take();
        all.extend(before.iter().flat_map(|before| before.homes.iter().cloned()));
        let has_names = has_names || before.is_some_and(|before| before.has_names);
        self.forgotten = Some(Forgotten { at: now, homes: Arc::new(all), has_names });
    }

    /// Forgets the oldest entries until no more than `bytes_max` are left.
    pub(super) fn shrink(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max {
            let Some(entry) = self.entries.pop_front() else { return };
            self.bytes -= entry.cost();
            let before = self.forgotten.as_ref().map_or(entry.at, |before| before.at);
            self.forget(&entry.homes, !entry.names.is_empty(), entry.at.max(before));
        }
    }

    /// Forgets what was there, with everything that it depends on, a window after it was done.
    pub(super) fn seen(&mut self, view: &View) {
        let window = self.window;
        let is_safe = |at: Instant, homes: &Homes| {
            view.at.saturating_duration_since(at) >= window
                && homes.iter().all(|home| view.state(home) == State::There)
        };
        let mut bytes = 0;
        self.entries.retain(|entry| {
            let is_kept = !is_safe(entry.at, &entry.homes);
            bytes += if is_kept { entry.cost() } else { 0 };
            is_kept
        });
        self.bytes = bytes;
        self.forgotten = self.forgotten.take().filter(|known| !is_safe(known.at, &known.homes));
    }

    /// Whether anything that was done is lost, as far as a view tells that is newer.
    pub(super) fn has_lost(&self, view: &View) -> bool {
        self.lost_forgotten(view).is_some()
            || (0..self.len()).any(|at| self.lost(at, view).is_some())
    }

    /// What is lost and not remembered.
    pub(super) fn lost_forgotten(&self, view: &View) -> Option<&Forgotten> {
        self.forgotten.as_ref().filter(|known| is_lost(known.at, &known.homes, view))
    }

    /// The entry at this place, if it is lost.
    pub(super) fn lost(&self, at: usize, view: &View) -> Option<&Entry> {
        self.entries.get(at).filter(|entry| is_lost(entry.at, &entry.homes, view))
    }

    /// How many actions are lost, and keys beside them.
    pub(super) fn lost_actions(&self, view: &View) -> usize {
        let lost = (0..self.len()).filter_map(|at| self.lost(at, view));
        lost.map(|entry| entry.batch.len() + entry.names.len()).sum()
    }

    /// The entry at this place was tried again: what was touched, and if it is done, since when.
    pub(super) fn retried(
        &mut self,
        at: usize,
        touched: &BTreeSet<Home>,
        names: &Keys,
        done: Option<Instant>,
        view: &View,
    ) {
        let Some(entry) = self.entries.get_mut(at) else { return };
        self.bytes -= entry.cost();
        entry.homes = renewed(&entry.homes, touched, done.map(|_| view));
        (entry.begun, entry.at) = done.map_or((entry.begun, entry.at), |now| (now, now));
        if !names.is_empty() {
            Arc::make_mut(&mut entry.names).append(names);
        }
        self.bytes += entry.cost();
    }

    /// The same of what is not remembered, for which the fallbacks ran.
    pub(super) fn retried_forgotten(
        &mut self,
        touched: &BTreeSet<Home>,
        done: Option<Instant>,
        view: &View,
    ) {
        if let Some(known) = &mut self.forgotten {
            known.homes = renewed(&known.homes, touched, done.map(|_| view));
            known.at = done.unwrap_or(known.at);
        }
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.forgotten.is_none()
    }

    /// All places that it depends on.
    pub(super) fn homes(&self) -> BTreeSet<Home> {
        let mut all = BTreeSet::new();
        let forgotten = self.forgotten.iter().map(|known| &known.homes);
        let mut last: Option<&Homes> = None;
        for homes in self.entries.iter().map(|entry| &entry.homes).chain(forgotten) {
            // Nearly always the same as before.
            if last.is_none_or(|last| !Arc::ptr_eq(last, homes)) {
                all.extend(homes.iter().cloned());
            }
            last = Some(homes);
        }
        all
    }
}

/// What was done after the view was taken, it says nothing about.
fn is_lost(at: Instant, homes: &Homes, view: &View) -> bool {
    at <= view.at && homes.iter().any(|home| view.state(home) == State::Gone)
}

/// Where something depends on that was tried again; if `view` is given, with success.
fn renewed(before: &Homes, touched: &BTreeSet<Home>, view: Option<&View>) -> Homes {
    let counts = |home: &&Home| view.is_none_or(|view| view.state(home) != State::Gone);
    let mut homes: BTreeSet<Home> = before.iter().filter(counts).cloned().collect();
    homes.extend(touched.iter().cloned());
    Arc::new(homes)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::super::super::config::NodeAddress;
    use super::super::view::Said;
    use super::*;
    use crate::action::{Action, Verb};

    const SECOND: Duration = Duration::from_secs(1);

    fn node(host: &str) -> NodeAddress {
        NodeAddress { host: host.to_owned(), port: 1 }
    }

    fn homes(all: &[(&str, &str)]) -> Homes {
        let home = |(host, history): &(&str, &str)| Home {
            node: node(host),
            history: (*history).to_owned(),
        };
        Arc::new(all.iter().map(home).collect())
    }

    /// Masters that have said which histories they have.
    fn view(at: Instant, said: &[(&str, &str)]) -> View {
        let said = said.iter().map(|(host, history)| {
            let said = Said { history: Some((*history).to_owned()), is_ok: true, epoch: 0 };
            (node(host), Some(said))
        });
        View { at, number: 1, said: said.collect::<HashMap<_, _>>(), masters: None }
    }

    fn batch(bytes: usize) -> Batch {
        let mut batch = Batch::default();
        batch.push(Action { verb: Verb::Delete, value: &vec![b'k'; bytes] });
        batch
    }

    fn names(count: usize) -> Keys {
        let mut names = Keys::default();
        (0..count).for_each(|_| names.push(None, &[b"name"]));
        names
    }

    #[test]
    fn what_was_done_is_forgotten_when_all_its_places_were_seen_a_window_later() {
        let start = Instant::now();
        let mut memory = Memory::new(10 * SECOND);
        memory.remember(&batch(1), names(0), homes(&[("a", "1")]), start);
        memory.remember(&batch(1), names(0), homes(&[("a", "1"), ("b", "1")]), start);
        memory.seen(&view(start + 9 * SECOND, &[("a", "1"), ("b", "1")]));
        assert_eq!(memory.len(), 2);
        // Nobody knows about the other one.
        memory.seen(&view(start + 20 * SECOND, &[("a", "1")]));
        assert_eq!((memory.len(), memory.homes().len()), (1, 2));
        memory.seen(&view(start + 21 * SECOND, &[("a", "1"), ("b", "1")]));
        assert!(memory.is_empty() && memory.bytes == 0);
    }

    #[test]
    fn what_is_lost_with_one_place_is_done_again_and_depends_on_its_successor() {
        let start = Instant::now();
        let mut memory = Memory::new(10 * SECOND);
        memory.remember(&batch(1), names(2), homes(&[("a", "1"), ("b", "1")]), start);
        memory.remember(&batch(1), names(0), homes(&[("b", "1")]), start);
        // Of what came later it says nothing.
        memory.remember(&batch(1), names(0), homes(&[("a", "1")]), start + 2 * SECOND);
        let replaced = view(start + SECOND, &[("a", "2"), ("b", "1"), ("c", "1")]);
        let lost = |memory: &Memory, view: &View| {
            (0..memory.len()).filter(|&at| memory.lost(at, view).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(lost(&memory, &replaced), [0]);
        assert_eq!(memory.lost_actions(&replaced), 3);
        // Half of it, and what that deleted.
        memory.retried(0, &homes(&[("c", "1")]), &names(1), None, &replaced);
        assert_eq!(lost(&memory, &replaced), [0]);
        assert_eq!(memory.lost_actions(&replaced), 4);
        let done = Some(start + 3 * SECOND);
        memory.retried(0, &homes(&[("c", "1")]), &names(0), done, &replaced);
        assert!(!memory.has_lost(&replaced));
        let next = view(start + 4 * SECOND, &[("a", "2"), ("b", "1"), ("c", "2")]);
        assert_eq!(lost(&memory, &next), [0, 2]);
        assert_eq!(memory.entries[0].homes, homes(&[("b", "1"), ("c", "1")]));
    }

    #[test]
    fn memory_is_bounded_and_where_the_rest_was_done_is_known_for_as_long() {
        let start = Instant::now();
        let mut memory = Memory::new(10 * SECOND);
        for at in 0..6 {
            let names = names(usize::from(at == 0));
            let homes = homes(&[(if at < 2 { "a" } else { "b" }, "1")]);
            memory.remember(&batch(1 << 20), names, homes, start + at * SECOND);
            memory.shrink(4 << 20);
            assert!(memory.bytes <= 4 << 20);
        }
        assert_eq!(memory.len(), 3);
        let lost = view(start + 6 * SECOND, &[("a", "2"), ("b", "1")]);
        let forgotten = memory.lost_forgotten(&lost).map(|known| known.has_names);
        assert_eq!(forgotten, Some(true));
        let done = Some(start + 7 * SECOND);
        memory.retried_forgotten(&homes(&[("a", "2")]), done, &lost);
        assert!(!memory.has_lost(&lost));
        let again = view(start + 8 * SECOND, &[("a", "3"), ("b", "1")]);
        assert!(memory.lost_forgotten(&again).is_some(), "it may be lost there, too");
        let both = [("a", "2"), ("b", "1")];
        memory.seen(&view(start + 16 * SECOND, &both));
        assert_eq!((memory.len(), memory.is_empty()), (0, false));
        memory.seen(&view(start + 17 * SECOND, &both));
        assert!(memory.is_empty() && memory.bytes == 0);
    }

    #[test]
    fn what_follows_at_once_in_the_same_places_shares_an_entry() {
        let start = Instant::now();
        let mut memory = Memory::new(10 * SECOND);
        for at in [0, 50, 150] {
            let at = start + Duration::from_millis(at);
            memory.remember(&batch(1), names(1), homes(&[("a", "1")]), at);
        }
        memory.remember(&batch(1), names(1), homes(&[("b", "1")]), start);
        let shape = |entry: &Entry| (entry.batch.len(), entry.names.len());
        assert_eq!(memory.entries.iter().map(shape).collect::<Vec<_>>(), [(2, 2), (1, 1), (1, 1)]);
        assert_eq!(memory.bytes, memory.entries.iter().map(Entry::cost).sum::<usize>());
    }
}
