//! What is known of a cluster, shared by all lanes of its sink: which node serves which slot, and
//! which lane works for which slot.
//!
//! Whoever finds that it is wrong has it looked up anew; those who find so at the same time share
//! one look. A wrong map loses nothing: a node that does not serve a slot says so.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::timeout;
use tracing::{debug, info};

use super::super::config::{NodeAddress, RedisConfig};
use super::super::connection::Connection;
use super::super::error::{Verdict, classify, outage};
use super::super::slot::{SLOTS, slot_of_parts};
use super::super::wire::{Reply, Request};
use super::failover::Watch;
use super::map::SlotMap;
use crate::action::{Action, Verb};
use crate::sinks::Failure;

/// How many lanes of one class a cluster has: one for each master, and the first for keys of which
/// it is not known yet whose they are. A cluster of more masters has some that share a lane, and
/// there one that is down delays the others. Each takes a task and, once used, a connection.
pub const SHARDS: usize = 17;

/// How many nodes are asked at once who serves what.
const ASKED_MAX: usize = 8;

/// A cluster, as the lanes of its sink see it.
pub struct Topology {
    config: Arc<RedisConfig>,
    known: Mutex<Known>,
    /// For each slot, which of the lanes of a class it belongs to.
    shards: Box<[AtomicU8]>,
    /// How often was looked.
    looks: AtomicU64,
    /// Which histories of writes the masters have, where that is to be known.
    watch: Watch,
    /// Held while somebody looks: what the last look failed for.
    looking: tokio::sync::Mutex<Option<(String, Option<String>)>>,
}

#[derive(Default)]
struct Known {
    map: Option<Arc<SlotMap>>,
    /// The shard of each master.
    shards: HashMap<NodeAddress, u8>,
}

impl Topology {
    /// A cluster of which only the configured nodes are known.
    pub fn new(config: Arc<RedisConfig>) -> Self {
        Topology {
            config,
            known: Mutex::default(),
            shards: (0..SLOTS).map(|_| AtomicU8::new(0)).collect(),
            looks: AtomicU64::new(0),
            watch: Watch::default(),
            looking: tokio::sync::Mutex::default(),
        }
    }

    /// Which of the lanes of its class an action belongs to, in 0..[`SHARDS`]. It may be another
    /// one later, when slots have moved: each lane reaches every node.
    pub fn shard(&self, action: Action<'_>) -> usize {
        let RedisConfig { prefix, tag_parts, .. } = &*self.config;
        let slot = match action.verb.deleting() {
            Verb::Tag => slot_of_parts(&[&tag_parts.0, action.shown(), &tag_parts.1]),
            _ => slot_of_parts(&[prefix, action.shown()]),
        };
        usize::from(self.shards[usize::from(slot)].load(Ordering::Relaxed))
    }

    pub(super) fn config(&self) -> &Arc<RedisConfig> {
        &self.config
    }

    pub(super) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// How often was looked: what to show to [`look`](Self::look) later.
    pub(super) fn looks(&self) -> u64 {
        self.looks.load(Ordering::Acquire)
    }

    /// Who serves what, as far as is known.
    pub(super) fn known_map(&self) -> Option<Arc<SlotMap>> {
        self.known().map.clone()
    }

    /// Who serves what; looks if nothing is known yet.
    pub(super) async fn map(&self) -> Result<Arc<SlotMap>, Failure> {
        if let Some(map) = self.known_map() {
            return Ok(map);
        }
        self.look(self.looks(), &[], None).await?;
        let none = || outage(&self.config, "CLUSTER SLOTS", "no node knows any slots");
        self.known_map().ok_or_else(none)
    }

    /// Asks the cluster who serves what, unless somebody has done so since the caller saw
    /// `seen` [`looks`](Self::looks). `hint` is asked first and alone, as a node is that has just
    /// taken over a slot; `avoid` are those that have just proved wrong.
    pub(super) async fn look(
        &self,
        seen: u64,
        avoid: &[NodeAddress],
        hint: Option<&NodeAddress>,
    ) -> Result<(), Failure> {
        let mut last = self.looking.lock().await;
        if self.looks() == seen {
            let looked = self.ask_around(avoid, hint).await;
            *last = match looked {
                Ok(map) => {
                    self.take(map);
                    None
                }
                Err(failure) => Some(failure.into_parts()),
            };
            self.looks.fetch_add(1, Ordering::Release);
        }
        match &*last {
            None => Ok(()),
            Some((message, None)) => Err(Failure::Outage { message: message.clone() }),
            Some((message, Some(hint))) => {
                Err(Failure::Refused { message: message.clone(), hint: hint.clone() })
            }
        }
    }

    /// A node has said that another one serves a slot.
    pub(super) fn move_slot(&self, slot: u16, to: &NodeAddress) {
        let known = self.known_map();
        if let Some(mut map) = known.filter(|map| map.owner(slot) != Some(to)) {
            Arc::make_mut(&mut map).move_slot(slot, to.clone());
            self.know(map);
        }
    }

    /// How to reach a node. Its certificate may name the cluster instead of an address.
    pub(super) fn node(&self, node: &NodeAddress) -> Arc<RedisConfig> {
        let is_ip = |host: &str| host.parse::<std::net::IpAddr>().is_ok();
        let names = self.config.seeds.iter().map(|seed| &seed.host);
        let name = names.clone().find(|host| !is_ip(host));
        let is_named = !is_ip(&node.host) || names.clone().any(|host| *host == node.host);
        Arc::new(self.config.at(node, name.filter(|_| !is_named).cloned()))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node has said who serves what.
    pub(super) fn take(&self, map: SlotMap) {
        let before = self.known_map();
        if before.as_deref() == Some(&map) {
            return;
        }
        let (sink, masters, slots) = (self.config.name(), map.masters().len(), map.covered());
        match before {
            None => info!(sink, masters, slots, "the cluster is known"),
            Some(_) => debug!(sink, masters, slots, "the cluster has changed"),
        }
        self.know(Arc::new(map));
    }

    fn know(&self, map: Arc<SlotMap>) {
        let mut known = self.known();
        known.shards.retain(|node, _| map.masters().contains(node));
        for node in map.masters() {
            if !known.shards.contains_key(node) {
                let users =
                    |shard: u8| known.shards.values().filter(|&&used| used == shard).count();
                let shard = (1..SHARDS as u8).min_by_key(|&shard| users(shard)).unwrap_or_default();
                known.shards.insert(node.clone(), shard);
            }
        }
        for (slot, shard) in self.shards.iter().enumerate() {
            if let Some(owner) = map.owner(slot as u16) {
                shard
                    .store(known.shards.get(owner).copied().unwrap_or_default(), Ordering::Relaxed);
            }
        }
        known.map = Some(map);
    }

    async fn ask_around(
        &self,
        avoid: &[NodeAddress],
        hint: Option<&NodeAddress>,
    ) -> Result<SlotMap, Failure> {
        if let Some(hint) = hint
            && let Ok(map) = self.ask(hint.clone()).await
        {
            return Ok(map);
        }
        let mut asked: FuturesUnordered<_> =
            self.candidates(avoid).into_iter().map(|node| self.ask(node)).collect();
        let mut worst = None;
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(map) => return Ok(map),
                // What a person has to mend explains more than what only takes time.
                Err(failure @ Failure::Refused { .. }) => worst = Some(failure),
                Err(failure) => worst = worst.or(Some(failure)),
            }
        }
        Err(worst.unwrap_or_else(|| outage(&self.config, "CLUSTER SLOTS", "nobody to ask")))
    }

    /// The nodes to be asked: some that are known, and the configured ones.
    fn candidates(&self, avoid: &[NodeAddress]) -> Vec<NodeAddress> {
        let map = self.known_map();
        let mut nodes: Vec<_> = map.iter().flat_map(|map| map.nodes()).cloned().collect();
        fastrand::shuffle(&mut nodes);
        nodes.retain(|node| !avoid.contains(node));
        nodes.truncate(ASKED_MAX);
        for seed in &self.config.seeds {
            if !nodes.contains(seed) && !avoid.contains(seed) {
                nodes.push(seed.clone());
            }
        }
        // Better a node that was wrong a moment ago than none.
        if nodes.is_empty() { avoid.to_vec() } else { nodes }
    }

    /// Asks one node, all in the time that connecting may take.
    async fn ask(&self, node: NodeAddress) -> Result<SlotMap, Failure> {
        let config = self.node(&node);
        let patience = config.timeouts.connect;
        let asking = async {
            let mut connection = Connection::open(Arc::clone(&config)).await?;
            ask_at(&mut connection, &node, &config).await
        };
        match timeout(patience, asking).await {
            Ok(answer) => answer,
            Err(_) => {
                Err(outage(&config, "CLUSTER SLOTS", format!("no answer within {patience:?}")))
            }
        }
    }
}

/// Asks a node who serves what.
pub(super) async fn ask_at(
    connection: &mut Connection,
    node: &NodeAddress,
    config: &RedisConfig,
) -> Result<SlotMap, Failure> {
    let mut request = Request::default();
    connection.send(request.simple(&[b"CLUSTER", b"SLOTS"])).await?;
    let reply = connection.reply("CLUSTER").await?;
    if let Reply::Error(text) = &reply {
        return Err(refusal(text, config));
    }
    SlotMap::parse(&reply, node)
        .ok_or_else(|| outage(config, "CLUSTER SLOTS", "it knows of no slots"))
}

/// Why a node does not say who serves what.
fn refusal(text: &str, config: &RedisConfig) -> Failure {
    if text.contains("cluster support disabled") {
        return Failure::Refused {
            message: format!("redis {} at {}: it is no cluster", config.name, config.target()),
            hint: format!("write redis.{0}.url instead of redis.{0}.cluster", config.name),
        };
    }
    let user = config.user.as_deref().unwrap_or("walpurge");
    let acl = || format!("ACL SETUSER {user} +cluster|slots +cluster|nodes +asking");
    match classify(text, "CLUSTER SLOTS", config, acl) {
        Verdict::Batch(failure) | Verdict::Unknown(failure) => failure,
        Verdict::Key(reason) => outage(config, "CLUSTER SLOTS", reason),
    }
}
