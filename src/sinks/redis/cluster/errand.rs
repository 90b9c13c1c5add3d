//! How does each step find its way to the node that serves its slot, while slots move and nodes
//! fail?
//!
//! By the slot map as far as it is known; then as the nodes say. `MOVED` corrects the map: it is
//! asked for anew, and just the steps that went wrong are sent again. `ASK` sends one step to where
//! its slot is moving to, once. What a node cannot do now (it is gone, loads its data, has lost
//! its cluster) is done by whoever has taken its slots over, or fails. A node that failed is left
//! alone for the rest of the errand, so that it costs one timeout and not one for each page.
//!
//! **Keys that are moved while they are deleted.** `MIGRATE` blocks the source until the target has
//! the key and the source has not, so that a key is at one of them at any time. While its slot
//! moves, the source does what it is asked if it has the key, and says `ASK` if it has not; the
//! target, asked so, does it then. A command of several keys of which the source has only some gets
//! `TRYAGAIN`, whatever became of the others: then each key is asked for by itself.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;

use super::super::config::{NodeAddress, RedisConfig};
use super::super::error::{Verdict, outage};
use super::super::judge::Judge;
use super::super::pacer::Pacer;
use super::super::wire::Reply;
use super::failover::Trace;
use super::map::{SlotMap, redirection};
use super::node::{Connections, Exchanged, Parcel, exchange};
use super::replicas::Unheard;
use super::steps::{Answers, Outcome, Steps};
use super::topology::Topology;
use crate::sinks::Failure;

/// How often a step is sent before it counts as going round in circles: once, after a MOVED, after
/// the ASK of a slot that moves on at once, after a failure, and two more.
const ROUNDS_MAX: u32 = 6;

/// One batch on its way through a cluster.
pub(super) struct Errand<'a> {
    pub(super) judge: Judge<'a>,
    /// What is asked before keys are touched; `None`: nothing.
    pub(super) pacer: Option<&'a Pacer>,
    pub(super) topology: &'a Arc<Topology>,
    pub(super) connections: &'a mut Connections,
    /// The latest seed of counters.
    pub(super) seed: &'a mut u64,
    /// Which masters have been asked for something since their replicas were waited for.
    pub(super) unheard: &'a mut Unheard,
    /// What is told where things are done; `None`: nobody remembers it.
    pub(super) trace: Option<&'a Trace>,
    /// Why not all of it is done: the first reason, or one that a person has to mend.
    failure: Option<Failure>,
    /// How often something was not done.
    failures: u64,
    /// Nodes that have failed since it began.
    down: HashMap<NodeAddress, String>,
}

/// A step that is still to be sent.
struct Todo {
    step: usize,
    /// Where `ASK` has sent it.
    ask: Option<NodeAddress>,
}

/// A step that its node did not do, and why.
struct Suspect {
    step: usize,
    node: Option<NodeAddress>,
    failure: Option<Failure>,
}

/// What one round of sending brought.
#[derive(Default)]
struct Round {
    again: Vec<Todo>,
    suspects: Vec<Suspect>,
    /// The last node of which it was said that it had taken a slot over.
    moved_to: Option<NodeAddress>,
}

impl<'a> Errand<'a> {
    pub(super) fn new(
        judge: Judge<'a>,
        pacer: Option<&'a Pacer>,
        topology: &'a Arc<Topology>,
        connections: &'a mut Connections,
        seed: &'a mut u64,
        unheard: &'a mut Unheard,
        trace: Option<&'a Trace>,
    ) -> Self {
        let (failure, failures, down) = (None, 0, HashMap::new());
        Errand {
            judge,
            pacer,
            topology,
            connections,
            seed,
            unheard,
            trace,
            failure,
            failures,
            down,
        }
    }

    /// How many keys go out together, of `most` for which there is room.
    pub(super) fn share_of(&self, most: usize) -> usize {
        self.pacer.map_or(most, |pacer| pacer.share().min(most))
    }

    /// Waits until so many keys may go out.
    pub(super) async fn turn(&mut self, keys: usize) {
        if let Some(pacer) = self.pacer {
            pacer.turn(keys).await;
        }
    }

    /// Notes why something is not done; the rest goes on.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.failures += 1;
        match (&self.failure, &failure) {
            (None, _) | (Some(Failure::Outage { .. }), Failure::Refused { .. }) => {
                self.failure = Some(failure);
            }
            _ => {}
        }
    }

    /// The node is left alone from now on.
    pub(super) fn give_up_on(&mut self, node: &NodeAddress, failure: Failure) {
        self.down.insert(node.clone(), failure.to_string());
        self.connections.remove(node);
        self.fail(failure);
    }

    pub(super) fn is_down(&self, node: &NodeAddress) -> bool {
        self.down.contains_key(node)
    }

    /// Whether something is not done.
    pub(super) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// How often something was not done.
    pub(super) fn failures(&self) -> u64 {
        self.failures
    }

    /// What is left of it.
    pub(super) fn finish(self) -> (Judge<'a>, Option<Failure>) {
        (self.judge, self.failure)
    }

    /// Does all steps, wherever that is. Each is answered, or to be split, or noted as failed.
    pub(super) async fn run(&mut self, steps: &Steps) -> Answers {
        let mut answers = Answers::to(steps);
        let mut todo: Vec<_> = (0..steps.len()).map(|step| Todo { step, ask: None }).collect();
        for _ in 0..ROUNDS_MAX {
            if todo.is_empty() {
                return answers;
            }
            let map = match self.topology.map().await {
                Ok(map) => map,
                Err(failure) => {
                    self.fail(failure);
                    return answers;
                }
            };
            let seen = self.topology.looks();
            let mut round = Round::default();
            let parcels = self.sort(&map, steps, todo, &mut round);
            if self.topology.config().wait_replicas > 0 {
                self.unheard.extend(parcels.iter().map(|parcel| parcel.node.clone()));
            }
            let exchanges: Vec<_> = parcels
                .into_iter()
                .map(|parcel| {
                    // Where a parcel of ASK goes to the same node, it gets a connection of its own.
                    let kept = self.connections.remove(&parcel.node);
                    let config = self.topology.node(&parcel.node);
                    exchange(parcel, config, kept, steps, self.trace)
                })
                .collect();
            for exchanged in join_all(exchanges).await {
                self.judge_exchange(exchanged, steps, &mut answers, &mut round);
            }
            todo = self.settle(seen, steps, round).await;
        }
        if !todo.is_empty() {
            let message = "the nodes send a key round in circles";
            self.fail(outage(self.topology.config(), "MOVED", message));
        }
        answers
    }

    /// Which node gets which steps.
    fn sort(
        &mut self,
        map: &SlotMap,
        steps: &Steps,
        todo: Vec<Todo>,
        round: &mut Round,
    ) -> Vec<Parcel> {
        let mut parcels: Vec<Parcel> = Vec::new();
        let mut places: HashMap<(NodeAddress, bool), usize> = HashMap::new();
        for Todo { step, ask } in todo {
            let slot = steps.get(step).slot;
            let asking = ask.is_some();
            let Some(node) = ask.or_else(|| map.owner(slot).cloned()) else {
                let message = format!("no node serves slot {slot}");
                let failure = outage(self.topology.config(), "CLUSTER SLOTS", message);
                round.suspects.push(Suspect { step, node: None, failure: Some(failure) });
                continue;
            };
            // Who serves its slots has been asked.
            if let Some(message) = self.down.get(&node).cloned() {
                self.fail(Failure::Outage { message });
                continue;
            }
            let place = *places.entry((node.clone(), asking)).or_insert_with(|| {
                parcels.push(Parcel { node, asking, steps: Vec::new() });
                parcels.len() - 1
            });
            parcels[place].steps.push(step);
        }
        parcels
    }

    /// What one node's replies mean.
    fn judge_exchange(
        &mut self,
        exchanged: Exchanged,
        steps: &Steps,
        answers: &mut Answers,
        round: &mut Round,
    ) {
        let Exchanged { parcel, config, connection, replies, failure } = exchanged;
        if let Some(connection) = connection {
            self.connections.insert(parcel.node.clone(), connection);
        }
        let answered = replies.len();
        for (&step, replies) in parcel.steps.iter().zip(replies) {
            match self.judge_step(&config, &parcel.node, steps, step, &replies) {
                Verdicts::Answered => {
                    answers
                        .replies_mut(steps, step)
                        .iter_mut()
                        .zip(replies)
                        .for_each(|(place, reply)| *place = reply);
                    answers.set(step, Outcome::Answered);
                }
                Verdicts::Split => answers.set(step, Outcome::Split),
                Verdicts::Ask(node) => round.again.push(Todo { step, ask: Some(node) }),
                Verdicts::Moved(node) => {
                    self.topology.move_slot(steps.get(step).slot, &node);
                    round.moved_to = Some(node);
                    round.again.push(Todo { step, ask: None });
                }
                Verdicts::Suspect(failure) => {
                    let (node, failure) = (Some(parcel.node.clone()), Some(failure));
                    round.suspects.push(Suspect { step, node, failure });
                }
                Verdicts::Failed(failure) => self.fail(failure),
            }
        }
        if let Some(failure) = failure {
            self.down.insert(parcel.node.clone(), failure.to_string());
            let mut failure = Some(failure);
            for &step in &parcel.steps[answered..] {
                let (node, failure) = (Some(parcel.node.clone()), failure.take());
                round.suspects.push(Suspect { step, node, failure });
            }
        }
    }

    fn judge_step(
        &self,
        config: &RedisConfig,
        node: &NodeAddress,
        steps: &Steps,
        step: usize,
        replies: &[Reply],
    ) -> Verdicts {
        let step = steps.get(step);
        for (reply, command) in replies.iter().zip(step.commands) {
            let Reply::Error(text) = reply else { continue };
            match text.split(' ').next().unwrap_or_default() {
                "MOVED" => {
                    if let Some(to) = redirection(text, node) {
                        return Verdicts::Moved(to);
                    }
                }
                "ASK" | "TRYAGAIN" if step.can_split => return Verdicts::Split,
                "ASK" => {
                    if let Some(to) = redirection(text, node) {
                        return Verdicts::Ask(to);
                    }
                }
                "TRYAGAIN" => {
                    return Verdicts::Failed(outage(
                        config,
                        command,
                        "TRYAGAIN: the slot is being moved; if that does not end: redis-cli \
                         --cluster fix",
                    ));
                }
                // Whoever has taken its slots over will do it.
                "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" | "READONLY" => {
                    return Verdicts::Suspect(self.error(config, text, command));
                }
                _ => {
                    if let Verdict::Batch(failure) = self.judge.classify_at(config, text, command) {
                        return Verdicts::Failed(failure);
                    }
                }
            }
        }
        Verdicts::Answered
    }

    fn error(&self, config: &RedisConfig, text: &str, command: &str) -> Failure {
        match self.judge.classify_at(config, text, command) {
            Verdict::Batch(failure) | Verdict::Unknown(failure) => failure,
            Verdict::Key(reason) => outage(config, command, reason),
        }
    }

    /// Looks where suspect steps belong now: what is to be sent again.
    async fn settle(&mut self, seen: u64, steps: &Steps, round: Round) -> Vec<Todo> {
        let Round { mut again, suspects, moved_to } = round;
        if suspects.is_empty() && moved_to.is_none() {
            return again;
        }
        let mut avoid: Vec<_> = suspects.iter().filter_map(|known| known.node.clone()).collect();
        avoid.sort();
        avoid.dedup();
        if let Err(failure) = self.topology.look(seen, &avoid, moved_to.as_ref()).await
            && !suspects.is_empty()
        {
            self.fail(failure);
        }
        let Ok(map) = self.topology.map().await else { return again };
        for Suspect { step, node, failure } in suspects {
            match map.owner(steps.get(step).slot) {
                Some(owner) if Some(owner) != node.as_ref() && !self.down.contains_key(owner) => {
                    again.push(Todo { step, ask: None });
                }
                _ => failure.into_iter().for_each(|failure| self.fail(failure)),
            }
        }
        again
    }
}

/// What a step's replies mean for it.
enum Verdicts {
    Answered,
    Split,
    Ask(NodeAddress),
    Moved(NodeAddress),
    Suspect(Failure),
    Failed(Failure),
}
