//! What is done again when another server has taken over?
//!
//! Redis copies to its replicas after it has answered. When a replica takes over, deletes that were
//! acknowledged are lost, and the keys are back, stale. The same holds of a server that starts
//! again from an older file. So a lane remembers what it did within a *window* ([`memory`]), and
//! on which server; when it meets another one, it first does all of it again, or the fallbacks of
//! every rule that reaches the sink if that was too much to remember.
//!
//! A server is told by `master_replid` of INFO: the id of one history of writes, which is new after
//! each restart and each promotion, of the same process too. It is looked at when a lane connects,
//! and every second while a lane remembers anything, whether or not there is anything to do.
//!
//! Nobody remembers what was done before a start. So whoever starts on a server that was noted takes
//! it for more than was remembered, for one window.
//!
//! What this leaves: a replica that was behind by more than the window when its master died.

mod memory;
mod record;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, warn};

pub(super) use self::memory::BYTES_MAX;
use self::memory::Memory;
pub use self::record::ServerRecord;
use super::RedisLane;
use super::config::{Address, RedisConfig};
use super::connection::Connection;
use super::error::outage;
use super::{LaneClass, Sending};
use crate::action::Batch;
use crate::sinks::Failure;

/// How often a lane looks whether its server is still the same while it remembers anything. With
/// Sentinel this is also for how long a lane may work on a server that was replaced, beside the
/// second in which the Sentinels are asked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long an answer of the Sentinels may be back for a look to count.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(3);

/// What takes the place of what nobody remembers.
#[derive(Debug, Default)]
pub struct Fallbacks {
    /// The fallbacks of every rule that reaches the sink.
    pub batch: Batch,
    /// The names of the rules that remove something from the sink and have no fallback there.
    pub uncovered: Vec<String>,
    /// The names of the rules that invalidate tags in the sink.
    pub tagged: Vec<String>,
}

/// A lane's memory, if it has one.
pub(super) struct Failover {
    memory: Memory,
    /// Where what it remembers was done.
    server: Option<String>,
    record: Option<(Arc<ServerRecord>, usize)>,
    coarse: Arc<Fallbacks>,
    /// When to look next; `None`: not before there is something to do.
    look_at: Option<Instant>,
}

impl Failover {
    pub(super) fn new(config: &RedisConfig) -> Self {
        let memory = Memory::new(config.failover_window);
        let (server, record, look_at) = (None, None, None);
        Failover { memory, server, record, coarse: Arc::default(), look_at }
    }

    pub(super) fn share(
        &mut self,
        record: Arc<ServerRecord>,
        coarse: Arc<Fallbacks>,
        class: LaneClass,
    ) {
        let (lane, noted) = record.join(class == LaneClass::Publish);
        self.record = Some((record, lane));
        self.coarse = coarse;
        if let Some(noted) = noted {
            let now = Instant::now();
            self.look_at = Some(now);
            self.memory.forgot(now);
            self.is_on(&noted);
        }
    }

    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    pub(super) fn is_look_due(&self) -> bool {
        self.look_at.is_some_and(|at| at <= Instant::now())
    }

    /// A batch was done on `server`.
    pub(super) fn remember(&mut self, batch: &Batch, server: &str) {
        let now = Instant::now();
        self.memory.remember(batch, now);
        self.look_at.get_or_insert(now + LOOK_EVERY);
        self.is_on(server);
    }

    fn is_on(&mut self, server: &str) {
        if self.server.as_deref() != Some(server) {
            self.server = Some(server.to_owned());
        }
        let server = self.server.as_deref().filter(|_| !self.memory.is_empty());
        if let Some((record, lane)) = &self.record {
            record.remembers(*lane, server);
        }
    }

    /// `server` was the master at `at`, as far as anybody knows.
    pub(super) fn seen(&mut self, server: &str, at: Option<Instant>) {
        if self.server.as_deref() == Some(server)
            && let Some(at) = at
        {
            self.memory.seen(at);
            self.is_on(server);
        }
        self.looked();
    }

    /// The next look is due a while from now, if there is anything left to look for.
    fn looked(&mut self) {
        self.look_at = (!self.memory.is_empty()).then(|| Instant::now() + LOOK_EVERY);
    }
}

/// Since when what `connection` leads to is known to be the master, given that it answered a
/// question that was put at `asked`. `None`: nobody knows, so that nothing may be forgotten.
pub(super) fn known_at(
    config: &RedisConfig,
    connection: &Connection,
    asked: Instant,
) -> Option<Instant> {
    let Address::Sentinel(sentinel) = &config.address else { return Some(asked) };
    let (address, at) = sentinel.known()?;
    let is_young = asked.saturating_duration_since(at) < ANSWER_AGE_MAX;
    (address == *connection.address() && is_young).then_some(at.min(asked))
}

/// Does again on `connection` what was done elsewhere, if anything.
///
/// # Errors
/// When it is not all done; then all of it is owed still.
pub(super) async fn catch_up(
    lane: &mut RedisLane,
    connection: Connection,
) -> Result<Connection, Failure> {
    let Some(server) = connection.server().map(str::to_owned) else { return Ok(connection) };
    let RedisLane { config, class, failover, request, seed, unknown_sends, .. } = lane;
    let Some(failover) = failover else { return Ok(connection) };
    let is_new = failover.record.as_ref().is_some_and(|(record, at)| record.meet(*at, &server));
    let is_lost = !failover.memory.is_empty() && failover.server.as_deref() != Some(&server);
    if !is_new && !is_lost {
        if failover.memory.is_empty() {
            failover.is_on(&server);
        }
        return Ok(connection);
    }
    if *class == LaneClass::Publish
        && let Some((record, at)) = &failover.record
        && !record.others_done(*at, &server, config.timeouts.command).await
    {
        let wait = "messages wait until what they tell of is repeated on the new server";
        return Err(outage(config, "failover", wait));
    }
    let runs_coarse = is_new || failover.memory.is_partial();
    tell(config, failover, is_new, runs_coarse);
    let mut sending = Sending { config, class: *class, request, seed, unknown_sends };
    let mut connection = connection;
    if runs_coarse {
        let coarse = Arc::clone(&failover.coarse);
        (connection, _) = sending.all(connection, &coarse.batch).await?;
    }
    let (mut at, mut given_up) = (0, 0);
    while let Some(batch) = failover.memory.get(at) {
        let report;
        (connection, report) = sending.all(connection, batch).await?;
        given_up += report.rejected.len();
        at += 1;
    }
    if given_up > 0 {
        let sink = config.name();
        warn!(sink, given_up, "part of it can never succeed on the new server");
    }
    failover.memory.renew(Instant::now());
    failover.is_on(&server);
    failover.looked();
    if is_new && let Some((record, _)) = &failover.record {
        record.done_anew();
    }
    Ok(connection)
}

fn tell(config: &RedisConfig, failover: &Failover, is_new: bool, runs_coarse: bool) {
    let (sink, target, actions) = (config.name(), config.target(), failover.memory.actions());
    match (is_new, runs_coarse) {
        (true, _) => warn!(
            sink,
            target,
            "the server is not the one of before: the fallbacks of every rule that reaches it run"
        ),
        (false, true) => warn!(
            sink,
            target,
            actions,
            "another server has taken over, and more was done lately than is remembered: the \
             fallbacks of every rule that reaches it run"
        ),
        (false, false) => warn!(
            sink,
            target, actions, "another server has taken over: what was done lately is done again"
        ),
    }
    if runs_coarse && !failover.coarse.uncovered.is_empty() {
        error!(
            sink,
            target,
            rules = failover.coarse.uncovered.join(", "),
            hint = "give these rules a fallback, and delete their keys by hand",
            "what rules without a fallback have removed may be back, and is not removed again"
        );
    }
}
