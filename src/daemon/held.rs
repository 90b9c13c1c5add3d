//! The WAL that our slot holds: when it has to be said how much it is, and how long it can go on.
//!
//! Pure: the clock is handed in.

use std::time::{Duration, Instant};

use tracing::warn;

use crate::amount::bytes;
use crate::postgres::WalHeld;

/// Less time than this is left: somebody has to act.
const LEFT_MIN: Duration = Duration::from_secs(3600);

/// So much is said even where nothing bounds it but the disk.
const UNBOUNDED_BYTES: u64 = 1 << 30;

/// Less than a segment or two is what a busy server always holds.
const GROWN_BYTES: u64 = 32 << 20;

/// How often it is judged: over less time than this, a burst would look like a trend.
const JUDGE_EVERY: Duration = Duration::from_secs(10);

/// How often it is said.
const EVERY: Duration = Duration::from_secs(600);

/// What was seen, and said.
#[derive(Debug, Default)]
pub(super) struct Held {
    first: Option<(Instant, u64)>,
    said: Option<Instant>,
    judged: Option<Instant>,
    seen: Option<WalHeld>,
    left: Option<Duration>,
}

/// What is to be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Warning {
    held: u64,
    /// Until the slot is lost, at the rate since it began to grow; `None`: nothing bounds it.
    left: Option<Duration>,
}

impl Held {
    /// Takes what the server says, and says what follows.
    pub(super) fn look(&mut self, wal: WalHeld, slot: &str, now: Instant) {
        self.seen = Some(wal);
        if self.judged.is_some_and(|judged| now.duration_since(judged) < JUDGE_EVERY) {
            return;
        }
        self.judged = Some(now);
        let Some(Warning { held, left }) = self.judge(wal, now) else { return };
        let held = bytes(held);
        match left {
            Some(left) => {
                let left = humantime::format_duration(Duration::from_secs(left.as_secs()));
                let hint = "mend what is down, or raise max_slot_wal_keep_size: ALTER SYSTEM SET \
                            max_slot_wal_keep_size = …; SELECT pg_reload_conf();";
                warn!(slot, held, left = %left, hint, "the slot holds WAL, and is lost when there is too much");
            }
            None => {
                let hint = "mend what is down before the disk is full; max_slot_wal_keep_size \
                            bounds it, at the price of the slot";
                warn!(slot, held, hint, "the slot holds WAL, and only the disk bounds it");
            }
        }
    }

    /// What was seen last.
    pub(super) fn seen(&self) -> Option<WalHeld> {
        self.seen
    }

    /// Until the slot is lost, at the rate since it began to grow; `None`: it does not grow, or
    /// nothing bounds it.
    pub(super) fn left(&self) -> Option<Duration> {
        self.left
    }

    fn judge(&mut self, wal: WalHeld, now: Instant) -> Option<Warning> {
        let WalHeld { held, left, .. } = wal;
        let (since, before) = *self.first.get_or_insert((now, held));
        if held <= before {
            // It does not grow.
            self.first = Some((now, held));
            self.left = None;
            return None;
        }
        self.left = left.map(|left| {
            let rate = (held - before) as f64 / now.duration_since(since).as_secs_f64().max(1.0);
            Duration::from_secs_f64((left as f64 / rate).min(1e9))
        });
        let warning = match self.left {
            Some(left) => (left < LEFT_MIN && held >= GROWN_BYTES).then_some(Some(left)),
            None => (held >= UNBOUNDED_BYTES).then_some(None),
        };
        let left = warning?;
        if self.said.is_some_and(|said| now.duration_since(said) < EVERY) {
            return None;
        }
        self.said = Some(now);
        Some(Warning { held, left })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::Lsn;

    const MIB: u64 = 1 << 20;

    fn after(
        held: &mut Held,
        start: Instant,
        seconds: u64,
        mib: u64,
        left: Option<u64>,
    ) -> Option<Warning> {
        let (end_lsn, at) = (Lsn(0), 0);
        let wal = WalHeld { held: mib * MIB, left: left.map(|mib| mib * MIB), end_lsn, at };
        held.judge(wal, start + Duration::from_secs(seconds))
    }

    #[test]
    fn the_time_that_is_left_follows_from_the_rate() {
        let (mut held, start) = (Held::default(), Instant::now());
        assert_eq!(after(&mut held, start, 0, 10, Some(990)), None);
        assert_eq!(after(&mut held, start, 10, 20, Some(980)), None, "too little to speak of");
        let warning = after(&mut held, start, 100, 110, Some(890)).unwrap();
        assert_eq!(warning.left.map(|left| left.as_secs()), Some(890));
        assert_eq!(after(&mut held, start, 200, 210, Some(790)), None, "it was just said");
        assert!(after(&mut held, start, 800, 810, Some(190)).is_some());
    }

    #[test]
    fn what_shrinks_or_lasts_for_long_is_no_news() {
        let (mut held, start) = (Held::default(), Instant::now());
        assert_eq!(after(&mut held, start, 0, 500, Some(500)), None);
        assert_eq!(after(&mut held, start, 60, 400, Some(600)), None);
        // A day is left.
        assert_eq!(after(&mut held, start, 120, 401, Some(2000)), None);
    }

    #[test]
    fn without_a_bound_the_amount_counts() {
        let (mut held, start) = (Held::default(), Instant::now());
        assert_eq!(after(&mut held, start, 0, 0, None), None);
        assert_eq!(after(&mut held, start, 60, 900, None), None);
        let warning = after(&mut held, start, 120, 1024, None).unwrap();
        assert_eq!(warning, Warning { held: 1024 * MIB, left: None });
    }
}
