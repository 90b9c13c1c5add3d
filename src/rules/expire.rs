//! `expire_in`: what a rule would delete lives on for a while instead.
//!
//! Compiling derives everything as if it deleted, and this turns the outcome round: the verbs, and
//! the time at the head of their values. Fallbacks too: a key is no staler for being reached by one.

use super::fallback::Coarse;
use super::rule_set::Step;
use super::spec::ExpireSpec;
use crate::problem::Problem;

/// Lets the rule's steps and coarse actions expire what they would delete; what is wrong with that,
/// if anything.
pub(super) fn expire(
    spec: &ExpireSpec,
    steps: &mut [Step],
    fallback: &mut [Coarse],
) -> Option<Problem> {
    let verbs = steps.iter().map(|step| step.verb);
    let mut verbs = verbs.chain(fallback.iter().map(|coarse| coarse.verb));
    let problem = |message: &str, label: &str, help: &str| {
        Some(Problem::new(spec.span.clone(), message, label).help(help))
    };
    if !verbs.clone().any(|verb| verb.is_redeleted()) {
        let help = "it is about what `delete`, `delete_matching` and `tags` would delete";
        return problem("`expire_in` in a rule that deletes nothing", "nothing to expire", help);
    }
    if verbs.any(|verb| verb.is_purge()) {
        let help = "leave out `expire_in`; or, for a CDN whose origin does not read this cache, \
                    purge in a rule of its own";
        let label = "the edge would fill from a cache in which stale keys live on";
        return problem("`expire_in` in a rule that purges", label, help);
    }
    let head = spec.ms.to_string();
    for step in steps.iter_mut().filter(|step| step.verb.is_redeleted()) {
        step.verb = step.verb.expiring();
        step.template.put_head(&head);
    }
    for coarse in fallback.iter_mut().filter(|coarse| coarse.verb.is_redeleted()) {
        coarse.verb = coarse.verb.expiring();
        coarse.value = [head.as_bytes(), b"\0", &coarse.value].concat();
    }
    None
}
