//! Can each sink do what the rules send it?

use std::sync::Arc;

use tokio::task::JoinSet;

use super::finding::{Finding, Findings, Group};
use crate::action::Verb;
use crate::rules::{RuleSet, SinkId};
use crate::sinks::redis::{CheckLine, Duties, RedisConfig, check, least_acl};

/// Tries every sink, all at the same time; each of its commands is under a timeout of its own.
pub(super) async fn sinks(rules: &RuleSet, sinks: &[Arc<RedisConfig>]) -> Vec<Finding> {
    let mut tasks = JoinSet::new();
    for (at, sink) in sinks.iter().enumerate() {
        let (duties, sink) = (duties(rules, SinkId(at as u32)), Arc::clone(sink));
        tasks.spawn(async move { (at, redis(&sink, &duties).await) });
    }
    let mut found = tasks.join_all().await;
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().flat_map(|(_, findings)| findings).collect()
}

/// What rules and their fallbacks send to a sink.
fn duties(rules: &RuleSet, sink: SinkId) -> Duties {
    let mut duties = Duties::default();
    for rule in rules.rules() {
        let steps = rule.steps.iter().filter(|step| step.sinks.contains(&sink));
        for step in steps {
            duties.verbs.push(step.verb);
            duties.channels.extend(step.channel().map(<[u8]>::to_vec));
        }
        for coarse in rule.fallback.iter().filter(|coarse| coarse.sinks.contains(&sink)) {
            duties.verbs.push(coarse.verb);
            if coarse.verb == Verb::Publish {
                duties.channels.push(coarse.action().message().0.to_vec());
            }
        }
    }
    duties.verbs.sort_unstable();
    duties.verbs.dedup();
    duties.channels.sort_unstable();
    duties.channels.dedup();
    duties
}

async fn redis(config: &RedisConfig, duties: &Duties) -> Vec<Finding> {
    let mut findings = Findings::new(Group::Sinks);
    let name = config.name();
    for CheckLine { ok, what, hint } in check(config, duties).await {
        match ok {
            // The first line is about the server, and the others are bare names of verbs.
            true if what.contains(':') => findings.ok(name, what),
            true => findings.ok(name, format!("{what} works")),
            false => {
                let unreachable = what.starts_with("connect: ");
                let start = || format!("start the server, or correct redis.{name}.url");
                findings.failed(name, what, hint.or_else(|| unreachable.then(start)));
            }
        }
    }
    match duties.verbs.is_empty() {
        true => findings.warning(
            name,
            "no rule sends anything here",
            format!("name it in a rule's `sinks`, or remove [redis.{name}]"),
        ),
        false => {
            let acl = least_acl(duties, config);
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
        assert_eq!(duties(&rules, SinkId(0)).verbs, [Verb::Delete, Verb::DeleteMatching]);
        assert_eq!(
            duties(&rules, SinkId(1)).verbs,
            [Verb::Delete, Verb::DeleteMatching, Verb::Tag, Verb::TagMatching]
        );
        assert_eq!(duties(&rules, SinkId(2)).verbs, []);
    }
}
