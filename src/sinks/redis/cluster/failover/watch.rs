//! Which histories of writes do the masters have? A task of the sink asks them every second, for as
//! long as any lane remembers anything.
//!
//! Each node is asked by itself, at the same time as the others, so that one that is down costs
//! the time to connect and nothing else; lanes look at what is known, and wait for nobody. Which
//! masters there are is asked of the one that has heard of the highest epoch, among those for which
//! the cluster works: a master that is cut off still names itself.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::timeout;

use super::super::super::config::{NodeAddress, RedisConfig};
use super::super::super::connection::Connection;
use super::super::super::error::{Verdict, classify, outage};
use super::super::super::identity::Identity;
use super::super::super::rights::{Duties, missing_rights};
use super::super::super::wire::{Reply, Request};
use super::super::node::{Connections, open};
use super::super::topology::{Topology, ask_at};
use super::ledger::Ledger;
use super::view::{Said, View, read_info};
use crate::sinks::Failure;

/// How often the nodes are asked. It bounds for how long a lane does not know that a master was
/// replaced, and costs two exchanges of about 1 kB with each.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// What is known of the masters' histories, for all lanes of a sink.
#[derive(Default)]
pub(in super::super) struct Watch {
    ledger: Mutex<Arc<Ledger>>,
    known: Mutex<Option<Known>>,
    is_started: AtomicBool,
}

/// What the last look has brought: what the nodes said, or why they refuse to say.
type Known = Result<Arc<View>, (String, String)>;

impl Watch {
    /// Whose places are looked at.
    pub(super) fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_ledger(&self, ledger: Arc<Ledger>) {
        *self.ledger.lock().unwrap_or_else(PoisonError::into_inner) = ledger;
    }

    /// What is known; `None`: nothing yet.
    ///
    /// # Errors
    /// When a person has to mend something before anything can be known.
    pub(super) fn known(&self) -> Result<Option<Arc<View>>, Failure> {
        match &*self.known.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(None),
            Some(Ok(view)) => Ok(Some(Arc::clone(view))),
            Some(Err((message, hint))) => {
                Err(Failure::Refused { message: message.clone(), hint: hint.clone() })
            }
        }
    }

    fn know(&self, known: Known) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }
}

/// Starts asking, if nobody does yet. Must be called within a runtime.
pub(super) fn start(topology: &Arc<Topology>) {
    if !topology.watch().is_started.swap(true, Ordering::SeqCst) {
        tokio::spawn(watch(Arc::downgrade(topology)));
    }
}

/// Asks again and again, until nobody wants to know any more.
async fn watch(topology: Weak<Topology>) {
    let mut connections = Connections::default();
    let mut number = 0;
    loop {
        let Some(ledger) = topology.upgrade().map(|topology| topology.watch().ledger()) else {
            return;
        };
        if ledger.is_empty() {
            // Nobody keeps connections open for nothing.
            connections.clear();
            // Woken up now and then, as the sink may be gone.
            let _ = timeout(IDLE, ledger.wanted()).await;
            continue;
        }
        let Some(topology) = topology.upgrade() else { return };
        number += 1;
        let known = look(&topology, &ledger, &mut connections, number).await;
        topology.watch().know(known);
        drop((topology, ledger));
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// For how long the task waits for something to look for before it sees whether the sink is there.
const IDLE: Duration = Duration::from_secs(30);

/// Asks all nodes that lanes depend on, and the masters that are known.
async fn look(
    topology: &Arc<Topology>,
    ledger: &Ledger,
    connections: &mut Connections,
    number: u64,
) -> Known {
    let at = Instant::now();
    let mut nodes: BTreeSet<NodeAddress> = ledger.nodes();
    nodes.extend(topology.known_map().iter().flat_map(|map| map.masters()).cloned());
    let asking = nodes.into_iter().map(|node| {
        let (config, kept) = (topology.node(&node), connections.remove(&node));
        async move {
            let said = within(&config, ask(&config, kept)).await;
            (node, said)
        }
    });
    let (mut said, mut refusals) = (HashMap::new(), Vec::new());
    for (node, answer) in join_all(asking.collect::<Vec<_>>()).await {
        let answer = match answer {
            Ok((connection, answer)) => {
                connections.insert(node.clone(), connection);
                Some(answer)
            }
            Err(Failure::Refused { message, hint }) => {
                refusals.push((node.clone(), (message, hint)));
                None
            }
            Err(_) => None,
        };
        said.insert(node, answer);
    }
    let masters = masters(topology, &said, connections).await;
    // Whoever is no master of the cluster any more may be somebody else by now.
    let counts = |node: &NodeAddress| masters.as_ref().is_none_or(|masters| masters.contains(node));
    if let Some((_, refusal)) = refusals.into_iter().find(|(node, _)| counts(node)) {
        return Err(refusal);
    }
    Ok(Arc::new(View { at, number, said, masters }))
}

/// The masters that serve slots, as the node says that knows best; nobody knows otherwise.
async fn masters(
    topology: &Arc<Topology>,
    said: &HashMap<NodeAddress, Option<Said>>,
    connections: &mut Connections,
) -> Option<Vec<NodeAddress>> {
    let ok = said.iter().filter_map(|(node, said)| Some((node, said.as_ref()?)));
    let Some((best, _)) = ok.filter(|(_, said)| said.is_ok).max_by_key(|(_, said)| said.epoch)
    else {
        // Those who took over may be others. They are asked the next time.
        let _ = topology.look(topology.looks(), &[], None).await;
        return None;
    };
    let (config, kept) = (topology.node(best), connections.remove(best));
    let asking = async {
        let mut connection = open(&config, kept).await?;
        let map = ask_at(&mut connection, best, &config).await?;
        Ok((connection, map))
    };
    let (connection, map) = within(&config, asking).await.ok()?;
    connections.insert(best.clone(), connection);
    let masters = map.masters().to_vec();
    topology.take(map);
    Some(masters)
}

/// Does it in the time that connecting may take.
async fn within<T>(
    config: &RedisConfig,
    doing: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let late = |_| Err(outage(config, "CLUSTER INFO", "no answer in time"));
    timeout(config.timeouts.connect, doing).await.unwrap_or_else(late)
}

/// Asks one node what it is.
async fn ask(
    config: &Arc<RedisConfig>,
    kept: Option<Connection>,
) -> Result<(Connection, Said), Failure> {
    let mut connection = open(config, kept).await?;
    let mut request = Request::default();
    request.simple(&[b"CLUSTER", b"INFO"]).simple(&[b"INFO", b"replication"]);
    connection.send(&request).await?;
    let mut texts = [String::new(), String::new()];
    for (text, command) in texts.iter_mut().zip(["CLUSTER INFO", "INFO"]) {
        *text = match connection.reply(command).await? {
            Reply::Bulk(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Reply::Error(text) => return Err(refusal(&text, command, config)),
            _ => return Err(outage(config, command, "an answer that Redis does not give")),
        };
    }
    let (is_ok, epoch) = read_info(&texts[0]);
    let identity = Identity::parse(&texts[1]);
    let history = identity.history.filter(|_| identity.is_master);
    Ok((connection, Said { history, is_ok, epoch }))
}

fn refusal(text: &str, command: &str, config: &RedisConfig) -> Failure {
    let acl = || missing_rights(&Duties::default(), config);
    match classify(text, command, config, acl) {
        Verdict::Batch(failure) | Verdict::Unknown(failure) => failure,
        Verdict::Key(reason) => outage(config, command, reason),
    }
}
