//! From templates as typed to steps: who can do each, and what a message tells of.

use super::super::fallback::varies_plainly;
use super::super::paths;
use super::super::rule_set::{SinkId, Step};
use super::super::spec::{PublishSpec, SinkSpec, is_wildcard};
use super::super::template::Template;
use super::{Compiler, is_told, template_problem};
use crate::action::Verb;
use crate::problem::{Problem, Text};

impl Compiler<'_> {
    /// What the templates ask for, and the message about it, each with what was typed.
    pub(super) fn steps<'t>(
        &mut self,
        templates: &'t [(Verb, Text)],
        publish: Option<&'t PublishSpec>,
        rule: &str,
    ) -> Vec<(Step, &'t Text)> {
        let mut steps = self.template_steps(templates);
        match publish {
            None => {}
            Some(PublishSpec { address, message: Some(message) }) => {
                let only = [(Verb::Publish, message.clone())];
                if let Some((mut step, _)) = self.template_steps(&only).pop() {
                    step.template.put_head(&address.value);
                    steps.push((step, message));
                }
            }
            Some(PublishSpec { address, message: None }) => {
                let sinks = self.sinks_for(Verb::Publish, address);
                let expire_ms = self.expire_ms();
                let told: Vec<_> = steps.iter().filter(|(step, _)| is_told(step.verb)).collect();
                let tell = |(step, text): &&(Step, &'t Text)| {
                    let (verb, sinks) = (Verb::Publish, sinks.clone());
                    let expire_ms = expire_ms.filter(|_| step.verb.is_redeleted());
                    let mut template = step.template.told_as_json(step.verb, expire_ms, rule);
                    template.put_head(&address.value);
                    (Step { verb, template, sinks, tells: Some(step.verb) }, *text)
                };
                let mut told: Vec<_> = told.iter().map(tell).collect();
                if told.is_empty() && !templates.iter().any(|(verb, _)| is_told(*verb)) {
                    let message = "a message about nothing: the rule deletes nothing in Redis";
                    let problem = Problem::new(address.span.clone(), message, "nothing to tell");
                    self.problems.push(problem.help("give it a `message` of its own"));
                }
                steps.append(&mut told);
            }
        }
        steps
    }

    fn template_steps<'t>(&mut self, templates: &'t [(Verb, Text)]) -> Vec<(Step, &'t Text)> {
        let mut steps = Vec::new();
        for (verb, text) in templates {
            let sinks = self.sinks_for(*verb, text);
            let mut parsed = Template::parse(&text.value);
            if let (Verb::PurgePath, Ok(template)) = (verb, &mut parsed)
                && let Err(error) = paths::prepare(&text.value, template)
            {
                parsed = Err(error);
            }
            match parsed {
                Ok(template) if template.segments.is_empty() => {
                    let problem = Problem::new(text.span.clone(), "an empty template", "empty");
                    self.problems.push(problem.help("write what to invalidate: \"product:{id}\""));
                }
                Ok(template)
                    if verb.untyped() == Verb::DeleteMatching && !varies_plainly(&template) =>
                {
                    let message = "a placeholder in a pattern's `[…]` or behind its backslash";
                    let problem = Problem::new(text.span.clone(), message, "not plain text there");
                    self.problems.push(problem.help(
                        "a row's text stands for itself in a pattern: use `*` or `?` to match more",
                    ));
                }
                Ok(template) => {
                    steps.push((Step { verb: *verb, template, sinks, tells: None }, text))
                }
                Err(error) => self.problems.push(template_problem(text, error)),
            }
        }
        steps
    }

    /// The sinks that can express the verb, out of those that the rule names.
    pub(super) fn sinks_for(&mut self, verb: Verb, text: &Text) -> Vec<SinkId> {
        let named = |sink: &SinkSpec| match &self.spec.sinks {
            None => true,
            Some(names) => names.iter().any(|name| name.value == sink.name),
        };
        let able: Vec<SinkId> = self
            .sinks
            .iter()
            .enumerate()
            .filter(|(_, sink)| named(sink) && sink.supports(verb, text.value.as_bytes()))
            .map(|(at, _)| SinkId(at as u32))
            .collect();
        // Without any sink, or with an unknown one, that is the problem to report.
        let known = |name: &Text| self.sinks.iter().any(|sink| sink.name == name.value);
        let all_known = self.spec.sinks.iter().flatten().all(known);
        if able.is_empty() && !self.sinks.is_empty() && all_known {
            let which =
                if self.spec.sinks.is_some() { "none of the rule's sinks" } else { "no sink" };
            let is_wildcard = verb == Verb::PurgePath && is_wildcard(text.value.as_bytes());
            let (what, needs) = match verb {
                _ if is_wildcard => {
                    (" with a `*`", "[cloudfront.NAME], or [http.NAME] with `wildcards = true`")
                }
                Verb::PurgeKey => {
                    ("", "[fastly.NAME], [cloudfront.NAME] or [http.NAME] with `{keys}`")
                }
                Verb::PurgePath => (
                    "",
                    "[cloudfront.NAME], [fastly.NAME] with `hosts` or [http.NAME] with `{path}`",
                ),
                _ => ("", "a [redis.NAME] sink"),
            };
            self.problems.push(
                Problem::new(
                    text.span.clone(),
                    format!("{which} can do `{}`{what}", verb.key()),
                    "nowhere to send this",
                )
                .help(format!("`{}`{what} needs {needs}", verb.key())),
            );
        }
        able
    }
}
