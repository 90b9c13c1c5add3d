//! A rule's coarse actions: those that are written, those that are derived, and the messages about
//! either.

use super::super::fallback::{Coarse, Derived, derive};
use super::super::purges::{Purges, Underivable};
use super::super::render::append_json;
use super::super::rule_set::{SinkId, Step};
use super::super::spec::{FallbackSpec, PublishSpec, SinkSpec};
use super::{Compiler, is_told};
use crate::action::Verb;
use crate::problem::{Problem, Text};

impl Compiler<'_> {
    /// What runs where the exact keys cannot be known: what is written, and what the steps are
    /// without their rows.
    pub(super) fn fallback(&mut self, steps: &[(Step, &Text)], rule: &str) -> Vec<Coarse> {
        let FallbackSpec::Actions { derive: derived, templates, publish } = &self.spec.fallback
        else {
            return Vec::new();
        };
        let is_written = !templates.is_empty() || publish.is_some();
        let mut coarse = self.written(templates, publish.as_ref(), rule);
        if !derived {
            return coarse;
        }
        let mut purges = Purges::new(self.sinks, &coarse);
        for (step, text) in steps {
            // What stands for it is told below.
            if step.tells.is_some() {
                continue;
            }
            if step.verb.is_purge() {
                if let Err(reason) = purges.add(step) {
                    self.problems.push(underivable(self.sinks, text, &reason));
                }
                continue;
            }
            match derive(step.verb, &step.template) {
                Derived::Action(verb, value) => {
                    let action = Coarse { verb, value, sinks: step.sinks.clone() };
                    if !coarse.contains(&action) {
                        coarse.push(action);
                    }
                }
                Derived::TooBroad | Derived::Inexpressible if is_written => {}
                // That nobody can do it is the problem that was reported.
                Derived::Inexpressible if step.sinks.is_empty() => {}
                Derived::TooBroad | Derived::Inexpressible => {
                    self.problems.push(underivable(self.sinks, text, &Underivable::TooBroad));
                }
            }
        }
        if let Some(PublishSpec { address, message: None }) = &self.spec.publish {
            let sinks = self.sinks_for(Verb::Publish, address);
            tell_of(&mut coarse, address, &sinks, self.expire_ms(), rule);
        }
        for purge in purges.into_coarse() {
            if !coarse.contains(&purge) {
                coarse.push(purge);
            }
        }
        coarse
    }

    /// The written fallback, whose templates must not vary.
    fn written(
        &mut self,
        templates: &[(Verb, Text)],
        publish: Option<&PublishSpec>,
        rule: &str,
    ) -> Vec<Coarse> {
        let mut coarse = Vec::new();
        let with_text = publish.filter(|publish| publish.message.is_some());
        for (step, text) in self.steps(templates, with_text, rule) {
            match step.template.as_literal() {
                Some(value) => {
                    let value = value.to_vec();
                    coarse.push(Coarse { verb: step.verb, value, sinks: step.sinks });
                }
                None => self.problems.push(
                    Problem::new(
                        text.span.clone(),
                        "a fallback with a placeholder",
                        "no row is at hand here",
                    )
                    .help("write a fixed value, or a pattern in `delete_matching`"),
                ),
            }
        }
        if let Some(PublishSpec { address, message: None }) = publish {
            let sinks = self.sinks_for(Verb::Publish, address);
            tell_of(&mut coarse, address, &sinks, self.expire_ms(), rule);
        }
        coarse
    }
}

/// Adds a message about each coarse action in Redis. It belongs to no single row or commit.
fn tell_of(
    coarse: &mut Vec<Coarse>,
    address: &Text,
    sinks: &[SinkId],
    expire_ms: Option<u64>,
    rule: &str,
) {
    let told: Vec<_> = coarse.iter().filter(|coarse| is_told(coarse.verb)).collect();
    let tell = |told: &&Coarse| {
        let mut value = [address.value.as_bytes(), b"\0{\"action\":\""].concat();
        value.extend_from_slice(told.verb.key().as_bytes());
        value.extend_from_slice(b"\",\"value\":\"");
        append_json(&told.value, &mut value);
        let kind: &[u8] = match told.verb {
            Verb::DeleteMatching
            | Verb::DeleteTyped(_)
            | Verb::BumpMatching
            | Verb::TagMatching => b"\",\"pattern\":true",
            _ => b"\"",
        };
        value.extend_from_slice(kind);
        if let Some(of) = told.verb.key_type() {
            value.extend_from_slice(format!(",\"key_type\":\"{}\"", of.name()).as_bytes());
        }
        if let Some(expire_ms) = expire_ms.filter(|_| told.verb.is_redeleted()) {
            value.extend_from_slice(format!(",\"expire_in_ms\":{expire_ms}").as_bytes());
        }
        value.extend_from_slice(b",\"rule\":\"");
        append_json(rule.as_bytes(), &mut value);
        value.extend_from_slice(b"\"}");
        Coarse { verb: Verb::Publish, value, sinks: sinks.to_vec() }
    };
    let told: Vec<_> = told.iter().map(tell).collect();
    for message in told {
        if !coarse.contains(&message) {
            coarse.push(message);
        }
    }
}

/// No fallback for a template.
fn underivable(sinks: &[SinkSpec], text: &Text, reason: &Underivable) -> Problem {
    let problem = |what: &str, label: &str| {
        let message = format!("no {what}fallback can be derived from `{}`", text.value);
        Problem::new(text.span.clone(), message, label)
    };
    const INSTEAD: &str = "write [rule.fallback] with what to invalidate when the exact keys \
                           cannot be known, or fallback = \"none\"";
    match reason {
        Underivable::TooBroad => {
            problem("safe ", "fewer than three literal bytes before the first placeholder")
                .help(format!("start the template with a prefix of its own, or {INSTEAD}"))
        }
        Underivable::NoPurgeAll(id) => {
            let SinkSpec { name, kind, .. } = &sinks[id.0 as usize];
            let section = format!("[{}.{name}]", kind.key());
            problem("", "its sink cannot purge everything")
                .help(format!("give {section} a `purge_all`, or {INSTEAD}"))
        }
    }
}
