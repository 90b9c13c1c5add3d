//! When is it time again for what recurs?
//!
//! At a tick, of which there are two a second. So an idle daemon, in which several things recur,
//! wakes up once for all whose time it is; and a wake-up costs more than what is done then. Reads the
//! clock, and does nothing else.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::Instant;

/// The time between two ticks: as often as the session's loop turns, whatever there is to do.
const TICK_EVERY: Duration = Duration::from_millis(500);

/// From where ticks are counted: the first time that somebody asks.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The last tick within `wait` from now; sooner than that by less than half a second. `wait` is no
/// less than half a second.
pub(crate) fn within(wait: Duration) -> Instant {
    after(Instant::now() + wait.saturating_sub(TICK_EVERY))
}

/// The first tick that is later than `instant`.
fn after(instant: Instant) -> Instant {
    let since = instant.saturating_duration_since(*ORIGIN).as_nanos();
    // Less than what is between two ticks, and so always a number of that size.
    let over = u64::try_from(since % TICK_EVERY.as_nanos()).unwrap_or_default();
    instant + (TICK_EVERY - Duration::from_nanos(over))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_recurs_meets_and_is_never_late() {
        let origin = *ORIGIN;
        for millis in [0, 1, 499, 500, 1_999, 2_000, 86_400_001] {
            let instant = origin + Duration::from_millis(millis);
            let tick = after(instant);
            assert!(tick > instant && tick - instant <= TICK_EVERY, "{millis}");
            assert_eq!((tick - origin).as_nanos() % TICK_EVERY.as_nanos(), 0, "{millis}");
            assert_eq!(after(tick), tick + TICK_EVERY, "{millis}");
        }
    }

    #[test]
    fn a_wait_is_kept_to() {
        for wait in [TICK_EVERY, Duration::from_secs(1), Duration::from_millis(5_050)] {
            let before = Instant::now();
            let tick = within(wait);
            assert!(tick + TICK_EVERY > before + wait, "{wait:?}");
            assert!(tick <= Instant::now() + wait, "{wait:?}");
        }
    }

    #[test]
    fn what_was_before_everything_is_no_reason_to_panic() {
        if let Some(before) = ORIGIN.checked_sub(TICK_EVERY) {
            assert_eq!(after(before), before + TICK_EVERY);
        }
    }
}
