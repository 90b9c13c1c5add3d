//! What each rule has done.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::metrics::Counts;

/// One rule: what is counted of it since the process started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuleStatus {
    /// Its name.
    pub name: String,
    /// The changes from which it made actions, by operation.
    pub changes: BTreeMap<String, u64>,
    /// The actions that it asked for, before equal ones were merged.
    pub actions: u64,
    /// How often its fallback ran, by cause.
    pub fallbacks: BTreeMap<String, u64>,
}

/// Each rule as it is counted now.
pub fn rules(counts: &Counts) -> Vec<RuleStatus> {
    let named = |name: &'static str, count: u64| (name.to_owned(), count);
    let status = counts.rules.iter().map(|rule| RuleStatus {
        name: rule.name.clone(),
        changes: rule.changes().map(|(op, count)| named(op.name(), count)).collect(),
        actions: rule.actions(),
        fallbacks: rule.fallbacks().map(|(why, count)| named(why.name(), count)).collect(),
    });
    status.collect()
}
