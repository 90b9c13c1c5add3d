//! What a publication should hold, so that the rules get every change and the server sends no more
//! than it must. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{COLUMN_LISTS_SINCE, GENERATED_SINCE};
use crate::change::Op;
use crate::postgres::relations::{Generated, Kind, Relation, ReplicaIdentity, leaves};
use crate::rules::{Part, Rule, RuleSet, TablePattern};

/// What a publication should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The tables, by OID.
    pub tables: BTreeMap<u32, WantedTable>,
    /// The operations that it publishes of each of them.
    pub ops: BTreeSet<Op>,
    /// Tables that rules name and that are not there.
    pub missing: Vec<String>,
    /// What would make statements of applications fail, were it published.
    pub faults: Vec<Fault>,
}

/// A table of a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedTable {
    /// Schema and name, as SQL writes them.
    pub sql_name: String,
    /// Who owns it.
    pub owner: String,
    /// Its columns, in their order; `None`: all.
    pub columns: Option<Vec<String>>,
}

/// Why a table cannot be published as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub message: String,
    /// The SQL that mends it.
    pub hint: String,
}

impl Wanted {
    /// What the rules need of these relations, whose columns are filled in.
    pub(crate) fn new(rules: &RuleSet, relations: &[Relation], server_version_num: u32) -> Wanted {
        let ops =
            Op::ALL.into_iter().filter(|&op| rules.rules().iter().any(|r| r.ops.contains(op)));
        let mut wanted = Wanted { ops: ops.collect(), ..Wanted::default() };
        let by_oid: HashMap<u32, &Relation> = relations.iter().map(|r| (r.oid, r)).collect();
        let is_meant = |relation: &Relation| {
            relation.is_logged() && rules.tables().any(|pattern| means(pattern, relation))
        };
        for relation in relations.iter().filter(|relation| is_meant(relation)) {
            // A partition is published with what it is a partition of.
            let mut wholes =
                std::iter::successors(Some(relation), |of| by_oid.get(&of.parent?).copied());
            if wholes.any(|whole| whole.oid != relation.oid && is_meant(whole)) {
                continue;
            }
            let needs = Needs::of(rules, relation);
            let columns = match server_version_num >= COLUMN_LISTS_SINCE {
                true => needs.columns(relation, server_version_num),
                false => None,
            };
            let (sql_name, owner) = (relation.sql_name.clone(), relation.owner.clone());
            wanted.tables.insert(relation.oid, WantedTable { sql_name, owner, columns });
            let parts = match relation.kind {
                Kind::Partitioned => leaves(relations, relation),
                _ => vec![relation],
            };
            wanted.faults.extend(parts.into_iter().filter_map(|part| fault(part, &wanted.ops)));
        }
        for pattern in rules.tables() {
            let is_one = [&pattern.schema, &pattern.table]
                .into_iter()
                .all(|part| matches!(part, Part::Exact(_)));
            let name = pattern.to_string();
            let is_there = relations.iter().any(|r| r.is_logged() && means(pattern, r));
            if is_one && !is_there && !wanted.missing.contains(&name) {
                wanted.missing.push(name);
            }
        }
        wanted
    }

    /// Whether UPDATE or DELETE is published, for which a table needs a replica identity.
    pub(super) fn needs_identities(&self) -> bool {
        self.ops.contains(&Op::Update) || self.ops.contains(&Op::Delete)
    }

    /// The roles that own the tables.
    pub fn owners(&self) -> BTreeSet<&str> {
        self.tables.values().map(|table| table.owner.as_str()).collect()
    }
}

fn means(pattern: &TablePattern, relation: &Relation) -> bool {
    pattern.matches(relation.schema.as_bytes(), relation.name.as_bytes())
}

/// Why publishing these operations of the table would make an UPDATE or DELETE of it fail, as
/// `CheckCmdReplicaIdentity` of Postgres' execReplication.c does.
fn fault(relation: &Relation, ops: &BTreeSet<Op>) -> Option<Fault> {
    let changing = [Op::Update, Op::Delete].into_iter().filter(|op| ops.contains(op));
    let changing: Vec<_> = changing.map(|op| op.name().to_uppercase()).collect();
    let (table, changing) = (&relation.sql_name, changing.join(" and "));
    if changing.is_empty() {
        return None;
    }
    if !relation.has_identity() {
        return Some(Fault {
            message: format!(
                "{table} has no replica identity: once it is published, every {changing} of it \
                 fails"
            ),
            hint: format!(
                "ALTER TABLE {table} REPLICA IDENTITY FULL;\nor give it a primary key: ALTER TABLE \
                 {table} ADD PRIMARY KEY (…);"
            ),
        });
    }
    let has_virtual = relation.columns.iter().any(|c| c.generated == Generated::Virtual);
    (relation.identity == ReplicaIdentity::Full && has_virtual).then(|| Fault {
        message: format!(
            "{table} has replica identity full and a virtual generated column: once it is \
             published, every {changing} of it fails"
        ),
        hint: format!(
            "give it a primary key and: ALTER TABLE {table} REPLICA IDENTITY DEFAULT;\nor make the \
             column STORED"
        ),
    })
}

/// What the rules about a table need of it.
struct Needs<'r> {
    /// Columns of either row; some may be of a lookup's result only.
    columns: BTreeSet<&'r [u8]>,
    /// Those of them whose old values are needed.
    old: BTreeSet<&'r [u8]>,
}

impl<'r> Needs<'r> {
    fn of(rules: &'r RuleSet, relation: &Relation) -> Needs<'r> {
        let mut needs = Needs { columns: BTreeSet::new(), old: BTreeSet::new() };
        let is_about = |rule: &&Rule| rule.tables.iter().any(|pattern| means(pattern, relation));
        for rule in rules.rules().iter().filter(is_about) {
            needs.columns.extend(rule.carried_columns());
            for op in [Op::Update, Op::Delete] {
                needs.old.extend(rule.old_values(op));
            }
        }
        needs
    }

    /// The columns to publish: those that are needed, and the replica identity's. `None`: all,
    /// where a list is of no use or would be in the way.
    fn columns(&self, relation: &Relation, server_version_num: u32) -> Option<Vec<String>> {
        // Postgres takes no list for these: the first publishes under its partitions' names, and
        // to the second every column belongs to the identity.
        if relation.kind == Kind::Partitioned || relation.identity == ReplicaIdentity::Full {
            return None;
        }
        let can_be_listed = |generated| match generated {
            Generated::No => true,
            Generated::Stored => server_version_num >= GENERATED_SINCE,
            Generated::Virtual => false,
        };
        let (mut listed, mut spared) = (Vec::new(), 0);
        for column in &relation.columns {
            let is_needed = self.columns.contains(column.name.as_bytes());
            match can_be_listed(column.generated) {
                // The list has to cover the identity.
                false if column.is_in_key => return None,
                false => {}
                true if column.is_in_key || is_needed => listed.push(column.name.clone()),
                true => spared += 1,
            }
            // Where rules need old values that the identity lacks, somebody has to make it FULL,
            // and with a list every UPDATE would fail from then on.
            if !column.is_in_key && self.old.contains(column.name.as_bytes()) {
                return None;
            }
        }
        (spared > 0 && !listed.is_empty()).then_some(listed)
    }
}
