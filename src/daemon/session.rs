//! One stream, from its start until it breaks or the daemon stops.

use std::collections::HashSet;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{debug, error, info, warn};

use super::Settings;
use super::connect::{Connected, Mode};
use crate::config::Visibility;
use crate::decode::{Event, dropped_change, wal2json};
use crate::failpoint::Failpoint;
use crate::lsn::Lsn;
use crate::pipeline::{Dispatcher, Plan};
use crate::postgres::{
    Barrier, Frame, Heard, Notice, PgError, PgErrorKind, ReplicationStream, Reply,
};
use crate::rules::{Cause, Emission, Facts, Matcher, RuleSet};

/// How often the server is told how far we are, if that has changed.
const STATUS_EVERY: Duration = Duration::from_millis(500);

/// How often it is told in any case: well below the shortest sensible `wal_sender_timeout`.
const SIGN_OF_LIFE_EVERY: Duration = Duration::from_secs(2);

/// How long what is in flight may delay the server's shutdown.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(1);

/// How many different complaints about changes are remembered, so that each is logged once.
const COMPLAINTS_MAX: usize = 1000;

/// How a stream ended.
pub(super) enum Ended {
    Stopped,
    Broken(PgError),
}

/// A stream, and what its changes go through.
pub(super) struct Session<'d> {
    stream: ReplicationStream,
    barrier: Barrier,
    dispatcher: &'d mut Dispatcher,
    reader: Reader<'d>,
    status: Status,
}

/// What has been told to the server, and is to be.
struct Status {
    mode: Mode,
    /// The end of what this stream has brought.
    received_lsn: Lsn,
    sent_lsn: Lsn,
    sent_at: Instant,
    /// The server wants to hear from us at once.
    urgent: bool,
}

/// Turns frames into actions.
struct Reader<'d> {
    decoder: wal2json::Decoder,
    matcher: &'d mut Matcher,
    /// Of the transaction that is open.
    facts: Facts,
    is_open: bool,
    visibility: Visibility,
    /// What was complained about on this stream: a table may have a million such changes.
    complaints: HashSet<String>,
}

impl<'d> Session<'d> {
    pub(super) fn new(
        connected: Connected,
        settings: &Settings,
        matcher: &'d mut Matcher,
        dispatcher: &'d mut Dispatcher,
    ) -> Self {
        let visibility = settings.visibility;
        let decoder = wal2json::Decoder::default();
        let facts = Facts::default();
        Session {
            stream: connected.stream,
            barrier: connected.barrier,
            dispatcher,
            reader: Reader {
                decoder,
                matcher,
                facts,
                is_open: false,
                visibility,
                complaints: HashSet::new(),
            },
            status: Status {
                mode: settings.mode,
                received_lsn: Lsn::ZERO,
                sent_lsn: Lsn::ZERO,
                sent_at: Instant::now(),
                urgent: false,
            },
        }
    }

    /// Streams until `stop` completes.
    ///
    /// # Errors
    /// When the stream breaks.
    pub(super) async fn follow(
        &mut self,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), PgError> {
        let mut clock = interval(STATUS_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let has_room = self.dispatcher.plan().has_room();
            // In this order, so that a full stream delays neither the end, nor room for more, nor
            // a status update. Everything here is cancel safe.
            tokio::select! {
                biased;
                () = stop.as_mut() => return Ok(()),                         // 1. the end
                () = self.dispatcher.turn() => {}                            // 2. room
                answer = self.barrier.hear() => match answer {             // 3. visibility
                    Heard::Snapshot(snapshot) => self.dispatcher.plan_mut().show(snapshot),
                    Heard::ShuttingDown => return Err(self.let_go().await),
                },
                _ = clock.tick() => self.send_status_if_due(has_room).await?, // 4. feedback
                read = self.stream.read(), if has_room => {                  // 5. more to do
                    read?;
                    self.take_frames()?;
                }
            }
            self.dispatcher.dispatch();
            self.ask_for_visibility();
            if self.status.urgent {
                self.send_status().await?;
            }
        }
    }

    /// Takes the frames that have arrived, as long as there is room for their actions.
    fn take_frames(&mut self) -> Result<(), PgError> {
        while self.dispatcher.plan().has_room() {
            let Some(frame) = self.stream.next_frame()? else { return Ok(()) };
            let plan = self.dispatcher.plan_mut();
            match frame {
                Frame::XLogData { start_lsn, data, .. } => {
                    self.reader.message(start_lsn, data, plan, &mut self.status)?;
                }
                Frame::Keepalive { wal_end, reply_requested } => {
                    if !self.reader.is_open {
                        self.status.received(wal_end);
                        plan.advance(wal_end);
                    }
                    self.status.urgent |= reply_requested;
                }
                Frame::Notice(notice) => self.reader.notice(&notice, plan),
                Frame::Oversized { data_bytes, .. } => {
                    error!(
                        bytes = data_bytes,
                        "a change is too large to be read; every rule's fallback runs instead"
                    );
                    self.reader.everything(plan);
                }
                Frame::Error(error) => return Err(self.stream.server_failed(error)),
                Frame::CopyDone | Frame::ReadyForQuery => return Err(self.stream.ended()),
            }
        }
        Ok(())
    }

    fn ask_for_visibility(&mut self) {
        if self.dispatcher.plan().wants_snapshot() {
            self.barrier.ask();
        } else {
            self.barrier.rest();
        }
    }

    /// While the reader waits for room, it does not see the server ask for a sign of life.
    async fn send_status_if_due(&mut self, has_room: bool) -> Result<(), PgError> {
        let is_news = self.status.confirmed(self.dispatcher.plan()) > self.status.sent_lsn;
        if is_news || !has_room || self.status.sent_at.elapsed() >= SIGN_OF_LIFE_EVERY {
            self.send_status().await?;
        }
        Ok(())
    }

    async fn send_status(&mut self) -> Result<(), PgError> {
        let confirmed = self.status.confirmed(self.dispatcher.plan());
        let written = self.status.received_lsn;
        self.stream.send_status(written, confirmed, Reply::NotNeeded).await?;
        self.status.sent_lsn = confirmed;
        self.status.sent_at = Instant::now();
        self.status.urgent = false;
        Ok(())
    }

    /// The server is shutting down, and would wait for ever for what it cannot have: leaves, after
    /// a moment for what can be done.
    async fn let_go(&mut self) -> PgError {
        info!("Postgres is shutting down");
        self.finish(SHUTDOWN_PATIENCE).await;
        let operation = "stay connected";
        match self.send_status().await {
            Ok(()) => PgError::new(PgErrorKind::ServerShuttingDown, operation),
            Err(error) => error,
        }
    }

    /// Works off what was received, for as long as `patience` lasts and a sink works. Says whether
    /// it is done.
    async fn finish(&mut self, patience: Duration) -> bool {
        let work = async {
            loop {
                self.dispatcher.dispatch();
                self.ask_for_visibility();
                if self.dispatcher.is_stuck_or_idle() && !self.dispatcher.plan().wants_snapshot() {
                    return;
                }
                tokio::select! {
                    () = self.dispatcher.turn() => {}
                    answer = self.barrier.hear() => {
                        if let Heard::Snapshot(snapshot) = answer {
                            self.dispatcher.plan_mut().show(snapshot);
                        }
                    }
                }
            }
        };
        timeout(patience, work).await.is_ok()
    }

    /// Finishes what was received, confirms it and ends the stream. What the sinks do not take
    /// within `patience`, or not at all, is not confirmed and so repeated by the next start.
    pub(super) async fn stop(mut self, patience: Duration) {
        if !self.finish(patience).await {
            warn!("stopping although a sink has not answered; its actions will be repeated");
        }
        let said = self.send_status().await;
        let confirmed_lsn = self.status.sent_lsn;
        match said {
            Ok(()) => match self.stream.stop().await {
                Ok(()) => info!(%confirmed_lsn, "stopped"),
                Err(error) => warn!(%confirmed_lsn, "stopped, but the stream did not end: {error}"),
            },
            Err(error) => warn!("stopped without a last confirm: {error}"),
        }
    }
}

impl Status {
    fn received(&mut self, lsn: Lsn) {
        self.received_lsn = self.received_lsn.max(lsn);
    }

    fn confirmed(&self, plan: &Plan) -> Lsn {
        match self.mode {
            Mode::Live if Failpoint::ConfirmEarly.is_set() => self.received_lsn,
            Mode::Live => plan.confirmed_lsn(),
            Mode::DryRun => Lsn::ZERO,
        }
    }
}

impl Reader<'_> {
    /// One message of the output plugin.
    fn message(
        &mut self,
        start_lsn: Lsn,
        data: &mut [u8],
        plan: &mut Plan,
        status: &mut Status,
    ) -> Result<(), PgError> {
        let Reader { decoder, matcher, facts, is_open, visibility, .. } = self;
        match decoder.decode(data) {
            Ok(Event::Change(_) | Event::Commit(_)) if !*is_open => {
                return Err(PgError::new(PgErrorKind::Protocol, "follow what never began"));
            }
            Ok(Event::Begin(_)) if *is_open => {
                return Err(PgError::new(PgErrorKind::Protocol, "follow what never ended"));
            }
            Ok(Event::Change(change)) => {
                let rules = trace_rules(matcher);
                matcher.apply(&change, *facts, |emission| {
                    trace(rules.as_deref(), &emission, *facts);
                    plan.push(emission.sinks, emission.action);
                });
            }
            Ok(Event::Begin(begin)) => {
                *facts = Facts { xid: begin.xid, commit_lsn: begin.commit_lsn };
                *is_open = true;
                // Nobody could tell whether a transaction without an ID is visible.
                let waits = *visibility == Visibility::Wait && !Failpoint::ActEarly.is_set();
                if waits && begin.xid.is_none() {
                    let operation = "follow transactions without include-xids";
                    return Err(PgError::new(PgErrorKind::Protocol, operation));
                }
                plan.begin(begin.xid.filter(|_| waits));
            }
            Ok(Event::Commit(commit)) => {
                *is_open = false;
                let end_lsn = commit.end_lsn.unwrap_or(start_lsn);
                status.received(end_lsn);
                plan.commit(end_lsn);
            }
            Ok(Event::Message(_)) => {}
            Err(error) => {
                if self.is_news(&error.to_string()) {
                    error!(
                        lsn = %start_lsn,
                        "the output plugin sent something unreadable ({error}); every rule's fallback runs"
                    );
                }
                self.everything(plan);
            }
        }
        Ok(())
    }

    /// Whether a complaint is a new one on this stream.
    fn is_news(&mut self, complaint: &str) -> bool {
        if self.complaints.contains(complaint) {
            return false;
        }
        if self.complaints.len() >= COMPLAINTS_MAX {
            self.complaints.clear();
        }
        self.complaints.insert(complaint.to_owned())
    }

    /// What the server says in place of a change that it dropped.
    fn notice(&mut self, notice: &Notice, plan: &mut Plan) {
        let is_news = self.is_news(&notice.message);
        match dropped_change(&notice.message) {
            Some(dropped) => {
                if is_news {
                    warn!(
                        table = format!("{}.{}", dropped.schema, dropped.table),
                        hint = format!(
                            "ALTER TABLE \"{}\".\"{}\" REPLICA IDENTITY FULL, or give it a primary key",
                            dropped.schema, dropped.table
                        ),
                        "wal2json drops changes; their rules' fallbacks run"
                    );
                }
                self.in_transaction(plan, |matcher, emit| {
                    let (schema, table) = (dropped.schema.as_bytes(), dropped.table.as_bytes());
                    matcher.table_fallback(schema, table, Cause::Absent, emit);
                });
            }
            None => {
                if is_news {
                    warn!(notice = notice.message, "an unknown notice; every rule's fallback runs");
                }
                self.everything(plan);
            }
        }
    }

    /// Runs every rule's fallback: a change is not known.
    fn everything(&mut self, plan: &mut Plan) {
        self.in_transaction(plan, |matcher, emit| {
            matcher.rules().all_fallbacks(Cause::Absent, emit);
        });
    }

    /// Adds actions to the open transaction, or to one of their own.
    fn in_transaction(
        &mut self,
        plan: &mut Plan,
        ask: impl FnOnce(&mut Matcher, &mut dyn FnMut(Emission<'_>)),
    ) {
        if !self.is_open {
            plan.begin(None);
        }
        let rules = trace_rules(self.matcher);
        let facts = self.facts;
        ask(self.matcher, &mut |emission| {
            trace(rules.as_deref(), &emission, facts);
            plan.push(emission.sinks, emission.action);
        });
        if !self.is_open {
            // It has no position of its own; it is confirmed with what comes before it.
            plan.commit(Lsn::ZERO);
        }
    }
}

/// The rules, if each invalidation is to be logged.
fn trace_rules(matcher: &Matcher) -> Option<std::sync::Arc<RuleSet>> {
    tracing::enabled!(tracing::Level::DEBUG).then(|| matcher.rules().clone())
}

fn trace(rules: Option<&RuleSet>, emission: &Emission<'_>, facts: Facts) {
    let Some(rules) = rules else { return };
    debug!(
        rule = rules.rule(emission.rule).name,
        action = emission.action.verb.key(),
        value = %String::from_utf8_lossy(emission.action.value),
        fallback = emission.fallback.map(Cause::name),
        xid = facts.xid,
        commit_lsn = facts.commit_lsn.map(|lsn| lsn.to_string()),
        "invalidate"
    );
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pipeline::LaneId;

    const BEGIN: &str = r#"{"action":"B","xid":7,"lsn":"0/1","nextlsn":"0/2"}"#;
    const COMMIT: &str = r#"{"action":"C","xid":7,"lsn":"0/1","nextlsn":"0/2"}"#;
    const CHANGE: &str = r#"{"action":"I","schema":"s","table":"t","columns":[]}"#;

    /// Reads lines as the plugin's messages, and says which one broke the stream.
    fn first_refused(lines: &[&str]) -> Option<usize> {
        let mut matcher = Matcher::new(Arc::new(RuleSet::default()));
        let mut reader = Reader {
            decoder: wal2json::Decoder::default(),
            matcher: &mut matcher,
            facts: Facts::default(),
            is_open: false,
            visibility: Visibility::Wait,
            complaints: HashSet::new(),
        };
        let mut plan = Plan::new(1, Box::new(|_, _| LaneId(0)));
        let mut status = Status {
            mode: Mode::Live,
            received_lsn: Lsn::ZERO,
            sent_lsn: Lsn::ZERO,
            sent_at: Instant::now(),
            urgent: false,
        };
        lines.iter().position(|line| {
            let mut line = line.as_bytes().to_vec();
            reader.message(Lsn(1), &mut line, &mut plan, &mut status).is_err()
        })
    }

    #[test]
    fn a_boundary_that_was_unreadable_breaks_the_stream_and_loses_no_change() {
        assert_eq!(first_refused(&[BEGIN, CHANGE, "{", COMMIT, BEGIN, COMMIT]), None);
        assert_eq!(first_refused(&["{", CHANGE, COMMIT]), Some(1));
        assert_eq!(first_refused(&["{", COMMIT]), Some(1));
        assert_eq!(first_refused(&[BEGIN, CHANGE, "{", BEGIN]), Some(3));
    }
}
