//! What waits for one lane until the rest of its transactions is done. Pure.

use super::Load;
use super::marks::{Mark, Marks};
use crate::action::Action;
use crate::pipeline::action_set::ActionSet;
use crate::pipeline::lane::{LanePlan, Position, move_all, put};
use crate::pipeline::plan::LaneId;
use crate::pipeline::progress::{Progress, TxnId};

/// How many bundles wait for a lane before what comes joins them. Each takes about 1.5 KiB and is
/// looked at whenever a batch is done.
pub(super) const BUNDLES_MAX: usize = 1024;

/// A bundle of this size takes no further transaction, whatever their number: a large one is freed
/// late.
const BUNDLE_BYTES_MAX: usize = 1 << 20;

/// How many transactions a bundle takes, so that it comes to be due whatever keeps coming.
const BUNDLE_TRANSACTIONS_MAX: usize = 1024;

/// How many bundles are looked at to find one that waits for the same lanes.
const SEARCH_MAX: usize = 64;

/// Actions that become due together: one transaction's, or those of several that came one after
/// another while many waited.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Bundle {
    pub(in crate::pipeline) after: Marks,
    pub(in crate::pipeline) actions: ActionSet,
    /// The only transaction's place in the stream, as long as answers may bring more for it.
    pub(in crate::pipeline) order: Option<u64>,
    /// The lanes that it waits for, when it came.
    lanes: u64,
    /// How many other transactions have joined.
    joined: usize,
}

impl Bundle {
    pub(in crate::pipeline) fn new(after: Marks, actions: ActionSet, order: Option<u64>) -> Self {
        Bundle { lanes: after.lanes(), after, actions, order, joined: 0 }
    }

    /// Whether its turn has come.
    pub(in crate::pipeline) fn is_due(&self, lanes: &[LanePlan]) -> bool {
        self.after.are_reached(lanes)
    }

    fn load(&self) -> Load {
        let Load { actions, bytes } = Load::of(&self.actions);
        Load { actions, bytes: bytes + self.after.bytes() + size_of::<Bundle>() }
    }

    /// Takes in another one: both are due when both would be.
    fn join(&mut self, progress: &mut Progress, mut other: Bundle) {
        self.after.extend(&other.after);
        move_all(progress, &mut other.actions, &mut self.actions);
        self.order = None;
        self.joined += 1;
    }

    /// Whether another one may join that waits for such lanes: for others it might wait for long.
    fn takes(&self, lanes: u64) -> bool {
        self.lanes == lanes
            && self.joined < BUNDLE_TRANSACTIONS_MAX
            && self.actions.bytes() < BUNDLE_BYTES_MAX
    }
}

/// The bundles of one lane, in the order in which their transactions were complete.
///
/// When too many of them wait, one *purge-all* can stand for all of them, due when all of them
/// would have been. What comes later may not move it further, or it would never run under load:
/// so it is closed, and at most one other gathers behind it, which closes when its turn comes.
#[derive(Debug)]
pub(in crate::pipeline) struct Queue {
    /// For each lane, whether it comes before this one.
    before: Box<[bool]>,
    bundles: Vec<Bundle>,
    load: Load,
    closed: Option<Bundle>,
    /// Only behind a closed one.
    gathering: Option<Bundle>,
    pub(super) bundles_max: usize,
}

impl Queue {
    pub(super) fn new(before: Box<[bool]>) -> Self {
        Queue {
            before,
            bundles: Vec::new(),
            load: Load::default(),
            closed: None,
            gathering: None,
            bundles_max: BUNDLES_MAX,
        }
    }

    /// What waits, but for what stands for others.
    pub(in crate::pipeline) fn load(&self) -> Load {
        self.load
    }

    /// Everything that waits, with what stands for others.
    pub(in crate::pipeline) fn actions(&self) -> impl Iterator<Item = &ActionSet> {
        let coarse = self.closed.iter().chain(&self.gathering);
        self.bundles.iter().chain(coarse).map(|bundle| &bundle.actions)
    }

    /// The marks that count for this lane.
    pub(in crate::pipeline) fn marks(&self, after: &Marks) -> Marks {
        after.only(|lane| self.before[lane.0])
    }

    /// Adds a bundle, or joins it with a late one that waits for the same lanes, if many wait.
    pub(in crate::pipeline) fn push(&mut self, progress: &mut Progress, bundle: Bundle) {
        let is_crowded = self.bundles.len() >= self.bundles_max;
        let mut late = self.bundles.iter_mut().rev().take(SEARCH_MAX);
        match late.find(|other| is_crowded && other.takes(bundle.lanes)) {
            Some(other) => {
                self.load -= other.load();
                other.join(progress, bundle);
                self.load += other.load();
            }
            None => {
                self.load += bundle.load();
                self.bundles.push(bundle);
            }
        }
    }

    /// Adds an action that an answer brings for the transaction `txn` at `order`, after what
    /// `after` says. Answers with the bundle if it holds no other transaction's.
    pub(super) fn push_answer(
        &mut self,
        progress: &mut Progress,
        (txn, order): (TxnId, u64),
        action: Action<'_>,
        after: impl FnOnce(&Queue) -> Marks,
    ) {
        match self.bundles.last_mut().filter(|last| last.order == Some(order)) {
            Some(last) => {
                self.load -= last.load();
                put(progress, &mut last.actions, action, txn);
                self.load += last.load();
            }
            None => {
                let mut bundle = Bundle::new(after(self), ActionSet::default(), Some(order));
                put(progress, &mut bundle.actions, action, txn);
                self.push(progress, bundle);
            }
        }
    }

    /// Lets what answers have brought for one transaction go without waiting for further lookups,
    /// if it is too much for that: it is to run after what is asked for already, and what was
    /// found. Says whether it has.
    pub(super) fn part(
        &mut self,
        bytes_max: usize,
        is_lookup: impl Fn(LaneId) -> bool,
        found: &Marks,
    ) -> bool {
        let Some(last) = self.bundles.last_mut() else { return false };
        if last.order.is_none() || last.actions.bytes() < bytes_max {
            return false;
        }
        self.load -= last.load();
        last.order = None;
        last.after = last.after.only(|lane| !is_lookup(lane));
        last.after.extend_if(found, |lane| self.before[lane.0]);
        self.load += last.load();
        true
    }

    /// Takes out everything that waits but for what stands for others already: what it waits for,
    /// and the owners of its actions.
    pub(in crate::pipeline) fn drain(&mut self) -> (Marks, Vec<TxnId>) {
        let (mut after, mut owners) = (Marks::default(), Vec::new());
        for mut bundle in self.bundles.drain(..) {
            after.extend(&bundle.after);
            owners.append(&mut bundle.actions.extract(|_| true));
        }
        self.load = Load::default();
        (after, owners)
    }

    /// Adds an action that stands for others, which were to run after `after`.
    pub(in crate::pipeline) fn push_coarse(
        &mut self,
        progress: &mut Progress,
        coarse: Action<'_>,
        owner: TxnId,
        after: &Marks,
    ) {
        let bundle = match &mut self.closed {
            None => self.closed.insert(Bundle::default()),
            Some(_) => self.gathering.get_or_insert_default(),
        };
        bundle.after.extend(after);
        put(progress, &mut bundle.actions, coarse, owner);
    }

    /// Whether the first bundle waits for that lane, which alone can make room then.
    pub(super) fn first_awaits(&self, lane: LaneId, lanes: &[LanePlan]) -> bool {
        self.bundles.first().is_some_and(|bundle| bundle.after.await_lane(lane, lanes))
    }

    /// Lets the bundles that wait for a lane wait for more.
    pub(super) fn await_more(&mut self, lane: LaneId, lanes: &[LanePlan], more: &Marks) {
        let Queue { before, bundles, load, closed, gathering, .. } = self;
        for bundle in bundles.iter_mut().filter(|bundle| bundle.after.await_lane(lane, lanes)) {
            *load -= bundle.load();
            bundle.after.extend_if(more, |lane| before[lane.0]);
            *load += bundle.load();
        }
        for bundle in closed.iter_mut().chain(gathering) {
            if bundle.after.await_lane(lane, lanes) {
                bundle.after.extend_if(more, |lane| before[lane.0]);
            }
        }
    }

    /// A lane's actions went elsewhere: see [`Marks::redirect`].
    pub(super) fn redirect(&mut self, lane: LaneId, end: Position, instead: Mark) {
        let Queue { bundles, load, closed, gathering, .. } = self;
        for bundle in bundles {
            *load -= bundle.load();
            bundle.after.redirect(lane, end, instead);
            *load += bundle.load();
        }
        let coarse = closed.iter_mut().chain(gathering);
        coarse.for_each(|bundle| bundle.after.redirect(lane, end, instead));
    }

    /// Takes out what is due, and calls `take` with it.
    pub(super) fn take_due(&mut self, lanes: &[LanePlan], mut take: impl FnMut(ActionSet)) {
        let is_due = |bundle: &mut Bundle| bundle.is_due(lanes);
        while let Some(bundle) = self.closed.take_if(is_due) {
            take(bundle.actions);
            self.closed = self.gathering.take();
        }
        for bundle in self.bundles.extract_if(.., is_due) {
            self.load -= bundle.load();
            take(bundle.actions);
        }
    }
}
