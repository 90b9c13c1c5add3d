//! `bulk_above`: one transaction that asks for too many distinct values of a rule gets the rule's
//! fallback instead of the rest of them.
//!
//! Pure. Its memory is bounded by the rules' bounds, and kept for one transaction alone.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;

use super::fallback::Cause;
use super::matcher::Emission;
use super::rule_set::{Rule, RuleId, RuleSet};
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
    /// It did so in an earlier answer. A lookup that waited then may have been joined since by a
    /// transaction for which that was too early.
    OverBefore,
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
            Verb::Lookup | Verb::PurgeKey | Verb::PurgePath | Verb::PurgeAll => {
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

    /// Another answer to the transaction's lookups begins.
    pub fn next_answer(&mut self) {
        for count in self.rules.values_mut() {
            if let Count::Over = count {
                *count = Count::OverBefore;
            }
        }
    }

    /// How many values are remembered.
    pub fn remembered(&self) -> usize {
        let values = |count: &Count| match count {
            Count::Values(values) => values.capacity(),
            Count::Over | Count::OverBefore => 0,
        };
        self.rules.values().map(values).sum()
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
        let was_over = matches!(self.rules.get(&id), Some(Count::OverBefore));
        if was_over || is_crowded || above.is_some_and(|above| self.count(id, emission) > above) {
            self.rules.insert(id, Count::Over);
            return rules.fallback(id, Cause::Bulk, &mut |coarse| emit(&coarse));
        }
        emit(emission);
    }

    /// Whether the transaction's fallbacks took the place of actions, for each such rule.
    pub fn collapsed(&self) -> impl Iterator<Item = RuleId> {
        let is_over = |count: &Count| matches!(count, Count::Over | Count::OverBefore);
        let over = self.rules.iter().filter(move |(_, count)| is_over(count));
        over.map(|(&rule, _)| rule)
    }

    /// How many distinct values there are with this one.
    fn count(&mut self, rule: RuleId, emission: &Emission<'_>) -> u64 {
        let action = emission.action;
        let hash = self.hasher.hash_one((action.verb, action.value));
        let count = self.rules.entry(rule).or_insert_with(|| Count::Values(HashSet::default()));
        match count {
            Count::Values(values) => {
                values.insert(hash);
                values.len() as u64
            }
            Count::Over | Count::OverBefore => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;

    #[test]
    fn a_later_answer_gets_a_fallback_of_its_own() {
        let text = "[postgres]\nurl = 'postgres://h/d'\n[redis.c]\nurl = 'redis://h'\n\
            [[rule]]\ntable = 's.t'\nlookup = 'SELECT 1 AS x'\ndelete = ['key:{x}']\n\
            bulk_above = 1\n";
        let rules = crate::config::parse("t", text).unwrap().rules;
        let mut bulk = Bulk::default();
        let mut find = |values: &[&[u8]]| {
            let mut asked = Vec::new();
            bulk.next_answer();
            for value in values {
                let action = Action { verb: Verb::Delete, value };
                let emission =
                    Emission { rule: Some(RuleId(0)), sinks: &[], action, fallback: None };
                bulk.found(&rules, &emission, |emission| {
                    asked.push(String::from_utf8(emission.action.value.to_vec()).unwrap());
                });
            }
            asked
        };
        assert_eq!(find(&[b"a", b"b", b"c", b"d"]), ["a", "key:*"]);
        // A younger transaction may have joined a lookup that was not answered then.
        assert_eq!(find(&[b"e", b"f"]), ["key:*"]);
        assert!(find(&[]).is_empty());
    }
}
