//! The fallbacks at the start of a new slot's stream: when have they removed everything that came
//! before it?
//!
//! A transaction that was committed before the stream's start may not be visible yet, and a reader
//! could put its old row back. So they run once more when every transaction has ended that was open
//! after the start, unless the stream itself has brought it.

use std::time::{Duration, Instant};

use tracing::warn;

use crate::config::Visibility;
use crate::lsn::Lsn;
use crate::pipeline::{Plan, Urgency, trace};
use crate::rules::{Cause, Facts, RuleSet};
use crate::snapshot::Snapshot;

/// How long transactions may stay open before that is said.
const PATIENCE: Duration = Duration::from_secs(10);

/// How far they are.
pub(super) struct Watch {
    /// Where the stream starts.
    start_lsn: Lsn,
    state: State,
    said_at: Instant,
    /// Nothing is done before.
    rests_until: Option<Instant>,
}

enum State {
    /// It is not known which transactions are open.
    Asking,
    /// These may have been committed before the start.
    Open(Vec<u32>),
    /// They run for the last time, before this place in the stream.
    Running(u64),
}

/// Runs every rule's fallback, as a transaction of its own that nothing after it is confirmed
/// before.
pub(super) fn run_fallbacks(rules: &RuleSet, plan: &mut Plan) {
    plan.begin(None);
    rules.all_fallbacks(Cause::Gap, |emission| {
        if tracing::enabled!(tracing::Level::DEBUG) {
            trace(rules, &emission, Facts::default());
        }
        plan.push(emission.sinks, emission.action, Urgency::Prompt);
    });
    // It has no position of its own.
    plan.commit(Lsn::ZERO);
}

/// Runs them at the start of the stream, and again when replicas have replayed the log up to there.
fn run(start_lsn: Lsn, rules: &RuleSet, plan: &mut Plan) -> State {
    run_fallbacks(rules, plan);
    plan.owe_fallbacks(start_lsn);
    State::Running(plan.next_order())
}

impl Watch {
    /// The stream has started.
    pub(super) fn new(
        visibility: Visibility,
        start_lsn: Lsn,
        rules: &RuleSet,
        plan: &mut Plan,
    ) -> Self {
        let state = match visibility {
            Visibility::Wait => State::Asking,
            Visibility::Skip => run(start_lsn, rules, plan),
        };
        Watch { start_lsn, state, said_at: Instant::now(), rests_until: None }
    }

    /// Whether a snapshot is needed.
    pub(super) fn wants_snapshot(&self) -> bool {
        !matches!(self.state, State::Running(_))
    }

    /// Takes what other sessions can see.
    pub(super) fn show(&mut self, snapshot: &Snapshot, rules: &RuleSet, plan: &mut Plan) {
        self.state = match std::mem::replace(&mut self.state, State::Asking) {
            State::Asking => {
                let open: Vec<u32> = snapshot.in_progress().collect();
                match run(self.start_lsn, rules, plan) {
                    running if open.is_empty() => running,
                    _ => State::Open(open),
                }
            }
            State::Open(mut open) => {
                open.retain(|&xid| !snapshot.shows(xid));
                if open.is_empty() { run(self.start_lsn, rules, plan) } else { self.wait_for(open) }
            }
            running => running,
        };
    }

    fn wait_for(&mut self, open: Vec<u32>) -> State {
        if self.said_at.elapsed() > PATIENCE {
            self.said_at = Instant::now() + 5 * PATIENCE;
            warn!(
                open = open.len(),
                xid = open[0],
                hint = "SELECT pid, backend_xid, xact_start FROM pg_stat_activity WHERE backend_xid \
                        IS NOT NULL; SELECT * FROM pg_prepared_xacts;",
                "the new slot stays temporary until transactions end that were open at its start"
            );
        }
        State::Open(open)
    }

    /// The stream has brought a transaction: it was not committed before the start.
    pub(super) fn streamed(&mut self, xid: u32) {
        if let State::Open(open) = &mut self.state {
            open.retain(|&other| other != xid);
        }
    }

    /// Does not tell the end for so long.
    pub(super) fn rest(&mut self, wait: Duration) {
        self.rests_until = Some(Instant::now() + wait);
    }

    /// Whether everything is done.
    pub(super) fn is_done(&self, plan: &Plan) -> bool {
        if self.rests_until.is_some_and(|until| until > Instant::now()) {
            return false;
        }
        match self.state {
            State::Running(order) => plan.oldest().is_none_or(|oldest| oldest >= order),
            _ => false,
        }
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
        watch.show(&snapshot.parse().unwrap(), &rules(), plan);
    }

    #[test]
    fn where_nothing_is_open_the_fallbacks_run_once() {
        let (rules, mut plan) = (rules(), plan());
        let mut watch = Watch::new(Visibility::Wait, Lsn(5), &rules, &mut plan);
        assert!(watch.wants_snapshot() && !watch.is_done(&plan));
        show(&mut watch, "10:10:", &mut plan);
        assert!(!watch.wants_snapshot() && !watch.is_done(&plan));
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
        assert!(watch.wants_snapshot() && !watch.is_done(&plan));
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
        assert!(!watch.wants_snapshot() && !watch.is_done(&plan));
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
