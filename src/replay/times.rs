//! When was which position the end of the log?
//!
//! Pure: the server's clock and positions are handed in.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::lsn::Lsn;

/// The end of the log at a time: what is committed later stands behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The end of what was flushed.
    #[serde(with = "as_text")]
    pub lsn: Lsn,
    /// When, by the server's clock, in microseconds since 1970.
    pub at: i64,
}

/// Positions with their times, both ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Times {
    pairs: VecDeque<Pair>,
}

/// The most pairs that are kept: 100 KB.
const PAIRS_MAX: usize = 4096;

/// How many pairs a window has, where that is not too often.
const PAIRS_PER_WINDOW: u32 = 60;

/// The shortest and the longest time between two pairs.
const PERIODS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));

impl Times {
    /// Takes pairs as they were kept; what contradicts itself is left out.
    pub fn new(pairs: impl IntoIterator<Item = Pair>) -> Self {
        let mut times = Times::default();
        pairs.into_iter().for_each(|pair| times.note(pair));
        times
    }

    /// How long to wait between two pairs.
    pub fn period(window: Duration) -> Duration {
        let fine = (window / PAIRS_PER_WINDOW).clamp(PERIODS.0, PERIODS.1);
        // Half of what there is room for, since a slot may be in use when it is to be moved.
        fine.max(window / (PAIRS_MAX as u32 / 2))
    }

    /// Takes the end of the log as it is now, if a period has passed since the last one, or so much
    /// WAL was written.
    pub fn note_now_and_then(&mut self, now: Pair, period: Duration, bytes: u64) {
        let is_near = self.pairs.back().is_some_and(|last| {
            (last.at..last.at.saturating_add(micros(period))).contains(&now.at)
                && (last.lsn.0..last.lsn.0.saturating_add(bytes)).contains(&now.lsn.0)
        });
        if !is_near {
            self.note(now);
        }
    }

    /// Takes the end of the log as it is now.
    pub fn note(&mut self, now: Pair) {
        if self.pairs.back().is_some_and(|last| now.lsn < last.lsn) {
            // A restore, or a promoted standby: positions mean something else.
            self.pairs.clear();
        }
        for earlier in self.pairs.iter_mut().rev().take_while(|earlier| earlier.at > now.at) {
            // The clock was set back. What is kept for longer than asked for does no harm.
            earlier.at = now.at;
        }
        if self.pairs.back().is_some_and(|last| now.lsn == last.lsn) {
            return;
        }
        if self.pairs.len() >= PAIRS_MAX {
            let mut is_odd = false;
            self.pairs.retain(|_| {
                is_odd = !is_odd;
                is_odd
            });
        }
        self.pairs.push_back(now);
    }

    /// Forgets what lies before the slot's position.
    pub fn forget_before(&mut self, lsn: Lsn) {
        while self.pairs.front().is_some_and(|first| first.lsn < lsn) {
            self.pairs.pop_front();
        }
    }

    /// How far the slot may be moved at `now`, so that all of the window stays.
    pub fn before_window(&self, now: i64, window: Duration) -> Option<Lsn> {
        let since = now.saturating_sub(micros(window));
        self.pairs.iter().rev().find(|pair| pair.at <= since).map(|pair| pair.lsn)
    }

    /// The oldest known position at or behind `lsn`: what was committed since its time stands at
    /// or behind `lsn`.
    pub fn first_from(&self, lsn: Lsn) -> Option<Pair> {
        self.pairs.iter().find(|pair| pair.lsn >= lsn).copied()
    }

    /// The last position that was the end of the log at that time or before.
    pub fn last_until(&self, at: i64) -> Option<Pair> {
        self.pairs.iter().rev().find(|pair| pair.at <= at).copied()
    }

    /// All pairs.
    pub fn pairs(&self) -> impl Iterator<Item = &Pair> {
        self.pairs.iter()
    }
}

/// A length of time in microseconds.
fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// A time as a person reads it: RFC 3339 in UTC.
pub fn shown(at: i64) -> String {
    let time = jiff::Timestamp::from_microsecond(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A position as Postgres writes it.
mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::lsn::Lsn;

    pub(super) fn serialize<S: Serializer>(lsn: &Lsn, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(lsn)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Lsn, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(pairs: &[(u64, i64)]) -> Times {
        Times::new(pairs.iter().map(|&(lsn, at)| Pair { lsn: Lsn(lsn), at }))
    }

    #[track_caller]
    fn check(pairs: &[(u64, i64)], kept: &[(u64, i64)]) {
        let times = times(pairs);
        let pairs: Vec<_> = times.pairs().map(|pair| (pair.lsn.0, pair.at)).collect();
        assert_eq!(pairs, kept);
    }

    #[test]
    fn pairs_ascend_whatever_the_server_says() {
        check(&[(1, 10), (2, 20), (4, 30)], &[(1, 10), (2, 20), (4, 30)]);
        // An idle log: the first time is the one since which everything stands behind.
        check(&[(1, 10), (1, 20), (2, 30)], &[(1, 10), (2, 30)]);
        // The clock was set back.
        check(&[(1, 10), (2, 50), (3, 60), (4, 20)], &[(1, 10), (2, 20), (3, 20), (4, 20)]);
        check(&[(1, 10), (2, 50), (2, 20)], &[(1, 10), (2, 20)]);
        // Another history.
        check(&[(1, 10), (9, 20), (3, 30)], &[(3, 30)]);
    }

    #[test]
    fn pairs_are_as_dense_as_asked_for() {
        let mut times = times(&[(100, 1000)]);
        let mut note = |lsn, at| {
            let now = Pair { lsn: Lsn(lsn), at };
            times.note_now_and_then(now, Duration::from_micros(10), 50);
            times.pairs.len()
        };
        assert_eq!(note(149, 1009), 1);
        assert_eq!(note(150, 1009), 2);
        assert_eq!(note(151, 1018), 2);
        assert_eq!(note(151, 1019), 3);
        // The clock was set back, and the log has another history.
        assert_eq!(note(152, 1000), 4);
        assert_eq!(note(151, 1001), 1);
    }

    #[test]
    fn what_is_committed_within_the_window_is_never_let_go() {
        let times = times(&[(100, 10), (200, 20), (300, 30)]);
        let before = |now| times.before_window(now, Duration::from_micros(15)).map(|lsn| lsn.0);
        assert_eq!(before(24), None);
        assert_eq!(before(25), Some(100));
        assert_eq!(before(34), Some(100));
        assert_eq!(before(35), Some(200));
        assert_eq!(before(1000), Some(300));
    }

    #[test]
    fn a_position_has_the_time_since_which_everything_stands_behind_it() {
        let mut times = times(&[(100, 10), (200, 20), (300, 30)]);
        let since = |times: &Times, lsn| times.first_from(Lsn(lsn)).map(|pair| pair.at);
        assert_eq!(since(&times, 100), Some(10));
        assert_eq!(since(&times, 101), Some(20));
        assert_eq!(since(&times, 301), None);
        assert_eq!(times.last_until(29).map(|pair| pair.lsn), Some(Lsn(200)));
        assert_eq!(times.last_until(9), None);
        times.forget_before(Lsn(200));
        assert_eq!(since(&times, 0), Some(20));
    }

    #[test]
    fn the_pairs_of_the_longest_window_have_a_bound() {
        let year = Duration::from_secs(365 * 86_400);
        assert!(year.as_secs() / Times::period(year).as_secs() < PAIRS_MAX as u64);
        assert_eq!(Times::period(Duration::from_secs(3600)), Duration::from_secs(60));
        assert_eq!(Times::period(Duration::from_secs(1)), PERIODS.0);
        let times = Times::new((0..10_000).map(|n| Pair { lsn: Lsn(n), at: n as i64 }));
        assert!(times.pairs.len() <= PAIRS_MAX);
        assert_eq!(times.pairs.back().map(|pair| pair.at), Some(9999));
    }

    #[test]
    fn a_time_is_shown_as_rfc_3339() {
        assert_eq!(shown(1_763_711_015_123_456), "2025-11-21T07:43:35Z");
    }
}
