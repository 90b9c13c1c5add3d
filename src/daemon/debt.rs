//! The fallbacks that are owed to sinks and rules that were off: run once, as actions before
//! everything else, and noted as paid when they are done.

use std::collections::BTreeSet;

use tracing::info;

use crate::lsn::Lsn;
use crate::pipeline::{Plan, Urgency};
use crate::rules::RuleSet;
use crate::state::{Due, Owed};

/// What is owed, and what of it is under way.
#[derive(Debug, Default)]
pub struct Debt {
    owed: Owed,
    due: Due,
    /// The place in the stream of the fallbacks that are under way.
    order: Option<u64>,
}

impl Debt {
    /// What `owed` makes due now.
    pub fn new(owed: Owed, due: Due) -> Self {
        Debt { owed, due, order: None }
    }

    /// What is owed, to be settled anew.
    pub fn into_owed(self) -> Owed {
        self.owed
    }

    /// Asks for the fallbacks that are due, unless they are under way; the log ends at `end_lsn`.
    /// Between two transactions.
    pub(super) fn pay(&mut self, rules: &RuleSet, plan: &mut Plan, end_lsn: Lsn) {
        if self.due.is_empty() || self.order.is_some() {
            return;
        }
        plan.begin(None);
        for rule in rules.rules() {
            for coarse in &rule.fallback {
                let is_due = |sink: &&_| self.due.includes(&rule.name, &rules.sink(**sink).name);
                let sinks: Vec<_> = coarse.sinks.iter().filter(is_due).copied().collect();
                plan.push(&sinks, coarse.action(), Urgency::Prompt);
            }
        }
        plan.commit(Lsn::ZERO);
        self.order = Some(plan.owe_fallbacks(end_lsn));
        let Due { everybody, sinks, rules } = &self.due;
        let list = |names: &BTreeSet<String>| {
            names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
        };
        let (sinks, rules) = (list(sinks), list(rules));
        info!(everybody, sinks, rules, "on again: the fallbacks that are owed run once");
    }

    /// A replica is not waited for any more.
    pub(super) fn owe_to_replica(&mut self, name: &str) {
        self.owed.owe_to_replica(name);
    }

    /// Whether a replica was not waited for.
    pub(super) fn is_owed_to_replica(&self, name: &str) -> bool {
        self.owed.is_owed_to_replica(name)
    }

    /// A replica's fallbacks are done.
    pub(super) fn paid_to_replica(&mut self, name: &str) {
        self.owed.paid_to_replica(name);
    }

    /// The stream has broken off, and with it what waits for replicas: what is not paid by now is
    /// asked for again.
    pub(super) fn disconnect(&mut self, plan: &mut Plan) {
        self.check(plan);
        plan.disconnect();
        self.order = None;
    }

    /// Notes it if they are done.
    pub(super) fn check(&mut self, plan: &Plan) {
        let Some(order) = self.order else { return };
        if plan.oldest().is_none_or(|oldest| oldest > order) {
            self.owed.paid(&self.due);
            self.due = Due::default();
            self.order = None;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use std::collections::HashMap;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::pipeline::{LaneId, PlannedLane, Routes, Stage};

    const WAIT: Duration = Duration::from_secs(5);

    fn work(plan: &mut Plan) -> usize {
        let Some(batch) = plan.take(LaneId(0), Instant::now) else { return 0 };
        let count = batch.len();
        plan.done(LaneId(0), batch);
        count
    }

    #[test]
    fn what_replicas_have_not_replayed_is_owed_over_a_stream_that_breaks() {
        let text = "[postgres]\nurl = 'postgres://h/d'\n[redis.c]\nurl = 'redis://h'\n\
            [[rule]]\ntable = 's.t'\ndelete = ['key:{id}']\n";
        let rules = crate::config::parse("t", text).unwrap().rules;
        let routes = Routes { actions: Box::new(|_, _, _| LaneId(0)), lookups: HashMap::new() };
        let mut plan = Plan::new(vec![PlannedLane::new(Stage::Remove)], routes);
        plan.await_replicas(&rules);
        let due = Due { everybody: true, ..Due::default() };
        let mut debt = Debt::new(Owed::open(None), due);
        debt.pay(&rules, &mut plan, Lsn(100));
        assert_eq!(work(&mut plan), 1);
        debt.check(&plan);
        assert!(!debt.due.is_empty(), "replicas may show the old rows");
        debt.disconnect(&mut plan);
        debt.check(&plan);
        assert!(!debt.due.is_empty(), "they still may");
        debt.pay(&rules, &mut plan, Lsn(100));
        plan.replayed(Lsn(100), Instant::now(), WAIT);
        assert_eq!(work(&mut plan), 1);
        debt.check(&plan);
        assert!(debt.due.is_empty());
        // What is done when the stream breaks is not done again.
        debt.disconnect(&mut plan);
        debt.pay(&rules, &mut plan, Lsn(100));
        assert!(plan.is_idle());
    }
}
