//! Does a publication carry what the rules need?
//!
//! pgoutput sends what a publication holds and nothing of the rest: no error, no notice. So whoever
//! relies on one compares it with the rules first, and again from time to time. Pure: the catalog
//! is read elsewhere and handed in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::rule_set::{Rule, RuleSet};
use super::table::{Part, TablePattern};
use crate::change::Op;

/// What the catalog says of a publication, as far as rules are concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publication {
    /// Its name.
    pub name: String,
    /// The operations that it publishes.
    pub ops: BTreeSet<Op>,
    /// `publish_via_partition_root`: changes of partitions come under the name of the root, and
    /// those of TRUNCATE of a single partition not at all.
    pub via_root: bool,
    /// Another one after each change of its settings.
    pub version: String,
    /// The tables that rules mean, and possibly others.
    pub tables: Vec<PublishedTable>,
}

/// A table that a rule means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishedTable {
    /// Its schema.
    pub schema: String,
    /// Its own name.
    pub name: String,
    /// Whether its rows are in partitions.
    pub is_partitioned: bool,
    /// Another one after each time that it was added to the publication or taken out of it.
    pub version: String,
    /// The tables that hold its rows: itself, or its partitions.
    pub leaves: Vec<PublishedLeaf>,
}

/// A table that holds rows, under whose name their changes come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishedLeaf {
    /// Its schema.
    pub schema: String,
    /// Its own name.
    pub name: String,
    /// Whether the publication has it.
    pub is_published: bool,
    /// Whether only some of its rows are published.
    pub has_row_filter: bool,
    /// Its columns that some rule names and that are not published.
    pub hidden_columns: BTreeMap<String, Hiding>,
}

/// Why a column is not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hiding {
    /// The publication's list of columns is without it.
    NotListed,
    /// It is generated, and the publication carries no such columns.
    Generated,
}

/// Something that rules need and the publication does not carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// The rules' table, its schema and name.
    pub table: (String, String),
    /// What of it.
    pub what: Lacking,
    /// The names of the rules that need it, in the order of the configuration.
    pub rules: Vec<String>,
}

/// What is not carried of a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lacking {
    /// Anything of it. `partition`: the first one that lacks, of a partitioned table.
    Table {
        /// Its schema and name.
        partition: Option<(String, String)>,
    },
    /// An operation, of all tables.
    Op(Op),
    /// A column.
    Column {
        /// Its name.
        name: String,
        /// Why.
        hiding: Hiding,
    },
    /// Rows that a row filter leaves out.
    Rows,
    /// TRUNCATE of a partition, and the partitions' names.
    Partitions,
}

impl Publication {
    /// What it does not carry; empty: it carries everything that the rules need.
    pub fn lacks(&self, rules: &RuleSet) -> Vec<Lack> {
        self.tables.iter().flat_map(|table| self.lacks_of(table, rules)).collect()
    }

    /// For each table that rules mean what changes whenever it may not have been carried for a
    /// while; `None`: it is not carried now.
    pub fn versions(&self, rules: &RuleSet) -> BTreeMap<String, Option<String>> {
        let version = |table: &PublishedTable| {
            let is_carried = self.lacks_of(table, rules).is_empty();
            let version = is_carried.then(|| format!("{}/{}", self.version, table.version));
            (shown(&table.schema, &table.name), version)
        };
        let is_meant = |table: &&PublishedTable| {
            let (schema, name) = (table.schema.as_bytes(), table.name.as_bytes());
            rules.tables().any(|pattern| pattern.matches(schema, name))
        };
        self.tables.iter().filter(is_meant).map(version).collect()
    }

    fn lacks_of(&self, table: &PublishedTable, rules: &RuleSet) -> Vec<Lack> {
        let mut lacks: Vec<Lack> = Vec::new();
        let names = (table.schema.as_bytes(), table.name.as_bytes());
        let is_about = |rule: &&Rule| rule.tables.iter().any(|it| it.matches(names.0, names.1));
        for rule in rules.rules().iter().filter(is_about) {
            for what in self.lacking(table, rule) {
                match lacks.iter_mut().find(|lack| lack.what == what) {
                    Some(lack) => lack.rules.push(rule.name.clone()),
                    None => lacks.push(Lack {
                        table: (table.schema.clone(), table.name.clone()),
                        what,
                        rules: vec![rule.name.clone()],
                    }),
                }
            }
        }
        lacks
    }

    /// What is not carried for a rule that means the table.
    fn lacking(&self, table: &PublishedTable, rule: &Rule) -> BTreeSet<Lacking> {
        let mut lacking = BTreeSet::new();
        let ops = Op::ALL.into_iter().filter(|op| rule.ops.contains(*op));
        lacking.extend(ops.filter(|op| !self.ops.contains(op)).map(Lacking::Op));
        if table.is_partitioned && self.via_root {
            lacking.insert(Lacking::Partitions);
            return lacking;
        }
        let unpublished = table.leaves.iter().find(|leaf| !leaf.is_published);
        lacking.extend(unpublished.map(|leaf| Lacking::Table {
            partition: table.is_partitioned.then(|| (leaf.schema.clone(), leaf.name.clone())),
        }));
        let named = rule.carried_columns();
        for leaf in table.leaves.iter().filter(|leaf| leaf.is_published) {
            if leaf.has_row_filter {
                lacking.insert(Lacking::Rows);
            }
            let needed = |(name, _): &(&String, &Hiding)| named.contains(name.as_bytes());
            lacking.extend(
                leaf.hidden_columns
                    .iter()
                    .filter(needed)
                    .map(|(name, hiding)| Lacking::Column { name: name.clone(), hiding: *hiding }),
            );
        }
        lacking
    }
}

impl Lack {
    /// The table as a rule's `table` names it.
    pub fn table(&self) -> String {
        shown(&self.table.0, &self.table.1)
    }

    /// What mends it, if `walpurge setup` alone does not.
    pub fn hint(&self) -> Option<String> {
        match &self.what {
            Lacking::Column { name, hiding: Hiding::Generated } => Some(format!(
                "pgoutput leaves out generated columns (before Postgres 18, and by default): let \
                 the rule name the columns that {name} is computed from, or use wal2json"
            )),
            _ => None,
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.table();
        match &self.what {
            Lacking::Table { partition: None } => write!(f, "table {table}")?,
            Lacking::Table { partition: Some((schema, name)) } => {
                write!(f, "partition {} of table {table}", shown(schema, name))?;
            }
            Lacking::Op(op) => write!(f, "{} of table {table}", op.name())?,
            Lacking::Column { name, hiding: Hiding::NotListed } => {
                write!(f, "column {name} of table {table}")?;
            }
            Lacking::Column { name, hiding: Hiding::Generated } => {
                write!(f, "generated column {name} of table {table}")?;
            }
            Lacking::Rows => write!(f, "the rows of table {table} that its row filter leaves out")?,
            Lacking::Partitions => {
                write!(f, "TRUNCATE of single partitions of table {table}")?;
                write!(f, ", since publish_via_partition_root is true")?;
            }
        }
        let rules = if self.rules.len() == 1 { "rule" } else { "rules" };
        write!(f, " ({rules} {})", self.rules.join(", "))
    }
}

/// A table as a rule's `table` names it.
fn shown(schema: &str, name: &str) -> String {
    let part = |name: &str| Part::Exact(name.as_bytes().to_vec());
    TablePattern { schema: part(schema), table: part(name) }.to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;

    const RULES: &str = "[postgres]\nurl = 'postgres://h/d'\n[redis.c]\nurl = 'redis://h'\n\
        [[rule]]\nname = 'item'\ntable = 'public.items'\ndelete = ['item:{id}']\n\
        where = { kind = 'x' }\n\
        [[rule]]\nname = 'list'\ntable = 'public.items'\non = ['insert']\n\
        delete_matching = ['items:*']\n\
        [[rule]]\nname = 'log'\ntable = 'public.log'\ndelete = ['log:{id}']\n";

    fn leaf(name: &str) -> PublishedLeaf {
        let (schema, name) = ("public".into(), name.into());
        PublishedLeaf { schema, name, is_published: true, ..PublishedLeaf::default() }
    }

    fn table(name: &str, leaves: Vec<PublishedLeaf>) -> PublishedTable {
        let is_partitioned = leaves.len() > 1;
        let (schema, name, version) = ("public".into(), name.into(), "v".into());
        PublishedTable { schema, name, is_partitioned, version, leaves }
    }

    fn whole() -> Publication {
        Publication {
            name: "walpurge".into(),
            ops: Op::ALL.into(),
            via_root: false,
            version: "p".into(),
            tables: vec![
                table("items", vec![leaf("items")]),
                table("log", vec![leaf("log_1"), leaf("log_2")]),
            ],
        }
    }

    /// What the templates beside a lookup name is of the row or of the result.
    const LOOKUP: &str = "[postgres]\nurl = 'postgres://h/d'\n[redis.c]\nurl = 'redis://h'\n\
        [[rule]]\nname = 'of'\ntable = 'public.items'\n\
        lookup = 'SELECT post FROM posts WHERE item = {id}'\ndelete = ['post:{post}:{kind}']\n";

    #[track_caller]
    fn check(change: impl FnOnce(&mut Publication), expected: &[&str]) {
        check_rules(RULES, change, expected);
    }

    #[track_caller]
    fn check_rules(rules: &str, change: impl FnOnce(&mut Publication), expected: &[&str]) {
        let rules = crate::config::parse("t", rules).unwrap().rules;
        let mut publication = whole();
        change(&mut publication);
        let lacks: Vec<_> = publication.lacks(&rules).iter().map(Lack::to_string).collect();
        assert_eq!(lacks, expected);
        let versions = publication.versions(&rules);
        for (table, version) in versions {
            let lacks = lacks.iter().any(|lack| lack.contains(&format!("table {table}")));
            assert_eq!(version.is_none(), lacks, "{table}");
        }
    }

    #[test]
    fn what_rules_need_and_a_publication_does_not_carry_is_named() {
        check(|_| {}, &[]);
        check(
            |it| it.tables[0].leaves[0].is_published = false,
            &["table public.items (rules item, list)"],
        );
        check(
            |it| it.tables[1].leaves[1].is_published = false,
            &["partition public.log_2 of table public.log (rule log)"],
        );
        check(
            |it| _ = it.ops.remove(&Op::Delete),
            &["delete of table public.items (rule item)", "delete of table public.log (rule log)"],
        );
        check(
            |it| it.tables[0].leaves[0].has_row_filter = true,
            &["the rows of table public.items that its row filter leaves out (rules item, list)"],
        );
        check(
            |it| it.via_root = true,
            &["TRUNCATE of single partitions of table public.log, since \
               publish_via_partition_root is true (rule log)"],
        );
    }

    #[test]
    fn only_columns_that_a_rule_of_the_table_names_have_to_be_published() {
        let hide = |columns: &[(&str, Hiding)], it: &mut Publication| {
            let columns = columns.iter().map(|(name, hiding)| ((*name).to_owned(), *hiding));
            it.tables[0].leaves[0].hidden_columns = columns.collect();
        };
        check(|it| hide(&[("other", Hiding::NotListed)], it), &[]);
        check_rules(
            LOOKUP,
            |it| hide(&[("kind", Hiding::NotListed), ("other", Hiding::NotListed)], it),
            &["column kind of table public.items (rule of)"],
        );
        check(
            |it| hide(&[("id", Hiding::NotListed), ("kind", Hiding::Generated)], it),
            &[
                "column id of table public.items (rule item)",
                "generated column kind of table public.items (rule item)",
            ],
        );
    }
}
