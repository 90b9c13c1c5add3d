//! The lanes of a Redis that delete again, and what leads there.

use std::sync::Arc;

use super::{REDIS, Work, asks, is_paced, lanes_before, lanes_of};
use crate::action::Verb;
use crate::pipeline::{LaneId, LaneSpec, RedeletedBy, Repeats, Since, Urgency};
use crate::rules::{RedeleteId, Rule, RuleSet, SinkId};
use crate::sinks::redis::{LaneClass, RedisConfig, TagMode};

/// The lanes of a Redis for what one list of times of `redelete_after` does again: four for the
/// first time, and two for the others, so that no key waits for a pattern.
const REDELETING: [(LaneClass, Urgency); 6] = [
    (LaneClass::Precise, Urgency::Prompt),
    (LaneClass::Tags, Urgency::Prompt),
    (LaneClass::Scan, Urgency::Prompt),
    (LaneClass::Scan, Urgency::Paced),
    (LaneClass::Precise, Urgency::Prompt),
    (LaneClass::Scan, Urgency::Prompt),
];

/// How many of them are for the first time.
const FIRST_TIME: usize = 4;

/// The verbs that a reader can undo.
const REDELETED: [Verb; 8] = [
    Verb::Delete,
    Verb::DeleteMatching,
    Verb::Tag,
    Verb::TagMatching,
    Verb::Expire,
    Verb::ExpireMatching,
    Verb::ExpireTag,
    Verb::ExpireTagMatching,
];

/// The lists of times after which a sink deletes something again.
pub(super) struct Redeletes(Vec<RedeleteId>);

impl Redeletes {
    /// The lists of times of the rules that a sink works for.
    pub(super) fn of(rules: &RuleSet, sink: SinkId, work: Work) -> Self {
        let asks = |rule: &&Rule, id: RedeleteId| {
            rule.redelete == Some(id) && asks(rule, sink, Verb::is_redeleted)
        };
        let ids = (0..rules.redeletes().len()).map(|at| RedeleteId(at as u8));
        let is_asked = |id: &RedeleteId| rules.rules().iter().any(|rule| asks(&rule, *id));
        Redeletes(ids.filter(|id| work != Work::Left && is_asked(id)).collect())
    }

    /// The lanes that they need, which stand behind all others of the sink.
    pub(super) fn lanes(&self) -> impl Iterator<Item = (LaneClass, Urgency)> {
        self.0.iter().flat_map(|_| REDELETING)
    }

    /// Leads what is to be deleted again to the lanes that do so: the last of `lanes`, which are
    /// those of a Redis and begin at `first`.
    pub(super) fn lead(
        &self,
        rules: &RuleSet,
        config: &RedisConfig,
        lanes: &mut [LaneSpec],
        first: usize,
    ) {
        let mut begin = lanes.len() - self.0.len() * REDELETING.len();
        for &redelete in &self.0 {
            let after = &rules.redeletes()[usize::from(redelete.0)];
            for (offset, &lane) in REDELETING[..FIRST_TIME].iter().enumerate() {
                let at = begin + offset;
                lead_to(LaneId(first + at), lane, redelete, config, lanes);
                let to = begin + FIRST_TIME + usize::from(lane.0 != LaneClass::Precise);
                let (to, after, from) = (LaneId(first + to), Arc::clone(after), Since::Visible);
                lanes[at].again = Some(Repeats { to, after, from });
            }
            begin += REDELETING.len();
        }
    }
}

/// Leads to a lane what it is to do for the first time again: what the same lanes did before.
fn lead_to(
    lane: LaneId,
    (class, urgency): (LaneClass, Urgency),
    redelete: RedeleteId,
    config: &RedisConfig,
    lanes: &mut [LaneSpec],
) {
    // A counter needs no repeat, whatever it is called.
    let is_counter = |verb| {
        config.tag_mode() == TagMode::Version
            && matches!(Verb::deleting(verb), Verb::Tag | Verb::TagMatching)
    };
    let is_done_here = |verb| config.lane_class(verb) == Some(class) && !is_counter(verb);
    let by = |verb| RedeletedBy { redelete, verb, lane };
    if let Some(base) = REDIS.iter().position(|lane| (lane.0, lane.2) == (class, urgency)) {
        let verbs = REDELETED.into_iter().filter(|&verb| is_done_here(verb));
        let by: Vec<_> = verbs.map(by).collect();
        let before = lanes_before(&REDIS[..base], config.is_cluster());
        let of_class = before..before + lanes_of(class, config.is_cluster());
        lanes[of_class].iter_mut().for_each(|lane| lane.redeleted_by.extend(&by));
    }
    // What lookups find is paced the second time too, and so goes to the lane of patterns.
    if (class, urgency) == (LaneClass::Scan, Urgency::Prompt)
        && let Some(found) = REDIS.iter().position(|lane| lane.0 == LaneClass::Found)
    {
        let verbs = REDELETED.into_iter().filter(|&verb| is_paced(config, verb));
        let at = lanes_before(&REDIS[..found], config.is_cluster());
        lanes[at].redeleted_by.extend(verbs.map(by));
    }
}

/// Whether a sink is told, or purges, what a rule with such a list deletes.
pub(super) fn tells_of_redeletes(rules: &RuleSet, sink: SinkId) -> bool {
    let mut rules = rules.rules().iter().filter(|rule| rule.redelete.is_some());
    rules.any(|rule| asks(rule, sink, Verb::is_afterwards))
}
