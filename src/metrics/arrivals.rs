//! When did a transaction come through the stream?
//!
//! Pure: the clock is handed in. Only pieces of the stream that were read together have times of
//! their own, and few enough of them that it costs nothing to remember them.

use std::collections::VecDeque;
use std::time::Instant;

/// How many times are remembered: beyond, every second one is forgotten.
const ARRIVALS_MAX: usize = 1024;

/// The times of transactions, by their place in the stream.
#[derive(Debug, Default)]
pub struct Arrivals {
    /// The first transaction of each piece, and when the piece came; both ascending.
    pieces: VecDeque<(u64, Instant)>,
}

impl Arrivals {
    /// Transactions from the place `first` on came now. Everything before `oldest` is finished.
    pub fn note(&mut self, first: u64, oldest: u64, now: Instant) {
        // The piece in which the oldest one came stays.
        while self.pieces.get(1).is_some_and(|&(next, _)| next <= oldest) {
            self.pieces.pop_front();
        }
        if self.pieces.len() >= ARRIVALS_MAX {
            let mut is_odd = false;
            self.pieces.retain(|_| {
                is_odd = !is_odd;
                is_odd
            });
        }
        self.pieces.push_back((first, now));
    }

    /// When a transaction came, or a little earlier where much waits.
    pub fn of(&self, order: u64) -> Option<Instant> {
        let after = self.pieces.partition_point(|&(first, _)| first <= order);
        Some(self.pieces.get(after.checked_sub(1)?)?.1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_transaction_came_with_its_piece() {
        let (mut arrivals, start) = (Arrivals::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(arrivals.of(0), None);
        arrivals.note(5, 0, at(1));
        arrivals.note(8, 0, at(2));
        let found = [4, 5, 7, 8, 100].map(|order| arrivals.of(order));
        assert_eq!(found, [None, Some(at(1)), Some(at(1)), Some(at(2)), Some(at(2))]);
        arrivals.note(10, 9, at(3));
        assert_eq!((arrivals.of(7), arrivals.of(9)), (None, Some(at(2))));
    }

    #[test]
    fn what_waits_for_long_is_remembered_less_exactly() {
        let (mut arrivals, start) = (Arrivals::default(), Instant::now());
        for order in 0..10 * ARRIVALS_MAX as u64 {
            arrivals.note(order, 0, start + Duration::from_secs(order));
        }
        assert!(arrivals.pieces.len() <= ARRIVALS_MAX);
        assert_eq!(arrivals.of(0), Some(start));
    }
}
