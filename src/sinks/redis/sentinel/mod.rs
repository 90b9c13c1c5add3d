//! Where is the server that the Sentinels call by a name?
//!
//! Each Sentinel has a task of its own that asks it every second, and at once when a lane connects.
//! So a lane sees without asking whether its server is still the one: a master that is cut off from
//! the others goes on taking writes, and all of them are lost when it comes back.
//!
//! Of several answers the one of the highest configuration epoch counts, which each failover
//! raises: a Sentinel that is cut off together with the old master still names that one.
//! Source: <https://redis.io/docs/latest/develop/reference/sentinel-clients/>.

mod answer;
mod options;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use answer::Answer;
pub use options::SentinelOptions;

use super::config::{Address, RedisConfig};
use super::connection::Connection;
use super::error::{Verdict, classify, outage};
use super::wire::{Reply, Request};
use crate::sinks::Failure;
use crate::sinks::redis::error::NO_SUCH_MASTER;
use crate::ticks;

/// How often each Sentinel is asked. It bounds for how long a lane works on a server that is not
/// the master any more, and costs an exchange of about 1 kB each.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// What the Sentinels' user needs.
const RIGHTS: &str = "on the Sentinels: ACL SETUSER walpurge +client|setname +sentinel|master \
                      +sentinel|get-master-addr-by-name";

/// How long a Sentinel's answer counts when it gives no other one. Sentinels that were all made
/// anew count their epochs from zero, so an old answer must not count for ever.
const ANSWER_VALID: Duration = Duration::from_secs(30);

/// The Sentinels of one server.
pub(super) struct Sentinel {
    master: String,
    nodes: Vec<Arc<RedisConfig>>,
    /// Whether the server speaks TLS.
    tls: bool,
    heard: watch::Sender<Vec<Heard>>,
    /// What makes the task of each node ask at once.
    nudges: Vec<Arc<Notify>>,
    is_started: AtomicBool,
}

/// What one Sentinel has said.
#[derive(Clone, Default)]
struct Heard {
    answer: Option<(Instant, Answer)>,
    /// Why it gave no answer the last time, and what mends that.
    error: Option<(Instant, String, Option<String>)>,
}

impl Sentinel {
    fn new(master: String, nodes: Vec<Arc<RedisConfig>>, tls: bool) -> Self {
        let (heard, _) = watch::channel(vec![Heard::default(); nodes.len()]);
        let nudges = nodes.iter().map(|_| Arc::default()).collect();
        Sentinel { master, nodes, tls, heard, nudges, is_started: AtomicBool::new(false) }
    }

    /// Who is asked for whom, without secrets. The nodes' order says nothing.
    pub(super) fn target(&self) -> String {
        let scheme = if self.tls { "rediss" } else { "redis" };
        let host = |node: &Arc<RedisConfig>| {
            let target = node.target().trim_end_matches("/0");
            target.split_once("://").map_or(target, |(_, host)| host).to_owned()
        };
        let mut hosts: Vec<_> = self.nodes.iter().map(host).collect();
        hosts.sort_unstable();
        format!("{scheme}+sentinel://{}/{}", hosts.join(","), self.master)
    }

    /// Each of them.
    pub(super) fn nodes(&self) -> &[Arc<RedisConfig>] {
        &self.nodes
    }

    /// Where the server is, by an answer that is younger than the question. The caller bounds the
    /// wait; all Sentinels are asked at the same time.
    ///
    /// # Errors
    /// When none of them can say.
    pub(super) async fn find(self: &Arc<Self>, config: &RedisConfig) -> Result<Address, Failure> {
        let start = Instant::now();
        let mut heard = self.heard.subscribe();
        self.start();
        self.nudges.iter().for_each(|nudge| nudge.notify_one());
        loop {
            {
                let heard = heard.borrow_and_update();
                let is_new = |at: &Instant| *at >= start;
                if heard.iter().any(|heard| heard.answer.as_ref().is_some_and(|(at, _)| is_new(at)))
                    && let Some(answer) = newest(&heard)
                {
                    return Ok(self.address(answer));
                }
                if heard.iter().all(|heard| heard.error.as_ref().is_some_and(|(at, ..)| is_new(at)))
                {
                    return Err(nobody(&heard, config));
                }
            }
            if heard.changed().await.is_err() {
                return Err(outage(config, "connect", "the Sentinels are not asked any more"));
            }
        }
    }

    /// Where the server is, as far as that is known, and when a Sentinel has said so last.
    pub(super) fn known(&self) -> Option<(Address, Instant)> {
        let heard = self.heard.borrow();
        let newest = newest(&heard)?;
        let agrees = |heard: &Heard| {
            let (at, answer) = heard.answer.as_ref()?;
            (answer.epoch == newest.epoch).then_some(*at)
        };
        let at = heard.iter().filter_map(agrees).max()?;
        Some((self.address(newest), at))
    }

    /// Asks one of them.
    ///
    /// # Errors
    /// When it cannot be reached or does not know.
    pub(super) async fn ask(
        &self,
        node: &Arc<RedisConfig>,
        kept: &mut Option<Connection>,
    ) -> Result<Answer, Failure> {
        let is_stale = match kept {
            Some(kept) => kept.is_stale().await,
            None => true,
        };
        let mut connection = match kept.take().filter(|_| !is_stale) {
            Some(kept) => kept,
            None => Connection::open(Arc::clone(node)).await?,
        };
        let mut request = Request::default();
        let name = self.master.as_bytes();
        // The epoch is in the one, and in mid-failover the new address only in the other.
        request.simple(&[b"SENTINEL", b"MASTER", name]);
        request.simple(&[b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", name]);
        connection.send(&request).await?;
        let master = connection.reply("SENTINEL").await?;
        let address = connection.reply("SENTINEL").await?;
        *kept = Some(connection);
        match (master, address) {
            (Reply::Error(text), _) | (_, Reply::Error(text)) => Err(self.judge(&text, node)),
            (master, address) => Answer::parse(master, address)
                .ok_or_else(|| outage(node, "SENTINEL", "an answer that no Sentinel gives")),
        }
    }

    fn judge(&self, text: &str, node: &RedisConfig) -> Failure {
        let acl = || RIGHTS.to_owned();
        match classify(text, "SENTINEL", node, acl) {
            Verdict::Batch(Failure::Refused { message, .. }) if text.contains(NO_SUCH_MASTER) => {
                let hint = format!(
                    "the Sentinels do not know {:?}: correct sentinel.master, or let them monitor \
                     it (SENTINEL MONITOR)",
                    self.master
                );
                Failure::Refused { message, hint }
            }
            Verdict::Batch(failure) | Verdict::Unknown(failure) => failure,
            Verdict::Key(reason) => outage(node, "SENTINEL", reason),
        }
    }

    fn address(&self, answer: &Answer) -> Address {
        Address::Tcp { host: answer.host.clone(), port: answer.port, tls: self.tls }
    }

    /// Starts asking. Must be called within a runtime.
    fn start(self: &Arc<Self>) {
        if self.is_started.swap(true, Ordering::SeqCst) {
            return;
        }
        for at in 0..self.nodes.len() {
            tokio::spawn(listen(Arc::downgrade(self), at, Arc::clone(&self.nudges[at])));
        }
    }

    fn note(&self, at: usize, outcome: Result<Answer, Failure>) {
        let now = Instant::now();
        self.heard.send_modify(|heard| match outcome {
            Ok(answer) => heard[at] = Heard { answer: Some((now, answer)), error: None },
            Err(failure) => {
                let (message, hint) = failure.into_parts();
                heard[at].error = Some((now, message, hint));
            }
        });
    }
}

/// The same only if it is the very same.
impl PartialEq for Sentinel {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Sentinel {}

impl fmt::Debug for Sentinel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.target())
    }
}

/// Asks one Sentinel again and again, until nobody wants to know any more.
async fn listen(sentinel: Weak<Sentinel>, at: usize, nudge: Arc<Notify>) {
    let mut connection = None;
    while let Some(sentinel) = sentinel.upgrade() {
        let outcome = sentinel.ask(&sentinel.nodes[at], &mut connection).await;
        sentinel.note(at, outcome);
        drop(sentinel);
        tokio::select! {
            () = tokio::time::sleep_until(ticks::within(ASK_EVERY)) => {}
            () = nudge.notified() => {}
        }
    }
}

/// The answer that counts.
fn newest(heard: &[Heard]) -> Option<&Answer> {
    let now = Instant::now();
    let answers = heard.iter().filter_map(|heard| heard.answer.as_ref());
    let valid = answers.filter(|(at, _)| now.duration_since(*at) < ANSWER_VALID);
    // Of equals the first: two Sentinels may know one server by two names.
    valid.map(|(_, answer)| answer).reduce(|a, b| if b.epoch > a.epoch { b } else { a })
}

/// Why no Sentinel has an answer. One that refuses us needs a person; the others may come back.
fn nobody(heard: &[Heard], config: &RedisConfig) -> Failure {
    let errors = heard.iter().filter_map(|heard| heard.error.as_ref());
    let messages: Vec<_> = errors.clone().map(|(_, message, _)| message.as_str()).collect();
    let message = format!(
        "redis {} at {}: no Sentinel says where the server is: {}",
        config.name(),
        config.target(),
        messages.join("; ")
    );
    match errors.clone().find_map(|(.., hint)| hint.clone()) {
        Some(hint) => Failure::Refused { message, hint },
        None => Failure::Outage { message },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_the_highest_epoch_counts_while_it_is_young() {
        let heard = |port, epoch, age| {
            let answer = Answer { host: "h".into(), port, epoch, ..Answer::default() };
            let at = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
            Heard { answer: Some((at, answer)), error: None }
        };
        let port = |heard: &[Heard]| newest(heard).map(|answer| answer.port);
        let now = Duration::ZERO;
        assert_eq!(port(&[Heard::default()]), None);
        assert_eq!(port(&[heard(1, 5, now), heard(2, 6, now), heard(3, 6, now)]), Some(2));
        assert_eq!(port(&[heard(1, 5, now), heard(2, 6, ANSWER_VALID)]), Some(1));
    }
}
