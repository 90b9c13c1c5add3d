//! The main job: a committed row change removes its Redis keys.

use crate::world::{Plugin, World};

pub const PRODUCTS: &str = "CREATE TABLE products (id bigint PRIMARY KEY, slug text, category int);
    ALTER TABLE products REPLICA IDENTITY FULL;
    INSERT INTO products VALUES (1, 'one', 7), (2, 'two', 7), (3, 'three', 8)";

pub const RULE: &str = r#"
[[rule]]
name = "product"
table = "public.products"
delete = ["product:{id}", "product:slug:{slug}"]
"#;

#[test]
fn insert_update_and_delete_remove_their_keys_and_no_others() {
    let mut world = World::new(PRODUCTS, RULE);
    world.start();
    world.fill(&["product:1", "product:2", "product:3", "product:4", "product:slug:two"]);
    world.sql("INSERT INTO products VALUES (4, 'four', 7)");
    world.wait_gone(&["product:4"]);
    world.sql("UPDATE products SET category = 5 WHERE id = 1");
    world.wait_gone(&["product:1"]);
    world.sql("DELETE FROM products WHERE id = 2");
    world.wait_gone(&["product:2", "product:slug:two"]);
    world.wait_confirmed();
    world.assert_cached(&["product:3"]);
    world.stop();
}

#[test]
fn a_row_that_moves_invalidates_both_places() {
    let mut world = World::new(PRODUCTS, RULE);
    world.start();
    let keys = ["product:1", "product:9", "product:slug:one", "product:slug:nine"];
    world.fill(&keys);
    world.fill(&["product:slug:two"]);
    world.sql("UPDATE products SET id = 9, slug = 'nine' WHERE id = 1");
    world.wait_gone(&keys);
    world.wait_confirmed();
    world.assert_cached(&["product:slug:two"]);
}

#[test]
fn only_what_commits_counts() {
    let mut world = World::new(PRODUCTS, RULE);
    world.start();
    world.fill(&["product:1", "product:2", "product:3"]);
    world.sql("BEGIN; UPDATE products SET category = 0 WHERE id = 1; ROLLBACK");
    world.sql(
        "BEGIN;
         UPDATE products SET category = 1 WHERE id = 2;
         SAVEPOINT a; UPDATE products SET category = 2 WHERE id = 3; ROLLBACK TO a;
         SAVEPOINT b; INSERT INTO products VALUES (10, 'ten', 1); RELEASE b;
         COMMIT",
    );
    world.fill(&["product:10"]);
    world.wait_gone(&["product:2"]);
    world.wait_confirmed();
    world.assert_cached(&["product:1", "product:3"]);
}

#[test]
fn a_subtransaction_counts_when_its_parent_commits() {
    let mut world = World::new(PRODUCTS, RULE);
    world.fill(&["product:1", "product:2"]);
    world.start();
    world.sql(
        "BEGIN; UPDATE products SET category = 1 WHERE id = 1;
         SAVEPOINT a; UPDATE products SET category = 1 WHERE id = 2; RELEASE a; COMMIT",
    );
    world.wait_gone(&["product:1", "product:2"]);
}

#[test]
fn a_prepared_transaction_counts_when_it_is_committed() {
    let mut world = World::new(PRODUCTS, RULE);
    world.start();
    world.fill(&["product:1", "product:2", "product:3"]);
    world.sql("BEGIN; UPDATE products SET category = 1 WHERE id = 1; PREPARE TRANSACTION 'p'");
    world.sql("BEGIN; UPDATE products SET category = 1 WHERE id = 2; PREPARE TRANSACTION 'q'");
    world.sql("UPDATE products SET category = 1 WHERE id = 3");
    world.wait_gone(&["product:3"]);
    world.wait_confirmed();
    world.assert_cached(&["product:1", "product:2"]);
    world.sql("COMMIT PREPARED 'p'");
    world.sql("ROLLBACK PREPARED 'q'");
    world.wait_gone(&["product:1"]);
    world.wait_confirmed();
    world.assert_cached(&["product:2"]);
}

#[test]
fn a_transaction_of_many_rows_and_tables_removes_all_their_keys() {
    let sql = "CREATE TABLE a (id int PRIMARY KEY); CREATE SCHEMA s; CREATE TABLE s.b (id int PRIMARY KEY);
        CREATE TABLE other (id int PRIMARY KEY); CREATE TABLE a_2026 (id int PRIMARY KEY)";
    let rules = r#"
[[rule]]
table = "public.a"
delete = ["tab:{id}"]
[[rule]]
table = ["s.*", "public.a_*"]
delete = ["{$schema}:{$table}:{id}"]
fallback = "none"
[[rule]]
table = "public.other"
enabled = false
delete = ["other:{id}"]
"#;
    let mut world = World::new(sql, rules);
    world.start();
    let a: Vec<String> = (1..=5000).map(|id| format!("tab:{id}")).collect();
    let keys: Vec<&str> =
        a.iter().map(String::as_str).chain(["s:b:1", "public:a_2026:1"]).collect();
    world.fill(&keys);
    world.fill(&["other:1", "tab:0"]);
    world.sql(
        "BEGIN; INSERT INTO a SELECT generate_series(1, 5000); INSERT INTO s.b VALUES (1);
         INSERT INTO other VALUES (1); INSERT INTO a_2026 VALUES (1); COMMIT",
    );
    world.wait_gone(&keys);
    world.wait_confirmed();
    world.assert_cached(&["other:1", "tab:0"]);
}

#[test]
fn composite_keys_and_odd_names_and_values_are_exact() {
    let sql = r#"CREATE TABLE "Ödd, ""Näme"".*" ("First Name" text, "日本" text, n int,
        PRIMARY KEY ("First Name", "日本", n))"#;
    let rules = r#"
[[rule]]
table = 'public."Ödd, ""Näme"".*"'
delete = ['odd:{"First Name"}:{日本}:{n}']
"#;
    let mut world = World::new(sql, rules);
    world.start();
    let values = ["plain", "two words", "a\nb\tc", "*", "{x}", "é\u{1F600}\"'\\", "", "?[a]:"];
    let key = |value: &str| format!("odd:{value}:{value}{value}:1");
    let keys: Vec<String> = values.iter().map(|value| key(value)).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    world.fill(&keys);
    world.fill(&["odd:untouched", "odd:a:aa:2"]);
    for value in values {
        let quoted = value.replace('\'', "''");
        world.sql(&format!(
            r#"INSERT INTO "Ödd, ""Näme"".*" VALUES ('{quoted}', '{quoted}{quoted}', 1)"#
        ));
    }
    world.wait_gone(&keys);
    world.wait_confirmed();
    world.assert_cached(&["odd:untouched", "odd:a:aa:2"]);
}

#[test]
fn every_common_type_enters_a_key_as_postgres_prints_it() {
    let sql = "CREATE TYPE mood AS ENUM ('happy', 'so so');
        CREATE DOMAIN sku AS text;
        CREATE TABLE types (id int PRIMARY KEY, bigint_min bigint, bigint_max bigint, num numeric,
            big_num numeric, f8 double precision, f4 real, uid uuid, txt text, chr char(4),
            tstz timestamptz, ts timestamp, day date, clock time, span interval, yes boolean,
            nope boolean, bin bytea, feeling mood, doc jsonb, js json, list int[], net inet,
            dom sku, cash numeric(10, 2));";
    let columns = [
        ("bigint_min", "-9223372036854775808", "-9223372036854775808"),
        ("bigint_max", "9223372036854775807", "9223372036854775807"),
        ("num", "1.10", "1.10"),
        ("big_num", "12345678901234567890.123000", "12345678901234567890.123000"),
        ("f8", "0.1", "0.1"),
        ("f4", "1e+20", "1e+20"),
        ("uid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("txt", "E'two words\\n* tab\\t{x}'", "two words\n* tab\t{x}"),
        ("chr", "'ab'", "ab  "),
        ("tstz", "'2026-11-21 03:04:05.6789+02'", "2026-11-21 01:04:05.6789+00"),
        ("ts", "'2026-11-21 03:04:05'", "2026-11-21 03:04:05"),
        ("day", "'2026-11-21'", "2026-11-21"),
        ("clock", "'03:04:05'", "03:04:05"),
        ("span", "'1 day 2 hours'", "1 day 02:00:00"),
        ("yes", "true", "true"),
        ("nope", "false", "false"),
        ("bin", "'\\xdeadBEEF00'", "deadbeef00"),
        ("feeling", "'so so'", "so so"),
        ("doc", "'{\"b\": 1.10, \"a\": [1]}'", "{\"a\": [1], \"b\": 1.10}"),
        ("js", "'{\"b\":1}'", "{\"b\":1}"),
        ("list", "'{1,2,NULL}'", "{1,2,NULL}"),
        ("net", "'10.0.0.1/8'", "10.0.0.1/8"),
        ("dom", "'x-1'", "x-1"),
        ("cash", "5", "5.00"),
    ];
    let templates: Vec<String> =
        columns.iter().map(|(name, ..)| format!("\"{name}:{{{name}}}\"")).collect();
    let rules = format!(
        "[[rule]]\ntable = \"public.types\"\non = [\"insert\"]\nfallback = \"none\"\ndelete = [{}]",
        templates.join(", ")
    );
    let mut world = World::new(sql, &rules);
    // Settings of the role or the database must not change how values print.
    world.sql(
        "ALTER ROLE walpurge SET datestyle = 'German';
         ALTER ROLE walpurge SET timezone = 'Asia/Tokyo';
         ALTER ROLE walpurge SET intervalstyle = 'iso_8601';
         ALTER ROLE walpurge SET extra_float_digits = -15;
         ALTER ROLE walpurge SET bytea_output = 'escape'",
    );
    world.start();
    let keys: Vec<String> =
        columns.iter().map(|(name, _, text)| format!("{name}:{text}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    world.fill(&keys);
    let names: Vec<&str> = columns.iter().map(|(name, ..)| *name).collect();
    let values: Vec<&str> = columns.iter().map(|(_, value, _)| *value).collect();
    world.sql(&format!(
        "INSERT INTO types (id, {}) VALUES (1, {})",
        names.join(", "),
        values.join(", ")
    ));
    world.wait_gone(&keys);
}

#[test]
fn null_skips_its_action_and_no_other() {
    let mut world = World::new(PRODUCTS, RULE);
    world.start();
    world.fill(&["product:5", "product:slug:", "product:slug:null"]);
    world.sql("INSERT INTO products VALUES (5, NULL, 1)");
    world.wait_gone(&["product:5"]);
    world.wait_confirmed();
    world.assert_cached(&["product:slug:", "product:slug:null"]);
}

#[test]
fn the_old_and_the_new_row_can_be_picked() {
    let rule = r#"
[[rule]]
table = "public.products"
delete = ["was:{old.slug}", "is:{new.slug}"]
"#;
    let mut world = World::new(PRODUCTS, rule);
    world.start();
    world.fill(&["was:one", "is:one", "was:uno", "is:uno", "was:three", "is:three"]);
    world.sql("UPDATE products SET slug = 'uno' WHERE id = 1; DELETE FROM products WHERE id = 3");
    world.wait_gone(&["was:one", "is:uno", "was:three"]);
    world.wait_confirmed();
    world.assert_cached(&["is:one", "was:uno", "is:three"]);
}

#[test]
fn counters_are_bumped_and_tags_invalidated_for_both_places() {
    let rule = r#"
[[rule]]
table = "public.products"
bump = ["category:{category}:version"]
tags = ["category:{category}"]
"#;
    let mut world = World::new(PRODUCTS, rule);
    world.start();
    let version = |world: &World, category: u32| -> u64 {
        world
            .redis
            .get(&format!("category:{category}:version"))
            .unwrap_or("0".into())
            .parse()
            .unwrap()
    };
    for category in ["7", "8", "9"] {
        world.redis.set(&format!("category:{category}:version"), "5");
        let page = format!("page:{category}");
        world.fill(&[&page]);
        world.redis.cmd(&["SADD", &format!("tags:category:{category}"), &page]);
    }
    world.sql("UPDATE products SET category = 8 WHERE id = 1");
    world.wait_gone(&["page:7", "page:8", "tags:category:7", "tags:category:8"]);
    world.wait_confirmed();
    assert!(version(&world, 7) > 5 && version(&world, 8) > 5);
    assert_eq!(version(&world, 9), 5);
    world.assert_cached(&["page:9", "tags:category:9"]);
}

#[test]
fn truncate_runs_the_derived_fallback() {
    let rule = r#"
[[rule]]
table = "public.products"
delete = ["product:{id}", "p[*]:{slug}:x", "home"]
bump = ["category:{category}:version"]
tags = ["category:{category}"]
"#;
    let mut world = World::new(PRODUCTS, rule);
    world.start();
    let gone = ["product:1", "product:99", "p[*]:a:x", "home", "page:7", "tags:category:7"];
    world.fill(&gone[..5]);
    world.redis.cmd(&["SADD", "tags:category:7", "page:7"]);
    world.redis.set("category:7:version", "5");
    world.fill(&["products", "pa:a:x", "p[*]:a:y", "tags:other"]);
    world.sql("TRUNCATE products");
    world.wait_gone(&gone);
    world.wait_confirmed();
    world.assert_cached(&["products", "pa:a:x", "p[*]:a:y", "tags:other"]);
    assert!(world.redis.get("category:7:version").unwrap().parse::<u64>().unwrap() > 5);
}

#[test]
fn an_old_value_that_the_identity_does_not_carry_runs_the_fallback() {
    let sql = "CREATE TABLE products (id bigint PRIMARY KEY, slug text);
        INSERT INTO products VALUES (1, 'one')";
    let mut world = World::new(sql, RULE);
    world.start();
    world.fill(&["product:slug:one", "product:slug:uno", "other"]);
    world.sql("UPDATE products SET slug = 'uno'");
    world.wait_gone(&["product:slug:one", "product:slug:uno"]);
    world.wait_confirmed();
    world.assert_cached(&["other"]);
}

#[test]
fn a_change_that_wal2json_drops_runs_the_fallback_of_its_table() {
    let sql = "CREATE TABLE np (id bigint); INSERT INTO np SELECT generate_series(1, 100);
        CREATE TABLE other (id bigint PRIMARY KEY)";
    let rules = r#"
[[rule]]
table = "public.np"
delete = ["nop:{id}"]
[[rule]]
table = "public.other"
delete = ["other:{id}"]
"#;
    let mut world = World::of(Plugin::Wal2json, sql, rules);
    world.start();
    world.fill(&["nop:1", "nop:2", "other:1"]);
    world.sql("UPDATE np SET id = id + 1");
    world.wait_gone(&["nop:1", "nop:2"]);
    world.wait_confirmed();
    world.assert_cached(&["other:1"]);
    assert_eq!(world.log().matches("REPLICA IDENTITY").count(), 1, "one warning for the table");
}

#[test]
fn a_dry_run_logs_actions_and_changes_nothing() {
    let mut world = World::new(PRODUCTS, RULE);
    world.fill(&["product:1"]);
    let before = world.pg.confirmed_flush_lsn("walpurge");
    world.sql("UPDATE products SET category = 5 WHERE id = 1");
    world.spawn(&["run", "--dry-run"]);
    world.wait_for_log("product:1");
    world.stop();
    world.assert_cached(&["product:1"]);
    assert_eq!(world.pg.confirmed_flush_lsn("walpurge"), before);
    let slots = world.sql("SELECT count(*) FROM pg_replication_slots");
    assert_eq!(slots.trim(), "1");
}

#[test]
fn a_sink_that_needs_a_password_a_prefix_and_the_least_rights_works() {
    let redis = testkit::redis::Redis::builder()
        .acl("walpurge on >s3cret ~app:* +ping +info +client|setname +unlink +multi +set +incr +exec")
        .start();
    let pg = testkit::postgres::Postgres::start();
    let rule = r#"
[[rule]]
table = "public.products"
delete = ["product:{id}"]
bump = ["versions:{id}"]
"#;
    let mut world = World::with(pg, redis, PRODUCTS, rule);
    let url = world.redis.url();
    let with_user = url.replace("redis://", "redis://walpurge:s3cret@");
    world.edit(&format!("{url}\""), &format!("{with_user}\"\nprefix = \"app:\""));
    world.start();
    world.fill(&["app:product:1", "product:1"]);
    world.sql("UPDATE products SET category = 5 WHERE id = 1");
    world.wait_gone(&["app:product:1"]);
    world.wait_confirmed();
    world.assert_cached(&["product:1", "app:versions:1"]);
    assert!(!world.log().contains("s3cret"));
}

#[test]
fn fallbacks_that_every_update_asks_for_run_once_in_a_while() {
    let sql = "CREATE TABLE products (id bigint PRIMARY KEY, slug text);
        INSERT INTO products VALUES (1, 'one')";
    let mut world = World::new(sql, RULE);
    world.start();
    world.fill(&["product:slug:one"]);
    for _ in 0..50 {
        world.sql("UPDATE products SET slug = slug || 'x'");
    }
    world.wait_gone(&["product:slug:one"]);
    // What came after the first scan is scanned for as well, and only then confirmed.
    world.fill(&["product:slug:two"]);
    world.wait_confirmed();
    world.wait_gone(&["product:slug:two"]);
    let stats = world.redis.cli(&["INFO", "commandstats"]);
    let line = stats.lines().find(|line| line.starts_with("cmdstat_scan:")).expect("scans");
    let calls: u32 = line.split(['=', ',']).nth(1).unwrap().parse().unwrap();
    assert!((2..=8).contains(&calls), "{calls} scans for 50 updates");
    let warnings = world.log().matches("a rule needs a value").count();
    assert_eq!(warnings, 1, "{}", world.news());
}

#[test]
fn a_number_that_becomes_null_or_nan_counts_as_changed() {
    let sql = "CREATE TABLE m (id int PRIMARY KEY, n numeric);
        ALTER TABLE m REPLICA IDENTITY FULL;
        INSERT INTO m VALUES (1, 5), (2, 5)";
    let rule = r#"
[[rule]]
table = "public.m"
changed = ["n"]
delete = ["mmm:{id}"]
"#;
    let mut world = World::new(sql, rule);
    world.start();
    world.wait_confirmed();
    world.fill(&["mmm:1", "mmm:2", "mmm:3"]);
    world.sql("UPDATE m SET n = NULL WHERE id = 1; UPDATE m SET n = 'NaN' WHERE id = 2");
    world.wait_gone(&["mmm:1", "mmm:2"]);
    world.assert_cached(&["mmm:3"]);
}

#[test]
fn nan_and_infinity_which_print_as_null_are_not_taken_for_it() {
    let sql = "CREATE DOMAIN ratio AS float8;
        CREATE TABLE m (id int PRIMARY KEY, f float8, n numeric, r ratio, t text)";
    let rule = r#"
[[rule]]
table = "public.m"
on = ["insert"]
delete = ["fff:{f}", "nnn:{n}", "rrr:{r}", "ttt:{t}"]
"#;
    let mut world = World::of(Plugin::Wal2json, sql, rule);
    world.start();
    world.fill(&["fff:NaN", "nnn:NaN", "rrr:Infinity", "ttt:kept"]);
    world.sql("INSERT INTO m VALUES (1, 1, 1, 1, NULL)");
    world.wait_confirmed();
    world.assert_cached(&["fff:NaN", "nnn:NaN", "rrr:Infinity", "ttt:kept"]);
    world.sql("INSERT INTO m VALUES (2, 'NaN', 1, 1, 'x')");
    world.wait_gone(&["fff:NaN", "nnn:NaN", "rrr:Infinity"]);
    // A table that is made later is not known, so that its NULLs are not believed.
    world.fill(&["fff:NaN"]);
    world.sql(
        "DROP TABLE m; CREATE TABLE m (id int PRIMARY KEY, g int, f float8, n int, r int, t int);
         INSERT INTO m VALUES (1, 1, 'NaN', 1, 1, 1)",
    );
    world.wait_gone(&["fff:NaN"]);
}
