//! What the keeper tells the operator: each thing once, until it is over.

use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::times::{Pair, shown};
use crate::amount::bytes;
use crate::config::ReplayConfig;
use crate::postgres::{PgError, PgErrorKind};

/// How often the same trouble is logged again.
const REMINDER: Duration = Duration::from_secs(600);

/// What was said.
pub(super) struct Said {
    slot: String,
    shortened: bool,
    held_by_main: bool,
    unsaved: bool,
    trouble: Option<(Instant, PgErrorKind)>,
}

impl Said {
    pub(super) fn new(slot: &str) -> Self {
        let slot = slot.to_owned();
        Said { slot, shortened: false, held_by_main: false, unsaved: false, trouble: None }
    }

    /// The slot is a whole window behind.
    pub(super) fn is_whole(&mut self) {
        self.shortened = false;
    }

    /// The slot holds no more than it may.
    pub(super) fn is_within(&mut self) {
        self.held_by_main = false;
    }

    /// A round went well.
    pub(super) fn is_kept_up(&mut self) {
        self.trouble = None;
    }

    /// The configuration does not ask for the slot any more.
    pub(super) fn leftover(&self, held: u64) {
        let slot = &self.slot;
        warn!(
            slot,
            held = bytes(held),
            hint = format!(
                "add [postgres.replay] to the configuration, or: SELECT \
                 pg_drop_replication_slot('{slot}');"
            ),
            "a replay slot holds WAL, and nothing moves it: [postgres.replay] is absent"
        );
    }

    /// Letting go would free nothing.
    pub(super) fn held_by_main(&mut self, held: u64, config: ReplayConfig) {
        if !std::mem::replace(&mut self.held_by_main, true) {
            warn!(
                slot = self.slot,
                held = bytes(held),
                max_wal = bytes(config.max_wal),
                hint = "is a sink down? else a transaction is open for long: SELECT pid, \
                        xact_start, query FROM pg_stat_activity WHERE backend_xid IS NOT NULL \
                        ORDER BY xact_start;",
                "more WAL is held than postgres.replay.max_wal, by the main slot too; the replay \
                 slot is not made smaller until that one lets go"
            );
        }
    }

    /// `max_wal` leaves less than the window.
    pub(super) fn shortened(&mut self, kept: Pair, config: ReplayConfig) {
        if !std::mem::replace(&mut self.shortened, true) {
            warn!(
                slot = self.slot,
                since = shown(kept.at),
                max_wal = bytes(config.max_wal),
                hint = "raise postgres.replay.max_wal, or lower postgres.replay.window",
                "the replay window is shorter than asked for: its WAL would be more than it may"
            );
        }
    }

    /// Whether times could be kept.
    pub(super) fn saved(&mut self, saved: Result<(), String>) {
        let error = saved.err();
        let was_unsaved = std::mem::replace(&mut self.unsaved, error.is_some());
        if let Some(error) = error.filter(|_| !was_unsaved) {
            warn!(
                "cannot keep the times of the replay slot: {error}; after a restart its window \
                 begins again"
            );
        }
    }

    /// What keeps the keeper from its work, if it is new or long ago. A connection that breaks
    /// breaks the stream too, which says why.
    pub(super) fn trouble(&mut self, error: &PgError) {
        let kind = error.kind();
        let is_news = match &self.trouble {
            Some((at, known)) => known != kind || at.elapsed() > REMINDER,
            None => true,
        };
        if !is_news {
            return;
        }
        let cause = std::error::Error::source(error).map(ToString::to_string);
        let (slot, hint) = (&self.slot, error.hint());
        match kind {
            PgErrorKind::ConnectionLost
            | PgErrorKind::ServerShuttingDown
            | PgErrorKind::ServerStarting
            | PgErrorKind::SlotInUse { .. } => {
                debug!(slot, cause, "the replay slot waits: {error}");
            }
            _ => {
                warn!(slot, cause, hint, "the replay slot is not kept up, trying again: {error}");
                self.trouble = Some((Instant::now(), kind.clone()));
            }
        }
    }
}
