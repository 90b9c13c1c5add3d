//! What the server is told of how far we are, and when: not before it is remembered.

use std::time::Duration;

use tokio::time::Instant;

use super::Session;
use crate::failpoint::{Failpoint, Place};
use crate::lsn::Lsn;
use crate::postgres::{PgError, Reply};
use crate::state::Position;

/// How often it is told in any case: well below the shortest sensible `wal_sender_timeout`.
const SIGN_OF_LIFE_EVERY: Duration = Duration::from_secs(1);

/// What has been told to the server, and is to be.
pub(super) struct Status {
    /// The end of what this stream has brought.
    pub(super) received_lsn: Lsn,
    pub(super) sent_lsn: Lsn,
    sent_at: Instant,
    /// The server wants to hear from us at once.
    pub(super) urgent: bool,
}

impl Status {
    /// Nothing was told yet.
    pub(super) fn new() -> Self {
        Status {
            received_lsn: Lsn::ZERO,
            sent_lsn: Lsn::ZERO,
            sent_at: Instant::now(),
            urgent: false,
        }
    }

    /// The stream has brought what ends here.
    pub(super) fn received(&mut self, lsn: Lsn) {
        self.received_lsn = self.received_lsn.max(lsn);
    }
}

impl Session<'_> {
    /// While the reader waits for room, it does not see the server ask for a sign of life.
    pub(super) async fn send_status_if_due(&mut self, has_room: bool) -> Result<(), PgError> {
        let is_news = self.confirmable_lsn() > self.status.sent_lsn;
        if is_news || !has_room || self.status.sent_at.elapsed() >= SIGN_OF_LIFE_EVERY {
            self.send_status().await?;
        }
        Ok(())
    }

    pub(super) async fn send_status(&mut self) -> Result<(), PgError> {
        if let Some(debt) = self.purpose.debt() {
            debt.check(self.dispatcher.plan());
        }
        let confirmed = self.confirmable_lsn();
        let written = self.status.received_lsn;
        // The server's answer says how far it has read.
        let reply = match self.reader.replayed() {
            Some(_) => Reply::Requested,
            None => Reply::NotNeeded,
        };
        let is_news = confirmed > self.status.sent_lsn;
        if is_news {
            Place::BeforeConfirm.pass();
        }
        self.stream.send_status(written, confirmed, reply).await?;
        if is_news {
            Place::AfterConfirm.pass();
        }
        self.status.sent_lsn = confirmed;
        self.status.sent_at = Instant::now();
        self.status.urgent = false;
        Ok(())
    }

    /// What may be confirmed: what is done, and remembered to be done.
    fn confirmable_lsn(&self) -> Lsn {
        if Failpoint::ConfirmEarly.is_set() {
            return self.status.received_lsn;
        }
        self.purpose.confirmable_lsn(self.dispatcher.plan().confirmed_lsn())
    }

    /// What is to be remembered now.
    pub(in crate::daemon) fn position(&self) -> Position {
        let plan = self.dispatcher.plan();
        self.course.position(plan.confirmed_lsn(), &plan.sink_positions())
    }

    /// Waits until that is on disk.
    pub(in crate::daemon) async fn remember(&mut self) {
        let position = self.position();
        self.purpose.remember_now(position).await;
    }
}
