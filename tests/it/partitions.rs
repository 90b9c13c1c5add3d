//! A rule on a partitioned table covers its partitions.

use crate::world::{Plugin, World};

const ORDERS: &str = "CREATE SCHEMA parts;
    CREATE TABLE orders (id int, day date, amount text, PRIMARY KEY (id, day))
        PARTITION BY RANGE (day);
    CREATE TABLE parts.orders_1 PARTITION OF orders
        FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
    CREATE TABLE other (id int PRIMARY KEY)";

const ORDER_RULE: &str = r#"
[[rule]]
table = "public.orders"
delete = ["order:{id}", "amount:{amount}"]
"#;

#[test]
fn a_rule_on_a_partitioned_table_covers_its_partitions_and_new_ones_too() {
    let mut world = World::new(ORDERS, ORDER_RULE);
    world.start();
    world.fill(&["order:1", "order:2", "order:3", "order:4", "order:9", "amount:", "other:1"]);
    world.sql("INSERT INTO orders VALUES (1, '2026-01-05', NULL)");
    world.wait_gone(&["order:1"]);
    // Partitions that are made, and filled in the same transaction, while the daemon runs.
    world.sql(
        "BEGIN; INSERT INTO orders VALUES (2, '2026-01-06', 1);
         CREATE TABLE orders_2 PARTITION OF orders
             FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
         INSERT INTO orders VALUES (3, '2026-02-05', 1); COMMIT",
    );
    world.wait_gone(&["order:2", "order:3"]);
    world.sql(
        "CREATE TABLE orders_3 PARTITION OF orders FOR VALUES FROM ('2026-03-01') TO
             ('2026-05-01') PARTITION BY RANGE (day);
         CREATE TABLE parts.orders_3_1 PARTITION OF orders_3
             FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');
         INSERT INTO orders VALUES (4, '2026-03-05', 1); INSERT INTO other VALUES (1)",
    );
    world.wait_gone(&["order:4"]);
    world.wait_confirmed();
    world.assert_cached(&["order:9", "other:1"]);
    assert!(!world.log().contains("its fallback runs"), "{}", world.news());
    world.sql("TRUNCATE orders");
    world.wait_gone(&["order:9"]);
    world.stop();
}

#[test]
fn a_partition_that_is_gone_when_its_changes_are_read_runs_the_fallback() {
    let mut world = World::new(ORDERS, ORDER_RULE);
    world.fill(&["order:5", "other:1"]);
    world.sql(
        "CREATE TABLE orders_2 PARTITION OF orders
             FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
         INSERT INTO orders VALUES (5, '2026-02-05', 1); DROP TABLE orders_2",
    );
    world.start();
    world.wait_gone(&["order:5"]);
    world.wait_confirmed();
    world.assert_cached(&["other:1"]);
}

#[test]
fn new_partitions_under_load_lose_nothing() {
    assert_new_partitions_lose_nothing(Plugin::asked());
}

pub fn assert_new_partitions_lose_nothing(plugin: Plugin) {
    let mut world = World::of(plugin, ORDERS, ORDER_RULE);
    world.start();
    let keys: Vec<String> = (1..=600).map(|id| format!("order:{id}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    world.fill(&keys);
    for part in 0..6 {
        let mut sql = format!(
            "CREATE TABLE parts.p{part} PARTITION OF orders
                 FOR VALUES FROM ('{}-01-01') TO ('{}-01-01');\n",
            2030 + part,
            2031 + part
        );
        for id in part * 100 + 1..=part * 100 + 100 {
            sql += &format!("INSERT INTO orders VALUES ({id}, '{}-05-05', 1);\n", 2030 + part);
        }
        world.sql(&sql);
    }
    world.wait_confirmed();
    world.wait_gone(&keys);
    world.stop();
}
