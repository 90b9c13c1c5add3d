//! The Redis sink: keys, patterns, tags, counters and messages on one server.
//!
//! In: a [`Batch`] of actions. Out: a [`Report`], or a [`Failure`] after which the whole batch
//! is sent again. A [`RedisLane`] has a connection of its own, tries once, and never waits to try
//! again.
//!
//! **What a repeat does.** A failed or abandoned request may still have run, and all of its
//! batch is sent again. `UNLINK` of a key that is gone removes nothing. A counter that is bumped
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
mod judge;
mod publish;
mod scan;
mod session;
mod slot;
mod tags;
mod tls;
mod wire;

use std::sync::Arc;

pub use check::{CheckLine, Duties, check, least_acl};
pub use cluster::{ClusterLane, SHARDS, Topology};
pub use config::{
    COMMAND_TIMEOUT, RedisConfig, RedisConfigError, RedisOptions, RedisTls, TAG_KEY, TagMode,
    Timeouts,
};

pub use count::{KeyCounts, KeyPattern, count};

use crate::action::{Batch, Verb};
use crate::sinks::{Failure, Report};
use connection::Connection;
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
}

impl RedisLane {
    /// A lane that connects when it first sends.
    pub fn new(config: Arc<RedisConfig>, class: LaneClass) -> Self {
        let request = Request::default();
        RedisLane { config, class, connection: None, request, seed: 0, unknown_sends: 0 }
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
        // Taken out, so that neither an error nor a dropped future leaves a connection behind on
        // which replies of this batch are still under way.
        let kept = match self.connection.take() {
            Some(mut kept) => (!kept.is_stale().await).then_some(kept),
            None => None,
        };
        let connection = match kept {
            Some(kept) => kept,
            None => Connection::open(Arc::clone(&self.config)).await?,
        };
        self.request.clear();
        let give_up_on_unknown = self.unknown_sends + 1 >= UNKNOWN_SENDS_MAX;
        let mut session = Session::new(
            connection,
            &self.config,
            self.class,
            &mut self.request,
            &mut self.seed,
            give_up_on_unknown,
        );
        let outcome = run(&mut session, batch).await;
        let (connection, report, unknown) = session.finish();
        outcome?;
        self.connection = Some(connection);
        match unknown {
            // The others of the batch are done, and the connection is in order.
            Some(failure) => {
                self.unknown_sends += 1;
                Err(failure)
            }
            None => {
                self.unknown_sends = 0;
                Ok(report)
            }
        }
    }
}

/// Quick things first: what the batch shares with a scan should not wait for it.
async fn run(session: &mut Session<'_>, batch: &Batch) -> Result<(), Failure> {
    let has = |verb| batch.iter().any(|action| action.verb == verb);
    if has(Verb::Delete) {
        delete::delete(session, batch).await?;
    }
    if has(Verb::Bump) || has(Verb::Tag) && session.config.tag_mode == TagMode::Version {
        bump::bump(session, batch).await?;
    }
    if has(Verb::Tag) && session.config.tag_mode == TagMode::Members {
        tags::invalidate(session, batch).await?;
    }
    if has(Verb::DeleteMatching) {
        scan::delete_matching(session, batch).await?;
    }
    if has(Verb::BumpMatching)
        || has(Verb::TagMatching) && session.config.tag_mode == TagMode::Version
    {
        scan::bump_matching(session, batch).await?;
    }
    if has(Verb::TagMatching) && session.config.tag_mode == TagMode::Members {
        scan::invalidate_matching(session, batch).await?;
    }
    if has(Verb::Publish) {
        publish::publish(session, batch).await?;
    }
    Ok(())
}
