//! Where a stream has come, and in whose history: what is remembered of it.

use crate::lsn::Lsn;
use crate::postgres::SystemIdentity;
use crate::state::{Commit, Continuity, GapCause, Position};

/// The course of one stream.
pub(super) struct Course {
    /// What was known at its start.
    start: Position,
    continuity: Continuity,
}

impl Course {
    /// A stream starts at `slot_lsn`. `known` is what is remembered; `None`: it does not matter.
    pub(super) fn new(
        identity: SystemIdentity,
        slot: &str,
        slot_lsn: Lsn,
        known: Option<&Position>,
    ) -> Self {
        let continuity = Continuity::new(known.and_then(|known| known.seen), slot_lsn);
        let start = Position {
            system_id: identity.system_id,
            timeline: identity.timeline,
            slot: slot.to_owned(),
            confirmed_lsn: known.map_or(slot_lsn, |known| known.confirmed_lsn.max(slot_lsn)),
            seen: continuity.seen(),
        };
        Course { start, continuity }
    }

    /// The stream has brought a commit.
    ///
    /// # Errors
    /// If it should have brought another one before.
    pub(super) fn commit(&mut self, commit: Commit) -> Result<(), GapCause> {
        self.continuity.commit(commit)
    }

    /// The stream has come to a position, outside of a transaction.
    ///
    /// # Errors
    /// If it should have brought a commit before.
    pub(super) fn reached(&self, lsn: Lsn) -> Result<(), GapCause> {
        self.continuity.reached(lsn)
    }

    /// Everything before this was done or received before the stream started.
    pub(super) fn start_lsn(&self) -> Lsn {
        self.start.confirmed_lsn
    }

    /// What is to be remembered when everything up to `done_lsn` is done.
    pub(super) fn position(&self, done_lsn: Lsn) -> Position {
        let confirmed_lsn = self.start.confirmed_lsn.max(done_lsn);
        Position { confirmed_lsn, seen: self.continuity.seen(), ..self.start.clone() }
    }
}
