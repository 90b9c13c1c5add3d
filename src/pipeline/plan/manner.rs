//! How is an action asked for?

use crate::rules::{Cause, Emission, RedeleteId, RuleSet};

/// Whether an action may be held back, so that many of them become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// It runs as soon as its lane is idle.
    Prompt,
    /// The same, but it is one of many that a lookup has found: its sink may pace them.
    Found,
    /// It is coarse and asked for again and again: at most once in a while.
    Paced,
}

impl Urgency {
    /// Every update of a table may ask for the same scan.
    pub fn of(emission: &Emission<'_>) -> Self {
        match emission.fallback {
            Some(Cause::Absent) => Urgency::Paced,
            _ => Urgency::Prompt,
        }
    }
}

/// How an action is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// Whether it may be held back.
    pub urgency: Urgency,
    /// When it is done again; `None`: never.
    pub redelete: Option<RedeleteId>,
}

impl Manner {
    /// As the rule says that asks for it.
    pub fn of(rules: &RuleSet, emission: &Emission<'_>) -> Self {
        let redelete = rules.redelete_of(emission.rule);
        let is_found = emission.fallback.is_none()
            && emission.rule.is_some_and(|rule| rules.rule(rule).lookup.is_some());
        let urgency = if is_found { Urgency::Found } else { Urgency::of(emission) };
        Manner { urgency, redelete }
    }
}

impl From<Urgency> for Manner {
    fn from(urgency: Urgency) -> Self {
        Manner { urgency, redelete: None }
    }
}
