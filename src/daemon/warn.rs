//! What the operator is told once: which rules cannot do exactly what they say, and what mends it.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use tracing::{error, warn};

use crate::change::{Change, Op};
use crate::postgres::listed;
use crate::postgres::quote::identifier;
use crate::rules::{Absence, ColumnUse, KnownTable, Publication, RuleId, RuleSet, TableNews};
use crate::state::Carried;

/// What was warned of in this session, so that it is said once.
#[derive(Default)]
pub(super) struct Warned {
    rules: HashSet<RuleId>,
    notices: HashSet<String>,
    /// The columns that a rule names and its table does not have, and what said so last.
    columns: HashMap<(RuleId, String), Teller>,
}

/// A missing column is found by a change without it, and by a look at the catalog.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Teller {
    Change,
    Catalog,
}

impl Warned {
    /// What is remembered; beyond, nothing is said.
    const MAX: usize = 1000;

    pub(super) fn is_new_rule(&mut self, rule: RuleId) -> bool {
        !self.rules.contains(&rule) && Self::add(&mut self.rules, rule)
    }

    pub(super) fn is_new_notice(&mut self, notice: &str) -> bool {
        !self.notices.contains(notice) && Self::add(&mut self.notices, notice.to_owned())
    }

    /// Whether to say that a column is missing: once for both tellers, and again when the catalog
    /// has had it in between.
    fn is_new_column(&mut self, rule: RuleId, column: &str, teller: Teller) -> bool {
        if self.columns.len() >= Self::MAX {
            return false;
        }
        match (teller, self.columns.insert((rule, column.to_owned()), teller)) {
            (_, None) | (Teller::Catalog, Some(Teller::Catalog)) => true,
            (Teller::Change, Some(_)) | (Teller::Catalog, Some(Teller::Change)) => false,
        }
    }

    fn add<T: Eq + Hash>(known: &mut HashSet<T>, new: T) -> bool {
        known.len() < Self::MAX && known.insert(new)
    }
}

/// Why a rule falls back: what the stream does not carry of a change.
pub(super) fn falls_back(warned: &mut Warned, rules: &RuleSet, id: RuleId, change: &Change<'_>) {
    let rule = rules.rule(id);
    if rule.lookup.is_some() && (change.op == Op::Delete || rule.absence(change).is_none()) {
        // It cannot see what was: that is no fault.
        return;
    }
    let part = |name| String::from_utf8_lossy(name).into_owned();
    let (schema, name) = (part(change.schema), part(change.table));
    let full =
        format!("ALTER TABLE {}.{} REPLICA IDENTITY FULL", identifier(&schema), identifier(&name));
    let table = KnownTable { schema, name, ..KnownTable::default() }.to_string();
    let rule_name = rule.name.as_str();
    match rule.absence(change) {
        Some(Absence::OldValue(column)) => warn!(
            rule = rule_name,
            table,
            column,
            hint = format!("{full}; walpurge check says more"),
            "a rule needs a value that the log does not carry; its fallback runs each time"
        ),
        Some(Absence::Unsaid(column)) => warn!(
            rule = rule_name,
            table,
            column,
            hint = format!(
                "{full}; if the column was renamed or dropped, correct the rule; walpurge check \
                 says which"
            ),
            "a rule needs a value that the log does not carry; its fallback runs each time"
        ),
        Some(Absence::Column(column)) => {
            if warned.is_new_column(id, column, Teller::Change) {
                warn!(rule = rule_name, table, column, hint = RENAMED, "{NOT_IN_TABLE}");
            }
        }
        Some(Absence::Doubtful(column)) => warn!(
            rule = rule_name,
            table,
            column,
            hint = "install wal2json 2.6 or later, which prints NaN as such; or declare the column \
                    NOT NULL, or with a type that has no NaN",
            "a null may be NaN or Infinity, which this wal2json prints alike; the rule's fallback \
             runs each time"
        ),
        None => warn!(
            rule = rule_name,
            table,
            hint = "a filter or a list may not be able to read the column's text, or the table was \
                    a partition that is gone",
            "a change's exact keys cannot be worked out; the rule's fallback runs each time"
        ),
    }
}

const NOT_IN_TABLE: &str = "a template names a column that its table does not have; the rule's \
    fallback runs for each change";

const RENAMED: &str = "if the column was renamed, correct the rule; walpurge check shows what the \
    table has";

/// What has become of a rule's table. The fallbacks run where it says so, see
/// [`table_to_fall_back`].
pub(super) fn table_news(warned: &mut Warned, rules: &RuleSet, news: &TableNews) {
    match news {
        TableNews::Missing { table } => warn!(
            %table,
            rules = names(rules, table),
            hint = "if it was renamed, name the new table in the rule; walpurge check says more",
            "a rule's table does not exist; its rules' fallbacks run once"
        ),
        TableNews::Renamed { table, to, is_covered: false } => warn!(
            %table,
            renamed_to = %to,
            rules = names(rules, table),
            hint = format!("name {to} in the rules: nothing that changes in it is invalidated"),
            "a rule's table was renamed; its rules' fallbacks run once"
        ),
        TableNews::Renamed { table, to, is_covered: true } => warn!(
            %table,
            renamed_to = %to,
            rules = names(rules, table),
            "a rule's table was renamed; its rules' fallbacks run once"
        ),
        TableNews::Gone { table } => warn!(
            %table,
            rules = names(rules, table),
            hint = "remove it from the rules, unless it comes back",
            "a rule's table was dropped, or is not logged any more; its rules' fallbacks run once"
        ),
        TableNews::Replaced { table } => warn!(
            %table,
            rules = names(rules, table),
            "a rule's table was replaced by another one of its name; its rules' fallbacks run once"
        ),
        TableNews::NoColumn { rule, table, more, column, used } => {
            if !warned.is_new_column(*rule, column, Teller::Catalog) {
                return;
            }
            let consequence = match used {
                ColumnUse::Template => NOT_IN_TABLE,
                ColumnUse::Filter => {
                    "`where` or `changed` names a column that its table does not have; each \
                     change counts"
                }
            };
            let more_tables = (*more > 0).then_some(more);
            let rule = rules.rule(*rule).name.as_str();
            warn!(rule, %table, more_tables, column, hint = RENAMED, "{consequence}");
        }
    }
}

/// What has become of rules' tables in the publication. Their rules' fallbacks run.
pub(super) fn carried(carried: &Carried, publication: &Publication, rules: &RuleSet) {
    let name = publication.name.as_str();
    if !carried.lost.is_empty() {
        let lacks: Vec<_> = publication.lacks(rules);
        let lacks: Vec<_> =
            lacks.into_iter().filter(|lack| carried.lost.contains(&lack.table())).collect();
        error!(
            publication = name,
            lacks = listed(&lacks),
            hint = "walpurge setup  brings the publication in step with the rules; the fallbacks \
                    run again then",
            "the publication does not carry what the rules need: nothing of it is invalidated; \
             the rules' fallbacks run once"
        );
    }
    if !carried.back.is_empty() {
        let tables = carried.back.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        warn!(
            publication = name,
            tables,
            "the publication was altered, and may not have carried tables for a while; their \
             rules' fallbacks run once"
        );
    }
}

/// The table whose rows may be others than the caches know, without a change that says so.
pub(super) fn table_to_fall_back(news: &TableNews) -> Option<&KnownTable> {
    match news {
        TableNews::Missing { table }
        | TableNews::Renamed { table, .. }
        | TableNews::Gone { table }
        | TableNews::Replaced { table } => Some(table),
        TableNews::NoColumn { .. } => None,
    }
}

/// The rules that are about a table.
fn names(rules: &RuleSet, table: &KnownTable) -> String {
    let is_about = |rule: &&crate::rules::Rule| {
        let (schema, name) = (table.schema.as_bytes(), table.name.as_bytes());
        rule.tables.iter().any(|pattern| pattern.matches(schema, name))
    };
    let named = rules.rules().iter().filter(is_about).map(|rule| rule.name.as_str());
    named.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_column_is_told_once_by_whoever_finds_it_first() {
        let (mut warned, rule) = (Warned::default(), RuleId(0));
        assert!(warned.is_new_column(rule, "a", Teller::Change));
        assert!(!warned.is_new_column(rule, "a", Teller::Catalog));
        assert!(!warned.is_new_column(rule, "a", Teller::Change));
        assert!(warned.is_new_column(rule, "b", Teller::Catalog));
        assert!(!warned.is_new_column(rule, "b", Teller::Change));
        assert!(warned.is_new_column(RuleId(1), "b", Teller::Catalog));
        // It was there in between, and is gone again.
        assert!(warned.is_new_column(RuleId(1), "b", Teller::Catalog));
    }
}
