//! systemd's watchdog: when is it told that all is well?

use std::time::{Duration, Instant};

use tracing::error;

use crate::status::Board;

/// How many pings there are in the time that systemd waits for one.
const PINGS: u32 = 4;

/// How long a stage must have stood still for one to tell which it is: one that moves has marked
/// that a few times meanwhile.
const NAMED_AFTER: Duration = Duration::from_secs(3);

/// Pings that are due.
pub(super) struct Watchdog {
    every: Duration,
    next: Instant,
    /// The last ping.
    last: Instant,
    is_said: bool,
}

impl Watchdog {
    /// If `$WATCHDOG_USEC` asks this process for it.
    pub(super) fn from_environment(now: Instant) -> Option<Self> {
        let within = sd_notify::watchdog_enabled().filter(|within| !within.is_zero())?;
        Some(Watchdog::new(within, now))
    }

    fn new(within: Duration, now: Instant) -> Self {
        Watchdog { every: within / PINGS, next: now + within / PINGS, last: now, is_said: false }
    }

    /// When to look again.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Whether a ping is to be sent now: it is time, and every stage has turned since the last one.
    pub(super) fn is_due(&mut self, now: Instant, board: &Board) -> bool {
        if now < self.next {
            return false;
        }
        self.next = now + self.every;
        let (stage, turned) = board.pulse().slowest();
        if turned >= self.last {
            (self.last, self.is_said) = (now, false);
            return true;
        }
        let still = now.saturating_duration_since(turned);
        if still > NAMED_AFTER.max(2 * self.every) && !std::mem::replace(&mut self.is_said, true) {
            let seconds = still.as_secs();
            error!(seconds, "{}; systemd's watchdog is not told that all is well", stage.stands());
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Stage;

    #[test]
    fn a_ping_needs_every_stage() {
        let (board, now) = (Board::default(), Instant::now());
        let mut watchdog = Watchdog::new(Duration::from_secs(4), now);
        assert!(!watchdog.is_due(now, &board));
        board.pulse().turned(Stage::Thread);
        board.pulse().turned(Stage::Loop);
        let at = |seconds| now + Duration::from_secs(seconds);
        assert!(watchdog.is_due(at(1), &board));
        // Neither has turned since, and then one has: the clock here is ahead of theirs.
        assert!(!watchdog.is_due(at(2), &board));
        watchdog.last = Instant::now();
        board.pulse().turned(Stage::Thread);
        assert!(!watchdog.is_due(at(3), &board));
        board.pulse().turned(Stage::Loop);
        assert!(watchdog.is_due(at(4), &board));
        assert!(!watchdog.is_due(at(4), &board));
    }
}
