#![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

use std::collections::BTreeSet;

use super::*;
use crate::change::Op;
use crate::postgres::relations::sample::{self, with};
use crate::postgres::relations::{Kind, Persistence, Relation, ReplicaIdentity};

/// A table `public.NAME` with a primary key `id`, columns `slug` and `note`, and a generated `sum`.
fn table(oid: u32, name: &str) -> Relation {
    sample::table(oid, name, ["id", "slug", "note", "sum"])
}

fn wanted(rules: &str, relations: &[Relation], version: u32) -> Wanted {
    let text = format!("[postgres]\nurl = 'postgres://h/d'\n[redis.c]\nurl = 'redis://h'\n{rules}");
    Wanted::new(&crate::config::parse("t", &text).unwrap().rules, relations, version)
}

fn rule(table: &str, more: &str) -> String {
    format!("[[rule]]\ntable = '{table}'\n{more}\n")
}

const BY_SLUG: &str = "delete = ['item:{id}:{new.slug}']";

/// The columns of the first table.
fn columns(rules: &str, relation: Relation, version: u32) -> Option<String> {
    let wanted = wanted(rules, &[relation], version);
    wanted.tables.into_values().next().unwrap().columns.map(|columns| columns.join(","))
}

#[test]
fn a_list_holds_what_rules_name_and_the_identity_where_postgres_takes_one() {
    let check = |more: &str, relation: Relation, version, expected: Option<&str>| {
        let found = columns(&rule("public.items", more), relation, version);
        assert_eq!(found.as_deref(), expected, "{more} {version}");
    };
    let items = || table(1, "items");
    check(BY_SLUG, items(), 150_000, Some("id,slug"));
    check(BY_SLUG, items(), 140_018, None);
    check("delete_matching = ['items:*']", items(), 150_000, Some("id"));
    let filters = "delete_matching = ['items:*']\nchanged = ['slug']\nwhere = { note = 'x' }";
    check(filters, items(), 150_000, None);
    check(filters, items(), 180_000, Some("id,slug,note"));
    // A generated column can be listed by 18, and is never sent before.
    let by_sum = "delete = ['item:{new.sum}']";
    check(by_sum, items(), 150_000, Some("id"));
    check(by_sum, items(), 180_000, Some("id,sum"));
    let full = with(items(), |it| it.identity = ReplicaIdentity::Full);
    check(BY_SLUG, full, 150_000, None);
    // Somebody has to make it FULL, as check advises.
    check("delete = ['item:{slug}']", items(), 150_000, None);
    check("delete = ['item:{slug}']\non = ['insert']", items(), 150_000, Some("id,slug"));
    let whole = with(items(), |it| it.kind = Kind::Partitioned);
    check(BY_SLUG, whole, 150_000, None);
    let generated_key = with(items(), |it| it.columns[3].is_in_key = true);
    check(BY_SLUG, generated_key, 150_000, None);
    let without_key = with(items(), |it| it.columns[0].is_in_key = false);
    check("delete_matching = ['items:*']\non = ['insert']", without_key, 150_000, None);
    // What a template beside a lookup names may be a column of the row.
    let lookup = "lookup = 'SELECT 1 AS a FROM b WHERE c = {id}'\non = ['insert']\n\
                  delete = ['item:{a}:{note}']";
    check(lookup, items(), 150_000, Some("id,note"));
}

#[test]
fn a_partition_is_published_with_its_root_and_looked_at_by_itself() {
    let root = with(table(1, "whole"), |it| it.kind = Kind::Partitioned);
    let leaf = with(table(2, "leaf"), |it| it.parent = Some(1));
    let held = |rules: &str, leaf: &Relation| {
        let wanted = wanted(rules, &[root.clone(), leaf.clone()], 150_000);
        let tables: Vec<_> = wanted.tables.keys().copied().collect();
        (tables, wanted.faults.len())
    };
    assert_eq!(held(&rule("public.*", BY_SLUG), &leaf), (vec![1], 0));
    assert_eq!(held(&rule("public.leaf", BY_SLUG), &leaf), (vec![2], 0));
    let bare = with(leaf, |it| it.columns[0].is_in_key = false);
    assert_eq!(held(&rule("public.whole", BY_SLUG), &bare), (vec![1], 1));
    let inserts = format!("{BY_SLUG}\non = ['insert', 'truncate']");
    assert_eq!(held(&rule("public.whole", &inserts), &bare), (vec![1], 0));
}

#[test]
fn what_is_not_there_or_never_logged_is_left_out() {
    let unlogged = with(table(1, "items"), |it| it.persistence = Persistence::Unlogged);
    let view = with(table(2, "view"), |it| it.kind = Kind::View);
    let rules = rule("public.items", BY_SLUG) + &rule("public.*", BY_SLUG);
    let wanted = wanted(&rules, &[unlogged, view], 150_000);
    assert_eq!((wanted.tables.len(), wanted.missing), (0, vec!["public.items".to_owned()]));
}

fn plan(found: Option<&Found>, wanted: &Wanted, surplus: Surplus) -> Plan {
    Plan::new("a\"b", found, wanted, surplus, 150_000)
}

/// What the publication would be after the plan for what is wanted.
fn made(wanted: &Wanted) -> Found {
    let table = |(&oid, table): (&u32, &WantedTable)| {
        let (sql_name, columns) = (table.sql_name.clone(), table.columns.clone());
        let has_identity = true;
        (oid, FoundTable { sql_name, columns, has_identity, ..FoundTable::default() })
    };
    let tables = wanted.tables.iter().map(table).collect();
    Found { comment: MARK.into(), ops: wanted.ops.clone(), tables, ..Found::default() }
}

#[test]
fn a_plan_leads_to_what_is_wanted_and_is_empty_there() {
    let tables = [table(1, "items"), table(2, "rows")];
    let wanted =
        wanted(&(rule("public.items", BY_SLUG) + &rule("public.rows", BY_SLUG)), &tables, 150_000);
    let sql = plan(None, &wanted, Surplus::Removed).transaction();
    assert_eq!(
        sql,
        "BEGIN;\nSET LOCAL lock_timeout = '5s';\n\
         LOCK TABLE ONLY public.items, ONLY public.rows IN SHARE UPDATE EXCLUSIVE MODE;\n\
         CREATE PUBLICATION \"a\"\"b\" FOR TABLE\n    \
             ONLY public.items (\"id\", \"slug\"),\n    ONLY public.rows (\"id\", \"slug\")\n    \
             WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = false);\n\
         COMMENT ON PUBLICATION \"a\"\"b\" IS 'made by walpurge setup';\nCOMMIT;\n"
    );
    let found = made(&wanted);
    assert_eq!(plan(Some(&found), &wanted, Surplus::Removed).transaction(), "");
    assert_eq!(plan(Some(&found), &wanted, Surplus::Kept).transaction(), "");
}

#[test]
fn what_is_too_much_stays_while_somebody_reads_and_what_is_too_little_never() {
    let tables = [table(1, "items"), table(2, "rows")];
    let both = rule("public.items", BY_SLUG) + &rule("public.rows", BY_SLUG);
    let (before, now) = (
        wanted(&both, &tables, 150_000),
        wanted(
            &rule("public.items", "delete = ['item:{id}']\non = ['insert', 'update']"),
            &tables,
            150_000,
        ),
    );
    let found = made(&before);
    let kept = plan(Some(&found), &now, Surplus::Kept);
    assert_eq!(kept.transaction(), "", "{kept:?}");
    assert_eq!(kept.surplus, ["columns of public.items", "public.rows", "delete, truncate"]);
    let removed = plan(Some(&found), &now, Surplus::Removed);
    assert_eq!(
        removed.changes,
        [
            "other columns now: public.items (\"id\")",
            "took out public.rows",
            "operations now: insert, update"
        ]
    );
    assert!(!removed.widens);
    // Whatever stays, what is new is added.
    for surplus in [Surplus::Kept, Surplus::Removed] {
        let plan = plan(Some(&made(&now)), &before, surplus);
        assert!(plan.widens && plan.transaction().contains(MARK_OF_CHANGE), "{plan:?}");
        assert_eq!(plan.changes.len(), 3, "{plan:?}");
    }
    // Nobody is served by a table whose statements fail.
    let mut harmful = made(&now);
    let bare = FoundTable { sql_name: "public.bare".into(), ..FoundTable::default() };
    harmful.tables.insert(9, bare);
    assert_eq!(plan(Some(&harmful), &now, Surplus::Kept).changes, ["took out public.bare"]);
}

#[test]
fn minors_that_go_on_leaving_a_table_out_are_made_to_look_again() {
    let ops = BTreeSet::from([Op::Insert]);
    for (version, statements) in
        [(140_017, 2), (140_018, 1), (150_012, 2), (150_013, 1), (170_004, 2), (180_000, 1)]
    {
        assert_eq!(settle("p", &ops, version).len(), statements, "{version}");
    }
    assert_eq!(settle("p", &ops, 140_000)[0], "ALTER PUBLICATION \"p\" SET (publish = 'insert')");
}
