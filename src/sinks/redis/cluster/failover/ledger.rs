//! Where has a cluster's sink done what it did, over all of its lanes and over restarts?
//!
//! What single lanes remember is gone with the process. So each place is noted before anything is
//! done there, and stays noted until it is gone and no lane has anything left to repeat for it.
//! Whoever starts takes what is noted for work that nobody remembers: if a place is gone, or goes
//! within the window, the fallbacks of every rule that reaches the sink run.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::super::super::config::NodeAddress;
use super::home::{Home, Homes, Note};
use super::view::{State, View};

/// What the lanes of a cluster's sink share.
pub struct Ledger {
    inner: Mutex<Inner>,
    /// A lane has repeated, or forgotten, what it had done.
    moved: Notify,
    /// There is something to look for.
    wanted: Notify,
}

/// What a lane depends on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Dependence {
    /// Where it did what is done.
    pub(super) done: BTreeSet<Home>,
    /// Where it does the batch under way, of which nobody has been told yet.
    pub(super) under_way: BTreeSet<Home>,
    /// Whether it does nothing but tell of what the others do.
    pub(super) tells: bool,
}

impl Dependence {
    fn homes(&self) -> impl Iterator<Item = &Home> {
        self.done.iter().chain(&self.under_way)
    }
}

/// Keeps what is noted for the next process.
type Keep = Box<dyn FnMut(&str) + Send>;

struct Inner {
    noted: Note,
    /// What an earlier process has left, until a lane takes it over.
    left: Option<Note>,
    /// What each lane depends on.
    lanes: Vec<Dependence>,
    note: Option<Keep>,
}

impl Default for Ledger {
    /// One that is forgotten with the process.
    fn default() -> Self {
        let inner = Inner { noted: Note::default(), left: None, lanes: Vec::new(), note: None };
        Ledger { inner: Mutex::new(inner), moved: Notify::new(), wanted: Notify::new() }
    }
}

impl Ledger {
    /// `noted` is what an earlier process has left, and `note` keeps it for the next one: it is on
    /// disk when that returns.
    pub fn new(noted: Option<&str>, note: impl FnMut(&str) + Send + 'static) -> Self {
        let ledger = Ledger::default();
        {
            let mut inner = ledger.lock();
            inner.left = noted.map(Note::parse);
            inner.noted = inner.left.clone().unwrap_or_default();
            inner.note = Some(Box::new(note));
        }
        ledger
    }

    /// One more lane shares it, which does nothing but tell of the others' work if `tells`: its
    /// number, and what it takes over from an earlier process.
    pub(super) fn join(&self, tells: bool) -> (usize, Option<Note>) {
        let mut inner = self.lock();
        let left = inner.left.take();
        let done = left.iter().flat_map(|left| left.homes.iter().cloned()).collect();
        inner.lanes.push(Dependence { done, tells, ..Dependence::default() });
        (inner.lanes.len() - 1, left)
    }

    /// A lane is about to do something at a place.
    pub(super) fn meet(&self, lane: usize, home: &Home) {
        let mut inner = self.lock();
        if !inner.lanes[lane].under_way.contains(home) {
            inner.lanes[lane].under_way.insert(home.clone());
        }
        if !inner.noted.homes.contains(home) {
            Arc::make_mut(&mut inner.noted.homes).insert(home.clone());
            inner.write();
        }
        drop(inner);
        self.wanted.notify_one();
    }

    /// A lane is about to take members off lists that lie in other slots.
    pub(super) fn meet_members(&self) {
        let mut inner = self.lock();
        if !inner.noted.has_members {
            inner.noted.has_members = true;
            inner.write();
        }
    }

    /// What a lane was about to do at these places is done.
    pub(super) fn done(&self, lane: usize, homes: &BTreeSet<Home>) {
        let mut inner = self.lock();
        let done = &mut inner.lanes[lane].done;
        if !homes.is_subset(done) {
            done.extend(homes.iter().cloned());
        }
    }

    /// All that a lane depends on.
    pub(super) fn remembers(&self, lane: usize, all: Dependence) {
        let mut inner = self.lock();
        if inner.lanes[lane] == all {
            return;
        }
        inner.lanes[lane] = all;
        drop(inner);
        self.moved.notify_waiters();
    }

    /// Strikes out the places that are gone, or serve nothing any more, and that no lane depends on.
    /// The others stay, although nothing depends on them, as they are needed again soon.
    pub(super) fn settle(&self, view: &View) {
        let mut inner = self.lock();
        let Inner { noted, lanes, .. } = &mut *inner;
        let serves = |home: &Home| {
            view.state(home) != State::Gone
                && view.masters.as_ref().is_none_or(|masters| masters.contains(&home.node))
        };
        let is_needed = |home: &Home| lanes.iter().flat_map(Dependence::homes).any(|of| of == home);
        let is_done = |home: &Home| !serves(home) && !is_needed(home);
        if noted.homes.iter().any(is_done) {
            Arc::make_mut(&mut noted.homes).retain(|home| !is_done(home));
            inner.write();
        }
    }

    /// All places that are noted.
    pub(super) fn homes(&self) -> Homes {
        Arc::clone(&self.lock().noted.homes)
    }

    /// The nodes of all places that some lane depends on.
    pub(super) fn nodes(&self) -> BTreeSet<NodeAddress> {
        let inner = self.lock();
        let homes = inner.lanes.iter().flat_map(Dependence::homes);
        let homes = homes.filter(|home| !home.is_unknown());
        homes.map(|home| home.node.clone()).collect()
    }

    /// Whether any lane depends on anything.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().lanes.iter().all(|lane| lane.homes().next().is_none())
    }

    /// Waits until a lane depends on something.
    pub(super) async fn wanted(&self) {
        while self.is_empty() {
            self.wanted.notified().await;
        }
    }

    /// Waits until no lane has anything to repeat that is told of; whether that came to be within
    /// `patience`.
    pub(super) async fn others_done(&self, view: &View, patience: Duration) -> bool {
        let waiting = async {
            loop {
                // Before the look, so that no move falls between the two.
                let moved = self.moved.notified();
                if !self.lock().is_behind(view) {
                    return;
                }
                moved.await;
            }
        };
        tokio::time::timeout(patience, waiting).await.is_ok()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn write(&mut self) {
        if let Some(note) = &mut self.note {
            note(&self.noted.to_string());
        }
    }

    fn is_behind(&self, view: &View) -> bool {
        let others = self.lanes.iter().filter(|lane| !lane.tells);
        let mut homes = others.flat_map(|lane| &lane.done);
        homes.any(|home| view.state(home) == State::Gone)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use std::collections::HashMap;
    use std::time::Instant;

    use super::*;

    fn home(name: &str) -> Home {
        let node = NodeAddress { host: name.to_owned(), port: 1 };
        Home { node, history: name.to_owned() }
    }

    fn homes(names: &[&str]) -> BTreeSet<Home> {
        names.iter().map(|name| home(name)).collect()
    }

    fn on(names: &[&str]) -> Dependence {
        Dependence { done: homes(names), ..Dependence::default() }
    }

    fn ledger(noted: Option<&str>) -> (Ledger, Arc<Mutex<Vec<String>>>) {
        let notes = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&notes);
        let note = move |note: &str| kept.lock().unwrap().push(note.to_owned());
        (Ledger::new(noted, note), notes)
    }

    /// A view in which these are the masters, and nobody else answers.
    fn view(masters: &[&str]) -> View {
        let nodes = ["a", "b", "c"].map(|name| home(name).node);
        let said: HashMap<_, _> = nodes.into_iter().map(|node| (node, None)).collect();
        let masters = Some(masters.iter().map(|name| home(name).node).collect());
        View { at: Instant::now(), number: 1, said, masters }
    }

    #[test]
    fn a_place_is_noted_before_it_is_used_and_until_nothing_depends_on_it() {
        let (ledger, notes) = ledger(None);
        let notes = || notes.lock().unwrap().join(", ");
        assert_eq!((ledger.join(false), ledger.join(false)), ((0, None), (1, None)));
        assert!(ledger.is_empty());
        ledger.meet(0, &home("a"));
        ledger.meet(1, &home("a"));
        ledger.meet(1, &home("b"));
        assert_eq!(notes(), "a:1#a, a:1#a b:1#b");
        ledger.remembers(0, Dependence::default());
        ledger.settle(&view(&["b", "c"]));
        assert_eq!(notes(), "a:1#a, a:1#a b:1#b", "the other lane would be forgotten in a crash");
        ledger.remembers(1, on(&["b"]));
        ledger.settle(&view(&["a", "b"]));
        assert_eq!(notes(), "a:1#a, a:1#a b:1#b", "it is there");
        ledger.settle(&view(&["b", "c"]));
        assert_eq!(notes(), "a:1#a, a:1#a b:1#b, b:1#b");
        ledger.meet_members();
        ledger.meet_members();
        assert!(notes().ends_with(", b:1#b, b:1#b +members"));
        assert_eq!(ledger.nodes().len(), 1);
    }

    #[test]
    fn who_starts_takes_over_what_is_noted_once() {
        let (ledger, notes) = ledger(Some("a:1#a b:1#b +members"));
        let (lane, left) = ledger.join(false);
        let left = left.unwrap();
        assert_eq!((lane, &*left.homes, left.has_members), (0, &homes(&["a", "b"]), true));
        assert_eq!(ledger.join(false), (1, None));
        assert!(!ledger.is_empty());
        ledger.settle(&view(&["b"]));
        assert!(notes.lock().unwrap().is_empty());
        ledger.remembers(0, on(&["b"]));
        ledger.settle(&view(&["b"]));
        assert_eq!(notes.lock().unwrap().join(", "), "b:1#b +members");
    }

    #[tokio::test]
    async fn messages_wait_for_what_they_tell_of() {
        let (ledger, _) = ledger(None);
        let _ = (ledger.join(false), ledger.join(true), ledger.join(true));
        ledger.meet(0, &home("a"));
        // What tells waits for nobody who tells.
        [1, 2].into_iter().for_each(|lane| ledger.done(lane, &homes(&["a"])));
        let (short, long) = (Duration::from_millis(20), Duration::from_secs(20));
        let view = view(&["b"]);
        assert!(ledger.others_done(&view, short).await, "nobody was told of that");
        ledger.done(0, &homes(&["a"]));
        assert!(!ledger.others_done(&view, short).await);
        let (done, ()) = tokio::join!(ledger.others_done(&view, long), async {
            tokio::task::yield_now().await;
            ledger.remembers(0, on(&["b"]));
        });
        assert!(done);
    }
}
