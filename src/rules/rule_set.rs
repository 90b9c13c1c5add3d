//! Rules that can be matched: what each is about, what it asks for, and of whom.

use std::sync::Arc;
use std::time::Duration;

use super::condition::Filter;
use super::fallback::{Cause, Coarse};
use super::lookup::Lookup;
use super::matcher::Emission;
use super::render::Escape;
use super::spec::{SinkSpec, is_wildcard};
use super::table::{Part, TablePattern};
use super::template::{Segment, Template};
use crate::action::{Action, Verb};
use crate::change::Op;
use crate::problem::Text;

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
    pub(super) fn new(ops: &[Op]) -> Self {
        Ops(ops.iter().fold(0, |bits, &op| bits | 1 << op as u8))
    }

    /// Whether `op` is one of them.
    pub fn contains(self, op: Op) -> bool {
        self.0 & 1 << op as u8 != 0
    }
}

impl RuleSet {
    pub(super) fn new(
        rules: Vec<Rule>,
        sinks: Vec<SinkSpec>,
        redeletes: Vec<Arc<[Duration]>>,
    ) -> Self {
        RuleSet { rules, sinks, redeletes }
    }

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
