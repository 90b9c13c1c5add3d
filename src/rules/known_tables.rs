//! The tables that rules mean, as the catalog has them, and what has become of them since it was
//! read before.
//!
//! The stream does not say that a table was renamed or dropped: its changes just stay away. So
//! whoever reads the catalog from time to time asks here what is new. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::published::Publication;
use super::rule_set::{Rule, RuleId, RuleSet};
use super::table::{Part, TablePattern};

/// What the catalog says at one moment of the tables that rules mean, and of those that they meant
/// before they were renamed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownTables {
    /// By OID, which stays the same when a table is renamed.
    tables: BTreeMap<u32, KnownTable>,
    /// What the publication has of them; `None`: none is asked for, or there is none.
    pub publication: Option<Publication>,
}

/// A table, or a partitioned one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownTable {
    /// Its schema.
    pub schema: String,
    /// Its own name.
    pub name: String,
    /// Whether its changes come under the names of partitions.
    pub is_partitioned: bool,
    /// Those of its columns that some rule names, and whether they may be NULL.
    pub columns: BTreeMap<String, bool>,
}

/// What is new about a rule's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableNews {
    /// A rule names a table that does not exist.
    Missing {
        /// The table.
        table: KnownTable,
    },
    /// It has another name now.
    Renamed {
        /// The table as it was.
        table: KnownTable,
        /// As it is.
        to: KnownTable,
        /// Whether each of its rules means the new name too.
        is_covered: bool,
    },
    /// It was dropped, or its changes are not logged any more.
    Gone {
        /// The table as it was.
        table: KnownTable,
    },
    /// Another table has its name.
    Replaced {
        /// The table as it was.
        table: KnownTable,
    },
    /// A rule names a column that a table of it does not have.
    NoColumn {
        /// The rule.
        rule: RuleId,
        /// The first such table.
        table: KnownTable,
        /// How many more there are.
        more: usize,
        /// The column.
        column: String,
        /// What for.
        used: ColumnUse,
    },
}

impl TableNews {
    /// The table as it was.
    pub fn table(&self) -> &KnownTable {
        match self {
            TableNews::Missing { table }
            | TableNews::Renamed { table, .. }
            | TableNews::Gone { table }
            | TableNews::Replaced { table }
            | TableNews::NoColumn { table, .. } => table,
        }
    }
}

/// Where a rule names a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ColumnUse {
    /// In a template.
    Template,
    /// In `where` or `changed` alone.
    Filter,
}

/// A column that a rule names and its table does not have.
type Lack = (RuleId, ColumnUse, String);

impl KnownTables {
    /// Adds a table.
    pub fn add(&mut self, oid: u32) -> &mut KnownTable {
        self.tables.entry(oid).or_default()
    }

    /// The OIDs of all of them.
    pub fn oids(&self) -> impl Iterator<Item = u32> {
        self.tables.keys().copied()
    }

    /// Whether following the tables as they are `now` takes a stream with other options: one of
    /// them has become partitioned, or `by_type` (whether null has to be told from NaN) and one of
    /// the columns may be NULL now.
    pub fn outgrown_by(&self, now: &KnownTables, rules: &RuleSet, by_type: bool) -> bool {
        let wholes = |known: &KnownTables| -> BTreeSet<(String, String)> {
            let meant = known.meant(rules).filter(|(_, table)| table.is_partitioned);
            meant.map(|(_, table)| (table.schema.clone(), table.name.clone())).collect()
        };
        let has_nulls = by_type && now.may_hold_null(rules) && !self.may_hold_null(rules);
        has_nulls || !wholes(now).is_subset(&wholes(self))
    }

    /// Whether a column that a rule names may be NULL.
    pub fn may_hold_null(&self, rules: &RuleSet) -> bool {
        self.meant(rules).any(|(_, table)| table.columns.values().any(|&nullable| nullable))
    }

    /// What is new since `before`; `None`: what is to be said of them at all.
    pub(super) fn news_since(
        &self,
        before: Option<&KnownTables>,
        rules: &RuleSet,
    ) -> Vec<TableNews> {
        let mut news = match before {
            None => self.missing(rules),
            Some(before) => {
                let now = self.by_name();
                let fate = |(oid, was)| self.fate(oid, was, &now, rules);
                before.meant(rules).filter_map(fate).collect()
            }
        };
        let mut lacks: BTreeMap<Lack, Vec<&KnownTable>> = BTreeMap::new();
        let known = before.map(|before| before.lacks(rules)).unwrap_or_default();
        for (oid, lack) in self.lacks(rules) {
            if !known.contains(&(oid, lack.clone())) {
                lacks.entry(lack).or_default().push(&self.tables[&oid]);
            }
        }
        news.extend(lacks.into_iter().map(|((rule, used, column), tables)| TableNews::NoColumn {
            rule,
            table: tables[0].clone(),
            more: tables.len() - 1,
            column,
            used,
        }));
        news
    }

    /// The tables that a rule means by their present names.
    fn meant(&self, rules: &RuleSet) -> impl Iterator<Item = (u32, &KnownTable)> {
        let is_meant = |table: &KnownTable| rules.tables().any(|pattern| table.is(pattern));
        self.tables
            .iter()
            .filter(move |(_, table)| is_meant(table))
            .map(|(&oid, table)| (oid, table))
    }

    /// The tables that rules name and that are not there.
    fn missing(&self, rules: &RuleSet) -> Vec<TableNews> {
        let mut missing: Vec<TableNews> = Vec::new();
        for pattern in rules.tables() {
            let (Part::Exact(schema), Part::Exact(name)) = (&pattern.schema, &pattern.table) else {
                continue;
            };
            if !self.tables.values().any(|table| table.is(pattern)) {
                let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
                let (schema, name) = (text(schema), text(name));
                let table = KnownTable { schema, name, ..KnownTable::default() };
                let news = TableNews::Missing { table };
                if !missing.contains(&news) {
                    missing.push(news);
                }
            }
        }
        missing
    }

    fn by_name(&self) -> BTreeMap<(&str, &str), u32> {
        let named = self.tables.iter();
        named.map(|(&oid, table)| ((table.schema.as_str(), table.name.as_str()), oid)).collect()
    }

    /// What has become of a table.
    fn fate(
        &self,
        oid: u32,
        was: &KnownTable,
        now: &BTreeMap<(&str, &str), u32>,
        rules: &RuleSet,
    ) -> Option<TableNews> {
        let table = was.clone();
        match now.get(&(was.schema.as_str(), was.name.as_str())) {
            Some(&now) if now == oid => None,
            Some(_) => Some(TableNews::Replaced { table }),
            None => Some(match self.tables.get(&oid) {
                Some(to) => {
                    let rules_of = |table: &KnownTable| -> BTreeSet<RuleId> {
                        rules.rules_of(table.schema.as_bytes(), table.name.as_bytes()).collect()
                    };
                    let is_covered = rules_of(was).is_subset(&rules_of(to));
                    TableNews::Renamed { table, to: to.clone(), is_covered }
                }
                None => TableNews::Gone { table },
            }),
        }
    }

    /// The columns that rules name and that their tables do not have.
    fn lacks(&self, rules: &RuleSet) -> BTreeSet<(u32, Lack)> {
        let mut lacks = BTreeSet::new();
        for (at, rule) in rules.rules().iter().enumerate() {
            let id = RuleId(at as u32);
            let named = named_columns(rule);
            for (&oid, table) in &self.tables {
                if !rule.tables.iter().any(|pattern| table.is(pattern)) {
                    continue;
                }
                for (used, column) in &named {
                    if !table.columns.contains_key(column) {
                        lacks.insert((oid, (id, *used, column.clone())));
                    }
                }
            }
        }
        lacks
    }
}

impl KnownTable {
    /// Whether the pattern means it.
    fn is(&self, pattern: &TablePattern) -> bool {
        pattern.matches(self.schema.as_bytes(), self.name.as_bytes())
    }
}

impl std::fmt::Display for KnownTable {
    /// As a rule's `table` names it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let part = |name: &String| Part::Exact(name.as_bytes().to_vec());
        TablePattern { schema: part(&self.schema), table: part(&self.name) }.fmt(f)
    }
}

fn named_columns(rule: &Rule) -> Vec<(ColumnUse, String)> {
    let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    let templates = rule.columns().into_iter().map(|name| (ColumnUse::Template, text(name)));
    let filters = rule.filter_columns().into_iter().map(|name| (ColumnUse::Filter, text(name)));
    templates.chain(filters).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;

    const RULES: &str = "[postgres]\nurl = 'postgres://h/d'\n[redis.c]\nurl = 'redis://h'\n\
        [[rule]]\nname = 'item'\ntable = 'public.items'\ndelete = ['item:{id}']\n\
        where = { kind = 'x' }\n\
        [[rule]]\nname = 'log'\ntable = 'public.log_*'\ndelete = ['log:{id}']\n";

    fn rules() -> RuleSet {
        crate::config::parse("t", RULES).unwrap().rules
    }

    fn known(tables: &[(u32, &str, &[&str])]) -> KnownTables {
        let mut known = KnownTables::default();
        for (oid, name, columns) in tables {
            let columns = columns.iter().map(|column| (column.to_string(), false)).collect();
            let table = known.add(*oid);
            (table.schema, table.name) = ("public".into(), name.to_string());
            table.columns = columns;
        }
        known
    }

    #[track_caller]
    fn check(before: Option<&KnownTables>, now: &KnownTables, expected: &[&str]) {
        let rules = rules();
        let news = now.news_since(before, &rules).into_iter().map(|news| match news {
            TableNews::Missing { table } => format!("{table} is missing"),
            TableNews::Gone { table } => format!("{table} is gone"),
            TableNews::Replaced { table } => format!("{table} is another"),
            TableNews::Renamed { table, to, is_covered } => {
                format!("{table} is {to} {}", if is_covered { "now" } else { "without rule" })
            }
            TableNews::NoColumn { rule, table, more, column, used } => {
                let rule = &rules.rule(rule).name;
                format!("{rule}: {column} is not in {table} and {more} more ({used:?})")
            }
        });
        assert_eq!(news.collect::<Vec<_>>(), expected);
    }

    const ITEMS: (u32, &str, &[&str]) = (1, "items", &["id", "kind"]);
    const LOG: (u32, &str, &[&str]) = (2, "log_a", &["id"]);

    #[test]
    fn a_table_that_a_rule_names_is_missed_and_one_that_a_pattern_means_is_not() {
        check(None, &known(&[]), &["public.items is missing"]);
        check(None, &known(&[ITEMS]), &[]);
    }

    #[test]
    fn what_becomes_of_a_table_is_said_once() {
        let before = known(&[ITEMS, LOG]);
        check(Some(&before), &before, &[]);
        check(Some(&before), &known(&[]), &["public.items is gone", "public.log_a is gone"]);
        check(Some(&known(&[])), &known(&[]), &[]);
        check(Some(&before), &known(&[LOG, (7, "items", ITEMS.2)]), &["public.items is another"]);
        let renamed = known(&[(1, "things", &["id"]), (2, "log_b", &["id"])]);
        let said =
            ["public.items is public.things without rule", "public.log_a is public.log_b now"];
        check(Some(&before), &renamed, &said);
        check(Some(&renamed), &renamed, &[]);
    }

    #[test]
    fn columns_that_are_not_there_are_named_once() {
        let now = known(&[(1, "items", &["ident"]), (2, "log_a", &[]), (3, "log_b", &[])]);
        let said = [
            "item: id is not in public.items and 0 more (Template)",
            "item: kind is not in public.items and 0 more (Filter)",
            "log: id is not in public.log_a and 1 more (Template)",
        ];
        check(None, &now, &said);
        check(Some(&now), &now, &[]);
        let mended = known(&[ITEMS, (2, "log_a", &["id"]), (3, "log_b", &[])]);
        check(Some(&now), &mended, &[]);
        check(
            Some(&mended),
            &now,
            &[said[0], said[1], "log: id is not in public.log_a and 0 more (Template)"],
        );
    }

    #[test]
    fn a_stream_is_outgrown_by_a_partitioned_table_and_by_the_first_column_that_may_be_null() {
        let rules = rules();
        let before = known(&[ITEMS]);
        let mut partitioned = known(&[ITEMS]);
        partitioned.add(1).is_partitioned = true;
        let mut nullable = known(&[ITEMS]);
        nullable.add(1).columns.insert("kind".into(), true);
        assert!(!before.outgrown_by(&before, &rules, true));
        assert!(before.outgrown_by(&partitioned, &rules, false));
        assert!(!partitioned.outgrown_by(&before, &rules, false));
        assert!(!before.outgrown_by(&nullable, &rules, false));
        assert!(before.outgrown_by(&nullable, &rules, true));
        assert!(!nullable.outgrown_by(&nullable, &rules, true));
    }
}
