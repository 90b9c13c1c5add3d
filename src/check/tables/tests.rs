#![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

use super::*;
use crate::check::Status::{self, Failed, Ok, Warning};
use crate::config::parse;
use crate::postgres::relations::sample::{self, with};

/// A table `public.NAME` with a primary key `id` and columns `slug` and `price`.
fn table(oid: u32, name: &str) -> Relation {
    sample::table(oid, name, ["id", "slug", "price"])
}

fn without_key(relation: Relation) -> Relation {
    with(relation, |relation| relation.columns[0].is_in_key = false)
}

/// What is found for one rule: status, message and hint.
fn found(rule: &str, relations: &[Relation]) -> Vec<(Status, String, String)> {
    let text = format!(
        "[postgres]\nurl = \"postgres://h/d\"\n[redis.c]\nurl = \"redis://h\"\n[[rule]]\n{rule}"
    );
    let findings =
        tables(&parse("t", &text).unwrap().rules, Plugin::Wal2json, relations, &Shapes::new());
    findings.into_iter().map(|f| (f.status, f.message, f.hint.unwrap_or_default())).collect()
}

#[track_caller]
fn check(rule: &str, relations: &[Relation], expected: &[(Status, &str, &str)]) {
    let found = found(rule, relations);
    let found: Vec<_> = found.iter().map(|(s, m, h)| (*s, m.as_str(), h.as_str())).collect();
    assert_eq!(found, expected, "{rule}");
}

const BY_ID: &str = "table = 'public.products'\ndelete = ['product:{id}']";
const BY_SLUG: &str = "table = 'public.products'\ndelete = ['product:{slug}']";

#[test]
fn a_table_whose_identity_holds_what_the_rule_needs_is_in_order() {
    let products = [table(1, "products")];
    check(BY_ID, &products, &[(Ok, "public.products: replica identity: primary key id", "")]);
    let full = [with(table(1, "products"), |t| t.identity = ReplicaIdentity::Full)];
    check(BY_SLUG, &full, &[(Ok, "public.products: replica identity full", "")]);
    let index = [with(table(1, "products"), |t| {
        t.identity = ReplicaIdentity::Index;
        t.columns[1].is_in_key = true;
    })];
    check(BY_SLUG, &index, &[(Ok, "public.products: replica identity: index on id, slug", "")]);
}

#[test]
fn an_old_value_outside_the_identity_is_a_failure_only_where_the_rule_needs_it() {
    let products = [table(1, "products")];
    let alter = "ALTER TABLE public.products REPLICA IDENTITY FULL;";
    let message = |ops: &str, columns: &str, rest: &str| {
        format!(
            "public.products: no {ops} carries the old value of {columns} \
             (replica identity: primary key id); each one {rest}"
        )
    };
    let runs = "runs the rule's fallback";
    check(BY_SLUG, &products, &[(Failed, &message("UPDATE or DELETE", "slug", runs), alter)]);
    let more = "table = 'public.products'\ndelete = ['product:{slug}:{old.price}:{id}']";
    let expected = message("UPDATE or DELETE", "price, slug", runs);
    check(more, &products, &[(Failed, &expected, alter)]);
    let on_delete = format!("{BY_SLUG}\non = ['insert', 'delete']");
    check(&on_delete, &products, &[(Failed, &message("DELETE", "slug", runs), alter)]);
    let none = format!("{BY_SLUG}\nfallback = 'none'");
    let rest = "invalidates nothing, as the rule has no fallback";
    check(&none, &products, &[(Failed, &message("UPDATE or DELETE", "slug", rest), alter)]);
    for fine in [
        format!("{BY_SLUG}\non = ['insert', 'truncate']"),
        "table = 'public.products'\ndelete = ['product:{new.slug}']".to_owned(),
    ] {
        assert_eq!(found(&fine, &products)[0].0, Ok, "{fine}");
    }
}

#[test]
fn a_table_without_identity_is_a_failure_where_rows_change() {
    let nothing = with(table(1, "products"), |t| t.identity = ReplicaIdentity::Nothing);
    for (relation, identity) in [
        (without_key(table(1, "products")), "no primary key"),
        (without_key(nothing), "replica identity nothing"),
    ] {
        let message = format!(
            "public.products has {identity}: wal2json leaves out every UPDATE or DELETE; \
             each one runs the rule's fallback"
        );
        let relations = [relation];
        let found = found(BY_ID, &relations);
        assert_eq!((found[0].0, &found[0].1), (Failed, &message));
        assert!(found[0].2.starts_with("ALTER TABLE public.products REPLICA IDENTITY FULL;\n"));
        let inserts = format!("{BY_ID}\non = ['insert']");
        assert_eq!(self::found(&inserts, &relations)[0].0, Ok);
    }
}

#[test]
fn what_is_not_there_comes_with_the_nearest_name() {
    let relations = [table(1, "products"), with(table(2, "orders"), |t| t.schema = "shop".into())];
    let missing = |table: &str| format!("table = '{table}'\ndelete = ['abc:{{id}}']");
    for (table, hint) in [
        ("public.product", "did you mean table = \"public.products\"?"),
        ("public.Products", "did you mean table = \"public.products\"?"),
        ("public.orders", "did you mean table = \"shop.orders\"?"),
        ("public.nothing_like_it", "create the table"),
        ("public.x*", "names are exact"),
    ] {
        let found = found(&missing(table), &relations);
        assert_eq!((found.len(), found[0].0), (1, Failed), "{table}");
        assert_eq!(found[0].1, format!("{table}: there is no such table"));
        assert!(found[0].2.starts_with(hint), "{}", found[0].2);
    }
    let found = found("table = 'public.products'\ndelete = ['abc:{slgu}:{nothing}']", &relations);
    let [(Failed, nothing, listed), (Failed, slgu, near)] = &found[..] else { panic!("{found:?}") };
    assert!(nothing.contains("there is no column nothing;"), "{nothing}");
    assert_eq!(listed, "its columns: id, slug, price");
    assert!(slgu.contains("there is no column slgu;"), "{slgu}");
    assert_eq!(near, "did you mean slug?");
}

#[test]
fn a_column_that_only_changed_or_where_names_must_be_there_too() {
    let rule = format!("{BY_ID}\nchanged = ['prize']\nwhere = {{ slug = 'x' }}");
    check(
        &rule,
        &[table(1, "products")],
        &[(
            Failed,
            "public.products: there is no column prize; `changed` and `where` take each change \
             for a match",
            "did you mean price?",
        )],
    );
}

#[test]
fn what_never_reaches_the_log_is_a_failure_unless_a_star_meant_its_tables() {
    let kind = |kind| with(table(1, "products"), |t| t.kind = kind);
    let persistence = |persistence| with(table(1, "products"), |t| t.persistence = persistence);
    for (relation, what, by_star) in [
        (kind(Kind::View), "a view", None),
        (kind(Kind::MaterializedView), "a materialized view", None),
        (kind(Kind::ForeignTable), "a foreign table", None),
        (persistence(Persistence::Temporary), "temporary", None),
        (persistence(Persistence::Unlogged), "unlogged", Some(Warning)),
    ] {
        let relations = [relation, table(2, "other")];
        let found = found(BY_ID, &relations);
        let message =
            format!("public.products is {what}: its changes never reach the write-ahead log");
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0, &found[0].1), (Failed, &message));
        let star = "table = 'public.*'\ndelete = ['abc:{id}']";
        let mut found: Vec<_> = self::found(star, &relations).into_iter().map(|f| f.0).collect();
        assert_eq!(found.pop(), Some(Ok), "the other table is fine");
        assert_eq!(found.pop(), by_star, "{what}");
    }
    let view = [kind(Kind::View)];
    let found = found("table = 'public.*'\ndelete = ['abc:{id}']", &view);
    assert_eq!((found.len(), found[0].0), (1, Failed), "nothing but a view: {found:?}");
}

#[test]
fn a_partitioned_table_is_looked_at_partition_by_partition() {
    let part = |oid, name: &str, parent| with(table(oid, name), |t| t.parent = Some(parent));
    let whole =
        |oid, name: &str| without_key(with(table(oid, name), |t| t.kind = Kind::Partitioned));
    let inner = with(whole(4, "orders_b"), |t| t.parent = Some(3));
    let good = [part(5, "orders_b1", 4), whole(3, "orders"), inner, part(6, "orders_a", 3)];
    let rule = |table: &str| format!("table = {table}\ndelete = ['abc:{{id}}']");
    let all = found(&rule("'public.orders'"), &good);
    assert_eq!((all.len(), all[0].0), (1, Ok), "{all:?}");
    assert!(all[0].1.ends_with("public.orders: partitioned: 2 partitions now"), "{all:?}");
    let all = found(&rule("['public.orders', 'public.orders_*']"), &good);
    assert!(all.iter().all(|found| found.0 == Ok), "{all:?}");

    // Each partition has a replica identity of its own.
    let bad = [whole(3, "orders"), part(4, "orders_a", 3), without_key(part(5, "orders_b", 3))];
    let all = found(&rule("'public.orders'"), &bad);
    assert_eq!((all.len(), all[0].0), (1, Failed), "{all:?}");
    assert!(all[0].1.contains("public.orders_b"), "{all:?}");

    let none = found(&rule("'public.orders'"), &[whole(3, "orders")]);
    assert_eq!(none[0].0, Ok, "its partitions may still come: {none:?}");
}

#[test]
fn a_virtual_column_is_never_logged() {
    let products = [with(table(1, "products"), |t| t.columns[1].generated = Generated::Virtual)];
    let found = found(BY_SLUG, &products);
    assert_eq!((found.len(), found[0].0), (1, Failed), "{found:?}");
    assert!(found[0].1.contains("column slug is computed when it is read"), "{found:?}");
}

#[test]
fn a_pattern_counts_the_tables_that_are_in_order() {
    let relations = [table(1, "a"), table(2, "b"), without_key(table(3, "c"))];
    let found = found("table = 'public.*'\ndelete = ['abc:{id}']", &relations);
    assert_eq!((found[0].0, found.len()), (Failed, 2));
    assert_eq!(found[1].1, "public.*: 2 tables in order");
}
