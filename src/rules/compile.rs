//! Compiling: from rules as typed to rules that can be matched.

mod coarse;
mod steps;

use std::sync::Arc;
use std::time::Duration;

use super::condition::Filter;
use super::expire::expire;
use super::fallback::Coarse;
use super::lookup::Lookup;
use super::rule_set::{FALLBACK_EVERY, Ops, RedeleteId, Rule, RuleSet, Step};
use super::spec::{RedeleteSpec, RuleSpec, SinkSpec};
use super::table::TablePattern;
use super::template::TemplateError;
use crate::action::Verb;
use crate::change::Op;
use crate::problem::{Problem, Text};

/// How many different lists the rules may have: each needs lanes of its own.
const REDELETES_MAX: usize = 8;

/// Compiles every rule; what is wrong goes to `problems`, and the rule set is then not fit for use.
///
/// `names` are the rules' names, which are unique, in the same order.
pub fn compile(
    specs: &[RuleSpec],
    names: Vec<String>,
    sinks: Vec<SinkSpec>,
    problems: &mut Vec<Problem>,
) -> RuleSet {
    let mut rules = Vec::new();
    let mut redeletes = Vec::new();
    for (spec, name) in specs.iter().zip(names) {
        let mut compiler = Compiler { spec, sinks: &sinks, problems };
        let mut rule = compiler.rule(name);
        rule.redelete = compiler.redelete(&rule, &mut redeletes);
        if spec.enabled {
            rules.push(rule);
        }
    }
    RuleSet::new(rules, sinks, redeletes)
}

struct Compiler<'a> {
    spec: &'a RuleSpec,
    sinks: &'a [SinkSpec],
    problems: &'a mut Vec<Problem>,
}

impl Compiler<'_> {
    fn rule(&mut self, name: String) -> Rule {
        let tables = self.tables();
        let steps = self.steps(&self.spec.templates, self.spec.publish.as_ref(), &name);
        let mut fallback = self.fallback(&steps, &name);
        let ops = Ops::new(self.spec.on.as_deref().unwrap_or(&Op::ALL));
        let mut steps: Vec<Step> = steps.into_iter().map(|(step, _)| step).collect();
        if let Some(spec) = &self.spec.expire_in {
            self.problems.extend(expire(spec, &mut steps, &mut fallback));
        }
        let lookup = self.lookup(&steps, ops, &fallback);
        let names =
            |texts: &Vec<Text>| texts.iter().map(|text| text.value.clone().into()).collect();
        let changed = self.spec.changed.as_ref().map(names);
        let templates = steps.iter().map(|step| &step.template);
        let filter = Filter::new(self.spec.conditions.clone(), changed, lookup.as_ref(), templates);
        let fallback_every = self.spec.fallback_every.unwrap_or(FALLBACK_EVERY);
        let bulk_above = self.spec.bulk_above;
        Rule {
            name,
            tables,
            ops,
            filter,
            lookup,
            steps,
            fallback,
            fallback_every,
            bulk_above,
            redelete: None,
        }
    }

    /// Which list of times the rule has, if any.
    fn redelete(
        &mut self,
        rule: &Rule,
        redeletes: &mut Vec<Arc<[Duration]>>,
    ) -> Option<RedeleteId> {
        let RedeleteSpec { span, times } = self.spec.redelete_after.as_ref()?;
        if times.is_empty() {
            return None;
        }
        let verbs = rule.steps.iter().map(|step| step.verb);
        let mut verbs = verbs.chain(rule.fallback.iter().map(|coarse| coarse.verb));
        if !verbs.any(Verb::is_redeleted) {
            let message = "`redelete_after` in a rule that deletes nothing";
            let help = "it repeats `delete`, `delete_matching` and `tags`; a CDN has \
                        `repurge_after`, and a new version needs no repeat";
            self.problems.push(Problem::new(span.clone(), message, "nothing to repeat").help(help));
            return None;
        }
        let known = redeletes.iter().position(|known| known == times);
        if known.is_none() && redeletes.len() == REDELETES_MAX {
            let message = format!("more than {REDELETES_MAX} different `redelete_after`");
            let problem = Problem::new(span.clone(), message, "another one");
            self.problems.push(problem.help("let rules share their times"));
            return None;
        }
        let at = known.unwrap_or_else(|| {
            redeletes.push(Arc::clone(times));
            redeletes.len() - 1
        });
        Some(RedeleteId(at as u8))
    }

    fn lookup(&mut self, steps: &[Step], ops: Ops, fallback: &[Coarse]) -> Option<Lookup> {
        let text = self.spec.lookup.as_ref()?;
        if ops.contains(Op::Delete) && fallback.is_empty() {
            self.problems.push(
                Problem::new(
                    text.span.clone(),
                    "a lookup for deletes, without a fallback",
                    "a deleted row's relatives may be gone too when this runs",
                )
                .help(
                    "write on = [\"insert\", \"update\"] if a rule on the looked-up table covers \
                     deletes, or give the rule a fallback",
                ),
            );
        }
        match Lookup::new(&text.value, steps, fallback) {
            Ok(lookup) => Some(lookup),
            Err(error) => {
                self.problems.push(template_problem(text, error));
                None
            }
        }
    }

    fn tables(&mut self) -> Vec<TablePattern> {
        let mut tables = Vec::new();
        for table in &self.spec.tables {
            match TablePattern::parse(table) {
                Ok(pattern) => tables.push(pattern),
                Err(problem) => self.problems.push(problem),
            }
        }
        tables
    }

    /// How long what the rule would delete lives on.
    fn expire_ms(&self) -> Option<u64> {
        self.spec.expire_in.as_ref().map(|spec| spec.ms)
    }
}

/// Whether a message without a text of its own tells of it.
fn is_told(verb: Verb) -> bool {
    verb.is_redeleted() || matches!(verb, Verb::Bump | Verb::BumpMatching)
}

fn template_problem(text: &Text, error: TemplateError) -> Problem {
    Problem::new(text.span.clone(), error.message, error.label).within(error.at).help(error.help)
}
