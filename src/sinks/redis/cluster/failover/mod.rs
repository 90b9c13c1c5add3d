//! What is done again when a master of a cluster was replaced?
//!
//! A replica that takes over may lack what its master had acknowledged, and so may a master that
//! starts again from an older file: deleted keys are back, stale. So each lane remembers what it
//! did within a *window*, and where: at which nodes, in which history of their writes
//! ([`home`], [`memory`]). A task of the sink asks these nodes every second who they are
//! ([`watch`], [`view`]). What was done at a place that is gone is done again, wherever its keys
//! are now, before the lane does anything else; and where more was done than is remembered, the
//! fallbacks of every rule that reaches the sink run.
//!
//! **Slots that move** change nothing: the place where a key was deleted is there still, and
//! `MIGRATE` takes no deleted key along. If that place goes afterwards the key is deleted once more
//! for nothing.
//!
//! **Tags.** A repeat would find a tag's list empty, if its master lives on. So the members that lie
//! in other slots are remembered by name, before they leave the list ([`trace`]). These names are
//! the one thing that no fallback brings back.
//!
//! **Crashes.** Each place is on disk before anything is done there ([`ledger`]).

mod home;
mod ledger;
mod memory;
mod trace;
mod view;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, warn};

use self::home::Note;
use self::ledger::Dependence;
pub use self::ledger::Ledger;
use self::memory::Memory;
use self::trace::Touched;
pub(super) use self::trace::Trace;
use self::view::View;
pub(super) use self::view::read_info;
pub(super) use self::watch::Watch;
use super::super::error::outage;
use super::super::failover::{BYTES_MAX, Fallbacks};
use super::super::session::Keys;
use super::super::{LaneClass, RedisConfig};
use super::ClusterLane;
use super::topology::{SHARDS, Topology};
use crate::action::Batch;
use crate::sinks::Failure;

/// How often a lane that remembers anything looks at what is known of its places. That costs
/// nothing but a comparison.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What a lane has done lately, and where.
pub(super) struct Past {
    memory: Memory,
    trace: Trace,
    /// Whether it does nothing but tell of what other lanes do.
    tells: bool,
    coarse: Arc<Fallbacks>,
    /// The view after which nothing was left to repeat.
    settled: u64,
    /// When to look next; `None`: not before there is something to do.
    look_at: Option<Instant>,
}

impl Past {
    /// `None`: nothing is to be remembered.
    pub(super) fn new(topology: &Topology, class: LaneClass) -> Option<Self> {
        let window = topology.config().failover_window;
        let ledger = topology.watch().ledger();
        (!window.is_zero()).then(|| Past::of(ledger, window, class, Arc::default()))
    }

    fn of(ledger: Arc<Ledger>, window: Duration, class: LaneClass, coarse: Arc<Fallbacks>) -> Self {
        let tells = class == LaneClass::Publish;
        let (lane, left) = ledger.join(tells);
        let (mut memory, mut look_at) = (Memory::new(window), None);
        if let Some(Note { homes, has_members }) = left {
            let now = Instant::now();
            memory.forget(&homes, has_members, now);
            look_at = Some(now);
        }
        let trace = Trace::new(ledger, lane, BYTES_MAX);
        Past { memory, trace, tells, coarse, settled: 0, look_at }
    }

    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// What writes down where things are done.
    pub(super) fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The batch under way is done.
    pub(super) fn remember(&mut self, topology: &Topology, class: LaneClass, batch: &Batch) {
        let Touched { homes, names, has_more } = self.trace.swap(Touched::default());
        let homes = match class {
            // What a message tells of was done anywhere.
            LaneClass::Publish => self.trace.ledger.homes(),
            _ => Arc::new(homes),
        };
        if homes.is_empty() {
            return;
        }
        self.trace.ledger.done(self.trace.lane, &homes);
        let now = Instant::now();
        if has_more {
            self.memory.forget(&homes, true, now);
        }
        self.memory.remember(batch, names, homes, now);
        self.memory.shrink(bytes_max(topology, class));
        self.look_at.get_or_insert(now + LOOK_EVERY);
    }

    /// Notes what the lane depends on, and when to look next.
    fn settle(&mut self, view: &View) {
        let (done, under_way) = (self.memory.homes(), self.trace.homes());
        let is_idle = done.is_empty() && under_way.is_empty();
        let all = Dependence { done, under_way, tells: self.tells };
        self.trace.ledger.remembers(self.trace.lane, all);
        self.trace.ledger.settle(view);
        self.look_at = (!is_idle).then(|| Instant::now() + LOOK_EVERY);
    }
}

/// How much a lane remembers: lanes that share the work of one on a server share its bound.
fn bytes_max(topology: &Topology, class: LaneClass) -> usize {
    match class {
        LaneClass::Precise | LaneClass::Tags => {
            let masters = topology.known_map().map_or(1, |map| map.masters().len());
            BYTES_MAX / masters.clamp(1, SHARDS - 1)
        }
        LaneClass::Scan | LaneClass::Found | LaneClass::Publish => BYTES_MAX,
    }
}

impl ClusterLane {
    /// Shares with the sink's other lanes where things were done, and what runs instead of what
    /// nobody remembers.
    pub fn share(&mut self, ledger: &Arc<Ledger>, coarse: &Arc<Fallbacks>) {
        let window = self.topology.config().failover_window;
        if self.past.is_some() {
            self.topology.watch().set_ledger(Arc::clone(ledger));
            let (ledger, coarse) = (Arc::clone(ledger), Arc::clone(coarse));
            self.past = Some(Past::of(ledger, window, self.class, coarse));
        }
    }
}

/// Does again what was done at places that are gone, if anything.
///
/// # Errors
/// When it is not all done; then what is not done is owed still.
pub(super) async fn catch_up(lane: &mut ClusterLane) -> Result<(), Failure> {
    let Some(past) = &mut lane.past else { return Ok(()) };
    watch::start(&lane.topology);
    past.look_at = past.look_at.map(|_| Instant::now() + LOOK_EVERY);
    let Some(view) = lane.topology.watch().known()? else { return Ok(()) };
    if past.settled == view.number {
        return Ok(());
    }
    // What goes over such a connection would be remembered at the wrong place.
    lane.connections.retain(|node, connection| {
        connection.server().is_none_or(|history| !view.contradicts(node, history))
    });
    past.memory.seen(&view);
    if past.memory.has_lost(&view) {
        repeat(lane, &view).await?;
    }
    if let Some(past) = &mut lane.past {
        past.settle(&view);
        past.settled = view.number;
    }
    Ok(())
}

async fn repeat(lane: &mut ClusterLane, view: &View) -> Result<(), Failure> {
    let topology = Arc::clone(&lane.topology);
    let (config, class) = (topology.config(), lane.class);
    let Some(past) = &mut lane.past else { return Ok(()) };
    if past.tells {
        let ledger = &past.trace.ledger;
        if !ledger.others_done(view, config.timeouts.command).await {
            let wait = "messages wait until what they tell of is repeated on the new master";
            return Err(outage(config, "failover", wait));
        }
    }
    tell(config, past, view);
    let mut given_up = 0;
    if past.memory.lost_forgotten(view).is_some() {
        let coarse = Arc::clone(&past.coarse);
        given_up += again(lane, None, &coarse.batch, &Keys::default(), view).await?;
    }
    let mut at = 0;
    while let Some(past) = &lane.past
        && at < past.memory.len()
    {
        if let Some(entry) = past.memory.lost(at, view) {
            let (batch, names) = (Arc::clone(&entry.batch), Arc::clone(&entry.names));
            given_up += again(lane, Some(at), &batch, &names, view).await?;
        }
        at += 1;
    }
    if let Some(past) = &mut lane.past {
        past.memory.shrink(bytes_max(&topology, class));
    }
    if given_up > 0 {
        let sink = config.name();
        warn!(sink, given_up, "part of it can never succeed on the new master");
    }
    Ok(())
}

/// Does something once more: the entry at a place of the memory, or what is not in it. How many
/// actions can never succeed.
async fn again(
    lane: &mut ClusterLane,
    at: Option<usize>,
    batch: &Batch,
    names: &Keys,
    view: &View,
) -> Result<usize, Failure> {
    let swap = |lane: &ClusterLane, touched| {
        lane.past.as_ref().map(|past| past.trace.swap(touched)).unwrap_or_default()
    };
    // Those of the batch under way, which goes on afterwards.
    let touched = swap(lane, Touched::default());
    let sweeps = std::mem::take(&mut lane.sweeps);
    let outcome = lane.once(batch, names).await;
    lane.sweeps = sweeps;
    let touched = swap(lane, touched);
    if let Some(past) = &mut lane.past {
        let done = outcome.is_ok().then(Instant::now);
        match at {
            Some(at) => past.memory.retried(at, &touched.homes, &touched.names, done, view),
            None => past.memory.retried_forgotten(&touched.homes, done, view),
        }
        let now = Instant::now();
        if touched.has_more {
            past.memory.forget(&touched.homes, true, now);
        }
        if at.is_none() && !touched.names.is_empty() {
            let homes = Arc::new(touched.homes);
            past.memory.remember(&Batch::default(), touched.names, homes, now);
        }
    }
    Ok(outcome?.rejected.len())
}

fn tell(config: &RedisConfig, past: &Past, view: &View) {
    let (sink, target, actions) = (config.name(), config.target(), past.memory.lost_actions(view));
    let Some(forgotten) = past.memory.lost_forgotten(view) else {
        warn!(
            sink,
            target, actions, "a master was replaced: what was done lately there is done again"
        );
        return;
    };
    warn!(
        sink,
        target,
        actions,
        "a master was replaced, and more was done lately there than is remembered: the fallbacks \
         of every rule that reaches the sink run"
    );
    let Fallbacks { uncovered, tagged, .. } = &*past.coarse;
    if !uncovered.is_empty() {
        error!(
            sink,
            target,
            rules = uncovered.join(", "),
            hint = "give these rules a fallback, and delete their keys by hand",
            "what rules without a fallback have removed may be back, and is not removed again"
        );
    }
    if forgotten.has_names && !tagged.is_empty() {
        error!(
            sink,
            target,
            rules = tagged.join(", "),
            hint = "delete their keys by hand, or let them expire; a hash tag that a tag's set \
                    shares with its members avoids this, as does wait_replicas",
            "members of tags may be back that lie in other slots than their tag's set, and no list \
             names them any more"
        );
    }
}
