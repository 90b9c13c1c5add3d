//! What becomes of it when too much waits: a rule's fallback takes the place of what it reaches.

use std::sync::Arc;

use tracing::{error, warn};

use super::Dispatcher;
use super::lane::Health;
use crate::action::Action;
use crate::metrics::Why;
use crate::pipeline::lane::Stage;
use crate::pipeline::plan::LaneId;
use crate::rules::{Coarse, Cover, Rule, RuleId, RuleSet, SinkId};

/// How many waiting actions are looked at to find out which coarse one reaches most of them.
const SAMPLE: usize = 1024;

/// How much memory what is to be deleted again may take, in bytes, before fallbacks take its place:
/// some 60,000 keys for each list of times.
pub(super) const REPEATS_BYTES_MAX: usize = 8 << 20;

impl Dispatcher {
    /// Makes room where a sink is down: what waits for it becomes coarser, as far as rules have a
    /// fallback. A sink that works is waited for instead. Purges become one of everything by
    /// themselves, unless their sink has no such thing.
    pub fn relieve(&mut self) {
        for at in 0..self.lanes.len() {
            let is_down = self.lanes[at].health == Health::Failing;
            let has_bound = matches!(self.lanes[at].stage, Stage::Remove | Stage::Purge);
            if is_down && has_bound && self.plan.is_full(LaneId(at)) {
                self.collapse(LaneId(at));
            }
        }
    }

    /// Makes what is to be deleted again coarser, where it is too much.
    pub(super) fn bound_repeats(&mut self) {
        let Some(lane) = self.plan.crowded_repeats(self.repeats_bytes_max) else {
            self.repeats_bytes_max = REPEATS_BYTES_MAX;
            return;
        };
        let rules = Arc::clone(&self.rules);
        let Some(sink) = self.lanes[lane.0].sink_id else { return };
        let best = coarsest(&rules, sink, |look| self.plan.sample_repeats(lane, SAMPLE, look));
        let collapsed = best.map_or(0, |(rule, coarse, cover)| {
            let is_reached = |action: Action<'_>| cover.reaches(action);
            let action = coarse.action();
            let actions = self.plan.collapse_repeats(lane, is_reached, sink, action);
            let (sink, rule) = (&self.lanes[lane.0].sink, &rule.name);
            warn!(sink, rule, actions, "too much is to be deleted again: a fallback is instead");
            actions
        });
        if collapsed == 0 {
            // The reader stops at the bound of all that waits. Not asked again for each batch.
            self.repeats_bytes_max += REPEATS_BYTES_MAX / 8;
        }
    }

    /// Replaces the largest part of what waits for a lane that one coarse action reaches.
    fn collapse(&mut self, lane: LaneId) {
        let rules = Arc::clone(&self.rules);
        let Some(sink) = self.lanes[lane.0].sink_id else { return };
        let best = coarsest(&rules, sink, |look| self.plan.sample(lane, SAMPLE, look));
        let Some((rule, coarse, cover)) = best else {
            return self.cannot_collapse(lane, sink, &rules);
        };
        let action = coarse.action();
        let actions = self.plan.collapse(lane, |action| cover.reaches(action), sink, action);
        if let Some(at) = rules.rules().iter().position(|known| std::ptr::eq(known, rule)) {
            self.counts.fallback(RuleId(at as u32), Why::Outage);
        }
        let (sink, rule) = (&self.lanes[lane.0].sink, &rule.name);
        let hint = "the WAL is held until it is done";
        warn!(
            sink,
            rule,
            actions,
            hint,
            "the sink is down: a rule's fallback takes the place of what waits"
        );
    }

    fn cannot_collapse(&mut self, lane: LaneId, sink: SinkId, rules: &RuleSet) {
        let handle = &mut self.lanes[lane.0];
        if std::mem::replace(&mut handle.is_stopping, true) {
            return;
        }
        let needs = |rule: &&Rule| {
            rule.fallback.is_empty() && rule.steps.iter().any(|step| step.sinks.contains(&sink))
        };
        let named = rules.rules().iter().filter(needs).map(|rule| rule.name.as_str());
        let rules = named.collect::<Vec<_>>().join(", ");
        let hint = match handle.stage {
            Stage::Purge => "give the sink purge_all, or mend it",
            _ => "give these rules a fallback, or mend the sink",
        };
        error!(
            sink = handle.sink,
            rules,
            hint,
            "the sink is down, and what waits for it has no fallback: the stream stops for all sinks"
        );
    }
}

/// The coarse action that reaches most of the actions of a sink that `sample` shows; `None`: none
/// reaches any.
fn coarsest(
    rules: &RuleSet,
    sink: SinkId,
    sample: impl FnOnce(&mut dyn FnMut(Action<'_>)),
) -> Option<(&Rule, &Coarse, Cover)> {
    let coarse = rules.rules().iter().flat_map(|rule| {
        let of_sink = rule.fallback.iter().filter(move |coarse| coarse.sinks.contains(&sink));
        of_sink.filter_map(move |coarse| Some((rule, coarse, Cover::of(coarse)?, 0usize)))
    });
    let mut candidates: Vec<_> = coarse.collect();
    sample(&mut |action| {
        for (_, _, cover, count) in &mut candidates {
            *count += usize::from(cover.reaches(action));
        }
    });
    let (rule, coarse, cover, count) = candidates.into_iter().max_by_key(|(.., count)| *count)?;
    (count > 0).then_some((rule, coarse, cover))
}
