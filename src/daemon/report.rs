//! What a stream's session publishes about itself, twice a second.

use std::sync::Arc;

use super::Settings;
use super::held::Held;
use crate::lsn::Lsn;
use crate::pipeline::Dispatcher;
use crate::postgres::{ChosenHost, WalHeld};
use crate::replay::{Keeper, Pair, Times};
use crate::state::Position;
use crate::status::{Board, ReplayStatus, Role};

/// How far a stream is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Far<'p> {
    /// Where everything and where each sink is done.
    pub(super) position: &'p Position,
    /// The end of what the stream has brought.
    pub(super) received_lsn: Lsn,
}

/// What is known for it besides.
pub(super) struct Report {
    board: Board,
    keeper: Option<Arc<Keeper>>,
    target: String,
    host: String,
    slot: String,
    /// When the log ended where, as far as it is not done.
    times: Times,
}

impl Report {
    pub(super) fn new(settings: &Settings, host: &ChosenHost) -> Self {
        Report {
            board: settings.board.clone(),
            keeper: settings.keeper.clone(),
            target: settings.connect.target(),
            host: host.to_string(),
            slot: settings.slot.clone(),
            times: Times::default(),
        }
    }

    /// Takes where the log ends.
    pub(super) fn look(&mut self, wal: WalHeld) {
        self.times.note(Pair { lsn: wal.end_lsn, at: wal.at });
    }

    /// Publishes it.
    pub(super) fn publish(
        &mut self,
        role: Role,
        far: Far<'_>,
        held: &Held,
        dispatcher: &Dispatcher,
    ) {
        self.board.tap().tick();
        let Far { position, received_lsn } = far;
        let done_lsn = position.confirmed_lsn;
        let wal = held.seen();
        // What is behind this is not done.
        self.times.forget_before(Lsn(done_lsn.0.saturating_add(1)));
        let end_lsn = wal.map(|wal| wal.end_lsn.max(received_lsn));
        let since = self.times.pairs().next().map(|oldest| oldest.at);
        let lag_seconds = wal.map(|wal| since.map_or(0.0, |since| seconds(wal.at - since)));
        let replay = self.keeper.as_ref().and_then(|keeper| keeper.horizon()).map(|horizon| {
            let from = horizon.from;
            let now = wal.map(|wal| wal.at);
            ReplayStatus {
                slot: horizon.slot,
                from_lsn: Some(from.lsn),
                from_seconds: Some(seconds(from.at)),
                horizon_seconds: now.map(|now| seconds(now - from.at).max(0.0)),
            }
        });
        let (mut sinks, gaps) = (dispatcher.sinks(), dispatcher.counts().gaps.get());
        for sink in &mut sinks {
            // A single one is where everything is.
            let own = position.sinks.get(&sink.name).map(|own| own.done_lsn.max(done_lsn));
            sink.position_lsn = own.or(Some(done_lsn));
        }
        self.board.publish(|status| {
            (status.role, status.sinks, status.gaps, status.replay) = (role, sinks, gaps, replay);
            let postgres = &mut status.postgres;
            postgres.target.clone_from(&self.target);
            postgres.host = Some(self.host.clone());
            postgres.slot.clone_from(&self.slot);
            postgres.confirmed_lsn = Some(done_lsn);
            postgres.received_lsn = Some(received_lsn);
            postgres.wal_end_lsn = end_lsn;
            postgres.lag_bytes = end_lsn.map(|end| end.0.saturating_sub(done_lsn.0));
            postgres.lag_seconds = lag_seconds;
            postgres.wal_held_bytes = wal.map(|wal| wal.held);
            postgres.wal_left_bytes = wal.and_then(|wal| wal.left);
            postgres.wal_left_seconds = held.left().map(|left| left.as_secs_f64());
            postgres.error = None;
        });
    }
}

fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}
