//! One stream, from its start until it breaks or the daemon stops.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use super::Settings;
use super::connect::Connected;
use super::flood::Flood;
use super::reader::{Interrupted, Reader};
use super::watch::Watch;
use crate::failpoint::Failpoint;
use crate::lsn::Lsn;
use crate::pipeline::Dispatcher;
use crate::postgres::{Barrier, Frame, Heard, PgError, PgErrorKind, ReplicationStream, Reply};
use crate::rules::{Matcher, RuleSet};
use crate::snapshot::Snapshot;
use crate::state::{Continuity, Keeper, Position, Seen};

/// How often the server is told how far we are, if that has changed.
const STATUS_EVERY: Duration = Duration::from_millis(500);

/// How often it is told in any case: well below the shortest sensible `wal_sender_timeout`.
const SIGN_OF_LIFE_EVERY: Duration = Duration::from_secs(1);

/// How long what is in flight may delay the server's shutdown.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(1);

/// A stream, and what its changes go through.
pub(super) struct Session<'d> {
    stream: ReplicationStream,
    barrier: Barrier,
    dispatcher: &'d mut Dispatcher,
    reader: Reader<'d>,
    rules: Arc<RuleSet>,
    keeper: &'d mut Keeper,
    /// Where the stream has come.
    position: Position,
    continuity: Continuity,
    purpose: Purpose,
    status: Status,
    flood: Flood,
}

/// What a stream is for.
pub(super) enum Purpose {
    /// To act on and to confirm what it brings.
    Work,
    /// To act on what it brings, and to see the end of a gap: nothing is confirmed.
    Gap(Watch),
    /// To show what it brings.
    DryRun,
}

/// What has been told to the server, and is to be.
struct Status {
    /// The end of what this stream has brought.
    received_lsn: Lsn,
    sent_lsn: Lsn,
    sent_at: Instant,
    /// The server wants to hear from us at once.
    urgent: bool,
}

impl<'d> Session<'d> {
    pub(super) fn new(
        connected: Connected,
        settings: &Settings,
        matcher: &'d mut Matcher,
        dispatcher: &'d mut Dispatcher,
        keeper: &'d mut Keeper,
        purpose: Purpose,
    ) -> Self {
        let rules = Arc::clone(matcher.rules());
        let (slot_lsn, identity) = (connected.slot_lsn, connected.identity);
        let known = keeper.known().filter(|_| matches!(purpose, Purpose::Work));
        let continuity = Continuity::new(known.and_then(|known| known.seen), slot_lsn);
        let position = Position {
            system_id: identity.system_id,
            timeline: identity.timeline,
            slot: settings.slot.clone(),
            confirmed_lsn: known.map_or(slot_lsn, |known| known.confirmed_lsn.max(slot_lsn)),
            seen: continuity.seen(),
        };
        let mut reader =
            Reader::new(matcher, connected.nulls, settings.visibility, settings.messages);
        reader.learn(connected.tables, dispatcher.plan_mut());
        Session {
            stream: connected.stream,
            barrier: connected.barrier,
            dispatcher,
            reader,
            rules,
            keeper,
            position,
            continuity,
            purpose,
            status: Status {
                received_lsn: Lsn::ZERO,
                sent_lsn: Lsn::ZERO,
                sent_at: Instant::now(),
                urgent: false,
            },
            flood: Flood::new(Instant::now().into_std()),
        }
    }

    /// Streams until `stop` completes.
    ///
    /// # Errors
    /// When the stream breaks, or has to be started again.
    pub(super) async fn follow(
        &mut self,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), Interrupted> {
        let mut clock = interval(STATUS_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let has_room = self.dispatcher.plan().has_room();
            let mut messages = 0;
            // In this order, so that a full stream delays neither the end, nor room for more, nor
            // a status update. Everything here is cancel safe.
            tokio::select! {
                biased;
                () = stop.as_mut() => return Ok(()),                         // 1. the end
                () = self.dispatcher.turn() => {}                            // 2. room
                answer = self.barrier.hear() => match answer {             // 3. visibility
                    Heard::Snapshot(snapshot) => self.show(snapshot),
                    Heard::Tables(tables) => {
                        self.reader.tables(tables, self.dispatcher.plan_mut())?;
                    }
                    Heard::ShuttingDown => return Err(self.let_go().await.into()),
                },
                _ = clock.tick() => {                                        // 4. feedback
                    self.remember();
                    self.send_status_if_due(has_room).await?;
                }
                () = self.keeper.written() => self.send_status_if_due(has_room).await?,
                read = self.stream.read(), if has_room => {                  // 5. more to do
                    read?;
                    messages = self.take_frames()?;
                }
            }
            self.dispatcher.dispatch();
            if let Purpose::Gap(watch) = &self.purpose
                && watch.is_done(self.dispatcher.plan())
            {
                return Err(Interrupted::EndOfGap);
            }
            self.ask_for_visibility();
            if self.status.urgent {
                self.send_status().await?;
            }
            if let Some(pause) = self.flood.pause_after(messages, Instant::now().into_std()) {
                // Blocking, since the runtime would wake up for every single message.
                std::thread::sleep(pause);
            }
        }
    }

    /// Takes the frames that have arrived, as long as there is room for their actions, and counts
    /// them.
    fn take_frames(&mut self) -> Result<usize, Interrupted> {
        let mut count = 0;
        while self.dispatcher.plan().has_room() {
            let Some(frame) = self.stream.next_frame()? else { break };
            count += 1;
            let plan = self.dispatcher.plan_mut();
            match frame {
                Frame::XLogData { start_lsn, data, .. } => {
                    if let Some(end_lsn) = self.reader.message(start_lsn, data, plan)? {
                        self.status.received(end_lsn);
                        if let Some(commit) = self.reader.take_commit() {
                            self.continuity.commit(commit)?;
                            if let Purpose::Gap(watch) = &mut self.purpose {
                                watch.streamed(commit.xid);
                            }
                        }
                    }
                    if let Some(record) = self.reader.take_parked() {
                        self.dispatcher.park(&record);
                    }
                }
                Frame::Keepalive { wal_end, reply_requested } => {
                    if !self.reader.is_in_transaction() {
                        self.continuity.reached(wal_end)?;
                        self.status.received(wal_end);
                        plan.advance(wal_end);
                    }
                    self.status.urgent |= reply_requested;
                }
                Frame::Notice(notice) => self.reader.notice(&notice, plan),
                Frame::Oversized { data_bytes, .. } => self.reader.oversized(data_bytes, plan),
                Frame::Error(error) => {
                    let error = self.stream.server_failed(error);
                    return Err(match (error.kind(), self.reader.open_commit()) {
                        (PgErrorKind::Other { .. }, Some(commit)) => {
                            Interrupted::ByTransaction(commit, error)
                        }
                        _ => error.into(),
                    });
                }
                Frame::CopyDone | Frame::ReadyForQuery => return Err(self.stream.ended().into()),
            }
        }
        Ok(count)
    }

    fn show(&mut self, snapshot: Snapshot) {
        let plan = self.dispatcher.plan_mut();
        if let Purpose::Gap(watch) = &mut self.purpose {
            watch.show(&snapshot, &self.rules, plan);
        }
        plan.show(snapshot);
    }

    fn ask_for_visibility(&mut self) {
        let is_watching = matches!(&self.purpose, Purpose::Gap(watch) if watch.wants_snapshot());
        if is_watching || self.dispatcher.plan().wants_snapshot() {
            self.barrier.ask();
        } else {
            self.barrier.rest();
        }
    }

    /// While the reader waits for room, it does not see the server ask for a sign of life.
    async fn send_status_if_due(&mut self, has_room: bool) -> Result<(), PgError> {
        let is_news = self.confirmed_lsn() > self.status.sent_lsn;
        if is_news || !has_room || self.status.sent_at.elapsed() >= SIGN_OF_LIFE_EVERY {
            self.send_status().await?;
        }
        Ok(())
    }

    async fn send_status(&mut self) -> Result<(), PgError> {
        let confirmed = self.confirmed_lsn();
        let written = self.status.received_lsn;
        self.stream.send_status(written, confirmed, Reply::NotNeeded).await?;
        self.status.sent_lsn = confirmed;
        self.status.sent_at = Instant::now();
        self.status.urgent = false;
        Ok(())
    }

    /// What may be confirmed: no more than is on disk that it is done.
    fn confirmed_lsn(&self) -> Lsn {
        match self.purpose {
            Purpose::Work if Failpoint::ConfirmEarly.is_set() => self.status.received_lsn,
            Purpose::Work => {
                let done_lsn = self.dispatcher.plan().confirmed_lsn();
                done_lsn.min(self.keeper.confirmable_lsn())
            }
            Purpose::Gap(_) | Purpose::DryRun => Lsn::ZERO,
        }
    }

    /// Where the stream has come.
    pub(super) fn position(&self) -> Position {
        let done_lsn = self.dispatcher.plan().confirmed_lsn();
        let confirmed_lsn = self.position.confirmed_lsn.max(done_lsn);
        Position { confirmed_lsn, seen: self.continuity.seen(), ..self.position.clone() }
    }

    /// Waits until this position is on disk.
    pub(super) async fn keep(&mut self, position: Position) {
        self.keeper.remember_now(position).await;
    }

    /// Lets the end of a gap wait.
    pub(super) fn rest(&mut self, wait: Duration) {
        if let Purpose::Gap(watch) = &mut self.purpose {
            watch.rest(wait);
        }
    }

    /// Lets the position be written beside the work.
    fn remember(&mut self) {
        if let Purpose::Work = self.purpose {
            self.keeper.remember(self.position());
        }
    }

    /// Waits until the position is on disk.
    pub(super) async fn remember_now(&mut self) {
        if let Purpose::Work = self.purpose {
            self.keeper.remember_now(self.position()).await;
        }
    }

    /// The server cannot decode the rest of the transaction that the stream is in: fallbacks take
    /// its place. Works until they and everything before them are done; answers whether they are,
    /// or `stop` came first.
    pub(super) async fn give_up_transaction(
        &mut self,
        commit: Seen,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<bool, Interrupted> {
        self.reader.give_up_open(self.dispatcher.plan_mut());
        self.continuity.commit(commit)?;
        while self.dispatcher.plan().confirmed_lsn() < commit.end_lsn {
            self.dispatcher.dispatch();
            self.ask_for_visibility();
            tokio::select! {
                biased;
                () = stop.as_mut() => return Ok(false),
                () = self.dispatcher.turn() => {}
                answer = self.barrier.hear() => match answer {
                    Heard::Snapshot(snapshot) => self.show(snapshot),
                    // The next stream asks for them again.
                    Heard::Tables(_) => {}
                    Heard::ShuttingDown => {
                        let kind = PgErrorKind::ServerShuttingDown;
                        return Err(PgError::new(kind, "stay connected").into());
                    }
                },
            }
        }
        self.remember_now().await;
        Ok(true)
    }

    /// The server is shutting down, and would wait for ever for what it cannot have: leaves, after
    /// a moment for what can be done.
    async fn let_go(&mut self) -> PgError {
        info!("Postgres is shutting down");
        self.finish(SHUTDOWN_PATIENCE).await;
        self.remember_now().await;
        let operation = "stay connected";
        match self.send_status().await {
            Ok(()) => PgError::new(PgErrorKind::ServerShuttingDown, operation),
            Err(error) => error,
        }
    }

    /// Works off what was received, for as long as `patience` lasts and a sink works. Says whether
    /// it is done.
    async fn finish(&mut self, patience: Duration) -> bool {
        self.dispatcher.hurry();
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
                            self.show(snapshot);
                        }
                    }
                }
            }
        };
        timeout(patience, work).await.is_ok()
    }

    /// Ends the stream at once, so that the next one finds the slot free and repeats little.
    pub(super) async fn leave(mut self) {
        self.remember_now().await;
        // What cannot be ended in order ends with the connection.
        if self.send_status().await.is_ok() {
            let _ = self.stream.stop().await;
        }
    }

    /// Finishes what was received, confirms it and ends the stream. What the sinks do not take
    /// within `patience`, or not at all, is not confirmed and so repeated by the next start.
    pub(super) async fn stop(mut self, patience: Duration) {
        if !self.finish(patience).await {
            warn!("stopping although a sink has not answered; its actions will be repeated");
        }
        self.remember_now().await;
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
}
