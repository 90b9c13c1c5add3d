//! Closing a gap: a new slot, and fallbacks in place of what nobody can read any more.
//!
//! The new slot is temporary until the fallbacks at its start are done everywhere, and only then
//! copied to the permanent name. So a slot of that name means that nothing is owed, and a crash at
//! any step leaves none, which is a gap again.

use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::time::{sleep_until, timeout};
use tracing::{error, info, warn};

use super::connect::{Connected, Prepared};
use super::history::Waited;
use super::interrupted::Interrupted;
use super::purpose::Purpose;
use super::session::{Ended, Session};
use super::watch::{Watch, run_fallbacks};
use super::{Daemon, STOP_PATIENCE, Settings, turn_for_ever};
use crate::failpoint::Place;
use crate::lsn::Lsn;
use crate::postgres::client::simple_query;
use crate::postgres::quote::literal;
use crate::postgres::{
    Asking, ChosenHost, OrdinaryConnection, Persistence, PgError, PgErrorKind, ReplicationSession,
    connect_client,
};
use crate::rules::Cause;
use crate::state::GapCause;
use crate::status::Role;

/// How long to wait before the new slot is copied again, where there was no room for it.
const COPY_WAIT: Duration = Duration::from_secs(5);

/// How long one question to the server may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the server may take to give up a slot that it makes.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);

/// How closing a gap ended.
pub(super) enum Closing<T> {
    /// The daemon is to stop, for this.
    Stopped(T),
    /// A permanent slot is there.
    Closed,
}

/// What came of making a slot.
enum Made<T> {
    /// It stands here.
    Slot(Lsn),
    /// The daemon is to stop, for this.
    Stopped(T),
}

/// A temporary slot that becomes the permanent one.
struct Temporary {
    name: String,
    host: ChosenHost,
}

impl Daemon {
    /// Closes a gap.
    ///
    /// # Errors
    /// When the connection breaks, and for whatever else leaves the gap open.
    pub(super) async fn close_gap<T>(
        &mut self,
        prepared: Prepared,
        cause: &GapCause,
        mut stop: Pin<&mut impl Future<Output = T>>,
    ) -> Result<Closing<T>, Interrupted> {
        let Prepared { mut session, options, about } = prepared;
        let slot = self.settings.slot.clone();
        // A server that is silent is waited for.
        let pulse = self.settings.board.pulse().clone();
        if !self.settings.create_slot {
            // It stays as it is, and is confirmed when the fallbacks are done.
            self.history.begin_closing(cause, &about.identity).await;
            self.fallbacks(cause);
            let found = pulse.waiting(session.usable_slot(&slot, options.plugin())).await?;
            let started = pulse.waiting(session.start_stream(&slot, &options)).await;
            let started = started.map_err(PgError::from)?;
            about.announce(&slot);
            let slot_lsn = found.confirmed_flush_lsn.unwrap_or_default();
            let connected = about.connected(&self.settings, started, slot_lsn);
            return self.follow_gap(connected, None, stop).await;
        }
        if *cause != GapCause::SlotMissing {
            match pulse.waiting(session.drop_slot(&slot)).await {
                Err(error) if *error.kind() != PgErrorKind::SlotMissing => return Err(error.into()),
                _ => {}
            }
        }
        self.fallbacks(cause);
        let (host, name) = (session.host().clone(), format!("{slot:.59}_gap"));
        let slot_lsn = match self.make_slot(&mut session, &name, cause, stop.as_mut()).await? {
            Made::Slot(slot_lsn) => slot_lsn,
            Made::Stopped(why) => return Ok(Closing::Stopped(why)),
        };
        Place::GapSlotCreated.pass();
        // An option that the plugin refuses would cost the slot.
        let started = session.start_stream_from(&name, Lsn::ZERO, &options, Asking::Certain);
        let started = pulse.waiting(started).await.map_err(PgError::from)?;
        about.announce(&name);
        let connected = about.connected(&self.settings, started, slot_lsn);
        Place::GapStreamStarted.pass();
        self.follow_gap(connected, Some(Temporary { name, host }), stop).await
    }

    /// Runs the fallbacks beside the making of a slot, if it is time.
    fn fallbacks(&mut self, cause: &GapCause) {
        if self.history.next_fallbacks() > Instant::now() {
            return;
        }
        let rules = self.matcher.rules();
        if self.history.run_fallbacks() {
            let slot = &self.settings.slot;
            warn!(slot, "there is a gap: {cause}; every rule's fallback runs");
            self.dispatcher.counts().gaps.add(1);
            let without = rules.rules().iter().filter(|rule| rule.fallback.is_empty());
            let without: Vec<_> = without.map(|rule| rule.name.as_str()).collect();
            if !without.is_empty() {
                let rules = without.join(", ");
                warn!(rules, "rules without a fallback leave keys behind that may be stale");
            }
        } else {
            info!("the new slot is not made yet; every rule's fallback runs again");
        }
        self.dispatcher.counts().every_fallback(rules, Cause::Gap);
        run_fallbacks(rules, self.dispatcher.plan_mut());
        self.dispatcher.dispatch();
        let (role, gaps) = (Role::ClosingGap, self.dispatcher.counts().gaps.get());
        self.settings.board.publish(|status| (status.role, status.gaps) = (role, gaps));
    }

    /// Makes the temporary slot, and runs the fallbacks now and then meanwhile: the server waits
    /// for every open transaction that writes.
    async fn make_slot<T>(
        &mut self,
        session: &mut ReplicationSession,
        name: &str,
        cause: &GapCause,
        mut stop: Pin<&mut impl Future<Output = T>>,
    ) -> Result<Made<T>, PgError> {
        let pulse = self.settings.board.pulse().clone();
        let asking = connect_client(&self.settings.connect, session.host());
        let asking = pulse.waiting(asking).await.ok();
        let walsender = session.process_id();
        let plugin = self.settings.plugin.name();
        let creation = async {
            let temporary = Persistence::Temporary;
            match &asking {
                // Only to say whom the creation waits for.
                Some(asking) => {
                    session.create_slot_reporting(name, plugin, temporary, &asking.client).await
                }
                None => session.create_slot(name, plugin, temporary).await,
            }
        };
        let mut creation = std::pin::pin!(creation);
        loop {
            let next = self.history.next_fallbacks();
            tokio::select! {
                biased;
                why = stop.as_mut() => {
                    cancel(asking.as_ref(), walsender).await;
                    // Polled on, so that nothing holds WAL for nobody.
                    let _ = timeout(CANCEL_TIMEOUT, creation).await;
                    return Ok(Made::Stopped(why));
                }
                created = &mut creation => return match created {
                    Ok(created) => Ok(Made::Slot(created.consistent_lsn)),
                    Err(error) if *error.kind() == PgErrorKind::SlotExists => {
                        // Another daemon closes the gap, or the server still does for us.
                        self.history.waited = Waited::Yes;
                        Err(error.with_kind(PgErrorKind::SlotInUse { pid: None }))
                    }
                    Err(error) => Err(error),
                },
                () = sleep_until(next.into()) => self.fallbacks(cause),
                () = turn_for_ever(&mut self.dispatcher, &pulse) => {}
            }
        }
    }

    /// Follows the new slot until the fallbacks at its start are done, and makes it permanent.
    async fn follow_gap<T>(
        &mut self,
        mut connected: Connected,
        temporary: Option<Temporary>,
        mut stop: Pin<&mut impl Future<Output = T>>,
    ) -> Result<Closing<T>, Interrupted> {
        let Daemon { settings, matcher, dispatcher, debt, history } = self;
        let pulse = settings.board.pulse();
        matcher.set_partitions(connected.partitions.take(), connected.catalog_lsn);
        let (rules, plan) = (matcher.rules(), dispatcher.plan_mut());
        let watch = Watch::new(settings.visibility, connected.slot_lsn, rules, plan);
        let purpose = Purpose::Gap { positions: &mut history.positions, debt, watch };
        let mut session = Session::new(connected, settings, matcher, dispatcher, purpose);
        let position = loop {
            match session.follow(stop.as_mut(), |_| ()).await {
                Ok(Ended::Stopped(why)) => {
                    pulse.waiting(session.stop(STOP_PATIENCE)).await;
                    return Ok(Closing::Stopped(why));
                }
                Ok(Ended::GapCovered | Ended::Replayed) => {}
                Err(interrupted) => {
                    drop(session);
                    debt.disconnect(dispatcher.plan_mut());
                    return Err(interrupted);
                }
            }
            let position = session.position();
            let Some(temporary) = &temporary else { break position };
            // First, so that the copy stands nowhere beyond it.
            pulse.waiting(session.purpose().keep(position.clone())).await;
            Place::GapFallbacksDone.pass();
            match pulse.waiting(copy_slot(settings, temporary)).await {
                Ok(()) => break position,
                Err(error) if *error.kind() == PgErrorKind::SlotExists => {
                    history.waited = Waited::Yes;
                    break position;
                }
                Err(error) if *error.kind() == PgErrorKind::NoFreeSlot => {
                    let hint = error.hint();
                    error!(hint, "{error}; the new slot stays temporary, trying again");
                    if let Some(watch) = session.purpose().watch() {
                        watch.rest(COPY_WAIT);
                    }
                }
                Err(error) => {
                    drop(session);
                    debt.disconnect(dispatcher.plan_mut());
                    return Err(error.into());
                }
            }
        };
        Place::GapSlotCopied.pass();
        pulse.waiting(session.leave()).await;
        debt.disconnect(dispatcher.plan_mut());
        info!(slot = settings.slot, "the gap is closed: every rule's fallback is done");
        pulse.waiting(history.closed(position, temporary.is_some())).await;
        Ok(Closing::Closed)
    }
}

async fn cancel(asking: Option<&OrdinaryConnection>, walsender: i32) {
    if let Some(asking) = asking {
        let sql = format!("SELECT pg_catalog.pg_cancel_backend({walsender})");
        // It ends by itself when the open transactions have ended.
        let _ = timeout(CANCEL_TIMEOUT, simple_query(&asking.client, &sql)).await;
    }
}

/// Copies the temporary slot, which is in use, to the permanent name.
async fn copy_slot(settings: &Settings, temporary: &Temporary) -> Result<(), PgError> {
    let operation = "copy the new slot";
    let sql = format!(
        "SELECT pg_catalog.pg_copy_logical_replication_slot({}, {}, false)",
        literal(&temporary.name),
        literal(&settings.slot)
    );
    let copied = async {
        let asking = connect_client(&settings.connect, &temporary.host).await?;
        simple_query(&asking.client, &sql).await.map(drop)
    };
    let copied = timeout(ANSWER_TIMEOUT, copied).await;
    copied.unwrap_or_else(|_| Err(PgError::timeout(operation, ANSWER_TIMEOUT)))
}
