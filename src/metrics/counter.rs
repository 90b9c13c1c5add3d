//! Numbers that one thread adds to and any thread reads.
//!
//! The daemon works on one thread, so that adding needs neither a lock nor an atomic addition: a
//! load and a store, as cheap as a plain integer. A reader sees some recent value.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it. To be called by one thread alone, else additions are lost.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// Replaces it, for what is a time and no count.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How often values were how large.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds, inclusive and ascending; what is larger falls into a bucket of its own.
    bounds: &'static [f64],
    counts: Box<[Counter]>,
    /// The bits of an `f64`.
    sum: AtomicU64,
}

impl Histogram {
    /// An empty one with these upper bounds.
    pub fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| Counter::default()).collect();
        Histogram { bounds, counts, sum: AtomicU64::new(0) }
    }

    /// Notes one value. To be called by one thread alone.
    pub fn observe(&self, value: f64) {
        let bucket = self.bounds.iter().position(|&bound| value <= bound);
        self.counts[bucket.unwrap_or(self.bounds.len())].add(1);
        self.sum.store((self.sum() + value).to_bits(), Relaxed);
    }

    /// All values together.
    pub fn sum(&self) -> f64 {
        f64::from_bits(self.sum.load(Relaxed))
    }

    /// Each upper bound with how many values lie between it and the one before.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        bounds.zip(self.counts.iter().map(Counter::get)).collect()
    }

    /// Goes on where another one with the same bounds stands.
    pub(super) fn go_on_from(&self, other: &Histogram) {
        for (count, before) in self.counts.iter().zip(&other.counts) {
            count.add(before.get());
        }
        self.sum.store((self.sum() + other.sum()).to_bits(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_the_bucket_whose_bound_they_do_not_exceed() {
        let histogram = Histogram::new(&[1.0, 2.0]);
        for value in [0.5, 1.0, 1.5, 7.0] {
            histogram.observe(value);
        }
        assert_eq!(histogram.buckets(), [(1.0, 2), (2.0, 1), (f64::INFINITY, 1)]);
        assert_eq!(histogram.sum(), 10.0);
        let next = Histogram::new(&[1.0, 2.0]);
        next.go_on_from(&histogram);
        assert_eq!((next.buckets(), next.sum()), (histogram.buckets(), 10.0));
    }
}
