//! Do the tables of every rule exist, reach the write-ahead log, and log what the rule needs?
//!
//! Pure: relations come from [`relations`](crate::postgres::relations).

use std::collections::{BTreeSet, HashSet};

use super::LISTED_MAX;
use super::file::{count, rule as rule_subject};
use super::finding::{Finding, Findings, Group};
use super::lookups::Shapes;
use crate::change::Op;
use crate::config::Plugin;
use crate::postgres::relations::{Generated, Kind, Persistence, Relation, ReplicaIdentity, leaves};
use crate::problem::nearest;
use crate::rules::lookup::Shape;
use crate::rules::{Part, Rule, RuleId, RuleSet, TablePattern};

/// Whether any rule means the relation.
pub(super) fn is_wanted(rules: &RuleSet, relation: &Relation) -> bool {
    rules.tables().any(|pattern| means(pattern, relation))
}

/// Looks at every rule. The relations are all there are; those that are wanted have columns.
pub(super) fn tables(
    rules: &RuleSet,
    plugin: Plugin,
    relations: &[Relation],
    shapes: &Shapes,
) -> Vec<Finding> {
    let mut findings = Findings::new(Group::Tables);
    for (at, rule) in rules.rules().iter().enumerate() {
        let shape = shapes.get(&RuleId(at as u32));
        let seen = HashSet::new();
        let mut examination =
            Examination { rule, plugin, shape, relations, findings: &mut findings, seen };
        for pattern in &rule.tables {
            examination.pattern(pattern);
        }
    }
    findings.into_list()
}

fn means(pattern: &TablePattern, relation: &Relation) -> bool {
    pattern.matches(relation.schema.as_bytes(), relation.name.as_bytes())
}

/// One rule and everything that there is.
struct Examination<'a> {
    rule: &'a Rule,
    plugin: Plugin,
    /// What its lookup gives, if that is known.
    shape: Option<&'a Shape>,
    relations: &'a [Relation],
    findings: &'a mut Findings,
    /// What an earlier pattern of the rule meant too.
    seen: HashSet<u32>,
}

impl<'a> Examination<'a> {
    fn pattern(&mut self, pattern: &TablePattern) {
        let found: Vec<&Relation> =
            self.relations.iter().filter(|relation| means(pattern, relation)).collect();
        // Whoever writes a `*` means the tables, and not each view beside them.
        let is_one = is_one(pattern);
        let (logged, others): (Vec<&Relation>, _) =
            found.iter().partition(|relation| unlogged_because(relation).is_none());
        for relation in others {
            let is_unlogged_table = relation.persistence == Persistence::Unlogged;
            if is_one || is_unlogged_table {
                self.never_logged(relation, is_one);
            }
        }
        if logged.is_empty() {
            if !is_one || found.is_empty() {
                self.no_table(pattern);
            }
            return;
        }
        let mut good = Vec::new();
        for &relation in &logged {
            if !self.seen.insert(relation.oid) || self.logged(relation) {
                good.push(relation);
            }
        }
        self.good(pattern, &good);
    }

    fn good(&mut self, pattern: &TablePattern, good: &[&Relation]) {
        let subject = rule_subject(&self.rule.name);
        match good {
            [] => {}
            [one] if is_one(pattern) => {
                let carried = match one.kind {
                    Kind::Partitioned => {
                        let leaves = leaves(self.relations, one).len();
                        format!("partitioned: {} now", count(leaves, "partition"))
                    }
                    _ => identity(one),
                };
                self.findings.ok(subject, format!("{}: {carried}", one.sql_name));
            }
            several => {
                let tables = count(several.len(), "table");
                self.findings.ok(subject, format!("{pattern}: {tables} in order"));
            }
        }
    }

    fn no_table(&mut self, pattern: &TablePattern) {
        let typed = pattern.to_string();
        let names: Vec<String> = self.relations.iter().map(displayed).collect();
        let elsewhere = self
            .relations
            .iter()
            .find(|relation| pattern.table == Part::Exact(relation.name.as_bytes().to_vec()));
        let near = nearest(&typed, names.iter().map(String::as_str));
        let hint = match (near, elsewhere) {
            _ if !is_one(pattern) => {
                "names are exact: upper and lower case differ, and a `*` stands for any text"
                    .to_owned()
            }
            (Some(name), _) => format!("did you mean table = {}?", toml_string(name)),
            (None, Some(other)) => {
                format!("did you mean table = {}?", toml_string(&displayed(other)))
            }
            (None, None) => "create the table, or correct `table`: names are exact, and upper \
                             and lower case differ"
                .to_owned(),
        };
        let subject = rule_subject(&self.rule.name);
        self.findings.failed(subject, format!("{typed}: there is no such table"), hint);
    }

    fn never_logged(&mut self, relation: &Relation, is_one: bool) {
        let Some((what, hint)) = unlogged_because(relation) else { return };
        let subject = rule_subject(&self.rule.name);
        let message =
            format!("{} is {what}: its changes never reach the write-ahead log", relation.sql_name);
        match is_one {
            true => self.findings.failed(subject, message, hint),
            false => self.findings.warning(subject, message, hint),
        }
    }

    /// Looks at what reaches the log; whether it is in order.
    fn logged(&mut self, relation: &'a Relation) -> bool {
        if relation.kind == Kind::Partitioned {
            return self.partitioned(relation);
        }
        let known = self.columns(relation);
        let identity = self.identity(relation);
        known && identity
    }

    /// Its changes come under the names of its partitions, each with an identity of its own.
    fn partitioned(&mut self, whole: &'a Relation) -> bool {
        let mut all_good = self.columns(whole);
        for leaf in leaves(self.relations, whole) {
            if self.seen.insert(leaf.oid) {
                all_good &= self.identity(leaf);
            }
        }
        all_good
    }

    /// Whether every column that the rule names is there.
    fn columns(&mut self, relation: &Relation) -> bool {
        let rule = self.rule;
        let falls_back = self.consequence("each change");
        let counts = "`changed` and `where` take each change for a match".to_owned();
        let mut all_good = true;
        let mut rendered = rule.columns();
        if let (Some(lookup), Some(shape)) = (&rule.lookup, self.shape) {
            let is_result = |name: &&[u8]| shape.columns.iter().any(|c| c.as_bytes() == *name);
            rendered.extend(lookup.columns().filter(|name| !is_result(name)));
        }
        for (names, consequence) in [(rendered, falls_back), (rule.filter_columns(), counts)] {
            for name in names {
                all_good &= self.column(relation, &String::from_utf8_lossy(name), &consequence);
            }
        }
        all_good
    }

    fn column(&mut self, relation: &Relation, name: &str, consequence: &str) -> bool {
        let found = relation.columns.iter().find(|column| column.name == name);
        let (fault, hint) = match found {
            Some(column) if column.generated != Generated::Virtual => return true,
            Some(_) => (
                format!("column {name} is computed when it is read, and never logged"),
                "use the columns that it is computed from, or make it STORED".to_owned(),
            ),
            None => (format!("there is no column {name}"), near_column(relation, name)),
        };
        self.findings.failed(
            rule_subject(&self.rule.name),
            format!("{}: {fault}; {consequence}", relation.sql_name),
            hint,
        );
        false
    }

    /// Whether updates and deletes carry what the rule needs of the old row.
    fn identity(&mut self, relation: &'a Relation) -> bool {
        let changing: Vec<Op> =
            [Op::Update, Op::Delete].into_iter().filter(|op| self.rule.ops.contains(*op)).collect();
        if changing.is_empty() {
            return true;
        }
        let (subject, table) = (rule_subject(&self.rule.name), &relation.sql_name);
        let full = format!("ALTER TABLE {table} REPLICA IDENTITY FULL;");
        if !relation.has_identity() {
            let (ops, identity) = (named(&changing), identity(relation));
            let message = match self.plugin {
                Plugin::Wal2json => format!(
                    "{table} has {identity}: wal2json leaves out every {ops}; {}",
                    self.consequence("each one")
                ),
                Plugin::Pgoutput => {
                    format!(
                        "{table} has {identity}: while it is published, every {ops} of it fails"
                    )
                }
            };
            self.findings.failed(
                subject,
                message,
                format!(
                    "{full}\nor give it a primary key: ALTER TABLE {table} ADD PRIMARY KEY (…);"
                ),
            );
            return false;
        }
        let (ops, columns) = self.not_carried(relation, &changing);
        if columns.is_empty() {
            return true;
        }
        let columns: Vec<_> = columns.into_iter().collect();
        self.findings.failed(
            subject,
            format!(
                "{table}: no {} carries the old value of {} ({}); {}",
                named(&ops),
                columns.join(", "),
                identity(relation),
                self.consequence("each one")
            ),
            full,
        );
        false
    }

    /// The operations that lack an old value, and which ones.
    fn not_carried(&self, relation: &'a Relation, changing: &[Op]) -> (Vec<Op>, BTreeSet<&'a str>) {
        let (mut ops, mut lacking) = (Vec::new(), BTreeSet::new());
        for &op in changing {
            let needed = self.rule.old_values(op);
            // A column that is not there is a finding of its own.
            let not_carried: Vec<&str> = relation
                .columns
                .iter()
                .filter(|column| column.generated != Generated::Virtual)
                .filter(|column| needed.contains(column.name.as_bytes()))
                .filter(|column| !relation.carries_old(column))
                .map(|column| column.name.as_str())
                .collect();
            if !not_carried.is_empty() {
                ops.push(op);
                lacking.extend(not_carried);
            }
        }
        (ops, lacking)
    }

    /// What becomes of changes whose exact keys cannot be known.
    fn consequence(&self, which: &str) -> String {
        match self.rule.fallback.is_empty() {
            true => format!("{which} invalidates nothing, as the rule has no fallback"),
            false => format!("{which} runs the rule's fallback"),
        }
    }
}

/// Whether the pattern names one table.
fn is_one(pattern: &TablePattern) -> bool {
    [&pattern.schema, &pattern.table].into_iter().all(|part| matches!(part, Part::Exact(_)))
}

/// Why a relation's changes never reach the log, and what to do.
fn unlogged_because(relation: &Relation) -> Option<(&'static str, String)> {
    match (relation.kind, relation.persistence) {
        (Kind::View, _) => Some(("a view", "write the rule for the tables that it reads".into())),
        (Kind::MaterializedView, _) => {
            Some(("a materialized view", "write the rule for the tables that it reads".into()))
        }
        (Kind::ForeignTable, _) => {
            Some(("a foreign table", "run walpurge beside the server that it comes from".into()))
        }
        (_, Persistence::Unlogged) => {
            Some(("unlogged", format!("ALTER TABLE {} SET LOGGED;", relation.sql_name)))
        }
        (_, Persistence::Temporary) => {
            Some(("temporary", "write the rule for a permanent table".into()))
        }
        (Kind::Table | Kind::Partitioned, Persistence::Permanent) => None,
    }
}

fn near_column(relation: &Relation, name: &str) -> String {
    let names = relation.columns.iter().map(|column| column.name.as_str());
    match nearest(name, names.clone()) {
        Some(near) => format!("did you mean {near}?"),
        None => {
            let more = relation.columns.len() > LISTED_MAX;
            let listed: Vec<_> = names.take(LISTED_MAX).collect();
            format!("its columns: {}{}", listed.join(", "), if more { ", …" } else { "" })
        }
    }
}

/// As a rule's `table` names it.
fn displayed(relation: &Relation) -> String {
    let part = |name: &str| Part::Exact(name.as_bytes().to_vec());
    TablePattern { schema: part(&relation.schema), table: part(&relation.name) }.to_string()
}

fn toml_string(text: &str) -> String {
    match text.contains('"') && !text.contains('\'') {
        true => format!("'{text}'"),
        false => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

fn identity(relation: &Relation) -> String {
    let key: Vec<_> =
        relation.columns.iter().filter(|c| c.is_in_key).map(|c| c.name.as_str()).collect();
    match relation.identity {
        ReplicaIdentity::Full => "replica identity full".to_owned(),
        ReplicaIdentity::Nothing => "replica identity nothing".to_owned(),
        ReplicaIdentity::Default if key.is_empty() => "no primary key".to_owned(),
        ReplicaIdentity::Index if key.is_empty() => "a replica identity without index".to_owned(),
        ReplicaIdentity::Default => format!("replica identity: primary key {}", key.join(", ")),
        ReplicaIdentity::Index => format!("replica identity: index on {}", key.join(", ")),
    }
}

/// "UPDATE", "UPDATE or DELETE".
fn named(ops: &[Op]) -> String {
    let names: Vec<_> = ops.iter().map(|op| op.name().to_uppercase()).collect();
    names.join(" or ")
}

#[cfg(test)]
mod tests;
