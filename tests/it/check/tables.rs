//! What is found about tables.

use super::{RULE, Scene, pg};

/// A scene with many tables and a slot; the rules come with each test.
fn scene(sql: &str) -> Scene {
    let scene = Scene::with(pg().start(), "");
    scene.sql(sql);
    scene.sql("SELECT pg_create_logical_replication_slot('walpurge', 'wal2json')");
    scene
}

fn rule(name: &str, table: &str, template: &str) -> String {
    format!("[[rule]]\nname = '{name}'\ntable = '{table}'\ndelete = ['key:{template}']\n")
}

#[test]
fn tables_that_never_reach_the_log_fail() {
    let mut scene = scene(
        "CREATE TABLE t (id int PRIMARY KEY);
         CREATE VIEW v AS SELECT * FROM t;
         CREATE MATERIALIZED VIEW m AS SELECT * FROM t;
         CREATE UNLOGGED TABLE u (id int PRIMARY KEY);
         CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;
         CREATE FOREIGN TABLE f (id int) SERVER s;
         CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE p_low PARTITION OF p FOR VALUES FROM (0) TO (10);
         CREATE TABLE p_high PARTITION OF p FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id);
         CREATE TABLE p_high_1 PARTITION OF p_high FOR VALUES FROM (10) TO (20)",
    );
    for (table, message) in [
        ("public.v", "a view"),
        ("public.m", "a materialized view"),
        ("public.u", "unlogged"),
        ("public.f", "a foreign table"),
        ("public.tt", "there is no such table"),
    ] {
        scene.config.push_str(&rule(table, table, "{id}"));
        let findings = scene.findings();
        let failed = findings.one("failed", &format!("rule {table}"));
        assert!(failed.message.contains(message), "{failed:?}");
        assert_eq!(findings.code, 1);
    }
    let findings = scene.findings();
    assert_eq!(findings.one("failed", "rule public.u").hint, "ALTER TABLE public.u SET LOGGED;");

    // What the hints say is in order.
    let start = scene.config.find("[[rule]]").unwrap();
    scene.config.truncate(start);
    scene.sql("ALTER TABLE u SET LOGGED");
    for table in ["public.u", "public.p", "public.p_high", "public.p_*", "public.t"] {
        scene.config.push_str(&rule(table, table, "{id}"));
    }
    let findings = scene.findings();
    assert_eq!(findings.subjects("failed"), [""; 0], "{:#?}", findings.list);
}

#[test]
fn a_partition_without_identity_is_found_through_its_partitioned_table() {
    let mut scene = scene(
        "CREATE TABLE p (id int, n int) PARTITION BY RANGE (id);
         CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (10);
         CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (10) TO (20);
         ALTER TABLE p_2 REPLICA IDENTITY FULL",
    );
    scene.config.push_str(&rule("p", "public.p", "{n}"));
    let findings = scene.findings();
    let failed = findings.one("failed", "rule p");
    assert!(failed.message.contains("public.p_1 has no primary key"), "{failed:?}");
    scene.sql(failed.hint.lines().next().expect("a line of SQL"));
    let findings = scene.findings();
    assert_eq!(findings.subjects("failed"), [""; 0], "{:#?}", findings.list);
}

#[test]
fn the_line_that_is_shown_for_an_old_value_mends_it() {
    let mut scene = Scene::new();
    scene.sql("CREATE TABLE \"Odd name\" (id int PRIMARY KEY, slug text)");
    scene.config = scene.config.replace(RULE, "");
    for table in ["products", "Odd name"] {
        scene.config.push_str(&rule(table, &format!("public.{table}"), "{slug}"));
    }
    let checked = scene.check(&[]);
    assert_eq!(checked.code, 1, "{}", checked.out);
    let message = "✗ rule products: public.products: no UPDATE or DELETE carries the old value of \
                   slug (replica identity: primary key id); each one runs the rule's fallback\n  \
                   → ALTER TABLE public.products REPLICA IDENTITY FULL;\n";
    assert!(checked.out.contains(message), "{}", checked.out);
    let lines = checked.out.lines().filter_map(|line| line.strip_prefix("  → "));
    let lines: Vec<_> = lines.filter(|line| line.starts_with("ALTER TABLE")).collect();
    assert_eq!(lines.len(), 2, "{}", checked.out);
    for line in lines {
        scene.sql(line);
    }
    let checked = scene.check(&["--strict"]);
    assert_eq!(checked.code, 0, "{}", checked.out);
}

#[test]
fn a_column_that_is_not_there_fails_with_the_nearest() {
    let mut scene = Scene::new();
    scene.edit("product:{id}", "product:{idd}");
    let findings = scene.findings();
    let failed = findings.one("failed", "rule product");
    assert!(failed.message.contains("there is no column idd"), "{failed:?}");
    assert_eq!(failed.hint, "did you mean id?");
}

#[test]
fn a_table_without_identity_fails_until_it_has_one() {
    let scene = Scene::new();
    scene.sql("ALTER TABLE products DROP CONSTRAINT products_pkey");
    let findings = scene.findings();
    let failed = findings.one("failed", "rule product");
    assert!(failed.message.contains("no primary key: wal2json leaves out"), "{failed:?}");
    scene.sql(failed.hint.lines().next().unwrap());
    assert_eq!(scene.check(&["--strict"]).code, 0);
}

/// Every way to have an identity, with whether wal2json sends `slug` of a deleted row.
#[test]
fn the_verdict_on_an_identity_is_what_wal2json_sends() {
    const TABLES: [(&str, &str); 10] = [
        ("key", "id int PRIMARY KEY, slug text NOT NULL"),
        ("wide_key", "id int, slug text NOT NULL, PRIMARY KEY (id, slug)"),
        ("including", "id int, slug text NOT NULL, PRIMARY KEY (id) INCLUDE (slug)"),
        ("late", "id int, slug text NOT NULL PRIMARY KEY DEFERRABLE"),
        ("unique_only", "id int, slug text NOT NULL UNIQUE"),
        ("no_key", "id int, slug text NOT NULL"),
        ("full", "id int PRIMARY KEY, slug text NOT NULL"),
        ("nothing", "id int, slug text NOT NULL PRIMARY KEY"),
        ("by_index", "id int PRIMARY KEY, slug text NOT NULL UNIQUE"),
        ("dropped", "gone int, id int, slug text NOT NULL PRIMARY KEY"),
    ];
    let mut scene = scene("SELECT 1");
    for (name, columns) in TABLES {
        scene.sql(&format!("CREATE TABLE \"{name}\" ({columns})"));
        scene.config.push_str(&rule(name, &format!("public.{name}"), "{slug}"));
    }
    scene.sql(
        "ALTER TABLE \"full\" REPLICA IDENTITY FULL; ALTER TABLE nothing REPLICA IDENTITY NOTHING;
         ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_slug_key;
         ALTER TABLE dropped DROP COLUMN gone",
    );
    for (name, _) in TABLES {
        scene.sql(&format!(
            "INSERT INTO \"{name}\" (id, slug) VALUES (1, 'a'); DELETE FROM \"{name}\""
        ));
    }
    let changes = scene.sql(
        "SELECT data FROM pg_logical_slot_peek_changes('walpurge', NULL, NULL, \
         'format-version', '2', 'actions', 'delete')",
    );
    let sends_slug = |table: &str| {
        changes.lines().any(|line| {
            let change: serde_json::Value = serde_json::from_str(line).unwrap();
            let mut identity = change["identity"].as_array().into_iter().flatten();
            change["action"] == "D"
                && change["table"] == table
                && identity.any(|column| column["name"] == "slug")
        })
    };
    let findings = scene.findings();
    let failed = findings.subjects("failed");
    let sent: Vec<_> = TABLES.iter().filter(|(name, _)| sends_slug(name)).map(|t| t.0).collect();
    assert_eq!(sent, ["wide_key", "full", "by_index", "dropped"]);
    for (name, _) in TABLES {
        let is_failed = failed.contains(&format!("rule {name}").as_str());
        assert_eq!(is_failed, !sends_slug(name), "{name}: {:#?}", findings.list);
    }
}
