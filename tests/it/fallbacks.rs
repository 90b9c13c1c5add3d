//! Each thing that leaves the exact keys unknown runs the fallback, and nothing beyond it.

use crate::world::{Plugin, World};

const RULES: &str = r#"
[[rule]]
name = "item"
table = "public.items"
delete = ["item:{id}"]
[[rule]]
name = "note"
table = "public.notes"
delete = ["note:{note}"]
[[rule]]
name = "other"
table = "public.other"
delete = ["other:{id}"]
"#;

const TABLES: &str = "CREATE TABLE items (id int PRIMARY KEY);
    CREATE TABLE notes (id int PRIMARY KEY REFERENCES items, n int, note text);
    CREATE TABLE other (id int PRIMARY KEY);
    INSERT INTO items SELECT generate_series(1, 9)";

#[test]
fn a_truncate_that_cascades_runs_the_fallback_of_each_table_that_it_reaches() {
    let mut world = World::new(TABLES, RULES);
    world.start();
    world.fill(&["item:1", "note:a", "other:1"]);
    world.sql("BEGIN; TRUNCATE items CASCADE; ROLLBACK");
    world.wait_confirmed();
    world.assert_cached(&["item:1", "note:a"]);
    world.sql("TRUNCATE items CASCADE");
    world.wait_gone(&["item:1", "note:a"]);
    world.wait_confirmed();
    world.assert_cached(&["other:1"]);
}

#[test]
fn an_unchanged_large_value_runs_the_fallback_unless_the_identity_carries_it() {
    let mut world = World::new(TABLES, RULES);
    let large = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 500) i)";
    world.sql("ALTER TABLE notes ALTER note SET STORAGE EXTERNAL");
    world.sql(&format!("INSERT INTO notes VALUES (1, 0, {large})"));
    let key = format!("note:{}", world.sql("SELECT note FROM notes").trim());
    world.start();
    world.wait_confirmed();
    world.fill(&["note:short", &key, "other:1"]);
    world.sql("UPDATE notes SET n = 1");
    world.wait_gone(&["note:short", &key]);
    world.wait_for_log("column=\"note\"");
    world.wait_confirmed();
    world.sql("ALTER TABLE notes REPLICA IDENTITY FULL");
    world.fill(&["note:short", &key]);
    world.sql("UPDATE notes SET n = 2");
    world.wait_gone(&[&key]);
    world.wait_confirmed();
    world.assert_cached(&["note:short", "other:1"]);
}

#[test]
fn a_table_with_replica_identity_nothing_runs_its_fallback() {
    let mut world = World::of(Plugin::Wal2json, TABLES, RULES);
    world.sql("ALTER TABLE items REPLICA IDENTITY NOTHING");
    world.start();
    for sql in ["UPDATE items SET id = 11 WHERE id = 1", "DELETE FROM items WHERE id = 2"] {
        world.fill(&["item:1", "item:2", "item:11", "note:a", "other:1"]);
        world.sql(sql);
        world.wait_gone(&["item:1", "item:2", "item:11"]);
    }
    world.wait_confirmed();
    world.assert_cached(&["note:a", "other:1"]);
    // An insert has nothing old.
    world.fill(&["item:1", "item:2"]);
    world.sql("INSERT INTO items VALUES (1)");
    world.wait_gone(&["item:1"]);
    world.wait_confirmed();
    world.assert_cached(&["item:2"]);
}

#[test]
fn a_notice_whose_table_is_in_doubt_runs_all_fallbacks() {
    let rules = RULES.replace("public.other", r#"public."a""b""#).replace('"', "'");
    let rules = rules.replace(r#"public.'a''b'"#, r#"public."a""b""#);
    let mut world = World::of(
        Plugin::Wal2json,
        &format!(r#"{TABLES}; CREATE TABLE "a""b" (id int); INSERT INTO "a""b" VALUES (1)"#),
        &rules,
    );
    world.start();
    world.fill(&["item:1", "note:a", "other:1", "free"]);
    world.sql(r#"UPDATE "a""b" SET id = 2"#);
    world.wait_gone(&["item:1", "note:a", "other:1"]);
    world.wait_for_log("an unknown notice; every rule's fallback runs");
    world.wait_confirmed();
    world.assert_cached(&["free"]);
}

#[test]
fn a_change_that_is_too_large_to_be_read_runs_all_fallbacks() {
    let mut world = World::new(TABLES, RULES);
    world.start();
    world.fill(&["item:1", "note:a", "other:1", "free"]);
    // Twice as many bytes in hexadecimal.
    world.sql("ALTER TABLE other ADD large bytea");
    world.sql("INSERT INTO other SELECT 1, convert_to(repeat('x', 135 * 1024 * 1024), 'UTF8')");
    world.wait_for_log("a change is too large to be read; every rule's fallback runs");
    world.wait_gone(&["item:1", "note:a", "other:1"]);
    world.wait_confirmed();
    world.assert_cached(&["free"]);
    world.fill(&["item:1", "item:20"]);
    world.sql("INSERT INTO items VALUES (20)");
    world.wait_gone(&["item:20"]);
    world.wait_confirmed();
    world.assert_cached(&["item:1"]);
}

#[test]
fn changes_that_wal2json_drops_are_heard_of_whatever_the_role_has_set() {
    let mut world = World::of(Plugin::Wal2json, TABLES, RULES);
    world.sql(
        "ALTER ROLE walpurge SET client_min_messages = error;
         ALTER DATABASE postgres SET client_min_messages = error;
         ALTER ROLE walpurge IN DATABASE postgres SET client_min_messages = error;
         ALTER TABLE items REPLICA IDENTITY NOTHING",
    );
    let url = world.pg.url("walpurge", "postgres");
    world.edit(&url, &format!("{url}?options=-c%20client_min_messages%3Derror"));
    world.start();
    world.fill(&["item:1", "other:1"]);
    world.sql("DELETE FROM items WHERE id = 2");
    world.wait_gone(&["item:1"]);
    world.wait_for_log("wal2json drops updates and deletes of a table");
    world.wait_confirmed();
    world.assert_cached(&["other:1"]);
}

#[test]
fn infinity_and_null_of_a_domain_over_a_float_are_exact() {
    let sql = "CREATE DOMAIN ratio AS float8; CREATE TABLE items (id int PRIMARY KEY, r ratio)";
    let rule = r#"
[[rule]]
table = "public.items"
on = ["insert"]
delete = ["ratio:{r}"]
"#;
    let mut world = World::new(sql, rule);
    world.start();
    world.fill(&["ratio:Infinity", "ratio:NaN", "ratio:1"]);
    world.sql("INSERT INTO items VALUES (1, NULL), (2, 'Infinity')");
    world.wait_gone(&["ratio:Infinity"]);
    world.wait_confirmed();
    world.assert_cached(&["ratio:NaN", "ratio:1"]);
}
