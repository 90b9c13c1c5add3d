//! Which SQL brings a publication in step with the rules, and what does that change? Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::found::Found;
use super::wanted::Wanted;
use super::{GENERATED_SINCE, MARK, MARK_OF_CHANGE};
use crate::change::Op;
use crate::postgres::quote::{identifier, literal};

/// How long a statement waits for a lock on a table. What waits here holds up nobody's queries: the
/// lock conflicts with DDL, VACUUM and CREATE INDEX alone; but DDL that comes later waits behind.
const LOCK_TIMEOUT_SQL: &str = "SET LOCAL lock_timeout = '5s'";

/// What becomes of that which the publication holds beyond what the rules need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surplus {
    /// It is taken out.
    Removed,
    /// It stays: a daemon may read the slot that has the rules of before.
    Kept,
}

/// The way from what a publication holds to what it should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Locks the tables, so that their identities stay as they were looked at.
    pub lock: Option<String>,
    /// What to run after that, in the same transaction. Empty: the publication is in step.
    pub statements: Vec<String>,
    /// What that changes, for people.
    pub changes: Vec<String>,
    /// What is there beyond what the rules need, and stays.
    pub surplus: Vec<String>,
    /// Whether something is published that was not before.
    pub widens: bool,
    /// The operations that it publishes in the end.
    pub ops: BTreeSet<Op>,
}

/// A table and its columns, as `ALTER PUBLICATION` takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    sql_name: String,
    columns: Option<Vec<String>>,
}

impl Plan {
    /// From `found` (`None`: there is no such publication) to `wanted`.
    pub fn new(
        name: &str,
        found: Option<&Found>,
        wanted: &Wanted,
        surplus: Surplus,
        server_version_num: u32,
    ) -> Plan {
        let items = wanted.tables.iter().map(|(&oid, table)| {
            (oid, Item { sql_name: table.sql_name.clone(), columns: table.columns.clone() })
        });
        let items: BTreeMap<u32, Item> = items.collect();
        match found {
            None => create(name, &items, &wanted.ops, server_version_num),
            Some(found) => alter(name, found, wanted, items, surplus, server_version_num),
        }
    }

    /// The plan as one transaction; empty if nothing is to be done.
    pub fn transaction(&self) -> String {
        if self.statements.is_empty() {
            return String::new();
        }
        let mut sql = format!("BEGIN;\n{};\n", self.preparation());
        for statement in &self.statements {
            sql.push_str(&format!("{statement};\n"));
        }
        sql.push_str("COMMIT;\n");
        sql
    }

    /// What comes first in the transaction: it bounds the wait for locks, and takes them.
    pub fn preparation(&self) -> String {
        let lock = self.lock.iter().map(|lock| format!(";\n{lock}"));
        format!("{LOCK_TIMEOUT_SQL}{}", lock.collect::<String>())
    }
}

fn create(
    name: &str,
    items: &BTreeMap<u32, Item>,
    ops: &BTreeSet<Op>,
    server_version_num: u32,
) -> Plan {
    let publication = identifier(name);
    let tables = match items.is_empty() {
        true => String::new(),
        false => format!(" FOR TABLE\n    {}", listed(items)),
    };
    let settings = settings(ops, server_version_num);
    // Whoever makes a slot of it later waits for every transaction that is open now.
    let mark = literal(MARK);
    Plan {
        lock: lock(items),
        statements: vec![
            format!("CREATE PUBLICATION {publication}{tables}\n    WITH ({settings})"),
            format!("COMMENT ON PUBLICATION {publication} IS {mark}"),
        ],
        changes: items
            .values()
            .map(Item::to_string)
            .chain([format!("operations: {}", names(ops))])
            .collect(),
        surplus: Vec::new(),
        widens: true,
        ops: ops.clone(),
    }
}

fn alter(
    name: &str,
    found: &Found,
    wanted: &Wanted,
    mut items: BTreeMap<u32, Item>,
    surplus: Surplus,
    server_version_num: u32,
) -> Plan {
    let publication = identifier(name);
    let mut plan = Plan::default();
    let mut ops = wanted.ops.clone();
    if surplus == Surplus::Kept {
        keep(found, wanted, &mut items, &mut ops, &mut plan.surplus);
    }
    for (oid, item) in &items {
        match found.tables.get(oid) {
            None => {
                plan.changes.push(format!("added {item}"));
                plan.widens = true;
            }
            Some(table) if !are_same(&table.columns, &item.columns) || table.has_filter => {
                plan.changes.push(match table.has_filter {
                    true => format!("without a row filter now: {item}"),
                    false => format!("other columns now: {item}"),
                });
                plan.widens |= table.has_filter || is_wider(&table.columns, &item.columns);
            }
            Some(_) => {}
        }
    }
    for (oid, table) in &found.tables {
        if !items.contains_key(oid) {
            plan.changes.push(format!("took out {}", table.sql_name));
        }
    }
    if !plan.changes.is_empty() {
        plan.lock = lock(&items);
        plan.statements.push(match items.is_empty() {
            true => {
                let names: Vec<_> = found.tables.values().map(|t| t.sql_name.as_str()).collect();
                format!("ALTER PUBLICATION {publication} DROP TABLE ONLY {}", names.join(", ONLY "))
            }
            false => format!("ALTER PUBLICATION {publication} SET TABLE\n    {}", listed(&items)),
        });
    }
    let generated = server_version_num < GENERATED_SINCE || found.generated;
    if found.ops != ops || found.via_root || !generated {
        let settings = settings(&ops, server_version_num);
        plan.statements.push(format!("ALTER PUBLICATION {publication} SET ({settings})"));
        if found.ops != ops {
            plan.changes.push(format!("operations now: {}", names(&ops)));
        }
        if found.via_root {
            plan.changes.push("publish_via_partition_root: false now".to_owned());
        }
        if !generated {
            plan.changes.push("publish_generated_columns: stored now".to_owned());
        }
        plan.widens |= !ops.is_subset(&found.ops) || found.via_root || !generated;
    }
    if plan.widens {
        let mark = literal(MARK_OF_CHANGE);
        plan.statements.push(format!("COMMENT ON PUBLICATION {publication} IS {mark}"));
    }
    plan.ops = ops;
    plan
}

/// Adds to what is wanted what is there, as far as it does no harm.
fn keep(
    found: &Found,
    wanted: &Wanted,
    items: &mut BTreeMap<u32, Item>,
    ops: &mut BTreeSet<Op>,
    surplus: &mut Vec<String>,
) {
    let changing = [Op::Update, Op::Delete];
    for (&oid, table) in &found.tables {
        let Some(item) = items.get_mut(&oid) else {
            // Without an identity its statements fail: nobody is served by that.
            if table.has_identity || !changing.iter().any(|op| found.ops.contains(op)) {
                let (sql_name, columns) = (table.sql_name.clone(), table.columns.clone());
                surplus.push(sql_name.clone());
                items.insert(oid, Item { sql_name, columns });
            }
            continue;
        };
        if is_wider(&item.columns, &table.columns) {
            surplus.push(format!("columns of {}", table.sql_name));
            item.columns = united(&item.columns, &table.columns);
        }
    }
    let extra: BTreeSet<Op> = found.ops.difference(&wanted.ops).copied().collect();
    if !extra.is_empty() && wanted.needs_identities() {
        surplus.push(names(&extra));
        ops.extend(extra);
    }
}

/// Whether the second list of columns has something that the first one has not.
fn is_wider(before: &Option<Vec<String>>, now: &Option<Vec<String>>) -> bool {
    match (before, now) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(before), Some(now)) => now.iter().any(|column| !before.contains(column)),
    }
}

fn are_same(one: &Option<Vec<String>>, other: &Option<Vec<String>>) -> bool {
    !is_wider(one, other) && !is_wider(other, one)
}

fn united(one: &Option<Vec<String>>, other: &Option<Vec<String>>) -> Option<Vec<String>> {
    let mut columns = one.clone()?;
    columns.extend(other.clone()?);
    columns.sort();
    columns.dedup();
    Some(columns)
}

/// The lock that `ALTER PUBLICATION` takes anyway, at once on all tables.
fn lock(items: &BTreeMap<u32, Item>) -> Option<String> {
    let names: Vec<_> = items.values().map(|item| format!("ONLY {}", item.sql_name)).collect();
    (!names.is_empty())
        .then(|| format!("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE", names.join(", ")))
}

fn settings(ops: &BTreeSet<Op>, server_version_num: u32) -> String {
    let generated = match server_version_num {
        GENERATED_SINCE.. => ", publish_generated_columns = stored",
        _ => "",
    };
    format!("publish = '{}', publish_via_partition_root = false{generated}", names(ops))
}

fn names(ops: &BTreeSet<Op>) -> String {
    ops.iter().map(|op| op.name()).collect::<Vec<_>>().join(", ")
}

fn listed(items: &BTreeMap<u32, Item>) -> String {
    // ONLY: tables that inherit are published if rules mean them.
    items.values().map(|item| format!("ONLY {item}")).collect::<Vec<_>>().join(",\n    ")
}

impl std::fmt::Display for Item {
    /// `public.products (id, slug)`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.sql_name)?;
        if let Some(columns) = &self.columns {
            let columns: Vec<_> = columns.iter().map(|column| identifier(column)).collect();
            write!(f, " ({})", columns.join(", "))?;
        }
        Ok(())
    }
}

/// Drops the publication if `setup` made it; may be run again.
pub fn remove_publication(name: &str) -> String {
    let (text, publication) = (literal(name), identifier(name));
    let marks = format!("{}, {}", literal(MARK), literal(MARK_OF_CHANGE));
    let drop = literal(&format!("DROP PUBLICATION {publication}"));
    format!(
        "DO $walpurge$\n\
         BEGIN\n    \
             IF EXISTS (\n        \
                 SELECT FROM pg_catalog.pg_publication\n        \
                 WHERE pubname = {text}\n            \
                     AND pg_catalog.obj_description(oid, 'pg_publication') IN ({marks})\n    \
             ) THEN\n        \
                 EXECUTE {drop};\n    \
             END IF;\n\
         END\n\
         $walpurge$;\n"
    )
}
