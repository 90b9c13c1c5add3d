//! The lanes of one sink, as many as its kind takes.

use std::sync::Arc;

use super::redelete::Redeletes;
use super::{CDN, Class, Work, lanes_of, pace};
use crate::pipeline::{LaneId, LaneSpec, Repeats, Stage, Urgency};
use crate::rules::RuleSet;
use crate::sinks::cdn::cloudfront::Part;
use crate::sinks::redis::{ClusterLane, LaneClass, RedisConfig, RedisLane, Topology};
use crate::sinks::{DryRunLane, Endpoint, Lane};

/// What all lanes of a sink have in common, and where they go.
pub(super) struct Adding<'a> {
    pub(super) sink: &'a Endpoint,
    pub(super) rules: &'a RuleSet,
    pub(super) work: Work,
    /// The lanes that come before.
    pub(super) after: Vec<LaneId>,
    /// Whether a CDN can purge everything.
    pub(super) purges_all: bool,
    /// What a CDN does again, and in which lane.
    pub(super) repeats: Option<Repeats>,
    /// Whether a message or a purge comes once more, after what was deleted again.
    pub(super) tells_again: bool,
    /// Those of all sinks so far.
    pub(super) lanes: &'a mut Vec<LaneSpec>,
}

impl Adding<'_> {
    /// Those of a Redis: `classes`, of which some have a lane for each shard of a cluster.
    pub(super) fn redis(
        mut self,
        config: &Arc<RedisConfig>,
        topology: Option<&Arc<Topology>>,
        classes: &[Class],
        redeletes: &Redeletes,
    ) {
        let first = self.lanes.len();
        let lane = |class| match topology {
            None => Lane::Redis(RedisLane::new(Arc::clone(config), class)),
            Some(topology) => {
                Lane::Cluster(Box::new(ClusterLane::new(Arc::clone(topology), class)))
            }
        };
        for &(class, stage, urgency) in classes {
            for shard in 0..lanes_of(class, topology.is_some()) {
                let at = self.add(stage, urgency, || lane(class));
                self.lanes[at.0].joins_pool = shard > 0;
            }
        }
        if self.tells_again {
            // The last of the classes is that of messages.
            let tells = self.lanes.len() - 1;
            let more = self.add(Stage::Tell, Urgency::Prompt, || lane(LaneClass::Publish));
            self.lanes[tells].once_more = Some(more);
        }
        for (class, urgency) in redeletes.lanes() {
            self.add(Stage::Remove, urgency, || lane(class));
        }
        redeletes.lead(self.rules, config, &mut self.lanes[first..], first);
    }

    /// Those of a CDN, with that of repeats if there are any; `lane` makes one for a part.
    pub(super) fn cdn(mut self, lane: impl Fn(Part) -> Lane) {
        let first = self.lanes.len();
        let count = CDN.len() - usize::from(self.repeats.is_none());
        for (part, urgency) in CDN.into_iter().take(count) {
            self.add(Stage::Purge, urgency, || lane(part));
        }
        if self.tells_again {
            let more = self.add(Stage::Purge, Urgency::Prompt, || lane(Part::OnceMore));
            // Not the repeats, which come again by themselves.
            self.lanes[first..first + 2].iter_mut().for_each(|lane| lane.once_more = Some(more));
        }
    }

    fn add(&mut self, stage: Stage, urgency: Urgency, lane: impl FnOnce() -> Lane) -> LaneId {
        let lane = match self.work {
            Work::Done => lane(),
            Work::Shown => Lane::DryRun(DryRunLane::of(self.sink.clone())),
            Work::Held => Lane::Hold,
            Work::Left => Lane::Left,
        };
        let id = LaneId(self.lanes.len());
        let request_actions = match self.sink {
            Endpoint::Cdn(sink) => sink.request_items(),
            Endpoint::CloudFront(sink) => sink.request_items(),
            Endpoint::Redis(_) => None,
        };
        self.lanes.push(LaneSpec {
            pace: (urgency == Urgency::Paced).then(|| pace(self.rules)),
            after: self.after.clone(),
            purges_all: self.purges_all,
            // Whatever is done again is not done again once more.
            again: self.repeats.clone().filter(|repeats| repeats.to != id),
            request_actions,
            ..LaneSpec::new(self.sink.name(), lane, stage)
        });
        id
    }
}
