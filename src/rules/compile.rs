//! Compiling: from rules as typed to rules that can be matched.

use std::sync::Arc;
use std::time::Duration;

use super::condition::Filter;
use super::expire::expire;
use super::fallback::{Cause, Coarse, Derived, derive, varies_plainly};
use super::lookup::Lookup;
use super::matcher::Emission;
use super::paths;
use super::purges::{Purges, Underivable};
use super::render::{Escape, append_json};
use super::spec::{FallbackSpec, PublishSpec, RedeleteSpec, RuleSpec, SinkSpec, is_wildcard};
use super::table::{Part, TablePattern};
use super::template::{Segment, Template, TemplateError};
use crate::action::{Action, Verb};
use crate::change::Op;
use crate::problem::{Problem, Text};

/// `fallback_every`, where it is not given.
pub const FALLBACK_EVERY: Duration = Duration::from_secs(10);

/// A rule's place in its [`RuleSet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u32);

/// A sink's place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SinkId(pub u32);

/// One list of `redelete_after`, which several rules may share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RedeleteId(pub u8);

/// How many different lists the rules may have: each needs lanes of its own.
const REDELETES_MAX: usize = 8;

/// Every enabled rule, ready to be matched.
#[derive(Debug, Default)]
pub struct RuleSet {
    rules: Vec<Rule>,
    sinks: Vec<SinkSpec>,
    redeletes: Vec<Arc<[Duration]>>,
}

/// One compiled rule.
#[derive(Debug)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// The tables that it is about.
    pub tables: Vec<TablePattern>,
    /// The operations that it is about.
    pub ops: Ops,
    /// Which of their changes count.
    pub(super) filter: Filter,
    /// The query whose rows its templates are rendered for.
    pub lookup: Option<Lookup>,
    /// What it asks for, in the order in which it comes out.
    pub steps: Vec<Step>,
    /// Its coarse actions.
    pub fallback: Vec<Coarse>,
    /// The least time between two runs of them that changes ask for.
    pub fallback_every: Duration,
    /// `bulk_above`, where it is given.
    pub bulk_above: Option<u64>,
    /// When what it deletes is deleted again; `None`: never.
    pub redelete: Option<RedeleteId>,
}

/// One template of a rule.
#[derive(Debug)]
pub struct Step {
    /// What to do.
    pub verb: Verb,
    /// What to do it to.
    pub template: Template,
    /// Where.
    pub sinks: Vec<SinkId>,
    /// What the JSON of a message tells of; `None`: it is no JSON, or no message.
    pub tells: Option<Verb>,
}

impl Step {
    /// What becomes of a row's text in it.
    pub(super) fn escape(&self) -> Escape {
        match (self.verb.deleting(), self.tells) {
            (_, Some(Verb::DeleteMatching | Verb::DeleteTyped(_))) => Escape::GlobInJson,
            (_, Some(_)) => Escape::Json,
            (Verb::DeleteMatching | Verb::DeleteTyped(_), None) => Escape::Glob,
            _ => Escape::Verbatim,
        }
    }

    /// Whether it is a path that stands for all that start with it.
    pub fn is_wildcard(&self) -> bool {
        let last = self.template.segments.last();
        self.verb == Verb::PurgePath
            && matches!(last, Some(Segment::Literal(literal)) if is_wildcard(literal))
    }

    /// The address of a message.
    pub fn address(&self) -> Option<&[u8]> {
        match (self.verb, self.template.segments.first()) {
            (Verb::Publish, Some(Segment::Literal(address))) => {
                Some(Action { verb: self.verb, value: address }.message().0)
            }
            _ => None,
        }
    }
}

/// A set of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ops(u8);

impl Ops {
    fn new(ops: &[Op]) -> Self {
        Ops(ops.iter().fold(0, |bits, &op| bits | 1 << op as u8))
    }

    /// Whether `op` is one of them.
    pub fn contains(self, op: Op) -> bool {
        self.0 & 1 << op as u8 != 0
    }
}

impl RuleSet {
    /// The rules, in the order of the configuration.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rule at `id`.
    pub fn rule(&self, id: RuleId) -> &Rule {
        &self.rules[id.0 as usize]
    }

    /// The configured sinks.
    pub fn sinks(&self) -> &[SinkSpec] {
        &self.sinks
    }

    /// The sink at `id`.
    pub fn sink(&self, id: SinkId) -> &SinkSpec {
        &self.sinks[id.0 as usize]
    }

    /// Every list of times after which rules delete again, by its [`RedeleteId`].
    pub fn redeletes(&self) -> &[Arc<[Duration]>] {
        &self.redeletes
    }

    /// When what a rule deletes is deleted again.
    pub fn redelete_of(&self, rule: Option<RuleId>) -> Option<RedeleteId> {
        self.rule(rule?).redelete
    }

    /// Drops every rule whose name is not one of these.
    pub fn keep(&mut self, names: &[String]) {
        self.rules.retain(|rule| names.contains(&rule.name));
    }

    /// A text that changes whenever the rules may ask something else of a sink, and not when they
    /// ask something else of others. No row's value is in it.
    pub fn asked_of(&self, sink: SinkId) -> String {
        let mut text = String::new();
        for rule in &self.rules {
            let Rule { name, tables, ops, filter, lookup, .. } = rule;
            let steps = rule.steps.iter().filter(|step| step.sinks.contains(&sink));
            let steps: Vec<_> = steps.map(|step| (step.verb, &step.template)).collect();
            let coarse = rule.fallback.iter().filter(|coarse| coarse.sinks.contains(&sink));
            let coarse: Vec<_> = coarse.map(Coarse::action).collect();
            if !steps.is_empty() || !coarse.is_empty() {
                let times = rule.redelete.and_then(|id| self.redeletes.get(usize::from(id.0)));
                let rest = (lookup, &steps, &coarse, rule.fallback_every, rule.bulk_above, times);
                text.push_str(&format!("{:?}\n", (name, tables, ops, filter, rest)));
            }
        }
        text
    }

    /// Every table pattern of every rule.
    pub fn tables(&self) -> impl Iterator<Item = &TablePattern> {
        self.rules.iter().flat_map(|rule| &rule.tables)
    }

    /// The rules that are about a table.
    pub(super) fn rules_of(&self, schema: &[u8], table: &[u8]) -> impl Iterator<Item = RuleId> {
        self.rules.iter().enumerate().filter_map(move |(at, rule)| {
            let named = rule.tables.iter().any(|pattern| pattern.matches(schema, table));
            named.then_some(RuleId(at as u32))
        })
    }

    /// The names of the rules on a table that is called what [`KnownTable`](super::KnownTable)s
    /// are.
    pub fn names_on(&self, table: &str) -> Vec<String> {
        let typed = Text { value: table.to_owned(), span: 0..0 };
        let Ok(TablePattern { schema: Part::Exact(schema), table: Part::Exact(table) }) =
            TablePattern::parse(&typed)
        else {
            return Vec::new();
        };
        self.rules_of(&schema, &table).map(|id| self.rule(id).name.clone()).collect()
    }

    /// Calls `emit` for the coarse actions of one rule.
    pub(crate) fn fallback(&self, rule: RuleId, cause: Cause, emit: &mut impl FnMut(Emission<'_>)) {
        for coarse in &self.rule(rule).fallback {
            let action = coarse.action();
            let (rule, fallback) = (Some(rule), Some(cause));
            emit(Emission { rule, sinks: &coarse.sinks, action, fallback });
        }
    }

    /// Calls `emit` for the coarse actions of every rule.
    pub fn all_fallbacks(&self, cause: Cause, mut emit: impl FnMut(Emission<'_>)) {
        for at in 0..self.rules.len() {
            self.fallback(RuleId(at as u32), cause, &mut emit);
        }
    }
}

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
    RuleSet { rules, sinks, redeletes }
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

    fn steps<'t>(
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
    fn sinks_for(&mut self, verb: Verb, text: &Text) -> Vec<SinkId> {
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

    fn fallback(&mut self, steps: &[(Step, &Text)], rule: &str) -> Vec<Coarse> {
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

    /// How long what the rule would delete lives on.
    fn expire_ms(&self) -> Option<u64> {
        self.spec.expire_in.as_ref().map(|spec| spec.ms)
    }
}

/// Whether a message without a text of its own tells of it.
fn is_told(verb: Verb) -> bool {
    verb.is_redeleted() || matches!(verb, Verb::Bump | Verb::BumpMatching)
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

fn template_problem(text: &Text, error: TemplateError) -> Problem {
    Problem::new(text.span.clone(), error.message, error.label).within(error.at).help(error.help)
}
