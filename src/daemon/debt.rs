//! The fallbacks that are owed to sinks and rules that were off, and to rules whose tables were not
//! published: run as actions of the stream, and noted as paid when they have settled and are done.

use std::collections::BTreeSet;

use tracing::info;

use super::settling::Settling;
use super::warn;
use crate::config::Visibility;
use crate::lsn::Lsn;
use crate::pipeline::{Plan, Urgency};
use crate::postgres::Wanted;
use crate::rules::{Publication, RuleSet};
use crate::snapshot::Snapshot;
use crate::state::{Due, Owed};

/// What is owed, and what of it is under way.
#[derive(Debug, Default)]
pub struct Debt {
    owed: Owed,
    due: Due,
    payment: Option<Payment>,
}

/// The fallbacks that are under way.
#[derive(Debug)]
struct Payment {
    settling: Settling,
    /// Where the log ended when they were due.
    end_lsn: Lsn,
    /// The place in the stream of those that ran last.
    order: u64,
    /// Whether it is time to look at what is visible. Transactions may be open for hours, and who
    /// waits for a commit is not to wait longer for their sake.
    is_time: bool,
}

impl Debt {
    /// What `owed` makes due now.
    pub fn new(owed: Owed, due: Due) -> Self {
        Debt { owed, due, payment: None }
    }

    /// What is owed, to be settled anew.
    pub fn into_owed(self) -> Owed {
        self.owed
    }

    /// A stream starts: the fallbacks that are due are under way. The log ends at `end_lsn`.
    pub(super) fn pay(
        &mut self,
        visibility: Visibility,
        rules: &RuleSet,
        plan: &mut Plan,
        end_lsn: Lsn,
    ) {
        if self.due.is_empty() || self.payment.is_some() {
            return;
        }
        let Due { everybody, sinks, rules: due_rules } = &self.due;
        let list = |names: &BTreeSet<String>| {
            names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
        };
        let (sinks, due_rules) = (list(sinks), list(due_rules));
        info!(everybody, sinks, rules = due_rules, "on again: the fallbacks that are owed run");
        let (settling, order) = match visibility {
            Visibility::Wait => (Settling::Asking, plan.next_order()),
            Visibility::Skip => (Settling::Settled, run(&self.due, rules, plan, end_lsn)),
        };
        self.payment = Some(Payment { settling, end_lsn, order, is_time: true });
    }

    /// Takes what a publication carries of the rules' tables: the rules on those that it has not
    /// carried for a while are owed a fallback. Answers whether something is due that was not.
    pub(super) fn look(&mut self, publication: &Publication, rules: &RuleSet) -> bool {
        let versions = publication.versions(rules);
        let carried = self.owed.carried(&versions, |table| rules.names_on(table));
        warn::carried(&carried, publication, rules);
        let changed = carried.lost.iter().chain(&carried.back);
        self.due.rules.extend(changed.flat_map(|table| rules.names_on(table)));
        if !carried.is_empty() {
            // What is under way does not pay for this.
            self.payment = None;
        }
        !carried.is_empty()
    }

    /// What has to be known of other sessions now.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        self.payment.as_ref().filter(|payment| payment.is_time)?.settling.wanted()
    }

    /// Takes what other sessions can see. Between two transactions.
    pub(super) fn show(&mut self, snapshot: &Snapshot, rules: &RuleSet, plan: &mut Plan) {
        let Some(Payment { settling, end_lsn, order, is_time }) = &mut self.payment else { return };
        // The first question is answered by a snapshot that names what is open.
        *is_time = matches!(settling, Settling::Asking) && snapshot.open().is_none();
        settling.show(snapshot, || *order = run(&self.due, rules, plan, *end_lsn));
    }

    /// Some time has passed.
    pub(super) fn tick(&mut self) {
        if let Some(payment) = &mut self.payment {
            payment.is_time = true;
        }
    }

    /// The stream has brought a transaction.
    pub(super) fn streamed(&mut self, xid: u32) {
        if let Some(payment) = &mut self.payment {
            payment.settling.streamed(xid);
        }
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
        self.payment = None;
    }

    /// Notes it if they are done.
    pub(super) fn check(&mut self, plan: &Plan) {
        let Some(Payment { settling, order, .. }) = &self.payment else { return };
        if settling.is_settled() && plan.oldest().is_none_or(|oldest| oldest > *order) {
            self.owed.paid(&self.due);
            self.due = Due::default();
            self.payment = None;
        }
    }
}

/// Runs what is due, and answers with its place in the stream.
fn run(due: &Due, rules: &RuleSet, plan: &mut Plan, end_lsn: Lsn) -> u64 {
    plan.begin(None);
    for rule in rules.rules() {
        for coarse in &rule.fallback {
            let is_due = |sink: &&_| due.includes(&rule.name, &rules.sink(**sink).name);
            let sinks: Vec<_> = coarse.sinks.iter().filter(is_due).copied().collect();
            plan.push(&sinks, coarse.action(), Urgency::Prompt);
        }
    }
    plan.commit(Lsn::ZERO);
    plan.owe_fallbacks(end_lsn)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use std::collections::HashMap;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::change::Op;
    use crate::pipeline::{LaneId, PlannedLane, Routes, Stage};
    use crate::rules::PublishedTable;

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
        debt.pay(Visibility::Skip, &rules, &mut plan, Lsn(100));
        assert_eq!(work(&mut plan), 1);
        debt.check(&plan);
        assert!(!debt.due.is_empty(), "replicas may show the old rows");
        debt.disconnect(&mut plan);
        debt.check(&plan);
        assert!(!debt.due.is_empty(), "they still may");
        debt.pay(Visibility::Skip, &rules, &mut plan, Lsn(100));
        plan.replayed(Lsn(100), Instant::now(), WAIT);
        assert_eq!(work(&mut plan), 1);
        debt.check(&plan);
        assert!(debt.due.is_empty());
        // What is done when the stream breaks is not done again.
        debt.disconnect(&mut plan);
        debt.pay(Visibility::Skip, &rules, &mut plan, Lsn(100));
        assert!(plan.is_idle());
    }

    #[test]
    fn what_comes_due_while_something_is_paid_is_not_paid_by_that() {
        let text = "[postgres]\nurl = 'postgres://h/d'\n[redis.c]\nurl = 'redis://h'\n\
            [[rule]]\nname = 'item'\ntable = 's.t'\ndelete = ['key:{id}']\n";
        let rules = crate::config::parse("t", text).unwrap().rules;
        let routes = Routes { actions: Box::new(|_, _, _| LaneId(0)), lookups: HashMap::new() };
        let mut plan = Plan::new(vec![PlannedLane::new(Stage::Remove)], routes);
        let table = |version: &str| PublishedTable {
            schema: "s".into(),
            name: "t".into(),
            version: version.into(),
            leaves: Vec::new(),
            is_partitioned: false,
        };
        let published = |version| Publication {
            ops: Op::ALL.into(),
            tables: vec![table(version)],
            ..Publication::default()
        };
        let due = Due { everybody: true, ..Due::default() };
        let mut debt = Debt::new(Owed::open(None), due);
        assert!(!debt.look(&published("1"), &rules));
        debt.pay(Visibility::Skip, &rules, &mut plan, Lsn(100));
        assert_eq!(work(&mut plan), 1);
        assert!(debt.look(&published("2"), &rules));
        debt.check(&plan);
        assert!(debt.due.rules.contains("item"), "nothing has run for it");
        debt.disconnect(&mut plan);
        assert!(!debt.look(&published("2"), &rules), "it is noted");
        debt.pay(Visibility::Skip, &rules, &mut plan, Lsn(200));
        assert_eq!(work(&mut plan), 1);
        debt.check(&plan);
        assert!(debt.due.is_empty());
    }
}
