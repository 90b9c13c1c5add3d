//! What the event triggers tell the daemon, and which keys go for it.

use super::done;
use crate::world::World;

const TABLES: &str = "CREATE TABLE products (id int PRIMARY KEY, slug text, price int);
    INSERT INTO products VALUES (1, 'one', 7);
    CREATE TABLE orders (id int, day int, note text, PRIMARY KEY (id, day))
        PARTITION BY RANGE (day);
    CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (10);
    CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (10) TO (30)
        PARTITION BY RANGE (day);
    CREATE TABLE orders_2_1 PARTITION OF orders_2 FOR VALUES FROM (10) TO (20);
    INSERT INTO orders VALUES (1, 5), (2, 15);
    CREATE TABLE orders_old (id int, day int, note text, PRIMARY KEY (id, day));
    INSERT INTO orders_old VALUES (3, 35);
    CREATE TABLE events (id int, day int) PARTITION BY RANGE (day);
    CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (10);
    CREATE SCHEMA shop; CREATE TABLE shop.carts (id int PRIMARY KEY);
    CREATE SCHEMA shop_new; CREATE TABLE shop_new.carts (id int PRIMARY KEY);
    CREATE TYPE mood AS ENUM ('glad');
    CREATE TABLE people (id int PRIMARY KEY, mood mood);
    CREATE TABLE \"we\"\"ird.na*me\nx\" (id int PRIMARY KEY);
    CREATE ROLE app LOGIN; GRANT CREATE ON SCHEMA public TO app;
    GRANT CREATE ON DATABASE postgres TO app;
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT oid::regclass FROM pg_class WHERE relkind IN ('r', 'p')
            AND relnamespace::regnamespace::text IN ('public', 'shop', 'shop_new') LOOP
            EXECUTE format('ALTER TABLE %s OWNER TO app', name);
        END LOOP;
    END $$;
    ALTER TYPE mood OWNER TO app;
    ALTER SCHEMA shop OWNER TO app; ALTER SCHEMA shop_new OWNER TO app";

const RULES: &str = r#"
[[rule]]
table = "public.products"
delete = ["product:{id}"]
[[rule]]
name = "new products"
table = "public.products"
on = ["insert"]
delete = ["missing:{id}"]
[[rule]]
table = "public.orders"
delete = ["order:{id}"]
[[rule]]
table = "public.orders_2_1"
delete = ["leaf:{id}"]
[[rule]]
table = "public.events"
delete = ["event:{id}"]
[[rule]]
table = "shop.carts"
delete = ["cart:{id}"]
[[rule]]
table = "public.people"
delete = ["person:{id}"]
[[rule]]
table = "public.\"we\"\"ird.na*me\nx\""
delete = ["weird:{id}"]
"#;

const KEYS: [&str; 8] =
    ["product:0", "missing:0", "order:0", "leaf:0", "event:0", "cart:0", "person:0", "weird:0"];

/// A daemon that follows a database with the event triggers.
fn world() -> World {
    let mut world = World::new(TABLES, RULES);
    install(&world);
    world.start();
    world
}

fn install(world: &World) {
    world.sql(&done(world, &["setup", "--ddl", "--print"]));
}

/// Runs SQL as a role without any right but to its tables: these keys go, and no others.
#[track_caller]
fn check(world: &World, sql: &str, gone: &[&str]) {
    world.fill(&KEYS);
    world.pg.psql_as("app", "postgres", sql);
    world.wait_gone(gone);
    world.wait_confirmed();
    let kept: Vec<_> = KEYS.into_iter().filter(|key| !gone.contains(key)).collect();
    world.assert_cached(&kept);
}

#[test]
fn ddl_on_a_table_runs_the_fallbacks_of_its_rules_alone() {
    let mut world = world();
    let products = &["product:0", "missing:0"];
    for sql in [
        "ALTER TABLE products ALTER COLUMN slug TYPE text USING upper(slug)",
        "ALTER TABLE products ALTER COLUMN price TYPE bigint",
        "ALTER TABLE products ADD COLUMN stock int DEFAULT 3",
        "ALTER TABLE products RENAME COLUMN stock TO amount",
        "ALTER TABLE products DROP COLUMN amount",
        "BEGIN; SAVEPOINT a; ALTER TABLE products ADD COLUMN b int; RELEASE a; COMMIT",
        "DO $$ BEGIN ALTER TABLE products DROP COLUMN b; END $$",
        // One table takes another one's place.
        "BEGIN; CREATE TABLE products_new (LIKE products INCLUDING ALL);
         ALTER TABLE products RENAME TO products_old;
         ALTER TABLE products_new RENAME TO products; COMMIT",
        "DROP TABLE products",
    ] {
        check(&world, sql, products);
    }
    check(&world, "DROP TYPE mood CASCADE", &["person:0"]);
    check(
        &world,
        "BEGIN; ALTER SCHEMA shop RENAME TO shop_old; ALTER SCHEMA shop_new RENAME TO shop; COMMIT",
        &["cart:0"],
    );
    check(&world, "DROP SCHEMA shop CASCADE", &["cart:0"]);
    let weird = "\"we\"\"ird.na*me\nx\"";
    check(&world, &format!("ALTER TABLE {weird} ADD COLUMN b int"), &["weird:0"]);
    check(&world, &format!("DROP TABLE {weird}"), &["weird:0"]);
    world.stop();
}

#[test]
fn ddl_that_concerns_no_rule_removes_nothing() {
    let mut world = world();
    for sql in [
        "BEGIN; DROP TABLE products; ROLLBACK",
        "BEGIN; SAVEPOINT a; DROP TABLE products; ROLLBACK TO a; COMMIT",
        "CREATE TEMP TABLE products (id int); ALTER TABLE products ADD COLUMN b int;
         DROP TABLE products",
        "CREATE UNLOGGED TABLE scratch (id int); ALTER TABLE scratch ADD COLUMN b int",
        "CREATE TABLE plain (id int); ALTER TABLE plain ADD COLUMN b int",
        "CREATE VIEW v AS SELECT 1 AS a; ALTER VIEW v RENAME TO w; DROP VIEW w",
        "CREATE INDEX CONCURRENTLY i ON people (id); DROP INDEX CONCURRENTLY i",
        "ALTER TABLE products RENAME CONSTRAINT products_pkey TO pkey",
        "CREATE SCHEMA other; CREATE TABLE other.products (id int); DROP SCHEMA other CASCADE",
    ] {
        check(&world, sql, &[]);
    }
    world.stop();
}

#[test]
fn partitions_that_come_and_go_run_the_rules_on_all_that_they_are_part_of() {
    let mut world = world();
    let (orders, with_leaf) = (&["order:0"][..], &["order:0", "leaf:0"][..]);
    // Altering what has partitions may change the rows of each.
    check(
        &world,
        "ALTER TABLE orders ATTACH PARTITION orders_old FOR VALUES FROM (30) TO (40)",
        with_leaf,
    );
    // What is written to it from now on counts, row by row.
    world.fill(&["order:3", "order:0"]);
    world.sql("UPDATE orders SET note = 'x' WHERE id = 3");
    world.wait_gone(&["order:3"]);
    world.wait_confirmed();
    world.assert_cached(&["order:0"]);
    check(&world, "ALTER TABLE orders DETACH PARTITION orders_1", with_leaf);
    check(&world, "DROP TABLE orders_1", &[]);
    check(&world, "ALTER TABLE orders ALTER COLUMN note TYPE varchar(20)", with_leaf);
    check(&world, "ALTER TABLE orders DETACH PARTITION orders_old CONCURRENTLY", with_leaf);
    check(&world, "ALTER TABLE orders_2_1 ADD CHECK (day > 0)", with_leaf);
    check(&world, "DROP TABLE orders_2_1", with_leaf);
    check(&world, "DROP TABLE orders", orders);
    check(&world, "DROP TABLE events", &["event:0"]);
    assert!(!world.log().contains("its fallback runs"), "{}", world.news());
    world.stop();
}

#[test]
fn retention_that_detaches_and_drops_keeps_the_keys_of_other_partitioned_tables() {
    let mut world = world();
    check(
        &world,
        "ALTER TABLE orders DETACH PARTITION orders_1; DROP TABLE orders_1",
        &["order:0", "leaf:0"],
    );
    check(
        &world,
        "BEGIN; DROP TABLE events_1; ALTER TABLE events ADD COLUMN b int; COMMIT",
        &["event:0"],
    );
    world.stop();
}

#[test]
fn a_table_that_takes_the_name_of_a_dropped_one_may_be_a_partition() {
    let mut world = world();
    world.pg.psql_as("app", "postgres", "CREATE TABLE orders_3 (id int)");
    world.sql("INSERT INTO orders_3 VALUES (1)");
    world.wait_confirmed();
    world.fill(&["order:7", "order:8"]);
    world.sql(
        "DROP TABLE orders_3;
         CREATE TABLE orders_3 PARTITION OF orders FOR VALUES FROM (40) TO (50);
         INSERT INTO orders VALUES (7, 45)",
    );
    world.wait_gone(&["order:7"]);
    world.wait_confirmed();
    world.assert_cached(&["order:8"]);
    world.stop();
}

#[test]
fn ddl_while_the_daemon_is_down_is_made_up_for() {
    let mut world = world();
    world.stop();
    world.fill(&KEYS);
    world.sql("DROP TABLE orders_2_1; ALTER TABLE products DROP COLUMN slug; DROP TABLE people");
    world.start();
    // Nobody can tell any more what the dropped partition was part of.
    let gone = ["order:0", "leaf:0", "event:0", "product:0", "missing:0", "person:0"];
    world.wait_gone(&gone);
    world.wait_confirmed();
    world.assert_cached(&["cart:0", "weird:0"]);
    world.stop();
}

#[test]
fn ddl_under_load_loses_nothing_of_other_tables() {
    let mut world = world();
    let keys: Vec<String> = (1..=600).map(|id| format!("product:{id}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    world.fill(&keys);
    world.fill(&["product:0", "person:0"]);
    let mut sql = String::new();
    for id in 1..=600 {
        sql += &format!(
            "INSERT INTO products VALUES ({id}) ON CONFLICT (id) DO UPDATE SET slug = 'x';\n"
        );
        if id % 100 == 50 {
            // Outside of a transaction, and in the middle of one.
            sql += &format!("ALTER TABLE people ADD COLUMN c{id} int;\nBEGIN;\n");
        }
        if id % 100 == 60 {
            sql += &format!("ALTER TABLE people DROP COLUMN c{};\n", id - 10);
        }
        if id % 100 == 70 {
            sql += "COMMIT;\n";
        }
    }
    world.sql(&sql);
    world.wait_gone(&keys);
    world.wait_gone(&["person:0"]);
    world.wait_confirmed();
    // No fallback of the products' rule has helped.
    world.assert_cached(&["product:0"]);
    world.stop();
}

#[test]
fn messages_that_are_switched_off_leave_ddl_on() {
    let mut world = World::new(TABLES, RULES);
    install(&world);
    world.edit("[redis.cache]", "messages = \"off\"\n[redis.cache]");
    world.start();
    check(&world, "DROP TABLE products", &["product:0", "missing:0"]);
    world.stop();
}

#[test]
fn a_message_that_cannot_be_read_runs_every_fallback() {
    let mut world = world();
    for transactional in [true, false] {
        world.fill(&KEYS);
        world.sql(&format!(
            "SELECT pg_logical_emit_message({transactional}, 'walpurge.ddl', 'nonsense')"
        ));
        world.wait_gone(&KEYS);
        world.wait_confirmed();
    }
    assert_eq!(world.news().matches("every rule's fallback runs").count(), 2, "{}", world.news());
    world.fill(&KEYS);
    world.sql(
        "SELECT pg_logical_emit_message(false, 'walpurge.ddl',
             '{\"altered\": [[\"shop\", \"carts\"]]}')",
    );
    world.wait_gone(&["cart:0"]);
    world.wait_confirmed();
    world.assert_cached(&["product:0"]);
    world.stop();
}

#[test]
fn without_triggers_dropping_a_table_is_not_seen() {
    let mut world = World::new(TABLES, RULES);
    world.start();
    check(&world, "DROP TABLE products", &[]);
    world.stop();
}
