//! One stream, from its start until it breaks or the daemon stops.

mod ending;
mod feedback;
mod visibility;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use feedback::Status;
use tokio::time::{Instant, interval};

use super::Settings;
use super::connect::{Connected, Mode};
use super::course::Course;
use super::flood::Flood;
use super::held::Held;
use super::interrupted::Interrupted;
use super::published::Published;
use super::purpose::Purpose;
use super::reader::Reader;
use super::replayed::{Replayed, Seen};
use super::replicas::Replicas;
use super::report::{Far, Report};
use super::stall::{Stall, looking};
use crate::failpoint::Place;
use crate::pipeline::Dispatcher;
use crate::postgres::{Barrier, Frame, Heard, PgErrorKind, ReplicationStream, Upstream};
use crate::rules::Matcher;
use crate::state::Position;
use crate::status::{Pulse, Role, Stage};
use crate::ticks;

/// How often the server is told how far we are, if that has changed.
const STATUS_EVERY: Duration = Duration::from_millis(500);

/// A stream, and what its changes go through.
pub(super) struct Session<'d> {
    stream: ReplicationStream,
    barrier: Barrier,
    dispatcher: &'d mut Dispatcher,
    reader: Reader<'d>,
    course: Course,
    purpose: Purpose<'d>,
    replicas: Replicas,
    status: Status,
    flood: Flood,
    slot: String,
    held: Held,
    published: Published,
    report: Report,
    pulse: Pulse,
    stall: Stall,
}

/// Why a stream is not followed any more.
pub(super) enum Ended<T> {
    /// It was told to stop, for this.
    Stopped(T),
    /// Everything that was to be replayed is done.
    Replayed,
    /// The fallbacks at a new slot's start are done.
    GapCovered,
}

impl<'d> Session<'d> {
    pub(super) fn new(
        mut connected: Connected,
        settings: &Settings,
        matcher: &'d mut Matcher,
        dispatcher: &'d mut Dispatcher,
        purpose: Purpose<'d>,
    ) -> Self {
        let decoder = std::mem::take(&mut connected.decoder);
        let mut reader = Reader::new(matcher, decoder, settings.visibility, settings.messages);
        reader.learn(std::mem::take(&mut connected.tables), dispatcher.plan_mut());
        Self::with(connected, settings, reader, dispatcher, purpose)
    }

    /// A session that ends once the part of the stream that counts is done.
    pub(super) fn replay(
        mut connected: Connected,
        settings: &Settings,
        matcher: &'d mut Matcher,
        dispatcher: &'d mut Dispatcher,
        replayed: &'d mut Replayed,
    ) -> Self {
        let decoder = std::mem::take(&mut connected.decoder);
        let mut reader = Reader::new(matcher, decoder, settings.visibility, settings.messages);
        reader.replay(replayed);
        Self::with(connected, settings, reader, dispatcher, Purpose::Replay)
    }

    fn with(
        connected: Connected,
        settings: &Settings,
        mut reader: Reader<'d>,
        dispatcher: &'d mut Dispatcher,
        mut purpose: Purpose<'d>,
    ) -> Self {
        let Connected { stream, barrier, identity, server, host, slot_lsn, .. } = connected;
        if let Some((lsn, at)) = connected.written {
            dispatcher.plan_mut().written_by(lsn, at);
        }
        reader.observe(Arc::clone(dispatcher.counts()), dispatcher.tap().clone());
        let slot = settings.slot.clone();
        let report = Report::new(settings, &host);
        let replicas = match &settings.replicas {
            Some(replicas) if settings.mode == Mode::Live => {
                let upstream = Upstream { history: identity.clone(), server };
                Replicas::start(replicas, upstream, purpose.debt())
            }
            _ => Replicas::default(),
        };
        let course = Course::new(identity, &slot, slot_lsn, purpose.known(), &settings.sinks);
        dispatcher.plan_mut().resume(course.done_before());
        Session {
            stream,
            barrier,
            dispatcher,
            reader,
            course,
            purpose,
            replicas,
            status: Status::new(),
            flood: Flood::new(Instant::now().into_std()),
            slot,
            held: Held::default(),
            published: Published::default(),
            report,
            pulse: settings.board.pulse().clone(),
            stall: Stall::default(),
        }
    }

    /// Streams until `stop` completes, and answers with what that says, or until a replay is done.
    ///
    /// # Errors
    /// When the stream breaks, or has to be started again.
    pub(super) async fn follow<T>(
        &mut self,
        mut stop: Pin<&mut impl Future<Output = T>>,
        mut on_status: impl FnMut(Seen),
    ) -> Result<Ended<T>, Interrupted> {
        let mut clock = interval(STATUS_EVERY);
        // Whether the stream was looked at, or could not take more, since the last tick.
        let mut has_looked = true;
        let mut ticked = Instant::now();
        loop {
            let is_over = self.reader.replayed().is_some_and(|replayed| replayed.is_over());
            if is_over {
                self.dispatcher.hurry();
                if self.dispatcher.plan().is_idle() {
                    return Ok(Ended::Replayed);
                }
            }
            if !self.dispatcher.plan().has_room() {
                self.dispatcher.relieve();
            }
            let has_room = !is_over && self.dispatcher.plan().has_room();
            has_looked |= !has_room;
            let mut messages = 0;
            // In this order, so that a full stream delays neither the end, nor room for more, nor
            // a status update. Everything here is cancel safe.
            tokio::select! {
                biased;
                why = stop.as_mut() => return Ok(Ended::Stopped(why)),       // 1. the end
                () = self.dispatcher.turn() => {}                            // 2. room
                answer = self.barrier.hear() => match answer {             // 3. visibility
                    Heard::Snapshot(snapshot) => self.show(snapshot),
                    Heard::Tables(tables) => {
                        self.published.take(tables.publication.as_ref());
                        self.reader.tables(tables, self.dispatcher.plan_mut())?;
                    }
                    Heard::Held(wal) => {
                        self.held.look(wal, &self.slot, Instant::now().into_std());
                        self.report.look(wal);
                    }
                    Heard::WaitsForUs => return Err(self.waits_for_us().into()),
                    Heard::ShuttingDown => {
                        let pulse = self.pulse.clone();
                        return Err(pulse.waiting(self.let_go()).await.into());
                    }
                },
                news = self.replicas.hear() => self.take_news(news),
                _ = clock.tick() => {                                        // 4. feedback
                    ticked = Instant::now();
                    clock.reset_at(ticks::within(STATUS_EVERY));
                    if std::mem::take(&mut has_looked) {
                        self.pulse.turned(Stage::Loop);
                    }
                    self.look_at_replicas();
                    self.look_at_publication()?;
                    if let Some(debt) = self.purpose.debt() {
                        debt.tick();
                    }
                    let position = self.position();
                    self.publish(&position);
                    self.purpose.remember(position);
                    self.send_status_if_due(has_room).await?;
                    if let Some(replayed) = self.reader.replayed() {
                        on_status(replayed.seen());
                    }
                }
                () = self.purpose.written() => self.send_status_if_due(has_room).await?,
                read = looking(&mut has_looked, self.stream.read()),
                    if has_room && self.stall.reads() => {                   // 5. more to do
                    read?;
                    let first = self.dispatcher.plan().next_order();
                    messages = self.take_frames()?;
                    self.dispatcher.arrived(first, Instant::now().into_std());
                }
            }
            self.stall.pass().await;
            self.dispatcher.dispatch();
            if self.is_gap_covered() {
                return Ok(Ended::GapCovered);
            }
            self.ask_for_visibility();
            if self.status.urgent {
                self.send_status().await?;
            }
            let now = Instant::now();
            let has_more = messages > 0 && self.stream.has_more();
            let pause = self.flood.pause_after(messages, has_more, now.into_std());
            if let Some(pause) = pause {
                // Blocking, since the runtime would wake up for every single message.
                std::thread::sleep(pause);
            }
            // A socket that always has more never waits, and so lets nobody else work: replies are
            // not heard, and the clock does not even tick.
            if pause.is_some() || has_more || now - ticked >= STATUS_EVERY {
                tokio::task::yield_now().await;
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
                            self.course.commit(commit)?;
                            self.stall.commit();
                            self.purpose.streamed(commit.xid);
                        }
                    }
                    if self.reader.is_in_transaction() {
                        Place::InTransaction.pass();
                    }
                    if let Some(record) = self.reader.take_parked() {
                        self.dispatcher.park(&record);
                    }
                }
                Frame::Keepalive { wal_end, reply_requested } => {
                    if !self.reader.is_in_transaction() {
                        self.course.reached(wal_end)?;
                        self.status.received(wal_end);
                        plan.advance(wal_end);
                        if let Some(replayed) = self.reader.replayed() {
                            replayed.received(wal_end);
                        }
                    }
                    self.status.urgent |= reply_requested;
                }
                Frame::Notice(notice) => {
                    let error = self.stream.server_failed(notice);
                    if *error.kind() == PgErrorKind::PublicationMissing {
                        return Err(error.into());
                    }
                    if let Some(notice) = error.server_error() {
                        self.reader.notice(notice, plan);
                    }
                }
                Frame::Oversized { data_bytes, .. } => self.reader.oversized(data_bytes, plan),
                Frame::Error(error) => {
                    let error = self.stream.server_failed(error);
                    return Err(match (error.kind(), self.reader.open_commit()) {
                        (PgErrorKind::Other { .. }, Some(commit)) => {
                            Interrupted::Undecodable(commit, error)
                        }
                        _ => error.into(),
                    });
                }
                Frame::CopyDone | Frame::ReadyForQuery => return Err(self.stream.ended().into()),
            }
        }
        Ok(count)
    }

    /// Publishes how everything is doing.
    fn publish(&mut self, position: &Position) {
        let role = match self.purpose {
            Purpose::Work { .. } | Purpose::DryRun => Role::Streaming,
            Purpose::Gap { .. } => Role::ClosingGap,
            Purpose::Replay => return,
        };
        let far = Far { position, received_lsn: self.status.received_lsn };
        self.report.publish(role, far, &self.held, self.dispatcher);
    }

    fn is_gap_covered(&mut self) -> bool {
        let plan = self.dispatcher.plan();
        self.purpose.watch().is_some_and(|watch| watch.is_done(plan))
    }

    fn look_at_publication(&mut self) -> Result<(), Interrupted> {
        match &mut self.purpose {
            Purpose::Work { debt, .. } if !self.reader.is_in_transaction() => {
                self.published.look(debt, self.reader.rules())
            }
            _ => Ok(()),
        }
    }

    /// What the stream is for.
    pub(super) fn purpose(&mut self) -> &mut Purpose<'d> {
        &mut self.purpose
    }

    /// Whether everything that counts of the stream is done.
    pub(super) fn is_done(&mut self) -> bool {
        let is_over = self.reader.replayed().is_some_and(|replayed| replayed.is_over());
        is_over && self.dispatcher.plan().is_idle()
    }
}
