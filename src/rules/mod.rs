//! Rules: which change asks for which actions.

mod spec;

pub use spec::{FallbackSpec, RULE_VERBS, RuleSpec};
