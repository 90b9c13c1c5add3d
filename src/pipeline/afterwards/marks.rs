//! The positions that lanes have to reach before something is due. Pure.

use crate::pipeline::lane::{LanePlan, Position};
use crate::pipeline::plan::LaneId;

/// A position of one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pipeline) struct Mark {
    pub(in crate::pipeline) lane: LaneId,
    pub(in crate::pipeline) position: Position,
}

/// Positions that lanes have to reach.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Marks(Vec<Mark>);

impl Marks {
    /// Adds one, or moves it on.
    pub(in crate::pipeline) fn add(&mut self, mark: Mark) {
        let is_same = |other: &&mut Mark| {
            other.lane == mark.lane && other.position.track == mark.position.track
        };
        match self.0.iter_mut().find(is_same) {
            Some(other) => {
                other.position.number = other.position.number.max(mark.position.number);
            }
            None => self.0.push(mark),
        }
    }

    /// Adds all of them.
    pub(in crate::pipeline) fn extend(&mut self, others: &Marks) {
        others.0.iter().for_each(|&mark| self.add(mark));
    }

    /// Adds those of the lanes that `counts`.
    pub(super) fn extend_if(&mut self, others: &Marks, counts: impl Fn(LaneId) -> bool) {
        let meant = others.0.iter().filter(|mark| counts(mark.lane));
        meant.for_each(|&mark| self.add(mark));
    }

    /// Those of the lanes that `counts`.
    pub(in crate::pipeline) fn only(&self, counts: impl Fn(LaneId) -> bool) -> Marks {
        Marks(self.0.iter().filter(|mark| counts(mark.lane)).copied().collect())
    }

    /// Which lanes they are in, with few mistakes where there are very many lanes.
    pub(super) fn lanes(&self) -> u64 {
        self.0.iter().fold(0, |lanes, mark| lanes | 1 << (mark.lane.0 % u64::BITS as usize))
    }

    pub(super) fn are_reached(&self, lanes: &[LanePlan]) -> bool {
        self.0.iter().all(|mark| lanes[mark.lane.0].has_reached(mark.position))
    }

    /// Whether one of them is in a lane and not reached yet.
    pub(in crate::pipeline) fn await_lane(&self, lane: LaneId, lanes: &[LanePlan]) -> bool {
        self.await_any(|other| other == lane, lanes)
    }

    /// Whether one of them is in such a lane and not reached yet.
    pub(in crate::pipeline) fn await_any(
        &self,
        counts: impl Fn(LaneId) -> bool,
        lanes: &[LanePlan],
    ) -> bool {
        let mut meant = self.0.iter().filter(|mark| counts(mark.lane));
        meant.any(|mark| !lanes[mark.lane.0].has_reached(mark.position))
    }

    /// A lane has fewer batches now: `end` is behind all that wait, and `instead` is where the rest
    /// went.
    pub(in crate::pipeline) fn redirect(&mut self, lane: LaneId, end: Position, instead: Mark) {
        let mut is_beyond = false;
        for mark in self.0.iter_mut().filter(|mark| mark.lane == lane) {
            is_beyond = true;
            mark.position.number = mark.position.number.min(end.number);
        }
        if is_beyond {
            self.add(instead);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.capacity() * size_of::<Mark>()
    }
}
