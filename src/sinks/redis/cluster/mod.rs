//! The Redis sink on a cluster: the same verbs, each key at the master that serves its slot.
//!
//! In: a [`Batch`], as for a single server. Out: a [`Report`], or a [`Failure`] after which the
//! whole batch is sent again. Nothing here waits to try again.
//!
//! A sink has several lanes for exact keys and for tags: [`Topology::shard`] says which of them
//! works for an action, so that in each there are only keys of one master, as long as nothing
//! changes. A master that is down or stalled then delays its own keys alone. Each lane can reach
//! every node nevertheless: `errand` finds the way of each step, `steps` holds them, `node`
//! exchanges them on one connection, `replicas` waits for copies, `topology` and `map` know who
//! serves what, `failover` what was done lately and where. `verbs`, `tags`, `expire_tags` and `sweep` say what the steps are; `fence` tells a
//! scan that keys have come.

mod check;
mod errand;
mod expire_tags;
mod failover;
mod fence;
mod map;
mod node;
mod process;
mod replicas;
mod steps;
mod sweep;
mod tags;
mod topology;
mod verbs;

use std::sync::Arc;
use std::time::Instant;

pub(super) use check::{check, count, try_window};
pub use failover::Ledger;
pub use topology::{SHARDS, Topology};

use super::config::TagMode;
use super::judge::Judge;
use super::session::Keys;
use super::{LaneClass, UNKNOWN_SENDS_MAX};
use crate::action::{Batch, Verb};
use crate::sinks::{Failure, Report};
use errand::Errand;
use failover::Past;
use node::Connections;
use replicas::Unheard;
use sweep::Sweeps;

/// Connections to the nodes of one cluster, sending one batch at a time.
pub struct ClusterLane {
    topology: Arc<Topology>,
    class: LaneClass,
    connections: Connections,
    sweeps: Sweeps,
    /// Masters whose replicas have not been waited for since something was done there.
    unheard: Unheard,
    /// The latest seed of counters, as for a single server.
    seed: u64,
    /// How many sends in a row ended in an unknown error.
    unknown_sends: u32,
    /// What it has done lately, for the successors of masters to which that may be news.
    past: Option<Past>,
}

impl ClusterLane {
    /// A lane that connects when it first sends. All lanes of a sink share its topology.
    pub fn new(topology: Arc<Topology>, class: LaneClass) -> Self {
        let past = Past::new(&topology, class);
        ClusterLane {
            topology,
            class,
            connections: Connections::default(),
            sweeps: Sweeps::default(),
            unheard: Unheard::default(),
            seed: 0,
            unknown_sends: 0,
            past,
        }
    }

    /// When to [`look`](Self::look) if there is nothing to send by then; `None`: never.
    pub fn look_at(&self) -> Option<Instant> {
        self.past.as_ref()?.look_at()
    }

    /// Looks whether the masters are still there that have what was done lately, and does that again
    /// if one is not.
    ///
    /// # Errors
    /// When that cannot be found out or done: to be looked at again, after a wait of the caller's.
    pub async fn look(&mut self) -> Result<(), Failure> {
        failover::catch_up(self).await
    }

    /// Does all of `batch`. The lane's class is only its purpose: it does any verb.
    ///
    /// Dropping the future abandons the connections that are in use; the next send opens others.
    ///
    /// # Errors
    /// A [`Failure`] says that the batch is not finished; any part of it may have run, on nodes
    /// that work all of it, and the caller sends all of it again, after a wait of its own.
    pub async fn send(&mut self, batch: &Batch) -> Result<Report, Failure> {
        if batch.is_empty() {
            return Ok(Report::default());
        }
        failover::catch_up(self).await?;
        let report = self.once(batch, &Keys::default()).await?;
        if let Some(past) = &mut self.past {
            past.remember(&self.topology, self.class, batch);
        }
        Ok(report)
    }

    /// Does all of `batch`, and deletes `names`, which are whole keys.
    async fn once(&mut self, batch: &Batch, names: &Keys) -> Result<Report, Failure> {
        let topology = Arc::clone(&self.topology);
        let give_up_on_unknown = self.unknown_sends + 1 >= UNKNOWN_SENDS_MAX;
        let judge = Judge::new(topology.config(), self.class, give_up_on_unknown);
        let ClusterLane { connections, sweeps, unheard, seed, past, .. } = self;
        if let Some(map) = topology.known_map() {
            replicas::forget_strangers(unheard, &map);
        }
        let pacer = topology.config().pacer(self.class);
        let trace = past.as_ref().map(Past::trace);
        let mut errand = Errand::new(judge, pacer, &topology, connections, seed, unheard, trace);
        let mut outcome = run(&mut errand, sweeps, batch).await;
        if outcome.is_ok() && !names.is_empty() {
            outcome = verbs::unlink(&mut errand, names).await.map(drop);
        }
        if outcome.is_ok() && !errand.has_failed() {
            replicas::wait(&mut errand).await;
        }
        let (judge, failure) = errand.finish();
        let (report, unknown) = judge.finish();
        self.forget_strangers();
        outcome?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        match unknown {
            Some(failure) => {
                self.unknown_sends += 1;
                Err(failure)
            }
            None => {
                self.unknown_sends = 0;
                self.sweeps.clear();
                Ok(report)
            }
        }
    }

    /// Closes connections to nodes that serve no slots any more.
    fn forget_strangers(&mut self) {
        if let Some(map) = self.topology.known_map() {
            self.connections.retain(|node, _| map.masters().contains(node));
        }
    }
}

/// Quick things first, as on a single server.
async fn run(errand: &mut Errand<'_>, sweeps: &mut Sweeps, batch: &Batch) -> Result<(), Failure> {
    let has = |verb| batch.iter().any(|action| action.verb.untyped() == verb);
    let tags_are_counters = errand.topology.config().tag_mode == TagMode::Version;
    if has(Verb::Delete) {
        verbs::delete(errand, batch).await?;
    }
    if has(Verb::Expire) {
        verbs::expire(errand, batch).await?;
    }
    if has(Verb::Bump) || tags_are_counters && (has(Verb::Tag) || has(Verb::ExpireTag)) {
        verbs::bump(errand, batch).await?;
    }
    if has(Verb::Tag) && !tags_are_counters {
        tags::invalidate(errand, batch).await?;
    }
    if has(Verb::ExpireTag) && !tags_are_counters {
        expire_tags::expire_tags(errand, batch).await?;
    }
    let patterns = [Verb::DeleteMatching, Verb::BumpMatching, Verb::TagMatching];
    if patterns.into_iter().any(|verb| has(verb) || has(verb.expiring())) {
        sweeps.run(errand, batch).await?;
    }
    if has(Verb::Publish) {
        verbs::publish(errand, batch).await?;
    }
    Ok(())
}
