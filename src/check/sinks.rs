//! Can each sink do what the rules send it?

use std::sync::Arc;

use tokio::task::JoinSet;

use super::file::rule;
use super::finding::{Finding, Findings, Group};
use crate::action::{Address, Verb};
use crate::amount::grouped;
use crate::rules::{RuleSet, SinkId};
use crate::sinks::cdn::cloudfront::{CloudFrontSink, statement};
use crate::sinks::cdn::{CdnFinding, CdnSink, CdnState};
use crate::sinks::redis::{
    CheckLine, Duties, KeyCounts, KeyPattern, RedisConfig, check, count, least_acl,
};
use crate::sinks::{Endpoint, Failure};

/// Tries every sink, all at the same time; each of its commands is under a timeout of its own.
pub(super) async fn sinks(rules: &RuleSet, sinks: &[Endpoint]) -> Vec<Finding> {
    let mut tasks = JoinSet::new();
    for (at, sink) in sinks.iter().enumerate() {
        let id = SinkId(at as u32);
        let duties = duties(rules, id);
        match sink {
            Endpoint::Redis(config) => {
                let (config, patterns) = (Arc::clone(config), patterns(rules, id, config));
                tasks.spawn(async move { (at, redis(&config, &duties, patterns).await) });
            }
            Endpoint::Cdn(sink) => {
                let sink = Arc::clone(sink);
                tasks.spawn(async move { (at, cdn(&sink, &duties).await) });
            }
            Endpoint::CloudFront(sink) => {
                let sink = Arc::clone(sink);
                tasks.spawn(async move { (at, Box::pin(cloudfront(&sink, &duties)).await) });
            }
        }
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
            step.address().into_iter().for_each(|address| add_address(&mut duties, address));
        }
        for coarse in rule.fallback.iter().filter(|coarse| coarse.sinks.contains(&sink)) {
            duties.verbs.push(coarse.verb);
            if coarse.verb == Verb::Publish {
                add_address(&mut duties, coarse.action().message().0);
            }
        }
    }
    duties.verbs.sort_unstable();
    duties.verbs.dedup();
    duties.channels.sort_unstable();
    duties.channels.dedup();
    duties.streams.sort_unstable();
    duties.streams.dedup();
    duties
}

fn add_address(duties: &mut Duties, address: &[u8]) {
    match Address::read(address) {
        Address::Channel(channel) => duties.channels.push(channel.to_vec()),
        Address::Stream { key, .. } => duties.streams.push(key.to_vec()),
    }
}

/// What fallbacks look for in a sink's keys, each with its rule's name.
fn patterns(rules: &RuleSet, sink: SinkId, config: &RedisConfig) -> Vec<(String, KeyPattern)> {
    let mut patterns = Vec::new();
    for rule in rules.rules() {
        for coarse in rule.fallback.iter().filter(|coarse| coarse.sinks.contains(&sink)) {
            let pattern = KeyPattern::new(coarse.action(), config);
            patterns.extend(pattern.map(|pattern| (rule.name.clone(), pattern)));
        }
    }
    patterns
}

async fn redis(
    config: &RedisConfig,
    duties: &Duties,
    patterns: Vec<(String, KeyPattern)>,
) -> Vec<Finding> {
    let mut findings = Findings::new(Group::Sinks);
    let name = config.name();
    let mut is_reached = true;
    for CheckLine { ok, what, hint } in check(config, duties).await {
        match ok {
            // The first line is about the server, and the others are bare names of verbs.
            true if what.contains(':') => findings.ok(name, what),
            true => findings.ok(name, format!("{what} works")),
            false => {
                let unreachable = what.starts_with("connect: ");
                is_reached &= !unreachable;
                let key = config.place_key();
                let start = || format!("start the server, or correct redis.{name}.{key}");
                findings.failed(name, what, hint.or_else(|| unreachable.then(start)));
            }
        }
    }
    match duties.verbs.is_empty() {
        true => idle(&mut findings, name, "redis"),
        false => {
            let acl = least_acl(duties, config);
            findings.ok(name, format!("the least rights that suffice: {acl}"));
        }
    }
    if is_reached && !patterns.is_empty() {
        counts(config, duties, patterns, &mut findings).await;
    }
    findings.into_list()
}

/// A sink that is there for nothing.
fn idle(findings: &mut Findings, name: &str, kind: &str) {
    findings.warning(
        name,
        "no rule sends anything here",
        format!("name it in a rule's `sinks`, or remove [{kind}.{name}]"),
    );
}

async fn cdn(sink: &CdnSink, duties: &Duties) -> Vec<Finding> {
    let mut findings = Findings::new(Group::Sinks);
    for CdnFinding { state, what, hint } in sink.check(&duties.verbs).await {
        match state {
            CdnState::Good => findings.ok(sink.name(), what),
            CdnState::Untried => findings.note(sink.name(), what, hint),
            CdnState::Bad => findings.failed(sink.name(), what, hint),
        }
    }
    if duties.verbs.is_empty() {
        idle(&mut findings, sink.name(), sink.kind().key());
    }
    findings.into_list()
}

async fn cloudfront(sink: &CloudFrontSink, duties: &Duties) -> Vec<Finding> {
    let mut findings = Findings::new(Group::Sinks);
    let name = sink.name();
    match sink.check().await {
        Ok(()) => {
            findings.ok(name, format!("the credentials may look at {}", sink.target()));
            findings.note(
                name,
                "whether they may create invalidations is known only when they do",
                Some(statement(sink.distribution_id())),
            );
        }
        Err(Failure::Refused { message, hint }) => findings.failed(name, message, Some(hint)),
        Err(failure) => findings.failed(name, format!("connect: {failure}"), None),
    }
    if duties.verbs.is_empty() {
        idle(&mut findings, name, "cloudfront");
    }
    findings.into_list()
}

/// How many keys each fallback would reach now. No key is named.
async fn counts(
    config: &RedisConfig,
    duties: &Duties,
    patterns: Vec<(String, KeyPattern)>,
    findings: &mut Findings,
) {
    let (names, patterns): (Vec<String>, Vec<KeyPattern>) = patterns.into_iter().unzip();
    let counts = match count(config, &patterns, duties).await {
        Ok(counts) => counts,
        Err(failure) => {
            let message = format!("the keys of the fallbacks cannot be counted: {failure}");
            let hint = match failure {
                Failure::Refused { hint, .. } => Some(hint),
                Failure::Outage { .. } | Failure::Held => None,
            };
            return findings.note(config.name(), message, hint);
        }
    };
    for ((name, KeyPattern { pattern, .. }), matching) in
        names.iter().zip(&patterns).zip(&counts.matching)
    {
        let pattern = String::from_utf8_lossy(pattern);
        let found = share(*matching, &counts);
        findings.ok(rule(name), format!("fallback {pattern} matches {found} of {}", config.name()));
    }
}

/// "12 of 340 keys", or what a part of them lets expect.
fn share(matching: u64, counts: &KeyCounts) -> String {
    let looked_at = grouped(counts.looked_at);
    let all = match counts.keys {
        None => return format!("{} of the first {looked_at} keys", grouped(matching)),
        // Keys may have gone since they were counted.
        Some(keys) => keys.max(counts.looked_at),
    };
    if all == counts.looked_at {
        return format!("{} of {looked_at} keys", grouped(matching));
    }
    if matching == 0 {
        return format!("none of the {looked_at} keys looked at, of {} keys", grouped(all));
    }
    let expected = u128::from(matching) * u128::from(all) / u128::from(counts.looked_at.max(1));
    format!("about {} of {} keys", grouped(expected as u64), grouped(all))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;
    use crate::config::parse;

    #[test]
    fn a_part_of_the_keys_lets_expect_the_rest() {
        let share = |matching, looked_at, keys| {
            super::share(matching, &KeyCounts { keys, looked_at, matching: Vec::new() })
        };
        assert_eq!(share(0, 0, Some(0)), "0 of 0 keys");
        assert_eq!(share(1234, 50_000, Some(50_000)), "1,234 of 50,000 keys");
        assert_eq!(share(250, 1000, Some(4_000_000)), "about 1,000,000 of 4,000,000 keys");
        assert_eq!(share(0, 1000, Some(4000)), "none of the 1,000 keys looked at, of 4,000 keys");
        assert_eq!(share(7, 1000, None), "7 of the first 1,000 keys");
        assert_eq!(share(7, 1000, Some(900)), "7 of 1,000 keys");
    }

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
