//! What the configuration says, without any network: above all, what happens where the exact keys
//! cannot be known.

use super::finding::{Finding, Findings, Group};
use crate::action::Verb;
use crate::config::Loaded;
use crate::rules::{Coarse, rule_names};

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
    for (spec, name) in config.rules.iter().zip(rule_names(&config.rules)) {
        if !spec.enabled {
            findings.ok(rule(&name), "disabled");
        }
    }
    for compiled in loaded.rules.rules() {
        for coarse in &compiled.fallback {
            findings.ok(rule(&compiled.name), format!("falls back to {}", said(coarse)));
        }
        if compiled.fallback.is_empty() {
            findings.warning(
                rule(&compiled.name),
                "no fallback: TRUNCATE and changes whose old values are unknown invalidate nothing",
                "write [rule.fallback] with what to invalidate then: \
                 delete_matching = [\"product:*\"]"
                    .to_owned(),
            );
        }
    }
    findings.into_list()
}

/// A rule as the subject of a finding.
pub(super) fn rule(name: &str) -> String {
    format!("rule {name}")
}

/// A coarse action as the configuration would ask for it.
fn said(coarse: &Coarse) -> String {
    let value = String::from_utf8_lossy(&coarse.value);
    let key = coarse.verb.key();
    match coarse.verb {
        Verb::BumpMatching | Verb::TagMatching => format!("{key} of all that match {value}"),
        _ => format!("{key} {value}"),
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
