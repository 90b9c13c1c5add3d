//! A lane for coarse actions that changes may ask for again and again: at most one of each waits,
//! and it is started at most once in a while, the first time at once.
//!
//! Its actions come from the configuration alone, so that there are few and it needs no bound.
//! Pure: the clock is handed in.

use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use hashbrown::HashTable;

use super::lane::{Position, keep_older};
use super::progress::{Progress, TxnId};
use crate::action::{Action, Batch, Verb};

/// The least time between two starts of an action.
pub type Pace = Box<dyn Fn(Action<'_>) -> Duration + Send>;

/// The lane.
pub(super) struct PacedLane {
    pace: Pace,
    tracks: Vec<Track>,
    places: HashTable<u32>,
    hasher: foldhash::fast::RandomState,
    waiting: usize,
    /// The tracks that are in flight, and for whom.
    in_flight: Vec<(u32, TxnId)>,
    /// Nothing rests.
    in_hurry: bool,
}

/// One action, which is remembered for ever.
struct Track {
    verb: Verb,
    value: Box<[u8]>,
    every: Duration,
    started_at: Option<Instant>,
    /// For whom it waits.
    owner: Option<TxnId>,
    /// How often it was started.
    started: u64,
    /// How often it was finished.
    done: u64,
}

impl Track {
    fn is_due(&self, now: Instant, in_hurry: bool) -> bool {
        let rested = |at: Instant| now.saturating_duration_since(at) >= self.every;
        self.owner.is_some() && (in_hurry || self.started_at.is_none_or(rested))
    }
}

impl PacedLane {
    pub(super) fn new(pace: Pace) -> Self {
        PacedLane {
            pace,
            tracks: Vec::new(),
            places: HashTable::new(),
            hasher: foldhash::fast::RandomState::default(),
            waiting: 0,
            in_flight: Vec::new(),
            in_hurry: false,
        }
    }

    /// Whether everything runs as soon as the lane is idle, for the end of a stream.
    pub(super) fn hurry(&mut self, in_hurry: bool) {
        self.in_hurry = in_hurry;
    }

    pub(super) fn put(
        &mut self,
        progress: &mut Progress,
        action: Action<'_>,
        txn: TxnId,
    ) -> Position {
        let at = self.track(action);
        let track = &mut self.tracks[at as usize];
        match &mut track.owner {
            Some(owner) => keep_older(progress, owner, txn),
            owner => {
                *owner = Some(txn);
                self.waiting += 1;
                progress.add(txn);
            }
        }
        Position { track: at, number: track.started + 1 }
    }

    fn track(&mut self, action: Action<'_>) -> u32 {
        let hash = |verb: Verb, value: &[u8]| self.hasher.hash_one((verb, value));
        let tracks = &self.tracks;
        let is_it = |&at: &u32| {
            let track = &tracks[at as usize];
            track.verb == action.verb && *track.value == *action.value
        };
        if let Some(&at) = self.places.find(hash(action.verb, action.value), is_it) {
            return at;
        }
        let at = tracks.len() as u32;
        self.places.insert_unique(hash(action.verb, action.value), at, |&at| {
            let track = &tracks[at as usize];
            hash(track.verb, &track.value)
        });
        self.tracks.push(Track {
            verb: action.verb,
            value: action.value.into(),
            every: (self.pace)(action),
            started_at: None,
            owner: None,
            started: 0,
            done: 0,
        });
        at
    }

    pub(super) fn take(&mut self, now: impl FnOnce() -> Instant) -> Option<Batch> {
        if self.waiting == 0 || !self.in_flight.is_empty() {
            return None;
        }
        let now = now();
        let mut batch = Batch::default();
        for (at, track) in self.tracks.iter_mut().enumerate() {
            if track.is_due(now, self.in_hurry)
                && let Some(owner) = track.owner.take()
            {
                batch.push(Action { verb: track.verb, value: &track.value });
                track.started_at = Some(now);
                track.started += 1;
                self.waiting -= 1;
                self.in_flight.push((at as u32, owner));
            }
        }
        (!batch.is_empty()).then_some(batch)
    }

    pub(super) fn done(&mut self, progress: &mut Progress) {
        for (at, owner) in self.in_flight.drain(..) {
            self.tracks[at as usize].done += 1;
            progress.finish(owner);
        }
    }

    /// The transactions that have unfinished actions here.
    pub(super) fn owners(&self) -> impl Iterator<Item = TxnId> + '_ {
        let waiting = self.tracks.iter().filter_map(|track| track.owner);
        waiting.chain(self.in_flight.iter().map(|&(_, owner)| owner))
    }

    /// For whom an action of the batch in flight runs.
    pub(super) fn owner(&self, index: usize) -> Option<TxnId> {
        self.in_flight.get(index).map(|&(_, owner)| owner)
    }

    /// See [`owner`](Self::owner).
    pub(super) fn owner_mut(&mut self, index: usize) -> Option<&mut TxnId> {
        self.in_flight.get_mut(index).map(|(_, owner)| owner)
    }

    pub(super) fn has_reached(&self, position: Position) -> bool {
        let track = self.tracks.get(position.track as usize);
        track.is_none_or(|track| track.done >= position.number)
    }

    pub(super) fn bytes(&self) -> usize {
        self.waiting * size_of::<Track>()
    }
    /// How many actions it has been given and not finished.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting == 0 && self.in_flight.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn put(lane: &mut PacedLane, progress: &mut Progress, value: &str) -> Position {
        let txn = progress.begin();
        let action = Action { verb: Verb::DeleteMatching, value: value.as_bytes() };
        let position = lane.put(progress, action, txn);
        progress.close(txn, crate::lsn::Lsn::ZERO);
        position
    }

    fn take(lane: &mut PacedLane, now: Instant) -> Vec<String> {
        let batch = lane.take(|| now).unwrap_or_default();
        batch.iter().map(|a| String::from_utf8(a.value.to_vec()).unwrap()).collect()
    }

    #[test]
    fn each_action_runs_at_once_and_then_at_its_own_pace() {
        let pace = |action: Action<'_>| if action.value == b"a" { SECOND } else { 3 * SECOND };
        let (mut lane, mut progress) = (PacedLane::new(Box::new(pace)), Progress::default());
        let start = Instant::now();
        let first = put(&mut lane, &mut progress, "a");
        assert_eq!(take(&mut lane, start), ["a"]);
        // Asked for while it runs: it runs again, later.
        let second = put(&mut lane, &mut progress, "a");
        put(&mut lane, &mut progress, "a");
        put(&mut lane, &mut progress, "b");
        assert!(take(&mut lane, start + SECOND).is_empty(), "the lane is busy");
        lane.done(&mut progress);
        assert!(lane.has_reached(first) && !lane.has_reached(second));
        assert_eq!(take(&mut lane, start + SECOND / 2), ["b"], "the first of its kind");
        lane.done(&mut progress);
        put(&mut lane, &mut progress, "b");
        assert_eq!(take(&mut lane, start + SECOND), ["a"]);
        lane.done(&mut progress);
        assert!(lane.has_reached(second) && !progress.is_idle());
        assert!(take(&mut lane, start + 2 * SECOND).is_empty());
        assert_eq!(take(&mut lane, start + 4 * SECOND), ["b"]);
        lane.done(&mut progress);
        assert!(lane.is_idle() && progress.is_idle());
    }

    #[test]
    fn at_the_end_nothing_rests() {
        let mut lane = PacedLane::new(Box::new(|_| SECOND));
        let (mut progress, now) = (Progress::default(), Instant::now());
        for _ in 0..2 {
            put(&mut lane, &mut progress, "a");
            lane.hurry(true);
            assert_eq!(take(&mut lane, now), ["a"]);
            lane.done(&mut progress);
        }
    }
}
