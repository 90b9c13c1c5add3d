//! The Redis sink: keys, patterns, tags, counters and messages on one server.
//!
//! In: a [`Batch`] of actions. Out: a [`Report`], or a [`Failure`] after which the whole batch
//! is sent again. A [`RedisLane`] has a connection of its own, tries once, and never waits to try
//! again.
//!
//! **What a repeat does.** A failed or abandoned request may still have run, and all of its
//! batch is sent again. `UNLINK` of a key that is gone removes nothing, and a time that is cut again
//! is no longer. A counter that is bumped
//! twice skips a value. A message that is
//! published twice says twice what to forget. A tag that was half invalidated is finished from where it stands (see
//! [`tags`]). A scan starts from cursor 0, as it must: a cursor means nothing on another
//! connection's server. The price of a repeat is a cache miss or two, never a stale entry.

mod bump;
mod check;
mod cluster;
mod config;
mod connection;
mod count;
mod delete;
mod error;
mod expire;
mod expire_tags;
mod failover;
mod hunt;
mod identity;
mod judge;
mod pacer;
mod publish;
mod replicas;
mod rights;
mod scan;
mod sentinel;
mod session;
mod slot;
mod tag_work;
mod tags;
mod tls;
mod wire;

use std::sync::Arc;
use std::time::Instant;

pub use check::{CheckLine, check};
pub use cluster::{ClusterLane, Ledger, SHARDS, Topology};
pub use config::{
    COMMAND_TIMEOUT, RedisConfig, RedisConfigError, RedisOptions, RedisTls, TAG_KEY, TagMode,
    Timeouts,
};

pub use count::{KeyCounts, KeyPattern, count};
pub use failover::{Fallbacks, ServerRecord};
pub use rights::{Duties, least_acl};
pub use sentinel::SentinelOptions;

use crate::action::{Batch, Verb};
use crate::sinks::{Failure, Report};
use config::Address;
use connection::Connection;
use failover::Failover;
use session::Session;
use wire::Request;

/// What can be busy on its own: a long scan must not delay a single key's delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LaneClass {
    /// Exact keys and counters: a round trip or two.
    Precise,
    /// Tags whose sets are read: as long as the sets.
    Tags,
    /// Patterns: a pass over all keys.
    Scan,
    /// Exact keys that lookups have found, where the sink paces them.
    Found,
    /// Messages, which come after all the others.
    Publish,
}

/// How many sends in a row may end in an error that walpurge does not know before the actions
/// that got it are given up on. With the pipeline's backoff that is about a minute: longer than
/// a proxy's hiccup, and short enough that one impossible action does not hold WAL for ever.
pub const UNKNOWN_SENDS_MAX: u32 = 45;

/// One connection to one Redis, sending one batch at a time.
pub struct RedisLane {
    config: Arc<RedisConfig>,
    class: LaneClass,
    connection: Option<Connection>,
    request: Request,
    /// The latest seed of counters, so that a clock set back does not set seeds back.
    seed: u64,
    /// How many sends in a row ended in an unknown error.
    unknown_sends: u32,
    /// What it has done lately, for another server to which that may be news.
    failover: Option<Failover>,
}

impl RedisLane {
    /// A lane that connects when it first sends.
    pub fn new(config: Arc<RedisConfig>, class: LaneClass) -> Self {
        let request = Request::default();
        let remembers = !config.failover_window.is_zero();
        let failover = remembers.then(|| Failover::new(&config));
        RedisLane { config, class, connection: None, request, seed: 0, unknown_sends: 0, failover }
    }

    /// Shares with the sink's other lanes on which server things were done, and what runs instead of
    /// what nobody remembers.
    pub fn share(&mut self, record: Arc<ServerRecord>, coarse: Arc<Fallbacks>) {
        if let Some(failover) = &mut self.failover {
            failover.share(record, coarse, self.class);
        }
    }

    /// When to [`look`](Self::look) if there is nothing to send by then; `None`: never.
    pub fn look_at(&self) -> Option<Instant> {
        self.failover.as_ref()?.look_at()
    }

    /// Looks whether the server is still the one that has what was done lately, and does that again
    /// if it is not.
    ///
    /// # Errors
    /// When that cannot be found out or done: to be looked at again, after a wait of the caller's.
    pub async fn look(&mut self) -> Result<(), Failure> {
        self.connection = Some(self.connect().await?);
        Ok(())
    }

    /// Does all of `batch`. The lane's class is only its purpose: it does any verb.
    ///
    /// Dropping the future abandons the connection with it; the next send opens another.
    ///
    /// # Errors
    /// A [`Failure`] says that the batch is not finished; any part of it may have run, and the
    /// caller sends all of it again, after a wait of its own.
    pub async fn send(&mut self, batch: &Batch) -> Result<Report, Failure> {
        if batch.is_empty() {
            return Ok(Report::default());
        }
        let connection = self.connect().await?;
        let RedisLane { config, class, request, seed, unknown_sends, .. } = self;
        let mut sending = Sending { config, class: *class, request, seed, unknown_sends };
        let (connection, outcome) = sending.once(connection, batch).await;
        if let (Some(failover), Some(connection), Ok(_)) =
            (&mut self.failover, &connection, &outcome)
            && let Some(server) = connection.server()
        {
            failover.remember(batch, server);
        }
        self.connection = connection;
        outcome
    }

    /// A connection to the server that is the right one now, and that has all that was done before.
    async fn connect(&mut self) -> Result<Connection, Failure> {
        // Taken out, so that neither an error nor a dropped future leaves a connection behind on
        // which replies of this batch are still under way.
        let mut kept = self.connection.take().filter(|kept| self.leads_right(kept));
        if let Some(connection) = &mut kept
            && connection.is_stale().await
        {
            kept = None;
        }
        let asked = Instant::now();
        let is_due = self.failover.as_ref().is_some_and(Failover::is_look_due);
        if is_due
            && let Some(connection) = &mut kept
            && connection.identify().await.is_err()
        {
            kept = None;
        }
        let connection = match kept {
            Some(kept) => kept,
            None => Connection::open(Arc::clone(&self.config)).await?,
        };
        let connection = failover::catch_up(self, connection).await?;
        if is_due && let (Some(failover), Some(server)) = (&mut self.failover, connection.server())
        {
            failover.seen(server, failover::known_at(&self.config, &connection, asked));
        }
        Ok(connection)
    }

    /// Whether the Sentinels, if there are any, still name the server that this leads to.
    fn leads_right(&self, connection: &Connection) -> bool {
        let Address::Sentinel(sentinel) = &self.config.address else { return true };
        sentinel.known().is_none_or(|(address, _)| address == *connection.address())
    }
}

/// What sending takes of a lane beside its connection.
struct Sending<'a> {
    config: &'a RedisConfig,
    class: LaneClass,
    request: &'a mut Request,
    seed: &'a mut u64,
    unknown_sends: &'a mut u32,
}

impl Sending<'_> {
    /// Does all of `batch`. The connection comes back if it is in order.
    async fn once(
        &mut self,
        connection: Connection,
        batch: &Batch,
    ) -> (Option<Connection>, Result<Report, Failure>) {
        self.request.clear();
        let gives_up = *self.unknown_sends + 1 >= UNKNOWN_SENDS_MAX;
        let (config, class) = (self.config, self.class);
        let mut session =
            Session::new(connection, config, class, self.request, self.seed, gives_up);
        let mut outcome = run(&mut session, batch).await;
        let mut in_order = outcome.is_ok();
        if in_order {
            (outcome, in_order) = replicas::wait(&mut session).await;
        }
        let (connection, report, unknown) = session.finish();
        let connection = in_order.then_some(connection);
        if let Err(failure) = outcome {
            return (connection, Err(failure));
        }
        match unknown {
            // The others of the batch are done, and the connection is in order.
            Some(failure) => {
                *self.unknown_sends += 1;
                (connection, Err(failure))
            }
            None => {
                *self.unknown_sends = 0;
                (connection, Ok(report))
            }
        }
    }

    /// Does all of `batch`, for which the connection is needed afterwards.
    async fn all(
        &mut self,
        connection: Connection,
        batch: &Batch,
    ) -> Result<(Connection, Report), Failure> {
        match self.once(connection, batch).await {
            (Some(connection), Ok(report)) => Ok((connection, report)),
            (None, Ok(_)) => Err(error::outage(self.config, "failover", "the connection is gone")),
            (_, Err(failure)) => Err(failure),
        }
    }
}

/// Quick things first: what the batch shares with a scan should not wait for it.
async fn run(session: &mut Session<'_>, batch: &Batch) -> Result<(), Failure> {
    let has = |verb| batch.iter().any(|action| action.verb.untyped() == verb);
    let tags_are_counters = session.config.tag_mode == TagMode::Version;
    if has(Verb::Delete) {
        delete::delete(session, batch).await?;
    }
    if has(Verb::Expire) {
        expire::expire(session, batch).await?;
    }
    if has(Verb::Bump) || tags_are_counters && (has(Verb::Tag) || has(Verb::ExpireTag)) {
        bump::bump(session, batch).await?;
    }
    if has(Verb::Tag) && !tags_are_counters {
        tags::invalidate(session, batch).await?;
    }
    if has(Verb::ExpireTag) && !tags_are_counters {
        expire_tags::expire_tags(session, batch).await?;
    }
    if has(Verb::DeleteMatching) || has(Verb::ExpireMatching) {
        scan::delete_matching(session, batch).await?;
    }
    if has(Verb::BumpMatching)
        || tags_are_counters && (has(Verb::TagMatching) || has(Verb::ExpireTagMatching))
    {
        scan::bump_matching(session, batch).await?;
    }
    if has(Verb::TagMatching) && !tags_are_counters {
        scan::invalidate_matching(session, batch).await?;
    }
    if has(Verb::ExpireTagMatching) && !tags_are_counters {
        expire_tags::expire_matching(session, batch).await?;
    }
    if has(Verb::Publish) {
        publish::publish(session, batch).await?;
    }
    Ok(())
}
