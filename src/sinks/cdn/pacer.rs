//! When may the next request of a sink go out?
//!
//! The lanes of a sink share one pacer: what a provider allows is allowed to all of them together.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The longest wait that a provider can ask for: Fastly counts by the hour, and a clock that is
/// wrong must not stop us for longer.
const CLOSED_MAX: Duration = Duration::from_secs(3600);

/// Spaces a sink's requests.
#[derive(Debug)]
pub(super) struct Pacer {
    gap: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the next request may go out.
    next: Option<Instant>,
    /// Until when the provider wants none.
    closed_until: Option<Instant>,
}

impl Pacer {
    /// Lets so many requests a second through, at even distances; without a number, all.
    pub(super) fn new(per_second: Option<u32>) -> Self {
        let gap = per_second.map_or(Duration::ZERO, |count| Duration::from_secs(1) / count.max(1));
        Pacer { gap, state: Mutex::default() }
    }

    /// Waits until the next request may go out. Cancel safe, at the price of one turn.
    pub(super) async fn turn(&self) {
        if self.gap.is_zero() {
            return;
        }
        tokio::time::sleep_until(self.reserve(Instant::now())).await;
    }

    /// The next turn, which is taken with that.
    fn reserve(&self, now: Instant) -> Instant {
        let mut state = self.lock();
        let at = state.next.map_or(now, |next| next.max(now));
        state.next = Some(at + self.gap);
        at
    }

    /// The provider wants no request for so long.
    pub(super) fn close(&self, wait: Duration) {
        self.lock().closed_until = Some(Instant::now() + wait.min(CLOSED_MAX));
    }

    /// For how long the provider wants no request.
    pub(super) fn closed_for(&self) -> Option<Duration> {
        self.closed_at(Instant::now())
    }

    fn closed_at(&self, now: Instant) -> Option<Duration> {
        let left = self.lock().closed_until?.checked_duration_since(now);
        left.filter(|left| !left.is_zero())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_out_at_even_distances() {
        let pacer = Pacer::new(Some(4));
        let start = Instant::now();
        let turns: Vec<u128> = (0..4).map(|_| (pacer.reserve(start) - start).as_millis()).collect();
        assert_eq!(turns, [0, 250, 500, 750]);
        // What was not used is not made up for.
        let later = start + Duration::from_secs(9);
        assert_eq!(pacer.reserve(later), later);
        assert_eq!(pacer.reserve(later), later + Duration::from_millis(250));
    }

    #[test]
    fn nothing_goes_out_while_it_is_closed() {
        let pacer = Pacer::new(None);
        assert_eq!(pacer.closed_for(), None);
        pacer.close(Duration::from_secs(3));
        let now = Instant::now();
        assert!(pacer.closed_at(now).is_some_and(|wait| wait > Duration::from_secs(2)));
        assert_eq!(pacer.closed_at(now + Duration::from_secs(3)), None);
        pacer.close(Duration::MAX);
        assert!(pacer.closed_for() <= Some(CLOSED_MAX));
    }
}
