//! Counts changes, actions and fallbacks by what comes of them: a rule that asks for several actions comes
//! up several times in a row.

use super::counts::{Counts, Why};
use crate::action::Verb;
use crate::change::Op;
use crate::rules::{Cause, Emission, RuleId};

/// What of one change, or of one answer, is counted already.
#[derive(Debug, Default)]
pub struct Tally {
    changed: Option<RuleId>,
    fell_back: Option<(RuleId, Cause)>,
}

impl Tally {
    /// A change's action: the change is counted once for each rule.
    pub fn change(&mut self, counts: &Counts, emission: &Emission<'_>, op: Op) {
        if let Some(rule) = emission.rule
            && self.changed.replace(rule) != Some(rule)
        {
            counts.change(rule, op);
        }
    }

    /// Any action: a fallback is counted once, however many actions it has. A lookup is none, since
    /// it asks for some itself.
    pub fn action(&mut self, counts: &Counts, emission: &Emission<'_>) {
        if let Some(rule) = emission.rule
            && emission.action.verb != Verb::Lookup
        {
            counts.action(rule);
        }
        if let (Some(rule), Some(cause)) = (emission.rule, emission.fallback)
            && self.fell_back.replace((rule, cause)) != Some((rule, cause))
        {
            counts.fallback(rule, Why::Cause(cause));
        }
    }
}
