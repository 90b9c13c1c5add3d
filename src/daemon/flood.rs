//! When the stream floods: whether to let messages gather before the next read.
//!
//! Postgres writes every change to the socket by itself, and waking up for each costs twice as
//! much as decoding it. So while they come faster than anybody could commit one by one, the reader
//! pauses after every read, for so short a time that the socket's buffer does not fill up and the
//! server is not held up. Where more has gathered already than one read takes, there is nothing to
//! wait for. A stream at its everyday pace is read at once.
//!
//! Pure: the clock is handed in. Positions do not tell a backlog: in what an output plugin writes,
//! the server's end of WAL equals the change's own position.

use std::time::{Duration, Instant};

/// More messages in a millisecond than this are a flood: about ten thousand small transactions a
/// second.
const FLOOD_PER_MILLISECOND: u128 = 30;

/// How long the rate is measured before it is believed.
const WINDOW: Duration = Duration::from_millis(3);

/// The pause. At the fastest rate seen, some tens of kilobytes gather in it.
const PAUSE: Duration = Duration::from_millis(1);

/// The rate of messages, and what follows from it.
pub(super) struct Flood {
    since: Instant,
    messages: u128,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Calm,
    Flooding,
}

impl Flood {
    pub(super) fn new(now: Instant) -> Self {
        Flood { since: now, messages: 0, state: State::Calm }
    }

    /// How long to pause after a read that brought so many messages, and left more behind or not.
    pub(super) fn pause_after(
        &mut self,
        messages: usize,
        has_more: bool,
        now: Instant,
    ) -> Option<Duration> {
        self.messages += messages as u128;
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= WINDOW {
            let is_flood = self.messages * 1000 > FLOOD_PER_MILLISECOND * elapsed.as_micros();
            self.state = if is_flood { State::Flooding } else { State::Calm };
            self.since = now;
            self.messages = 0;
        }
        (self.state == State::Flooding && messages > 0 && !has_more).then_some(PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share of reads that are followed by a pause, in percent.
    fn paused(messages_per_read: usize, microseconds_per_read: u64) -> u32 {
        let start = Instant::now();
        let mut flood = Flood::new(start);
        let pauses = (1..=1000).filter(|&read| {
            let now = start + Duration::from_micros(read * microseconds_per_read);
            flood.pause_after(messages_per_read, false, now).is_some()
        });
        pauses.count() as u32 / 10
    }

    #[test]
    fn an_everyday_pace_is_read_at_once_and_a_flood_in_larger_pieces() {
        // Five thousand commits a second, of three messages each.
        assert_eq!(paused(3, 200), 0);
        assert_eq!(paused(1, 1_000_000), 0);
        // A backlog, message by message and after pauses.
        assert!(paused(2, 20) > 80);
        assert!(paused(100, 1200) > 95);
    }

    #[test]
    fn one_large_transaction_after_a_long_silence_is_not_delayed_at_its_start() {
        let start = Instant::now();
        let mut flood = Flood::new(start);
        assert_eq!(flood.pause_after(50, false, start + Duration::from_secs(60)), None);
    }

    #[test]
    fn what_follows_a_flood_is_read_at_once_again() {
        let start = Instant::now();
        let mut flood = Flood::new(start);
        assert!(flood.pause_after(1000, false, start + Duration::from_millis(4)).is_some());
        assert_eq!(flood.pause_after(3, false, start + Duration::from_millis(8)), None);
    }

    #[test]
    fn what_has_gathered_already_is_not_waited_for() {
        let start = Instant::now();
        let mut flood = Flood::new(start);
        assert_eq!(flood.pause_after(1000, true, start + Duration::from_millis(4)), None);
        assert!(flood.pause_after(1000, false, start + Duration::from_millis(5)).is_some());
    }
}
