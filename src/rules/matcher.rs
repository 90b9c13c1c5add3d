//! Matching: from a change to the actions that rules ask for.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::fallback::Cause;
use super::known_tables::{KnownTables, TableNews};
use super::lookup::Asked;
use super::partitions::{Partitions, table_key, write_table_key};
use super::render::{Coverage, Facts, Renderer};
use super::rule_set::{RuleId, RuleSet, SinkId};
use crate::action::{Action, Verb};
use crate::change::{Change, Op};
use crate::lsn::Lsn;

/// One action that a rule asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emission<'a> {
    /// The rule; `None` if a message asks for it.
    pub rule: Option<RuleId>,
    /// Where the action is to be done; nowhere if it is a [`Verb::Lookup`].
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
    pub(super) rules: Arc<RuleSet>,
    /// By [`table_key`].
    pub(super) tables: HashMap<Box<[u8]>, TableRules, foldhash::fast::RandomState>,
    /// `None`: no rule names a partitioned table.
    pub(super) partitions: Option<Partitions>,
    /// What the catalog said before, for tables that are gone now.
    pub(super) former: Option<Partitions>,
    /// What was committed before this is in the catalog that was read.
    pub(super) catalog_lsn: Lsn,
    /// The last transaction for whose DDL the catalog was read again.
    pub(super) read_for: Option<Lsn>,
    /// The tables for which the catalog was read again.
    pub(super) asked: HashSet<Box<[u8]>>,
    /// The tables of which DDL has told since the catalog was read last.
    pub(super) told: HashSet<Box<[u8]>>,
    /// What the catalog said last; `None`: it was never read.
    known: Option<KnownTables>,
    table: Vec<u8>,
    buffer: Vec<u8>,
}

/// The rules that a table's changes are for.
#[derive(Debug, Default)]
pub(super) struct TableRules {
    /// Those that name it, or what it is a partition of.
    exact: Box<[RuleId]>,
    /// Those that name a partitioned table to which it may have belonged: it is gone, so that
    /// nobody can tell.
    coarse: Box<[RuleId]>,
}

/// How many tables the catalog is read again for at most before it is read for one again.
pub(super) const ASKED_MAX: usize = 10_000;

impl Matcher {
    /// A matcher for these rules.
    pub fn new(rules: Arc<RuleSet>) -> Self {
        Matcher {
            rules,
            tables: HashMap::default(),
            partitions: None,
            former: None,
            catalog_lsn: Lsn::ZERO,
            read_for: None,
            asked: HashSet::new(),
            told: HashSet::new(),
            known: None,
            table: Vec::new(),
            buffer: Vec::new(),
        }
    }

    /// Says which tables are partitions (`None`: no rule names a partitioned table). The catalog was
    /// read when WAL was flushed up to `as_of`.
    pub fn set_partitions(&mut self, partitions: Option<Partitions>, as_of: Lsn) {
        self.former = std::mem::replace(&mut self.partitions, partitions);
        self.catalog_lsn = as_of;
        self.tables.clear();
    }

    /// What the catalog said last of the rules' tables.
    pub fn known(&self) -> Option<&KnownTables> {
        self.known.as_ref()
    }

    /// Takes what the catalog says now of the rules' tables, and answers with what is new in it,
    /// and whether DDL has told of it, or will once it is streamed again: its rules' fallbacks are
    /// taken care of then.
    pub fn learn(&mut self, now: KnownTables) -> Vec<(TableNews, bool)> {
        let news = now.news_since(self.known.as_ref(), &self.rules);
        self.known = Some(now);
        let told = std::mem::take(&mut self.told);
        let was_told = |news: &TableNews| {
            let table = news.table();
            told.contains(&table_key(table.schema.as_bytes(), table.name.as_bytes()))
        };
        let judged = |news: TableNews| {
            let was_told = was_told(&news);
            (news, was_told)
        };
        news.into_iter().map(judged).collect()
    }

    /// Whether the catalog is to be read again before a change of this table is applied: it may
    /// be a new partition. Says so once for a table; one that is unknown after that is gone.
    pub fn needs_catalog(&mut self, schema: &[u8], table: &[u8]) -> bool {
        let Some(partitions) = &self.partitions else { return false };
        write_table_key(schema, table, &mut self.table);
        if partitions.knows(&self.table) || self.asked.contains(self.table.as_slice()) {
            return false;
        }
        if self.asked.len() >= ASKED_MAX {
            self.asked.clear();
        }
        self.asked.insert(self.table.as_slice().into())
    }

    /// The rules.
    pub fn rules(&self) -> &Arc<RuleSet> {
        &self.rules
    }

    /// Calls `emit` for every action that the change asks for: rule by rule in the order of the
    /// configuration, the exact ones first, then the rule's fallback if they are not all.
    pub fn apply(&mut self, change: &Change<'_>, facts: Facts, mut emit: impl FnMut(Emission<'_>)) {
        self.remember(change.schema, change.table);
        let Matcher { rules, tables, table, buffer, .. } = self;
        let Some(named) = tables.get(table.as_slice()) else { return };
        for &id in &named.exact {
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
            if let Some(lookup) = &rule.lookup {
                let asked = match change.op {
                    // What it belonged to may be gone too.
                    Op::Delete => Asked::Nothing(Coverage::Partial),
                    _ => lookup.ask(change, facts, buffer),
                };
                let (Asked::Lookup(coverage) | Asked::Nothing(coverage)) = asked;
                if let Asked::Lookup(_) = asked {
                    let action = Action { verb: Verb::Lookup, value: buffer };
                    emit(Emission { rule: Some(id), sinks: &[], action, fallback: None });
                }
                if coverage == Coverage::Partial {
                    rules.fallback(id, Cause::Absent, &mut emit);
                }
                continue;
            }
            let mut coverage = Coverage::Exact;
            for step in &rule.steps {
                let escape = step.escape();
                let renderer = Renderer { change, facts, escape };
                let covered = renderer.render(&step.template, buffer, |value| {
                    let action = Action { verb: step.verb, value };
                    emit(Emission { rule: Some(id), sinks: &step.sinks, action, fallback: None });
                });
                if covered == Coverage::Partial {
                    coverage = Coverage::Partial;
                }
            }
            if coverage == Coverage::Partial {
                rules.fallback(id, Cause::Absent, &mut emit);
            }
        }
        for &id in &named.coarse {
            rules.fallback(id, Cause::Absent, &mut emit);
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
        let Some(named) = self.tables.get(self.table.as_slice()) else { return };
        for &id in named.exact.iter().chain(&named.coarse) {
            self.rules.fallback(id, cause, &mut emit);
        }
    }

    /// Makes sure that `self.table` names the table and `self.tables` knows its rules.
    fn remember(&mut self, schema: &[u8], table: &[u8]) {
        write_table_key(schema, table, &mut self.table);
        if self.tables.contains_key(self.table.as_slice()) {
            return;
        }
        if self.tables.len() >= TABLES_MAX {
            self.tables.clear();
        }
        let named = self.rules_of(schema, table);
        self.tables.insert(self.table.as_slice().into(), named);
    }

    fn rules_of(&self, schema: &[u8], table: &[u8]) -> TableRules {
        let mut exact: Vec<RuleId> = self.rules.rules_of(schema, table).collect();
        let mut coarse = Vec::new();
        if let Some(partitions) = &self.partitions {
            let belongs = if partitions.knows(&self.table) { &mut exact } else { &mut coarse };
            for (schema, table) in partitions.wholes_of(&self.table) {
                belongs.extend(self.rules.rules_of(schema, table));
            }
        }
        coarse.retain(|id| !exact.contains(id));
        for rules in [&mut exact, &mut coarse] {
            rules.sort_unstable();
            rules.dedup();
        }
        TableRules { exact: exact.into(), coarse: coarse.into() }
    }
}
