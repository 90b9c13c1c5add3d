//! Can each sink do what the rules send it?

use std::sync::Arc;

use tokio::task::JoinSet;

use super::finding::{Finding, Findings, Group};
use crate::action::Verb;
use crate::rules::{RuleSet, SinkId};
use crate::sinks::redis::{CheckLine, RedisConfig, check, least_acl};

/// Tries every sink, all at the same time; each of its commands is under a timeout of its own.
pub(super) async fn sinks(rules: &RuleSet, sinks: &[Arc<RedisConfig>]) -> Vec<Finding> {
    let mut tasks = JoinSet::new();
    for (at, sink) in sinks.iter().enumerate() {
        let (verbs, sink) = (verbs(rules, SinkId(at as u32)), Arc::clone(sink));
        tasks.spawn(async move { (at, redis(&sink, &verbs).await) });
    }
    let mut found = tasks.join_all().await;
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().flat_map(|(_, findings)| findings).collect()
}

/// What rules and their fallbacks send to a sink.
fn verbs(rules: &RuleSet, sink: SinkId) -> Vec<Verb> {
    let mut verbs = Vec::new();
    for rule in rules.rules() {
        let steps = rule.steps.iter().map(|step| (step.verb, &step.sinks));
        let coarse = rule.fallback.iter().map(|coarse| (coarse.verb, &coarse.sinks));
        let sent = steps.chain(coarse).filter(|(_, sinks)| sinks.contains(&sink));
        verbs.extend(sent.map(|(verb, _)| verb));
    }
    verbs.sort_unstable();
    verbs.dedup();
    verbs
}

async fn redis(config: &RedisConfig, verbs: &[Verb]) -> Vec<Finding> {
    let mut findings = Findings::new(Group::Sinks);
    let name = config.name();
    for CheckLine { ok, what, hint } in check(config, verbs).await {
        match ok {
            true => findings.ok(name, what),
            false => findings.failed(name, what, hint),
        }
    }
    match verbs.is_empty() {
        true => findings.warning(
            name,
            "no rule sends anything here",
            format!("name it in a rule's `sinks`, or remove [redis.{name}]"),
        ),
        false => {
            let acl = least_acl(verbs, config);
            findings.ok(name, format!("the least rights that suffice: {acl}"));
        }
    }
    findings.into_list()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;
    use crate::config::parse;

    #[test]
    fn a_sink_is_tried_with_what_rules_and_fallbacks_send_it() {
        let text = "[postgres]\nurl = \"postgres://h/d\"\n[redis.a]\nurl = \"redis://h\"\n\
            [redis.b]\nurl = \"redis://h\"\n[redis.c]\nurl = \"redis://h\"\n\
            [[rule]]\ntable = \"public.t\"\ndelete = [\"key:{id}\", \"all\"]\nsinks = [\"a\", \"b\"]\n\
            [[rule]]\ntable = \"public.t\"\ntags = [\"tag:{id}\"]\nsinks = [\"b\"]\n";
        let rules = parse("t", text).unwrap().rules;
        assert_eq!(verbs(&rules, SinkId(0)), [Verb::Delete, Verb::DeleteMatching]);
        assert_eq!(
            verbs(&rules, SinkId(1)),
            [Verb::Delete, Verb::DeleteMatching, Verb::Tag, Verb::TagMatching]
        );
        assert_eq!(verbs(&rules, SinkId(2)), []);
    }
}
