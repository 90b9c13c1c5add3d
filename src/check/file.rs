//! What the configuration says, without any network: above all, what happens where the exact keys
//! cannot be known, and whether its rules do what their tests expect.

use super::finding::{Finding, Findings, Group};
use crate::action::Verb;
use crate::config::Loaded;
use crate::rules::{Coarse, Rule, RuleSpec, SinkId, SinkSpec, rule_names, run_tests};

/// What `loaded` says.
pub fn file(loaded: &Loaded) -> Vec<Finding> {
    let mut findings = Findings::new(Group::Configuration);
    let config = &loaded.config;
    let enabled = loaded.rules.rules().len();
    let counted = format!(
        "{} and {}",
        count(config.rules.len(), "rule"),
        count(loaded.rules.sinks().len(), "sink")
    );
    match enabled {
        0 => findings.warning(
            &loaded.source.name,
            format!("{counted}; no rule is enabled, so nothing is ever invalidated"),
            "enabled = true".to_owned(),
        ),
        _ => findings.ok(&loaded.source.name, counted),
    }
    let names = rule_names(&config.rules);
    for (spec, name) in config.rules.iter().zip(&names) {
        if !spec.enabled {
            findings.ok(rule(name), "disabled");
        }
    }
    for compiled in loaded.rules.rules() {
        for coarse in &compiled.fallback {
            let said = said(coarse, loaded.rules.sinks());
            findings.ok(rule(&compiled.name), format!("falls back to {said}"));
        }
        for missed in missed_paths(compiled, loaded.rules.sinks()) {
            findings.warning(
                rule(&compiled.name),
                format!("a path with `*` does not go to {missed}, which has no wildcards"),
                format!("purge what {missed} shows by purge_keys, or name other sinks in `sinks`"),
            );
        }
        for (other, edge) in refilled(loaded, compiled) {
            findings.warning(
                rule(&compiled.name),
                format!("rule {other} purges {edge}, which may fill again with what lives on here"),
                format!(
                    "leave out `expire_in`; or, if what {edge} shows does not come from that \
                     cache, leave the cache out of its `after`"
                ),
            );
        }
        if compiled.fallback.is_empty() {
            findings.warning(
                rule(&compiled.name),
                "no fallback: TRUNCATE and changes whose old values are unknown invalidate nothing",
                "write [rule.fallback] with what to invalidate then: \
                 delete_matching = [\"PREFIX:*\"]"
                    .to_owned(),
            );
        }
    }
    for (spec, name) in config.rules.iter().zip(&names) {
        tests(loaded, spec, &rule(name), &mut findings);
    }
    findings.into_list()
}

/// The sinks that get some of a rule's paths, but none that stands for all that start with a text.
fn missed_paths<'a>(rule: &Rule, sinks: &'a [SinkSpec]) -> impl Iterator<Item = &'a str> {
    let paths = || rule.steps.iter().filter(|step| step.verb == Verb::PurgePath);
    let wildcards: Vec<SinkId> =
        paths().filter(|step| step.is_wildcard()).flat_map(|step| step.sinks.clone()).collect();
    let mut missed: Vec<SinkId> = paths().flat_map(|step| step.sinks.clone()).collect();
    missed.retain(|sink| !wildcards.is_empty() && !wildcards.contains(sink));
    missed.sort_unstable();
    missed.dedup();
    missed.into_iter().map(|sink| sinks[sink.0 as usize].name.as_str())
}

/// The CDNs that other rules on the rule's tables purge after a cache in which this one lets keys
/// live on, each with the name of such a rule.
fn refilled<'a>(loaded: &'a Loaded, compiled: &Rule) -> Vec<(&'a str, &'a str)> {
    let expires = compiled.steps.iter().filter(|step| step.verb.expires());
    let caches: Vec<SinkId> = expires.flat_map(|step| step.sinks.clone()).collect();
    let name = |id: &SinkId| loaded.rules.sink(*id).name.as_str();
    let mut refilled = Vec::new();
    if caches.is_empty() {
        return refilled;
    }
    for other in loaded.rules.rules() {
        let is_on_its_tables = other.tables.iter().any(|table| compiled.tables.contains(table));
        let purges = other.steps.iter().filter(|step| step.verb.is_purge() && is_on_its_tables);
        for edge in purges.flat_map(|step| &step.sinks).map(name) {
            let cdn = loaded.config.cdn.iter().find(|cdn| cdn.name == edge);
            let waits = cdn.is_some_and(|cdn| {
                caches.iter().any(|id| cdn.after.iter().any(|after| after == name(id)))
            });
            if waits && !refilled.contains(&(other.name.as_str(), edge)) {
                refilled.push((other.name.as_str(), edge));
            }
        }
    }
    refilled
}

/// What a rule's tests say of it.
fn tests(loaded: &Loaded, spec: &RuleSpec, subject: &str, findings: &mut Findings) {
    let verdicts = run_tests(spec, loaded.rules.sinks());
    let passed = verdicts.iter().filter(|verdict| verdict.is_none()).count();
    if passed > 0 {
        let verb = if passed == 1 { "passes" } else { "pass" };
        findings.ok(subject, format!("{} {verb}", count(passed, "test")));
    }
    for (number, (test, verdict)) in spec.tests.iter().zip(verdicts).enumerate() {
        let Some(lines) = verdict else { continue };
        let name = match &test.name {
            Some(name) => format!("test `{name}`"),
            None => format!("test {}", number + 1),
        };
        let line = loaded.source.line_of(&test.span);
        let mut difference = "- expected, + came out:".to_owned();
        for line in lines {
            difference.push_str(&format!("\n{line}"));
        }
        findings.failed(subject, format!("{name} in line {line} fails"), difference);
    }
}

/// A rule as the subject of a finding.
pub(super) fn rule(name: &str) -> String {
    format!("rule {name}")
}

/// A coarse action as the configuration would ask for it.
fn said(coarse: &Coarse, sinks: &[SinkSpec]) -> String {
    let value = String::from_utf8_lossy(coarse.action().shown());
    let key = coarse.verb.key();
    let told = match coarse.verb.deleting() {
        Verb::BumpMatching | Verb::TagMatching => format!("{key} of all that match {value}"),
        Verb::PurgeAll => {
            let names = coarse.sinks.iter().map(|id| sinks[id.0 as usize].name.as_str());
            format!("{key} of {}", names.collect::<Vec<_>>().join(", "))
        }
        Verb::DeleteTyped(of) => format!("{key} {value} of type {}", of.name()),
        _ => format!("{key} {value}"),
    };
    match coarse.action().expire_in() {
        Some(time) => format!("{told}, expiring in {}", humantime::format_duration(time)),
        None => told,
    }
}

/// "1 rule", "3 rules".
pub(super) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;
    use crate::check::Status;
    use crate::config::parse;

    #[track_caller]
    fn check(rules: &str, expected: &[(Status, &str)]) {
        let text = format!(
            "[postgres]\nurl = {{ env = \"NO_SUCH\" }}\n[redis.c]\nurl = \"redis://h\"\n{rules}"
        );
        let findings = file(&parse("config.toml", &text).unwrap());
        let got: Vec<_> = findings.iter().skip(1).map(|f| (f.status, f.message.as_str())).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn every_coarse_action_is_shown() {
        check(
            "[[rule]]\ntable = 'public.p'\ndelete = ['product:{id}', 'home']\n\
             bump = ['cat:{id}:v']\ntags = ['tag{id}']\n[rule.fallback]\ndelete_matching = ['x*']",
            &[
                (Status::Ok, "falls back to delete_matching x*"),
                (Status::Ok, "falls back to delete_matching product:*"),
                (Status::Ok, "falls back to delete home"),
                (Status::Ok, "falls back to bump of all that match cat:*:v"),
                (Status::Ok, "falls back to tags of all that match tag*"),
            ],
        );
    }

    #[test]
    fn what_cdns_purge_instead_is_shown_and_what_does_not_reach_one() {
        check(
            "[fastly.edge]\nservice_id = 'S'\ntoken = 'T'\nhosts = ['h']\n\
             [http.v]\nurl = 'http://h'\nheaders = { x = '{path|regex}' }\n\
             [[rule]]\ntable = 'public.p'\npurge_keys = ['p-{id}']\n\
             purge_paths = ['/p/{id}', '/p/{id}/*']",
            &[
                (Status::Ok, "falls back to purge_paths /p/*"),
                (Status::Ok, "falls back to purge_all of edge"),
                (Status::Warning, "a path with `*` does not go to edge, which has no wildcards"),
            ],
        );
    }

    #[test]
    fn a_purge_after_a_cache_in_which_keys_live_on_is_warned_about() {
        let rules = |after: &str, table: &str| {
            format!(
                "[fastly.edge]\nservice_id = 'S'\ntoken = 'T'\n{after}\
                 [[rule]]\nname = 'hot'\ntable = 'public.p'\ndelete = ['product:{{id}}']\n\
                 expire_in = '1m'\n\
                 [[rule]]\nname = 'cdn'\ntable = '{table}'\npurge_keys = ['p-{{id}}', 'ps']\n\
                 [rule.fallback]\npurge_keys = ['ps']\n"
            )
        };
        const WARNING: &str = "rule cdn purges edge, which may fill again with what lives on here";
        const FALLBACK: (Status, &str) =
            (Status::Ok, "falls back to delete_matching product:*, expiring in 1m");
        const PURGE: (Status, &str) = (Status::Ok, "falls back to purge_keys ps");
        check(&rules("", "public.p"), &[FALLBACK, (Status::Warning, WARNING), PURGE]);
        check(&rules("after = []\n", "public.p"), &[FALLBACK, PURGE]);
        check(&rules("", "public.q"), &[FALLBACK, PURGE]);
    }

    #[test]
    fn rules_without_a_fallback_are_warned_about_and_disabled_ones_named() {
        const NONE: &str =
            "no fallback: TRUNCATE and changes whose old values are unknown invalidate nothing";
        for fallback in ["fallback = 'none'", "[rule.fallback]\nderive = false"] {
            check(
                &format!(
                    "[[rule]]\nenabled = false\ntable = 'public.q'\ndelete = ['abc:{{id}}']\n\
                     [[rule]]\ntable = 'public.p'\ndelete = ['abc:{{id}}']\n{fallback}"
                ),
                &[(Status::Ok, "disabled"), (Status::Warning, NONE)],
            );
        }
    }
}
