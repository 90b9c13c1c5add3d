//! How many keys a second may work that nobody waits for take from a sink's servers?
//!
//! A token bucket that all lanes of a sink share, where `max_keys_per_second` says so: what
//! patterns, fallbacks and lookups find goes out in small shares, each when the tokens for those
//! before it are there again. What single rows ask for takes no tokens. The bucket holds one share,
//! so that what was not used is not made up for.
//!
//! A deleted key costs its readers a query each, so that this paces the database as much as Redis.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// About how often a share goes out. Longer, and the load would come in bursts; shorter, and each
/// request would hold a key or two.
const SHARE_EVERY: Duration = Duration::from_millis(50);

/// The most keys of a share, as of one UNLINK.
const SHARE_KEYS_MAX: usize = 512;

/// The bucket.
#[derive(Debug)]
pub(super) struct Pacer {
    /// What a key costs.
    per_key: Duration,
    share: usize,
    /// When there are tokens again.
    next: Mutex<Option<Instant>>,
}

impl Pacer {
    /// Lets so many keys a second through.
    pub(super) fn new(keys_per_second: u32) -> Self {
        let rate = keys_per_second.max(1);
        let shares_per_second = (1000 / SHARE_EVERY.as_millis()) as u32;
        let share = (rate / shares_per_second).max(1) as usize;
        let per_key = Duration::from_secs(1) / rate;
        Pacer { per_key, share: share.min(SHARE_KEYS_MAX), next: Mutex::default() }
    }

    /// How many keys go out together at most.
    pub(super) fn share(&self) -> usize {
        self.share
    }

    /// Waits until so many keys may go out, which are then charged. Cancel safe, at their price.
    pub(super) async fn turn(&self, keys: usize) {
        tokio::time::sleep_until(self.reserve(keys, Instant::now())).await;
    }

    fn reserve(&self, keys: usize, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let at = next.map_or(now, |next| next.max(now));
        *next = Some(at + self.per_key * u32::try_from(keys).unwrap_or(u32::MAX));
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lane that takes turns on a clock of the test's own.
    struct Taker<'p> {
        pacer: &'p Pacer,
        now: Instant,
    }

    impl Taker<'_> {
        /// Waits for its turn.
        fn turn(&mut self, keys: usize) {
            self.now = self.pacer.reserve(keys, self.now);
        }
    }

    #[test]
    fn so_many_keys_a_second_go_out_in_even_shares() {
        for rate in [1, 7, 1000, 20_000, 1_000_000] {
            let (pacer, start) = (Pacer::new(rate), Instant::now());
            let mut taker = Taker { pacer: &pacer, now: start };
            let (mut keys, mut last) = (0, start);
            loop {
                taker.turn(pacer.share());
                assert!(taker.now - last <= SHARE_EVERY.max(Duration::from_secs(1) / rate));
                last = taker.now;
                if taker.now - start >= Duration::from_secs(10) {
                    break;
                }
                keys += pacer.share();
                let due = (taker.now - start).as_secs_f64() * f64::from(rate);
                assert!(keys as f64 <= due * 1.001 + pacer.share() as f64, "{rate}: {keys}");
            }
            let all = 10 * rate as usize;
            assert!(keys >= all * 99 / 100, "{rate}: {keys}");
        }
    }

    #[test]
    fn what_was_not_used_is_not_made_up_for() {
        let (pacer, start) = (Pacer::new(1000), Instant::now());
        let mut taker = Taker { pacer: &pacer, now: start };
        taker.turn(1000);
        assert_eq!(taker.now, start);
        taker.now += Duration::from_secs(60);
        for _ in 0..3 {
            taker.turn(1000);
        }
        assert_eq!(taker.now - start, Duration::from_secs(62));
    }

    #[test]
    fn lanes_share_the_rate_and_take_turns() {
        let (pacer, start) = (Pacer::new(100), Instant::now());
        let mut lanes = [(); 2].map(|()| Taker { pacer: &pacer, now: start });
        for _ in 0..20 {
            lanes.iter_mut().for_each(|lane| lane.turn(5));
        }
        // 200 keys, of which the first share goes at once.
        assert_eq!(lanes.map(|lane| (lane.now - start).as_millis()), [1900, 1950]);
    }
}
