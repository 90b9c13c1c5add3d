//! What has a lane done lately that another server may not know of? Pure: no I/O, no clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::action::Batch;

/// The most bytes that one lane remembers. Beyond, the oldest batches are forgotten, and the rules'
/// fallbacks take their place.
pub(in super::super) const BYTES_MAX: usize = 4 << 20;

/// About what a batch costs beside its values.
const BATCH_BYTES: usize = 160;

/// What an action costs beside its value.
const ACTION_BYTES: usize = 8;

/// The batches that were done on one server, the oldest first.
///
/// A batch is forgotten when the same server was seen as the master a window *after* it was done,
/// and not when that time has passed: a server that has died right after it answered is replaced
/// half a minute later, and what it was given last is what is lost.
pub(super) struct Memory {
    window: Duration,
    batches: VecDeque<(Instant, Batch)>,
    bytes: usize,
    /// When the newest batch was done that did not fit any more, or that somebody else has done.
    too_many: Option<Instant>,
}

impl Memory {
    pub(super) fn new(window: Duration) -> Self {
        Memory { window, batches: VecDeque::new(), bytes: 0, too_many: None }
    }

    /// A batch was done just now.
    pub(super) fn remember(&mut self, batch: &Batch, now: Instant) {
        self.bytes += cost(batch);
        self.batches.push_back((now, batch.clone()));
        while self.bytes > BYTES_MAX {
            let Some((at, batch)) = self.batches.pop_front() else { return };
            self.bytes -= cost(&batch);
            self.too_many = Some(at);
        }
    }

    /// Something was done until `now` of which nothing is known.
    pub(super) fn forgot(&mut self, now: Instant) {
        self.too_many = Some(now);
    }

    /// The server on which all this was done was still the master at `now`.
    pub(super) fn seen(&mut self, now: Instant) {
        let is_old = |at: Instant| now.saturating_duration_since(at) >= self.window;
        while self.batches.front().is_some_and(|(at, _)| is_old(*at)) {
            if let Some((_, batch)) = self.batches.pop_front() {
                self.bytes -= cost(&batch);
            }
        }
        self.too_many = self.too_many.filter(|at| !is_old(*at));
    }

    /// All of it has just been done again, on another server, of which it may be lost as well.
    pub(super) fn renew(&mut self, now: Instant) {
        self.batches.iter_mut().for_each(|(at, _)| *at = now);
        self.too_many = self.too_many.map(|_| now);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.too_many.is_none()
    }

    /// Whether more was done than is remembered.
    pub(super) fn is_partial(&self) -> bool {
        self.too_many.is_some()
    }

    /// What is remembered, from the batch `from` on.
    pub(super) fn get(&self, at: usize) -> Option<&Batch> {
        self.batches.get(at).map(|(_, batch)| batch)
    }

    /// How many actions are remembered.
    pub(super) fn actions(&self) -> usize {
        self.batches.iter().map(|(_, batch)| batch.len()).sum()
    }
}

fn cost(batch: &Batch) -> usize {
    BATCH_BYTES + batch.len() * ACTION_BYTES + batch.value_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{Action, Verb};

    fn batch(bytes: usize) -> Batch {
        let mut batch = Batch::default();
        batch.push(Action { verb: Verb::Delete, value: &vec![b'k'; bytes] });
        batch
    }

    #[test]
    fn a_batch_is_remembered_until_its_server_was_seen_a_window_later() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut memory = Memory::new(10 * second);
        memory.remember(&batch(1), start);
        memory.remember(&batch(1), start + 5 * second);
        memory.seen(start + 9 * second);
        assert_eq!(memory.actions(), 2);
        memory.seen(start + 10 * second);
        assert_eq!(memory.actions(), 1);
        // It was done again on another server, and may be lost there too.
        memory.renew(start + 60 * second);
        memory.seen(start + 65 * second);
        assert!(!memory.is_empty());
        memory.seen(start + 70 * second);
        assert!(memory.is_empty() && memory.bytes == 0);
    }

    #[test]
    fn memory_is_bounded_and_what_did_not_fit_is_known_for_as_long() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut memory = Memory::new(10 * second);
        for at in 0..6 {
            memory.remember(&batch(1 << 20), start + at * second);
            assert!(memory.bytes <= BYTES_MAX);
        }
        assert!(memory.is_partial() && memory.actions() == 3);
        memory.seen(start + 12 * second);
        assert!(!memory.is_partial() && memory.actions() == 3);
        let mut memory = Memory::new(10 * second);
        memory.remember(&batch(2 * BYTES_MAX), start);
        assert!(memory.is_partial() && memory.actions() == 0 && !memory.is_empty());
        memory.seen(start + 10 * second);
        assert!(memory.is_empty());
    }
}
