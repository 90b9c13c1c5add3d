//! What the daemon knows of the history that it follows, and what follows from that for the slot
//! that it finds.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::Settings;
use super::connect::Mode;
use crate::failpoint::Failpoint;
use crate::lsn::Lsn;
use crate::postgres::{PgError, PgErrorKind, ReplicationSession, ServerIdentity, SystemIdentity};
use crate::state::{
    GapCause, KnownSink, Position, PositionKeeper, Server, SinkPosition, SinkPositions, judge,
    retain_valid,
};

/// How often the fallbacks run while a new slot is made.
const FALLBACKS_EVERY: Duration = Duration::from_secs(60);

/// How often the server may fail at the same commit before that is given up.
const FAILURES_MAX: u32 = 3;

/// What is known from one stream to the next.
pub struct History {
    slot: String,
    state_dir: Option<PathBuf>,
    pub(super) positions: PositionKeeper,
    /// A gap that was found while streaming, that is being closed on the slot that was found, or
    /// that the operator told of.
    pub(super) pending: Option<GapCause>,
    /// The operator wants the next gap to be handled, whatever `on_gap` says.
    pub(super) is_assumed: bool,
    /// Up to where everything is done and the server cannot decode it, and that very server: any
    /// other has to show first that it has the same history.
    pub(super) skip_to: Option<(Lsn, ServerIdentity)>,
    /// Whether another daemon had the slot, or was making it: where it left it, we go on.
    pub(super) waited: Waited,
    /// Whether a stream has started since the process has.
    pub(super) has_started: bool,
    /// The slot was copied, which leaves out that it follows a failover.
    is_copy: bool,
    fallbacks_at: Option<Instant>,
    pub(super) failures: Failures,
}

/// The commit at which the server failed last, and how often.
#[derive(Default)]
pub(super) struct Failures {
    commit_lsn: Lsn,
    count: u32,
}

/// Whether the slot was in somebody else's hands since we had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    Yes,
    No,
}

/// What was found at the slot's name.
pub(super) enum Found {
    /// A slot that goes on where we stopped, and where it stands.
    Ours(Lsn),
    /// A slot to which something is missing, or none.
    Gap(GapCause),
}

impl History {
    /// What an earlier run has left. `assume_gap`: the operator says that there is a gap, which is
    /// to be closed whatever `on_gap` says.
    pub fn open(settings: &Settings, assume_gap: bool) -> Self {
        let state_dir = settings.state_dir.clone();
        if state_dir.is_none() && settings.mode == Mode::Live {
            warn!(
                hint = "set state_dir, or let systemd set $STATE_DIRECTORY",
                "positions stay in memory: a gap that comes about while walpurge is down is noticed \
                 only if the slot is gone"
            );
        }
        let positions = PositionKeeper::open(state_dir.as_deref(), &settings.slot);
        let is_unfinished = positions.known().is_some_and(|known| known.is_in_gap);
        let unfinished = is_unfinished.then_some(GapCause::Unfinished);
        History {
            positions,
            slot: settings.slot.clone(),
            state_dir,
            pending: unfinished.or_else(|| assume_gap.then_some(GapCause::Assumed)),
            is_assumed: assume_gap,
            skip_to: None,
            waited: Waited::No,
            has_started: false,
            is_copy: false,
            fallbacks_at: None,
            failures: Failures::default(),
        }
    }

    /// What is known with other settings: the same, if they are about the same slot.
    pub fn under(self, settings: &Settings) -> Self {
        if self.slot == settings.slot && self.state_dir == settings.state_dir {
            return self;
        }
        History { has_started: self.has_started, ..History::open(settings, false) }
    }

    /// Looks at the slot.
    pub(super) async fn look(
        &mut self,
        session: &mut ReplicationSession,
        identity: &SystemIdentity,
        server_identity: &ServerIdentity,
        settings: &Settings,
    ) -> Result<Found, PgError> {
        let mut slot = match session.usable_slot(&settings.slot, settings.plugin.name()).await {
            Ok(slot) => slot,
            Err(error) if settings.create_slot => match error.kind() {
                PgErrorKind::SlotMissing => return Ok(Found::Gap(GapCause::SlotMissing)),
                PgErrorKind::SlotLost => return Ok(Found::Gap(GapCause::SlotLost)),
                _ => return Err(error),
            },
            Err(error) => return Err(error),
        };
        // The end of the log was asked for before; what is remembered now may be behind it.
        let asked_again;
        let identity = match self.positions.refresh().await {
            true => {
                asked_again = session.identify_system().await?;
                &asked_again
            }
            false => identity,
        };
        if slot.active {
            // Not tried: if it were free by now, a stream would start that nobody has judged.
            self.observe(identity, settings, slot.confirmed_flush_lsn);
            return Err(session.slot_in_use(&slot));
        }
        // Whoever was closing a gap works no more.
        if self.pending.is_none() && self.positions.known().is_some_and(|known| known.is_in_gap) {
            self.pending = Some(GapCause::Unfinished);
        }
        if let Some(cause) = &self.pending {
            return Ok(Found::Gap(cause.clone()));
        }
        if let Some(known) = self.positions.known()
            && !Failpoint::OwnPosition.is_set()
        {
            let has_waited = self.waited == Waited::Yes;
            let server = Server {
                system_id: &identity.system_id,
                timeline: identity.timeline,
                flushed_lsn: identity.flushed_lsn,
                fork_lsn: session.fork_lsn(identity.timeline, known.timeline).await?,
                slot_lsn: slot.confirmed_flush_lsn.filter(|_| !has_waited),
            };
            if let Some(cause) = judge(known, &server) {
                return Ok(Found::Gap(cause));
            }
        }
        if let Some((end_lsn, server)) = &self.skip_to {
            if server == server_identity && slot.confirmed_flush_lsn < Some(*end_lsn) {
                session.advance_slot(&settings.slot, *end_lsn).await?;
                info!(%end_lsn, "moved the slot past the transaction that cannot be decoded");
                slot = session.usable_slot(&settings.slot, settings.plugin.name()).await?;
            }
            self.skip_to = None;
        }
        if std::mem::take(&mut self.is_copy)
            && let Err(error) = session.let_slot_fail_over(&settings.slot).await
        {
            warn!(
                slot = settings.slot,
                "the slot does not follow a failover, after which there will be a gap: {error}"
            );
        }
        Ok(Found::Ours(slot.confirmed_flush_lsn.unwrap_or_default()))
    }

    /// Where everything is done as far as we know, for a build that starts there.
    pub(super) fn own_lsn(&self) -> Lsn {
        self.positions.known().map_or(Lsn::ZERO, |known| known.confirmed_lsn)
    }

    /// Another daemon works on the slot, unless it is what is left of our own last session: what it
    /// has done is done.
    fn observe(&mut self, identity: &SystemIdentity, settings: &Settings, at: Option<Lsn>) {
        self.waited = Waited::Yes;
        let slot_lsn = at.unwrap_or_default();
        let is_ours = self.positions.known().is_some_and(|known| {
            known.system_id == identity.system_id
                && known.timeline == identity.timeline
                && slot_lsn <= known.confirmed_lsn
        });
        if !is_ours {
            self.positions.learn(position(identity, &settings.slot, slot_lsn));
        }
    }

    /// A stream has started at `slot_lsn`: whatever came before is done, by whomever.
    pub(super) async fn started(
        &mut self,
        identity: &SystemIdentity,
        settings: &Settings,
        slot_lsn: Lsn,
    ) {
        self.waited = Waited::No;
        self.has_started = true;
        if settings.mode == Mode::DryRun {
            return;
        }
        let mut position = position(identity, &settings.slot, slot_lsn);
        if let Some(known) =
            self.positions.known().filter(|known| known.system_id == position.system_id)
        {
            position.confirmed_lsn = known.confirmed_lsn.max(slot_lsn);
            position.seen = known.seen;
            position.sinks = relied_on(known, identity.timeline, &settings.sinks, slot_lsn);
        }
        self.positions.remember_now(position).await;
    }

    /// A gap is to be closed on a slot that stays: until then the file alone tells of it. Should
    /// our own walsender outlive us, its place on the slot is not to be taken for somebody's work.
    pub(super) async fn begin_closing(&mut self, cause: &GapCause, identity: &SystemIdentity) {
        self.pending = Some(cause.clone());
        let known = self.positions.known().cloned();
        let known = known.unwrap_or_else(|| position(identity, &self.slot, Lsn::ZERO));
        self.positions.remember_now(Position { is_in_gap: true, ..known }).await;
    }

    /// The gap is closed: everything up to `position` is done or covered by fallbacks.
    pub(super) async fn closed(&mut self, position: Position, is_new_slot: bool) {
        self.is_copy = is_new_slot;
        self.positions.remember_now(position).await;
        self.pending = None;
        self.is_assumed = false;
        self.fallbacks_at = None;
        self.skip_to = None;
    }

    /// When the fallbacks are to run while the new slot is made: at once, and then now and then.
    pub(super) fn next_fallbacks(&self) -> Instant {
        self.fallbacks_at.map_or_else(Instant::now, |at| at + FALLBACKS_EVERY)
    }

    /// The fallbacks run now. Answers whether it is the first time for this gap.
    pub(super) fn run_fallbacks(&mut self) -> bool {
        self.fallbacks_at.replace(Instant::now()).is_none()
    }
}

impl Failures {
    /// The server has failed within the transaction of this commit. Whether that is given up.
    pub(super) fn gives_up(&mut self, commit_lsn: Lsn) -> bool {
        if self.commit_lsn != commit_lsn {
            *self = Failures { commit_lsn, count: 0 };
        }
        self.count += 1;
        self.count >= FAILURES_MAX
    }
}

/// The positions of single sinks that count from now on; says of the others why they do not. Since
/// those are forgotten with that, it is said once.
fn relied_on(known: &Position, timeline: u32, sinks: &[KnownSink], slot_lsn: Lsn) -> SinkPositions {
    let mut positions = known.sinks.clone();
    if known.timeline != timeline && !positions.is_empty() {
        let before = known.timeline;
        info!(timeline, before, "the timeline is another one, so every sink starts at the slot");
        positions.clear();
    }
    retain_valid(&mut positions, sinks, |sink, changed| {
        info!(sink, "the sink starts at the slot, whatever it has done before: {changed}");
    });
    for (sink, SinkPosition { done_lsn, .. }) in &positions {
        if *done_lsn > slot_lsn {
            info!(sink, %done_lsn, %slot_lsn, "leaving out what the sink has done before");
        }
    }
    positions
}

fn position(identity: &SystemIdentity, slot: &str, confirmed_lsn: Lsn) -> Position {
    Position {
        system_id: identity.system_id.clone(),
        timeline: identity.timeline,
        slot: slot.to_owned(),
        confirmed_lsn,
        seen: None,
        sinks: SinkPositions::new(),
        is_in_gap: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Duty, Fingerprint};

    #[test]
    fn on_another_timeline_no_sink_is_relied_on() {
        let (target, rules) = (Fingerprint::of("t"), Fingerprint::of("r"));
        let at = SinkPosition { done_lsn: Lsn(9), target: target.clone(), rules: rules.clone() };
        let known = Position {
            system_id: "1".into(),
            timeline: 1,
            slot: "walpurge".into(),
            confirmed_lsn: Lsn(5),
            seen: None,
            sinks: [("cache".to_owned(), at)].into(),
            is_in_gap: false,
        };
        let sinks = [KnownSink { name: "cache".into(), target, rules, duty: Duty::Works }];
        assert_eq!(relied_on(&known, 1, &sinks, Lsn(5)), known.sinks);
        assert!(relied_on(&known, 2, &sinks, Lsn(5)).is_empty());
    }
}
