//! Matching: from a change to the actions that rules ask for.

use std::collections::HashMap;
use std::sync::Arc;

use super::compile::{RuleId, RuleSet, SinkId};
use super::fallback::Cause;
use super::render::{Coverage, Escape, Facts, Renderer};
use crate::action::{Action, Verb};
use crate::change::{Change, Op};

/// One action that a rule asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emission<'a> {
    /// The rule.
    pub rule: RuleId,
    /// Where the action is to be done.
    pub sinks: &'a [SinkId],
    /// What is to be done.
    pub action: Action<'a>,
    /// Why it is a coarse one, if it belongs to the rule's fallback.
    pub fallback: Option<Cause>,
}

/// How many tables the matcher remembers the rules of. A database with more is matched anew for
/// some of them.
const TABLES_MAX: usize = 65_536;

/// Applies a rule set to changes, and keeps its memory from one to the next.
pub struct Matcher {
    rules: Arc<RuleSet>,
    /// By schema, a zero byte (which no name can hold), and table: the rules that name it.
    tables: HashMap<Box<[u8]>, Box<[RuleId]>, foldhash::fast::RandomState>,
    table: Vec<u8>,
    buffer: Vec<u8>,
}

impl Matcher {
    /// A matcher for these rules.
    pub fn new(rules: Arc<RuleSet>) -> Self {
        Matcher { rules, tables: HashMap::default(), table: Vec::new(), buffer: Vec::new() }
    }

    /// The rules.
    pub fn rules(&self) -> &Arc<RuleSet> {
        &self.rules
    }

    /// Calls `emit` for every action that the change asks for: rule by rule in the order of the
    /// configuration, the exact ones first, then the rule's fallback if they are not all.
    pub fn apply(&mut self, change: &Change<'_>, facts: Facts, mut emit: impl FnMut(Emission<'_>)) {
        self.remember(change.schema, change.table);
        let Matcher { rules, tables, table, buffer } = self;
        for &id in tables.get(table.as_slice()).into_iter().flatten() {
            let rule = rules.rule(id);
            if !rule.ops.contains(change.op) {
                continue;
            }
            if change.op == Op::Truncate {
                rules.fallback(id, Cause::Truncate, &mut emit);
                continue;
            }
            if !rule.filter.passes(change) {
                continue;
            }
            let mut coverage = Coverage::Exact;
            for step in &rule.steps {
                let escape = match step.verb {
                    Verb::DeleteMatching => Escape::Glob,
                    _ => Escape::Verbatim,
                };
                let renderer = Renderer { change, facts, escape };
                let covered = renderer.render(&step.template, buffer, |value| {
                    let action = Action { verb: step.verb, value };
                    emit(Emission { rule: id, sinks: &step.sinks, action, fallback: None });
                });
                if covered == Coverage::Partial {
                    coverage = Coverage::Partial;
                }
            }
            if coverage == Coverage::Partial {
                rules.fallback(id, Cause::Absent, &mut emit);
            }
        }
    }

    /// Calls `emit` for the fallbacks of every rule on a table.
    pub fn table_fallback(
        &mut self,
        schema: &[u8],
        table: &[u8],
        cause: Cause,
        mut emit: impl FnMut(Emission<'_>),
    ) {
        self.remember(schema, table);
        for &id in self.tables.get(self.table.as_slice()).into_iter().flatten() {
            self.rules.fallback(id, cause, &mut emit);
        }
    }

    /// Makes sure that `self.table` names the table and `self.tables` knows its rules.
    fn remember(&mut self, schema: &[u8], table: &[u8]) {
        self.table.clear();
        self.table.extend_from_slice(schema);
        self.table.push(0);
        self.table.extend_from_slice(table);
        if self.tables.contains_key(self.table.as_slice()) {
            return;
        }
        if self.tables.len() >= TABLES_MAX {
            self.tables.clear();
        }
        let rules = self.rules.rules_of(schema, table).collect();
        self.tables.insert(self.table.as_slice().into(), rules);
    }
}
