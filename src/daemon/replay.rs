//! One replay: a part of the log once more, from a copy of a slot that nobody relies on.
//!
//! It moves no slot's position. The copy belongs to the session and ends with it, whatever ends
//! that one.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::connect::{About, Connected, Lacks, Prepared, prepare};
use super::interrupted::Interrupted;
use super::replayed::{Replayed, Seen};
use super::session::Session;
use super::{STOP_PATIENCE, Settings};
use crate::config::replay_slot;
use crate::decode::pgoutput;
use crate::lsn::Lsn;
use crate::parked::Parked;
use crate::pipeline::{Dispatcher, LaneSpec, Routes};
use crate::postgres::quote::literal;
use crate::postgres::{
    Asking, HEARTBEAT_PREFIX, PgError, PgErrorKind, PluginOptions, ReplicationSession,
    StartFailure, StartedStream, is_too_new,
};
use crate::replay::{Clock, Origin, Pair, Range, Times, micros_of, read_times, shown};
use crate::rules::{Matcher, RuleSet};

/// Where a replay begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the transaction whose commit_lsn is this, or the first one behind it.
    Lsn(Lsn),
    /// With what was committed so long ago, by the server's clock.
    Since(Duration),
}

/// What is to be replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// From where on.
    pub from: Start,
    /// The last commit_lsn; `None`: what is flushed when the replay starts.
    pub to_lsn: Option<Lsn>,
}

/// How a replay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayEnd {
    /// Everything is done.
    Done,
    /// It was told to stop.
    Interrupted,
}

/// Why a replay is not done.
#[derive(Debug, thiserror::Error)]
pub enum ReplayFailure {
    /// Less is kept than is asked for.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Postgres failed.
    #[error(transparent)]
    Postgres(#[from] PgError),
}

impl From<StartFailure> for ReplayFailure {
    fn from(failure: StartFailure) -> Self {
        ReplayFailure::Postgres(failure.into())
    }
}

/// More is asked for than can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is asked for, and the log is kept only from {oldest_lsn} on ({})", self.asked(), self.oldest())]
pub struct Refused {
    /// What was asked for.
    pub from: Start,
    /// The oldest commit_lsn that can be had.
    pub oldest_lsn: Lsn,
    /// What was committed since then can be had; `None`: nobody knows.
    pub oldest_at: Option<i64>,
    /// The server's time.
    pub now: i64,
}

impl Refused {
    fn asked(&self) -> String {
        match self.from {
            Start::Lsn(lsn) => format!("the log from {lsn} on"),
            Start::Since(since) => {
                format!("what was committed since {}", shown(before(self.now, since)))
            }
        }
    }

    fn oldest(&self) -> String {
        match self.oldest_at {
            Some(at) => format!("what was committed since {}", shown(at)),
            None => "nothing was committed since".to_owned(),
        }
    }
}

/// A replay that is ready to run.
pub struct Replay {
    settings: Settings,
    matcher: Matcher,
    dispatcher: Dispatcher,
    state_dir: Option<PathBuf>,
    seen: Seen,
}

impl Replay {
    /// A replay that sends what `rules` ask for to `lanes`, which `routes` lead to. Must be called
    /// within a runtime.
    pub fn new(
        settings: Settings,
        rules: Arc<RuleSet>,
        lanes: Vec<LaneSpec>,
        routes: Routes,
        state_dir: Option<PathBuf>,
    ) -> Self {
        let mut dispatcher = Dispatcher::new(lanes, routes, Arc::clone(&rules), Parked::off());
        settings.prepare(dispatcher.plan_mut(), &rules);
        let (matcher, seen) = (Matcher::new(rules), Seen::default());
        Replay { settings, matcher, dispatcher, state_dir, seen }
    }

    /// What has come of it.
    pub fn seen(&self) -> Seen {
        self.seen
    }

    /// What has been done.
    pub fn dispatcher(&self) -> &Dispatcher {
        &self.dispatcher
    }

    /// Replays until everything is done or `stop` completes. Calls `on_start` once it is known what
    /// there is to do, and `on_status` now and then.
    ///
    /// # Errors
    /// When less is kept than is asked for, and when Postgres fails.
    pub async fn run(
        &mut self,
        asked: &Asked,
        stop: impl Future<Output = ()>,
        on_start: impl FnOnce(Range),
        on_status: impl FnMut(Seen),
    ) -> Result<ReplayEnd, ReplayFailure> {
        let mut stop = std::pin::pin!(stop);
        let started = tokio::select! {
            biased;
            () = &mut stop => return Ok(ReplayEnd::Interrupted),
            started = self.start(asked) => started?,
        };
        let Some((connected, range)) = started else { return Ok(ReplayEnd::Done) };
        on_start(range);
        self.stream(connected, range, stop, on_status).await
    }

    async fn stream(
        &mut self,
        mut connected: Connected,
        range: Range,
        stop: Pin<&mut impl Future<Output = ()>>,
        on_status: impl FnMut(Seen),
    ) -> Result<ReplayEnd, ReplayFailure> {
        let Replay { settings, matcher, dispatcher, .. } = self;
        matcher.set_partitions(connected.partitions.take(), connected.catalog_lsn);
        let mut replayed = Replayed::new(range);
        let mut session = Session::replay(connected, settings, matcher, dispatcher, &mut replayed);
        let ended = session.follow(stop, on_status).await;
        let end = if session.is_done() { ReplayEnd::Done } else { ReplayEnd::Interrupted };
        if ended.is_ok() {
            if !session.finish(STOP_PATIENCE).await {
                warn!("stopping although a sink has not answered");
            }
            session.leave().await;
        }
        self.seen = replayed.seen();
        match ended {
            Ok(_) => Ok(end),
            Err(Interrupted::Error(error) | Interrupted::Undecodable(_, error)) => {
                Err(error.into())
            }
            Err(Interrupted::Catalog | Interrupted::Gap(_)) => {
                Err(PgError::new(PgErrorKind::Protocol, "replay over a change of tables").into())
            }
        }
    }

    /// From nothing to a running stream; `None` if nothing was committed in the range.
    async fn start(&self, asked: &Asked) -> Result<Option<(Connected, Range)>, ReplayFailure> {
        let Prepared { mut session, options, about } =
            prepare(&self.settings, self.matcher.rules(), Lacks::Refused).await?;
        mark_end(&mut session).await?;
        let now = Clock::read(&session.simple_query(Clock::SQL).await?)?;
        let copy = self.copy(&mut session).await?;
        let times = self.times(&about);
        let log = Log { copy: &copy, options: &options, times: &times };
        let range = range(asked, &mut session, &log, &about, now).await?;
        if range.from_lsn > range.to_lsn {
            info!(from_lsn = %range.from_lsn, to_lsn = %range.to_lsn, "nothing to replay");
            session.close().await;
            return Ok(None);
        }
        info!(from_lsn = %range.from_lsn, to_lsn = %range.to_lsn, slot = copy.source, "replaying");
        let started = self.start_stream(session, copy, &options, asked.from, range, now).await?;
        Ok(Some((about.connected(&self.settings, started, range.from_lsn), range)))
    }

    /// Copies the slot that reaches back furthest.
    async fn copy(&self, session: &mut ReplicationSession) -> Result<Copied, PgError> {
        let plugin = self.settings.plugin.name();
        let main = session.usable_slot(&self.settings.slot, plugin).await;
        let kept = session.usable_slot(&replay_slot(&self.settings.slot), plugin).await;
        // Without either, the main one's error says more.
        let source = match (main, kept) {
            (Err(error), Err(_)) => return Err(error),
            (Ok(slot), Err(_)) | (Err(_), Ok(slot)) => slot,
            (Ok(main), Ok(kept)) => {
                let is_further = main.confirmed_flush_lsn < kept.confirmed_flush_lsn;
                if is_further { main } else { kept }
            }
        };
        let name = format!("{:.40}_copy_{:08x}", self.settings.slot, fastrand::u32(..));
        let made = session.copy_slot_temporary(&source.name, &name).await?;
        Ok(Copied { source: source.name, name, oldest_lsn: made.consistent_lsn })
    }

    /// What the daemon has kept of when which position was the end of the log.
    fn times(&self, about: &About) -> Times {
        let Some(directory) = &self.state_dir else { return Times::default() };
        let (system_id, timeline) = (&about.server.system_id, &about.server.timeline);
        let origin = Origin { system_id: system_id.clone(), timeline: timeline.clone() };
        match read_times(directory, &origin) {
            Ok(times) => times.unwrap_or_default(),
            Err(error) => {
                debug!("no times: {error}");
                Times::default()
            }
        }
    }

    /// Starts the stream. A refused option costs the server a temporary slot, and us another copy.
    async fn start_stream(
        &self,
        session: ReplicationSession,
        copy: Copied,
        options: &PluginOptions,
        from: Start,
        range: Range,
        now: Pair,
    ) -> Result<StartedStream, ReplayFailure> {
        let (name, first) = (&copy.name, range.from_lsn);
        match session.start_stream_from(name, first, options, Asking::Everything).await {
            Err(StartFailure { session: Some(mut session), error }) if is_too_new(&error) => {
                let copy = self.copy(&mut session).await?;
                if copy.oldest_lsn > first {
                    let oldest_lsn = copy.oldest_lsn;
                    let oldest_at = first_commit(&mut session, &copy.name, options).await?;
                    return Err(Refused { from, oldest_lsn, oldest_at, now: now.at }.into());
                }
                Ok(session.start_stream_from(&copy.name, first, options, Asking::Certain).await?)
            }
            started => Ok(started?),
        }
    }
}

/// A copy of a slot, which ends with its session.
struct Copied {
    source: String,
    name: String,
    oldest_lsn: Lsn,
}

/// The log that is kept.
struct Log<'a> {
    copy: &'a Copied,
    options: &'a PluginOptions,
    times: &'a Times,
}

/// What the replay is to take, if that is kept.
async fn range(
    asked: &Asked,
    session: &mut ReplicationSession,
    log: &Log<'_>,
    about: &About,
    now: Pair,
) -> Result<Range, ReplayFailure> {
    let Log { copy, options, times } = log;
    let flushed_lsn = about.identity.flushed_lsn;
    let to_lsn = match asked.to_lsn {
        Some(to) if to > flushed_lsn => {
            warn!(to_lsn = %to, %flushed_lsn, "the log ends before that; it is replayed to its end");
            flushed_lsn
        }
        to => to.unwrap_or(flushed_lsn),
    };
    let oldest_lsn = copy.oldest_lsn;
    let known = times.first_from(oldest_lsn).map(|pair| pair.at);
    let (from_lsn, from_time) = match asked.from {
        Start::Lsn(lsn) if lsn >= oldest_lsn => (Some(lsn), None),
        Start::Lsn(_) => (None, None),
        Start::Since(since) => {
            let from = before(now.at, since);
            let oldest_at = match known {
                Some(at) => Some(at),
                None => first_commit(session, &copy.name, options).await?,
            };
            let near = times.last_until(from).map_or(oldest_lsn, |pair| pair.lsn.max(oldest_lsn));
            (oldest_at.is_some_and(|oldest| oldest <= from).then_some(near), Some(from))
        }
    };
    if let Some(from_lsn) = from_lsn {
        return Ok(Range::new(from_lsn, from_time, to_lsn, flushed_lsn));
    }
    let oldest_at = match known {
        Some(at) => Some(at),
        None => first_commit(session, &copy.name, options).await?,
    };
    Err(Refused { from: asked.from, oldest_lsn, oldest_at, now: now.at }.into())
}

/// Commits a message behind what is to be replayed. What is flushed may end in the middle of a
/// record, and then the server reads on to it only when somebody commits.
async fn mark_end(session: &mut ReplicationSession) -> Result<(), PgError> {
    // No standby is to be waited for.
    let sql = format!(
        "SET synchronous_commit = local; \
         SELECT pg_catalog.pg_logical_emit_message(true, '{HEARTBEAT_PREFIX}', '')"
    );
    match session.simple_query(&sql).await {
        // It may lack the right, or be a standby: others commit too.
        Err(error) if matches!(error.kind(), PgErrorKind::Other { .. }) => {
            debug!("no mark at the end of the log: {error}");
            Ok(())
        }
        marked => marked.map(drop),
    }
}

/// When the first transaction was committed that a slot of this session stands before, as far as
/// the stream has transactions at all.
async fn first_commit(
    session: &mut ReplicationSession,
    slot: &str,
    options: &PluginOptions,
) -> Result<Option<i64>, PgError> {
    let sql = match options {
        // No change is decoded for that.
        PluginOptions::Wal2json(_) => format!(
            "SELECT data::json ->> 'timestamp' \
             FROM pg_catalog.pg_logical_slot_peek_changes('{slot}', NULL, 1, \
               'format-version', '2', 'include-timestamp', 'true', 'actions', 'truncate', \
               'add-tables', 'walpurge.none', 'add-msg-prefixes', 'walpurge.none') LIMIT 1"
        ),
        // A Begin message has it behind its type and the commit's position.
        PluginOptions::Pgoutput(options) => format!(
            "SELECT pg_catalog.encode(pg_catalog.substring(data, 10, 8), 'hex') \
             FROM pg_catalog.pg_logical_slot_peek_binary_changes('{slot}', NULL, 1, {}) \
             WHERE pg_catalog.get_byte(data, 0) = {} LIMIT 1",
            options
                .options()
                .iter()
                .map(|(name, value)| format!("{}, {}", literal(name), literal(value)))
                .collect::<Vec<_>>()
                .join(", "),
            b'B'
        ),
    };
    let rows = session.simple_query(&sql).await?;
    let text = rows.into_iter().flatten().flatten().next();
    Ok(text.and_then(|text| match options {
        PluginOptions::Wal2json(_) => micros_of(text.as_bytes()),
        PluginOptions::Pgoutput(_) => {
            i64::from_str_radix(&text, 16).ok().map(pgoutput::micros_since_1970)
        }
    }))
}

fn before(now: i64, since: Duration) -> i64 {
    now.saturating_sub(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
