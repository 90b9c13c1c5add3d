//! The lanes that a dispatcher drives: how they are asked for, and what it keeps of them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::action::Batch;
use crate::pipeline::lane::Stage;
use crate::pipeline::paced::Pace;
use crate::pipeline::plan::{LaneId, RedeletedBy, Repeats};
use crate::rules::{RuleId, RuleSet, SinkId};
use crate::sinks::{Charges, Lane};
use crate::status::{ErrorStatus, PastError, SinkState};

/// A lane to be driven.
pub struct LaneSpec {
    /// The sink's name.
    pub sink: String,
    /// What sends its batches.
    pub lane: Lane,
    /// When its actions run.
    pub stage: Stage,
    /// How often; `None`: as soon as it is idle.
    pub pace: Option<Pace>,
    /// For [`Stage::Purge`]: the lanes of the caches from which its edge fills.
    pub after: Vec<LaneId>,
    /// For [`Stage::Purge`]: whether its sink can purge everything, so that nothing of it needs to
    /// stop the stream.
    pub purges_all: bool,
    /// Whether what it does is done again, later.
    pub again: Option<Repeats>,
    /// Which lanes do its actions that are to be done again.
    pub redeleted_by: Vec<RedeletedBy>,
    /// The lane that does what it does once more, when repeats that are owed then are done.
    pub once_more: Option<LaneId>,
    /// For [`Stage::Purge`]: how many purges one request of its sink holds, if they are bounded.
    pub request_actions: Option<usize>,
    /// Whether it shares its bound with the lane before it: both are shards of one class.
    pub joins_pool: bool,
}

impl LaneSpec {
    /// A lane without a pace, and which comes after no single one.
    pub fn new(sink: impl Into<String>, lane: Lane, stage: Stage) -> Self {
        let (pace, after, purges_all, again) = (None, Vec::new(), false, None);
        let (sink, request_actions) = (sink.into(), None);
        let (redeleted_by, once_more) = (Vec::new(), None);
        LaneSpec {
            sink,
            lane,
            stage,
            pace,
            after,
            purges_all,
            again,
            redeleted_by,
            once_more,
            request_actions,
            joins_pool: false,
        }
    }
}

/// A lane, as the dispatcher sees it.
pub(super) struct LaneHandle {
    pub(super) sink: String,
    pub(super) batches: mpsc::Sender<(Batch, usize)>,
    pub(super) health: Health,
    /// What went wrong, until it works again.
    pub(super) trouble: Option<Box<(SinkState, ErrorStatus)>>,
    /// What went wrong before, and is over.
    pub(super) past: Option<Box<PastError>>,
    /// Its actions are dropped.
    pub(super) is_off: bool,
    pub(super) stage: Stage,
    /// `None`: it is no sink's.
    pub(super) sink_id: Option<SinkId>,
    /// Whether it was said that the stream stops for it.
    pub(super) is_stopping: bool,
    /// How many of its actions are finished.
    pub(super) done: u64,
    /// A batch of which a part is done, and where to go on.
    pub(super) rest: Option<(Batch, usize)>,
    /// It does again what others have done.
    pub(super) repeats: bool,
    /// What its sink is charged, where it is.
    pub(super) charges: Option<Arc<Charges>>,
}

/// How a lane's last attempt went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Working,
    Failing,
}

/// Adds the lane at `at` to the pool of the lane before it.
pub(super) fn join_pool(pools: &mut Vec<Range<usize>>, at: usize) {
    match pools.last_mut() {
        Some(pool) if pool.end == at => pool.end = at + 1,
        _ => pools.push(at.saturating_sub(1)..at + 1),
    }
}

/// The sinks that each lane works for.
pub(super) fn served(
    lanes: &[LaneHandle],
    lookups: &HashMap<RuleId, LaneId>,
    rules: &RuleSet,
) -> Vec<Vec<SinkId>> {
    let own = lanes.iter().map(|lane| lane.sink_id.into_iter().collect());
    let mut served: Vec<Vec<SinkId>> = own.collect();
    for (&rule, &lane) in lookups {
        if let Some(rule) = rules.rules().get(rule.0 as usize) {
            let steps = rule.steps.iter().flat_map(|step| &step.sinks);
            let coarse = rule.fallback.iter().flat_map(|coarse| &coarse.sinks);
            served[lane.0] = steps.chain(coarse).copied().collect();
        }
    }
    served
}
