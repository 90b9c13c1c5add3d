//! What a batch of lookups asks for, until it is handed to the plan.

use super::super::fallback::Cause;
use super::super::matcher::Emission;
use super::super::render::Coverage;
use super::super::rule_set::{RuleId, RuleSet};
use super::{Answer, Input};
use crate::action::{Action, Batch, Verb};

/// Actions, each with the lookup that asks for it.
#[derive(Debug, Default)]
pub struct Found {
    actions: Batch,
    origins: Vec<Origin>,
}

#[derive(Clone, Copy, Debug)]
struct Origin {
    /// The lookup's place in its batch.
    lookup: u32,
    rule: RuleId,
    step: Step,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// An exact action, by the place of its step.
    Exact(u32),
    /// All of the rule's fallback.
    Fallback(Cause),
}

impl Found {
    /// The memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.actions.value_bytes() + self.origins.len() * (size_of::<Origin>() + 8)
    }

    /// How much there is, to get back to.
    pub fn len(&self) -> usize {
        self.origins.len()
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.origins.is_empty()
    }

    /// Forgets what was added since there was so much.
    pub fn truncate(&mut self, len: usize) {
        self.origins.truncate(len);
        self.actions.truncate(len);
    }

    /// Adds what one row of the answer to a lookup asks for.
    pub fn add_row<'r>(
        &mut self,
        rules: &RuleSet,
        rule: RuleId,
        lookup: (usize, Input<'_>),
        row: impl Iterator<Item = (&'r str, Option<&'r [u8]>)>,
        answer: &mut Answer,
    ) {
        let compiled = rules.rule(rule);
        let Some(query) = &compiled.lookup else { return };
        let (at, input) = lookup;
        let coverage = answer.render(query, &compiled.steps, input, row, |step, value| {
            self.actions.push(Action { verb: compiled.steps[step].verb, value });
            let step = Step::Exact(step as u32);
            self.origins.push(Origin { lookup: at as u32, rule, step });
        });
        if coverage == Coverage::Partial {
            self.add_fallback(rule, at, Cause::Absent);
        }
    }

    /// Adds the rule's fallback for a lookup.
    pub fn add_fallback(&mut self, rule: RuleId, lookup: usize, cause: Cause) {
        self.actions.push(Action { verb: Verb::Lookup, value: &[] });
        let step = Step::Fallback(cause);
        self.origins.push(Origin { lookup: lookup as u32, rule, step });
    }

    /// Calls `emit` with the place of each lookup and what it asks for.
    pub fn emissions(&self, rules: &RuleSet, mut emit: impl FnMut(usize, Emission<'_>)) {
        for (origin, action) in self.origins.iter().zip(self.actions.iter()) {
            let lookup = origin.lookup as usize;
            match origin.step {
                Step::Exact(step) => {
                    let sinks = &rules.rule(origin.rule).steps[step as usize].sinks;
                    let rule = Some(origin.rule);
                    emit(lookup, Emission { rule, sinks, action, fallback: None });
                }
                Step::Fallback(cause) => {
                    rules.fallback(origin.rule, cause, &mut |emission| emit(lookup, emission));
                }
            }
        }
    }
}
