//! What does the plan know of a lane?

use super::{LaneId, RedeletedBy, Repeats};
use crate::pipeline::lane::Stage;
use crate::pipeline::paced::Pace;
use crate::rules::SinkId;

/// How many purges a CDN gets together at most: some requests' worth, which take seconds.
const PURGE_BATCH: usize = 1024;

/// A lane, as the plan sees it.
pub struct PlannedLane {
    /// When its actions run.
    pub stage: Stage,
    /// How often; `None`: as soon as it is idle.
    pub pace: Option<Pace>,
    /// For [`Stage::Purge`]: the lanes of the caches from which its edge fills. Lookups come before
    /// it anyway.
    pub after: Vec<LaneId>,
    /// For [`Stage::Purge`]: the sink, if it can purge everything, so that nothing of it needs to
    /// stop the reader.
    pub purge_all: Option<SinkId>,
    /// Whether what it does is done again, later.
    pub again: Option<Repeats>,
    /// Which lanes do its actions that are to be done again.
    pub redeleted_by: Vec<RedeletedBy>,
    /// For [`Stage::Tell`] and [`Stage::Purge`]: the lane that does what it does once more, when the
    /// repeats that are owed then and that come before it are done.
    pub once_more: Option<LaneId>,
    /// For [`Stage::Purge`]: how many purges one request of its sink holds. Batches are cut so that
    /// requests are full.
    pub request_actions: Option<usize>,
}

impl PlannedLane {
    /// A lane without a pace, and which comes after no single one.
    pub fn new(stage: Stage) -> Self {
        let (pace, after, purge_all) = (None, Vec::new(), None);
        let (again, once_more, request_actions) = (None, None, None);
        let redeleted_by = Vec::new();
        PlannedLane {
            stage,
            pace,
            after,
            purge_all,
            again,
            redeleted_by,
            once_more,
            request_actions,
        }
    }

    /// How many actions a batch has, if there are as many: of a lane of purges so many that
    /// requests are full.
    pub(super) fn batch(&self) -> Option<usize> {
        let request = self.request_actions.unwrap_or(1).clamp(1, PURGE_BATCH);
        (self.stage == Stage::Purge).then(|| PURGE_BATCH / request * request)
    }

    /// For each of `stages`' lanes, whether it comes before this one.
    pub(super) fn before(&self, stages: &[Stage]) -> Box<[bool]> {
        let comes_before = |(at, stage): (usize, &Stage)| match (self.stage, stage) {
            (Stage::Lookup | Stage::Remove, _) => false,
            (Stage::Tell | Stage::Purge, Stage::Lookup) | (Stage::Tell, Stage::Remove) => true,
            (Stage::Purge, Stage::Remove) => self.after.contains(&LaneId(at)),
            (_, Stage::Tell | Stage::Purge) => false,
        };
        stages.iter().enumerate().map(comes_before).collect()
    }
}
