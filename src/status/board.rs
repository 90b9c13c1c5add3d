//! Where the daemon publishes how it is doing, and where others look.
//!
//! One writer, any number of readers, none of whom the writer ever waits for.

use std::sync::Arc;

use tokio::sync::watch;

use super::{ErrorStatus, PostgresStatus, Pulse, Role, SinkStatus, Status};
use crate::metrics::Counts;
use crate::rules::RuleSet;
use crate::tail::Tap;

/// What the daemon publishes, and what else can be seen of it. Clones are of the same board.
#[derive(Clone, Debug)]
pub struct Board {
    published: Arc<watch::Sender<Arc<Published>>>,
    pulse: Pulse,
    tap: Tap,
}

/// What was published last.
#[derive(Clone, Debug)]
pub struct Published {
    /// How the daemon is doing.
    pub status: Status,
    /// What it counts, which goes on changing.
    pub counts: Arc<Counts>,
}

impl Default for Board {
    fn default() -> Self {
        let counts = Arc::new(Counts::new(&RuleSet::default()));
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let status = Status { version, ..Status::default() };
        Board {
            published: Arc::new(watch::Sender::new(Arc::new(Published { status, counts }))),
            pulse: Pulse::default(),
            tap: Tap::default(),
        }
    }
}

impl Board {
    /// What was published last.
    pub fn look(&self) -> Arc<Published> {
        Arc::clone(&self.published.borrow())
    }

    /// Whether the daemon's stages turn.
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Where single invalidations can be followed.
    pub fn tap(&self) -> &Tap {
        &self.tap
    }

    /// Publishes a change of what was published last.
    pub fn publish(&self, change: impl FnOnce(&mut Status)) {
        let last = self.look();
        let mut status = last.status.clone();
        change(&mut status);
        status.not_ready = status.unready();
        let counts = Arc::clone(&last.counts);
        self.published.send_replace(Arc::new(Published { status, counts }));
    }

    /// Another daemon begins, whose counts go on where those of the one before stand.
    pub fn begin(&self, counts: Arc<Counts>, change: impl FnOnce(&mut Status)) {
        let last = self.look();
        counts.go_on_from(&last.counts);
        let mut status = last.status.clone();
        change(&mut status);
        status.not_ready = status.unready();
        self.published.send_replace(Arc::new(Published { status, counts }));
    }

    /// There is no stream, for this reason, or it is another daemon's; what was received before
    /// still goes to the sinks.
    pub fn without_stream(&self, role: Role, mut error: ErrorStatus, sinks: Vec<SinkStatus>) {
        self.publish(|status| {
            (status.role, status.sinks) = (role, sinks);
            let known = std::mem::take(&mut status.postgres);
            if let Some(known) = known.error {
                error.since_seconds = known.since_seconds;
            }
            // Nothing else is known any more.
            status.postgres = PostgresStatus {
                target: known.target,
                slot: known.slot,
                confirmed_lsn: known.confirmed_lsn,
                error: Some(error).filter(|_| role != Role::Standby),
                ..PostgresStatus::default()
            };
        });
    }
}
