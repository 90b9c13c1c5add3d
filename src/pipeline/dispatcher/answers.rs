//! What lookups have found, on its way to the plan.

use super::Dispatcher;
use crate::failpoint::Place;
use crate::metrics::Tally;
use crate::pipeline::plan::{LaneId, Manner};
use crate::pipeline::trace::trace;
use crate::rules::lookup::Found;
use crate::rules::{Bulk, Facts};

/// How many transactions' lookups are counted at most. Beyond, counting begins anew.
const BULKS_MAX: usize = 10_000;

/// How many of their values are remembered at most, but for those of the youngest transaction: its
/// rules bound them. Beyond, counting begins anew for the others.
const BULK_VALUES_MAX: usize = 500_000;

impl Dispatcher {
    /// Hands on what lookups ask for, for the transactions that asked for them.
    pub(super) fn answer(&mut self, lane: LaneId, found: &Found) {
        let Dispatcher { plan, rules, bulks, counts, tap, .. } = self;
        bulks.values_mut().for_each(Bulk::next_answer);
        let (mut last, mut tally) = (usize::MAX, Tally::default());
        found.emissions(rules, |lookup, emission| {
            let Some(order) = plan.asker(lane, lookup) else { return };
            let bulk = bulks.entry(order).or_default();
            if lookup != last {
                (last, tally) = (lookup, Tally::default());
            }
            bulk.found(rules, &emission, |emission| {
                tally.action(counts, emission);
                if tap.is_open() {
                    tap.tell(rules, emission, Facts::default(), None);
                }
                if tracing::enabled!(tracing::Level::DEBUG) {
                    trace(rules, emission, Facts::default());
                }
                let manner = Manner::of(rules, emission);
                plan.answer(lane, lookup, emission.sinks, emission.action, manner);
                Place::AmidAnswer.pass();
            });
        });
    }

    /// Forgets what was counted of transactions that are finished.
    pub(super) fn forget_bulks(&mut self) {
        let oldest = self.plan.oldest();
        self.bulks.retain(|&order, _| oldest.is_some_and(|oldest| order >= oldest));
        let values: usize = self.bulks.values().map(Bulk::remembered).sum();
        if self.bulks.len() > BULKS_MAX || values > BULK_VALUES_MAX {
            let youngest = self.bulks.keys().copied().max();
            self.bulks.retain(|&order, _| Some(order) == youngest);
        }
    }
}
