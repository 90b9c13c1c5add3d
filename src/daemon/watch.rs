//! The fallbacks at the start of a new slot's stream: when have they removed everything that came
//! before it?
//!
//! A transaction that was committed before the stream's start may not be visible yet, so that they
//! have to settle.

use std::time::{Duration, Instant};

use tracing::warn;

use super::settling::Settling;
use crate::config::Visibility;
use crate::lsn::Lsn;
use crate::pipeline::{Manner, Plan, Urgency, trace};
use crate::postgres::Wanted;
use crate::rules::{Cause, Facts, RuleSet};
use crate::snapshot::Snapshot;

/// How long transactions may stay open before that is said.
const PATIENCE: Duration = Duration::from_secs(10);

/// How far they are.
pub(super) struct Watch {
    /// Where the stream starts.
    start_lsn: Lsn,
    settling: Settling,
    /// Those that ran last come before this place in the stream.
    order: u64,
    said_at: Instant,
    /// Nothing is done before.
    rests_until: Option<Instant>,
}

/// Runs every rule's fallback, as a transaction of its own that nothing after it is confirmed
/// before.
pub(super) fn run_fallbacks(rules: &RuleSet, plan: &mut Plan) {
    plan.begin(None);
    rules.all_fallbacks(Cause::Gap, |emission| {
        if tracing::enabled!(tracing::Level::DEBUG) {
            trace(rules, &emission, Facts::default());
        }
        let (urgency, redelete) = (Urgency::Prompt, rules.redelete_of(emission.rule));
        plan.push(emission.sinks, emission.action, Manner { urgency, redelete });
    });
    // It has no position of its own.
    plan.commit(Lsn::ZERO);
}

/// Runs them at the start of the stream, and again when replicas have replayed the log up to there.
/// Answers with the next place in the stream.
fn run(start_lsn: Lsn, rules: &RuleSet, plan: &mut Plan) -> u64 {
    run_fallbacks(rules, plan);
    plan.owe_fallbacks(start_lsn);
    plan.next_order()
}

impl Watch {
    /// The stream has started.
    pub(super) fn new(
        visibility: Visibility,
        start_lsn: Lsn,
        rules: &RuleSet,
        plan: &mut Plan,
    ) -> Self {
        let (settling, order) = match visibility {
            Visibility::Wait => (Settling::Asking, plan.next_order()),
            Visibility::Skip => (Settling::Settled, run(start_lsn, rules, plan)),
        };
        Watch { start_lsn, settling, order, said_at: Instant::now(), rests_until: None }
    }

    /// What has to be known of other sessions.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        self.settling.wanted()
    }

    /// Takes what other sessions can see.
    pub(super) fn show(&mut self, snapshot: &Snapshot, rules: &RuleSet, plan: &mut Plan) {
        let (start_lsn, order) = (self.start_lsn, &mut self.order);
        self.settling.show(snapshot, || *order = run(start_lsn, rules, plan));
        if let Settling::Open(open) = &self.settling
            && self.said_at.elapsed() > PATIENCE
        {
            self.said_at = Instant::now() + 5 * PATIENCE;
            warn!(
                open = open.len(),
                xid = open.first(),
                hint = "SELECT pid, backend_xid, xact_start FROM pg_stat_activity WHERE backend_xid \
                        IS NOT NULL; SELECT * FROM pg_prepared_xacts;",
                "the new slot stays temporary until transactions end that were open at its start"
            );
        }
    }

    /// The stream has brought a transaction: it was not committed before the start.
    pub(super) fn streamed(&mut self, xid: u32) {
        self.settling.streamed(xid);
    }

    /// Does not tell the end for so long.
    pub(super) fn rest(&mut self, wait: Duration) {
        self.rests_until = Some(Instant::now() + wait);
    }

    /// Whether everything is done.
    pub(super) fn is_done(&self, plan: &Plan) -> bool {
        let rests = self.rests_until.is_some_and(|until| until > Instant::now());
        !rests
            && self.settling.is_settled()
            && plan.oldest().is_none_or(|oldest| oldest >= self.order)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use std::collections::HashMap;

    use super::*;
    use crate::pipeline::{LaneId, PlannedLane, Routes, Stage};

    const LANE: LaneId = LaneId(0);

    fn rules() -> RuleSet {
        let text = "[postgres]\nurl = 'postgres://h/d'\n[redis.c]\nurl = 'redis://h'\n\
            [[rule]]\ntable = 's.t'\ndelete = ['key:{id}']\n";
        crate::config::parse("t", text).unwrap().rules
    }

    fn plan() -> Plan {
        let lane = PlannedLane::new(Stage::Remove);
        let routes = Routes { actions: Box::new(|_, _, _| LANE), lookups: HashMap::new() };
        Plan::new(vec![lane], routes)
    }

    /// Does what waits, and says how much that was.
    fn work(plan: &mut Plan) -> usize {
        let Some(batch) = plan.take(LANE, Instant::now) else { return 0 };
        let count = batch.len();
        plan.done(LANE, batch);
        count
    }

    fn show(watch: &mut Watch, snapshot: &str, plan: &mut Plan) {
        let snapshot: Snapshot = snapshot.parse().unwrap();
        watch.show(&snapshot.bounded(), &rules(), plan);
    }

    #[test]
    fn where_nothing_is_open_the_fallbacks_run_once() {
        let (rules, mut plan) = (rules(), plan());
        let mut watch = Watch::new(Visibility::Wait, Lsn(5), &rules, &mut plan);
        assert!(watch.wanted().is_some() && !watch.is_done(&plan));
        show(&mut watch, "10:10:", &mut plan);
        assert!(watch.wanted().is_none() && !watch.is_done(&plan));
        assert_eq!(work(&mut plan), 1);
        assert!(watch.is_done(&plan));
        watch.rest(Duration::from_secs(60));
        assert!(!watch.is_done(&plan));
    }

    #[test]
    fn they_run_again_when_what_was_open_has_ended_or_was_streamed() {
        let (rules, mut plan) = (rules(), plan());
        let mut watch = Watch::new(Visibility::Wait, Lsn(5), &rules, &mut plan);
        show(&mut watch, "7:12:7,9,10", &mut plan);
        assert_eq!(work(&mut plan), 1);
        // The next ones began after the start.
        show(&mut watch, "9:14:9,10,12", &mut plan);
        assert!(watch.wanted().is_some() && !watch.is_done(&plan));
        watch.streamed(9);
        show(&mut watch, "9:14:9,10,12", &mut plan);
        assert_eq!(work(&mut plan), 0);
        show(&mut watch, "9:14:9,12", &mut plan);
        assert!(!watch.is_done(&plan));
        assert_eq!(work(&mut plan), 1);
        assert!(watch.is_done(&plan));
    }

    #[test]
    fn without_the_barrier_nobody_is_waited_for() {
        let (rules, mut plan) = (rules(), plan());
        let watch = Watch::new(Visibility::Skip, Lsn(5), &rules, &mut plan);
        assert!(watch.wanted().is_none() && !watch.is_done(&plan));
        assert_eq!(work(&mut plan), 1);
        assert!(watch.is_done(&plan));
    }

    #[test]
    fn nothing_after_the_fallbacks_is_confirmed_before_they_are_done() {
        let (rules, mut plan) = (rules(), plan());
        run_fallbacks(&rules, &mut plan);
        plan.begin(None);
        plan.commit(Lsn(10));
        assert_eq!(plan.confirmed_lsn(), Lsn::ZERO);
        work(&mut plan);
        assert_eq!(plan.confirmed_lsn(), Lsn(10));
    }
}
