//! What a stream is for, and what follows from that for what is confirmed and remembered.

use super::debt::Debt;
use super::watch::Watch;
use crate::failpoint::Failpoint;
use crate::lsn::Lsn;
use crate::pipeline::Plan;
use crate::postgres::Wanted;
use crate::rules::RuleSet;
use crate::snapshot::Snapshot;
use crate::state::{Position, PositionKeeper};

/// What a stream is for.
pub(super) enum Purpose<'d> {
    /// To act on and to confirm what it brings, and to pay what is owed.
    Work { positions: &'d mut PositionKeeper, debt: &'d mut Debt },
    /// To act on what it brings, and to see the end of a gap: nothing is confirmed.
    Gap { positions: &'d mut PositionKeeper, debt: &'d mut Debt, watch: Watch },
    /// To show what it brings.
    DryRun,
    /// To act once more on a part of it.
    Replay,
}

impl Purpose<'_> {
    /// What is known from before of the stream's history, where that matters.
    pub(super) fn known(&self) -> Option<&Position> {
        match self {
            Purpose::Work { positions, .. } if !Failpoint::OwnPosition.is_set() => {
                positions.known()
            }
            _ => None,
        }
    }

    /// How far may be confirmed what is done up to `done_lsn`: no further than is on disk.
    pub(super) fn confirmable_lsn(&self, done_lsn: Lsn) -> Lsn {
        match self {
            Purpose::Work { positions, .. } => done_lsn.min(positions.confirmable_lsn()),
            Purpose::Gap { .. } | Purpose::DryRun => Lsn::ZERO,
            Purpose::Replay => done_lsn,
        }
    }

    /// Lets a position be written beside the work.
    pub(super) fn remember(&mut self, position: Position) {
        if let Purpose::Work { positions, .. } = self {
            positions.remember(position);
        }
    }

    /// Waits until a position is on disk.
    pub(super) async fn remember_now(&mut self, position: Position) {
        if let Purpose::Work { positions, .. } = self {
            positions.remember_now(position).await;
        }
    }

    /// Waits until the position is on disk at which a gap is covered.
    pub(super) async fn keep(&mut self, position: Position) {
        if let Purpose::Gap { positions, .. } = self {
            positions.remember_now(position).await;
        }
    }

    /// Waits until a position is on disk that is being written; for ever if none is. Cancel safe.
    pub(super) async fn written(&mut self) {
        match self {
            Purpose::Work { positions, .. } => positions.written().await,
            _ => std::future::pending().await,
        }
    }

    /// What watches for the end of a gap.
    pub(super) fn watch(&mut self) -> Option<&mut Watch> {
        match self {
            Purpose::Gap { watch, .. } => Some(watch),
            _ => None,
        }
    }

    /// What has to be known of other sessions, beside what the stream's transactions wait for.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        match self {
            Purpose::Work { debt, .. } => debt.wanted(),
            Purpose::Gap { watch, .. } => watch.wanted(),
            Purpose::DryRun | Purpose::Replay => None,
        }
    }

    /// Takes what other sessions can see. Between two transactions.
    pub(super) fn show(&mut self, snapshot: &Snapshot, rules: &RuleSet, plan: &mut Plan) {
        match self {
            Purpose::Work { debt, .. } => debt.show(snapshot, rules, plan),
            Purpose::Gap { watch, .. } => watch.show(snapshot, rules, plan),
            Purpose::DryRun | Purpose::Replay => {}
        }
    }

    /// The stream has brought a transaction.
    pub(super) fn streamed(&mut self, xid: u32) {
        match self {
            Purpose::Work { debt, .. } => debt.streamed(xid),
            Purpose::Gap { watch, .. } => watch.streamed(xid),
            Purpose::DryRun | Purpose::Replay => {}
        }
    }

    /// What is owed.
    pub(super) fn debt(&mut self) -> Option<&mut Debt> {
        match self {
            Purpose::Work { debt, .. } | Purpose::Gap { debt, .. } => Some(debt),
            _ => None,
        }
    }
}
