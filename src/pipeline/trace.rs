//! Each single invalidation in the debug log: the only level at which values are shown.

use tracing::debug;

use crate::rules::{Cause, Emission, Facts, RuleSet};

/// Logs what a rule, or a message, asks for.
pub fn trace(rules: &RuleSet, emission: &Emission<'_>, facts: Facts) {
    debug!(
        rule = emission.rule.map(|rule| rules.rule(rule).name.as_str()),
        action = emission.action.verb.key(),
        value = %String::from_utf8_lossy(emission.action.shown()),
        expire_in_ms = emission.action.expire_in_ms(),
        fallback = emission.fallback.map(Cause::name),
        xid = facts.xid,
        commit_lsn = facts.commit_lsn.map(|lsn| lsn.to_string()),
        "invalidate"
    );
}
