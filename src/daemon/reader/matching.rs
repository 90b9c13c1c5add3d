//! From what rules ask for to actions of the plan: counted, logged and told of on the way.

use std::sync::Arc;

use crate::action::Verb;
use crate::change::Change;
use crate::daemon::interrupted::Interrupted;
use crate::daemon::warn::{self, Warned};
use crate::metrics::{Counts, Tally};
use crate::pipeline::{Manner, Plan, Urgency, trace};
use crate::rules::{
    Bulk, Cause, Emission, Facts, Matcher, MessageError, Messages, RuleSet, TableNews,
};
use crate::tail::Tap;

/// What a stream is matched with, and who is told what comes of it.
pub(super) struct Matching<'d> {
    pub(super) matcher: &'d mut Matcher,
    rules: Arc<RuleSet>,
    bulk: Bulk,
    pub(super) warned: Warned,
    counts: Arc<Counts>,
    tap: Tap,
}

impl<'d> Matching<'d> {
    pub(super) fn new(matcher: &'d mut Matcher) -> Self {
        let rules = Arc::clone(matcher.rules());
        let (bulk, warned) = (Bulk::default(), Warned::default());
        let counts = Arc::new(Counts::new(&rules));
        Matching { matcher, rules, bulk, warned, counts, tap: Tap::default() }
    }

    /// Counts there, and tells of single invalidations there.
    pub(super) fn observe(&mut self, counts: Arc<Counts>, tap: Tap) {
        (self.counts, self.tap) = (counts, tap);
    }

    pub(super) fn rules(&self) -> &RuleSet {
        &self.rules
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Takes a change.
    ///
    /// # Errors
    /// If its table is not known. A replay does not mind: the catalog was read after the change.
    pub(super) fn apply<'a>(
        &'a mut self,
        plan: &'a mut Plan,
        facts: Facts,
        change: Change<'a>,
        is_replay: bool,
    ) -> Result<(), Interrupted> {
        let is_new = self.matcher.needs_catalog(change.schema, change.table);
        if is_new && !is_replay {
            return Err(Interrupted::Catalog);
        }
        let (matcher, mut taker) = self.taker(plan, facts);
        taker.change = Some(change);
        matcher.apply(&change, facts, |emission| taker.take(&emission, &change));
        Ok(())
    }

    /// Takes what an application's message asks for.
    ///
    /// # Errors
    /// If that cannot be done.
    pub(super) fn message(
        &mut self,
        plan: &mut Plan,
        facts: Facts,
        content: &[u8],
        messages: Messages,
    ) -> Result<(), MessageError> {
        let (matcher, mut taker) = self.taker(plan, facts);
        matcher.rules().message(content, messages, |emission| taker.push(&emission))
    }

    /// What adds actions to the transaction that the plan is in, beside what finds them.
    pub(super) fn taker<'a>(
        &'a mut self,
        plan: &'a mut Plan,
        facts: Facts,
    ) -> (&'a mut Matcher, Taker<'a>) {
        let Matching { matcher, rules, bulk, warned, counts, tap } = self;
        let (tally, is_traced) = (Tally::default(), is_traced());
        let (tap, change) = (tap.is_open().then_some(&*tap), None);
        (
            &mut **matcher,
            Taker { plan, rules, bulk, warned, facts, is_traced, counts, tally, tap, change },
        )
    }

    /// Runs the fallbacks of what was too much for single actions: what ran of it before may have
    /// come before the transaction was visible.
    pub(super) fn collapsed_once_more(&self, plan: &mut Plan) {
        for rule in self.bulk.collapsed() {
            self.rules.fallback(rule, Cause::Bulk, &mut |coarse| {
                let redelete = self.rules.redelete_of(coarse.rule);
                let manner = Manner { urgency: Urgency::Prompt, redelete };
                plan.push(coarse.sinks, coarse.action, manner);
            });
        }
    }

    /// What comes next is of another transaction.
    pub(super) fn end_transaction(&mut self) {
        self.bulk.reset();
    }

    /// Says what is new about a table, once.
    pub(super) fn warn_of(&mut self, news: &TableNews) {
        warn::table_news(&mut self.warned, &self.rules, news);
    }
}

/// Whether each single invalidation is logged.
fn is_traced() -> bool {
    tracing::enabled!(tracing::Level::DEBUG)
}

/// Takes what rules ask for into the plan.
pub(super) struct Taker<'a> {
    plan: &'a mut Plan,
    rules: &'a RuleSet,
    bulk: &'a mut Bulk,
    warned: &'a mut Warned,
    facts: Facts,
    is_traced: bool,
    counts: &'a Counts,
    tally: Tally,
    /// `None`: nobody listens.
    tap: Option<&'a Tap>,
    /// What asks, if it is a change.
    change: Option<Change<'a>>,
}

impl Taker<'_> {
    /// Takes an action that a change asks for.
    fn take(&mut self, emission: &Emission<'_>, change: &Change<'_>) {
        if let Some(rule) = emission.rule
            && emission.fallback == Some(Cause::Absent)
            && self.warned.is_new_rule(rule)
        {
            warn::falls_back(self.warned, self.rules, rule, change);
        }
        self.tally.change(self.counts, emission, change.op);
        self.push(emission);
    }

    /// Takes an action, or the fallback of a rule that asks for too many.
    pub(super) fn push(&mut self, emission: &Emission<'_>) {
        let Taker { plan, rules, bulk, facts, is_traced, counts, tally, tap, change, .. } = self;
        // Neither of them is to stop the reader.
        let waits_long = matches!(emission.action.verb, Verb::Publish | Verb::Lookup);
        let is_crowded = waits_long && emission.rule.is_some_and(|rule| plan.is_crowded(rule));
        bulk.asked(rules, emission, is_crowded, |emission| {
            tally.action(counts, emission);
            if *is_traced {
                trace(rules, emission, *facts);
            }
            if let Some(tap) = tap {
                tap.tell(rules, emission, *facts, change.as_ref());
            }
            match (emission.action.verb, emission.rule) {
                (Verb::Lookup, Some(rule)) => plan.look_up(rule, emission.action),
                _ => plan.push(emission.sinks, emission.action, Manner::of(rules, emission)),
            }
        });
    }
}
