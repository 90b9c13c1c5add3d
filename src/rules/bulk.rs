//! `bulk_above`: one transaction that asks for too many distinct values of a rule gets the rule's
//! fallback instead of the rest of them.
//!
//! Pure. Its memory is bounded by the rules' bounds, and kept for one transaction alone.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;

use super::compile::{Rule, RuleId, RuleSet};
use super::fallback::Cause;
use super::matcher::Emission;
use crate::action::Verb;

/// `bulk_above` of lookups and CDN purges, where it is not given: each of them costs a query or
/// money.
pub const BULK_ABOVE: u64 = 10_000;

/// What is counted of a transaction.
#[derive(Debug, Default)]
pub struct Bulk {
    rules: HashMap<RuleId, Count, foldhash::fast::RandomState>,
    hasher: foldhash::fast::RandomState,
}

#[derive(Debug)]
enum Count {
    /// These values were asked for, by their hashes.
    Values(HashSet<u64, foldhash::fast::RandomState>),
    /// The fallback took their place.
    Over,
}

impl Rule {
    /// How many distinct values of a verb one transaction may ask for; `None`: any number.
    ///
    /// Nothing takes the place of the actions of a rule without fallback.
    pub fn bulk_above(&self, verb: Verb) -> Option<u64> {
        if self.fallback.is_empty() {
            return None;
        }
        match verb {
            Verb::Lookup | Verb::PurgeKey | Verb::PurgePath => {
                Some(self.bulk_above.unwrap_or(BULK_ABOVE))
            }
            _ => self.bulk_above,
        }
    }
}

impl Bulk {
    /// A transaction begins.
    pub fn reset(&mut self) {
        if !self.rules.is_empty() {
            self.rules.clear();
        }
    }

    /// Calls `emit` for an action that a change of the transaction asks for, or for what takes its
    /// place. `is_crowded`: no more of it should wait.
    pub fn asked(
        &mut self,
        rules: &RuleSet,
        emission: &Emission<'_>,
        is_crowded: bool,
        mut emit: impl FnMut(&Emission<'_>),
    ) {
        let Some(id) = emission.rule else { return emit(emission) };
        let verb = emission.action.verb;
        let above = rules.rule(id).bulk_above(verb);
        // Most rules are never counted.
        if self.rules.is_empty() && above.is_none() && !is_crowded {
            return emit(emission);
        }
        let is_crowded = is_crowded && !rules.rule(id).fallback.is_empty();
        self.run(rules, id, emission, above, is_crowded, emit);
    }

    /// The same for an action that the answer to one of its lookups asks for.
    pub fn found(
        &mut self,
        rules: &RuleSet,
        emission: &Emission<'_>,
        mut emit: impl FnMut(&Emission<'_>),
    ) {
        let Some(id) = emission.rule else { return emit(emission) };
        let above = rules.rule(id).bulk_above(Verb::Lookup);
        self.run(rules, id, emission, above, false, emit);
    }

    fn run(
        &mut self,
        rules: &RuleSet,
        id: RuleId,
        emission: &Emission<'_>,
        above: Option<u64>,
        is_crowded: bool,
        mut emit: impl FnMut(&Emission<'_>),
    ) {
        if let Some(Count::Over) = self.rules.get(&id) {
            return;
        }
        if emission.fallback.is_some() {
            return emit(emission);
        }
        if is_crowded || above.is_some_and(|above| self.count(id, emission) > above) {
            self.rules.insert(id, Count::Over);
            return rules.fallback(id, Cause::Bulk, &mut |coarse| emit(&coarse));
        }
        emit(emission);
    }

    /// Whether the transaction's fallbacks took the place of actions, for each such rule.
    pub fn collapsed(&self) -> impl Iterator<Item = RuleId> {
        let over = self.rules.iter().filter(|(_, count)| matches!(count, Count::Over));
        over.map(|(&rule, _)| rule)
    }

    /// How many distinct values there are with this one.
    fn count(&mut self, rule: RuleId, emission: &Emission<'_>) -> u64 {
        let action = emission.action;
        let hash = self.hasher.hash_one((action.verb as u8, action.value));
        let count = self.rules.entry(rule).or_insert_with(|| Count::Values(HashSet::default()));
        match count {
            Count::Values(values) => {
                values.insert(hash);
                values.len() as u64
            }
            Count::Over => 0,
        }
    }
}
