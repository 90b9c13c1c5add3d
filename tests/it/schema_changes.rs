//! Tables that change while the daemon follows them: nothing is lost, and the operator is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::world::{PATIENCE, Plugin, World};

/// Rows; every tenth is never written.
const ROWS: u64 = 4000;

const CONNECTIONS: u64 = 4;

const ITEMS: &str = "CREATE TABLE items (id bigint PRIMARY KEY, slug text, n int DEFAULT 0);
    ALTER TABLE items REPLICA IDENTITY FULL;
    INSERT INTO items SELECT i, 's' || i FROM generate_series(1, 4000) i;
    CREATE TABLE other (id bigint PRIMARY KEY)";

const ITEM_RULES: &str = r#"
[[rule]]
name = "slugs"
table = "public.items"
delete = ["slug:{slug}"]
[[rule]]
name = "ids"
table = "public.items"
delete = ["item:{id}"]
[[rule]]
table = "public.other"
delete = ["other:{id}"]
"#;

const NO_COLUMN: &str = "names a column that its table does not have";

fn is_written(id: u64) -> bool {
    !id.is_multiple_of(10)
}

fn keys(prefix: &str, ids: impl Iterator<Item = u64>) -> Vec<String> {
    ids.map(|id| format!("{prefix}:{id}")).collect()
}

fn fill(world: &World, keys: &[String]) {
    world.fill(&keys.iter().map(String::as_str).collect::<Vec<_>>());
}

/// How many of these keys are cached.
fn cached(world: &World, keys: &[String]) -> usize {
    let commands: Vec<_> = keys.iter().map(|key| vec!["EXISTS".to_owned(), key.clone()]).collect();
    let replies = world.redis.client().unwrap().pipeline(&commands).unwrap();
    replies.iter().filter(|reply| **reply == testkit::redis::Reply::Int(1)).count()
}

/// Writes each row once, one by one over several connections, and runs `sql` in the middle.
fn write_while(world: &World, sql: &str) {
    // A connection takes its time on a busy machine.
    let mut meanwhile = world.pg.session("postgres", "postgres");
    meanwhile.run("SELECT 1");
    let written = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..CONNECTIONS)
        .map(|connection| {
            let mut session = world.pg.session("postgres", "postgres");
            let written = Arc::clone(&written);
            thread::spawn(move || {
                let own = |id: &u64| is_written(*id) && id % CONNECTIONS == connection;
                for chunk in (1..=ROWS).filter(own).collect::<Vec<_>>().chunks(10) {
                    let update = |id| format!("UPDATE items SET n = n + 1 WHERE id = {id};");
                    session.run(&chunk.iter().map(update).collect::<String>());
                    written.fetch_add(chunk.len() as u64, Ordering::SeqCst);
                }
            })
        })
        .collect();
    testkit::wait_until("half of it is written", PATIENCE, || {
        written.load(Ordering::SeqCst) > ROWS * 4 / 10
    });
    meanwhile.run(sql);
    assert!(written.load(Ordering::SeqCst) < ROWS * 8 / 10, "the load was over too soon");
    for writer in writers {
        writer.join().unwrap();
    }
}

#[test]
fn a_column_renamed_under_load_runs_the_fallback_of_the_rules_that_use_it_alone() {
    assert_renamed_column_falls_back(Plugin::asked());
}

pub fn assert_renamed_column_falls_back(plugin: Plugin) {
    let mut world = World::of(plugin, ITEMS, ITEM_RULES);
    world.start();
    let written = keys("item", (1..=ROWS).filter(|&id| is_written(id)));
    let untouched = keys("item", (1..=ROWS).filter(|&id| !is_written(id)));
    let slugs = keys("slug:s", (1..=ROWS).filter(|&id| is_written(id)));
    for keys in [&written, &untouched, &slugs] {
        fill(&world, keys);
    }
    world.fill(&["other:1", "slugs"]);
    write_while(&world, "ALTER TABLE items RENAME COLUMN slug TO handle");
    world.wait_confirmed();
    assert_eq!(cached(&world, &written), 0);
    assert_eq!(cached(&world, &slugs), 0);
    assert_eq!(cached(&world, &untouched), untouched.len(), "the other rule works exactly");
    world.assert_cached(&["other:1", "slugs"]);
    world.wait_for_log(NO_COLUMN);
    let news = world.news();
    let line = news.lines().find(|line| line.contains(NO_COLUMN)).unwrap();
    for said in ["WARN", "rule=\"slugs\"", "table=public.items", "column=\"slug\"", "renamed"] {
        assert!(line.contains(said), "{line}");
    }
    // The rule works exactly again as soon as its column is back.
    world.sql("ALTER TABLE items RENAME COLUMN handle TO slug");
    world.fill(&["slug:s1", "slug:s2"]);
    world.sql("UPDATE items SET n = 0 WHERE id = 1");
    world.wait_gone(&["slug:s1"]);
    world.wait_confirmed();
    world.assert_cached(&["slug:s2"]);
    assert_eq!(world.news().matches(NO_COLUMN).count(), 1, "{}", world.news());
    world.stop();
}

#[test]
fn a_column_of_where_or_changed_that_is_renamed_or_dropped_makes_each_change_count() {
    let rules = r#"
[[rule]]
name = "item"
table = "public.items"
changed = ["n"]
where = { slug = { matches = "s1*" } }
delete = ["item:{id}"]
"#;
    let mut world = World::new(ITEMS, rules);
    world.start();
    world.fill(&["item:1", "item:2", "item:3", "item:9"]);
    world.sql("UPDATE items SET n = 1 WHERE id IN (1, 2)");
    world.wait_gone(&["item:1"]);
    world.wait_confirmed();
    world.assert_cached(&["item:2"]);
    world.sql("ALTER TABLE items RENAME slug TO handle; ALTER TABLE items DROP n");
    world.sql("UPDATE items SET handle = 'x' WHERE id IN (2, 3)");
    world.wait_gone(&["item:2", "item:3"]);
    world.wait_confirmed();
    world.assert_cached(&["item:9"]);
    assert!(!world.log().contains("delete_matching"), "no fallback: {}", world.log());
    for column in ["slug", "n"] {
        world.wait_for_log(&format!("column=\"{column}\""));
    }
    assert_eq!(world.news().matches("each change counts").count(), 2, "{}", world.news());
}

#[test]
fn a_dropped_column_runs_the_fallback_and_one_that_is_added_later_works_at_once() {
    let rules = r#"
[[rule]]
name = "item"
table = "public.items"
delete = ["sku:{sku}"]
"#;
    let mut world = World::new(ITEMS, rules);
    world.start();
    world.wait_for_log(NO_COLUMN);
    world.fill(&["sku:a", "sku:b"]);
    world.sql("INSERT INTO items VALUES (5001)");
    world.wait_gone(&["sku:a", "sku:b"]);
    world.wait_confirmed();
    assert_eq!(world.news().matches("WARN").count(), 1, "{}", world.news());
    world.fill(&["sku:a", "sku:b", "sku:c"]);
    // In the transaction that adds it, too.
    world.sql(
        "BEGIN; ALTER TABLE items ADD sku text; INSERT INTO items VALUES (5002, '', 0, 'a');
         COMMIT; INSERT INTO items VALUES (5003, '', 0, 'b')",
    );
    world.wait_gone(&["sku:a", "sku:b"]);
    world.wait_confirmed();
    world.assert_cached(&["sku:c"]);
    world.sql("ALTER TABLE items DROP sku; UPDATE items SET n = 7 WHERE id = 5002");
    world.wait_gone(&["sku:c"]);
    world.stop();
}

#[test]
fn a_column_of_another_type_is_rendered_as_what_it_is_now() {
    let sql = "CREATE TABLE items (id int PRIMARY KEY, code int, tags text, n int);
        ALTER TABLE items REPLICA IDENTITY FULL;
        INSERT INTO items VALUES (1, 7, '3', 0), (2, 8, '4', 0)";
    let rules = r#"
[[rule]]
table = "public.items"
delete = ["item:{id}", "code:{code}"]
[[rule]]
table = "public.items"
changed = ["n"]
delete = ["tag:{tags[]}"]
"#;
    let mut world = World::new(sql, rules);
    world.start();
    world.fill(&["code:7", "code:8", "code:c7", "code:c8", "tag:3", "tag:4"]);
    world.sql("UPDATE items SET code = 8 WHERE id = 1");
    world.wait_gone(&["code:7", "code:8"]);
    world.sql(
        "ALTER TABLE items ALTER code TYPE text USING 'c' || code,
             ALTER tags TYPE int[] USING ARRAY[tags::int, 5], ALTER id TYPE bigint",
    );
    world.fill(&["code:7", "code:8", "tag:3", "tag:4", "tag:5", "item:1", "item:2"]);
    world.sql("UPDATE items SET code = 'c7', n = 1 WHERE id = 1");
    world.wait_gone(&["code:c7", "code:c8", "item:1", "tag:3", "tag:5"]);
    world.wait_confirmed();
    world.assert_cached(&["code:7", "code:8", "item:2"]);
}

#[test]
fn nan_in_a_column_that_was_or_will_be_text_is_never_taken_for_null() {
    let sql = "CREATE TABLE items (id int PRIMARY KEY, v text, w numeric)";
    let rules = r#"
[[rule]]
name = "v"
table = "public.items"
on = ["insert"]
delete = ["vvv:{v}"]
[[rule]]
name = "w"
table = "public.items"
on = ["insert"]
delete = ["www:{w}"]
"#;
    let mut world = World::new(sql, rules);
    world.start();
    world.fill(&["vvv:NaN", "www:NaN"]);
    world.sql("INSERT INTO items VALUES (1, NULL, 1)");
    world.wait_confirmed();
    world.assert_cached(&["vvv:NaN", "www:NaN"]);
    world.sql("ALTER TABLE items ALTER v TYPE numeric USING v::numeric");
    world.sql("INSERT INTO items VALUES (2, 'NaN', 1)");
    world.wait_gone(&["vvv:NaN"]);
    world.wait_confirmed();
    world.assert_cached(&["www:NaN"]);
    // A newer wal2json prints NaN as such.
    let (log, doubt) = (world.log(), "a null may be NaN or Infinity");
    assert_eq!(log.contains("delete_matching"), log.contains(doubt), "{}", world.news());
    assert!(!log.contains("REPLICA IDENTITY"), "{}", world.news());
    world.stop();
    // What was written before is read after the column has become text.
    world.sql("INSERT INTO items VALUES (3, 1, 'NaN')");
    world.sql("ALTER TABLE items ALTER w TYPE text");
    world.start();
    world.wait_gone(&["www:NaN"]);
}

#[test]
fn a_column_that_may_be_null_from_now_on_is_exact_again_soon() {
    let sql = "CREATE TABLE items (id int PRIMARY KEY, v text NOT NULL)";
    let rule = r#"
[[rule]]
table = "public.items"
on = ["insert"]
delete = ["vvv:{v}"]
"#;
    let mut world = World::new(sql, rule);
    world.start();
    world.sql("ALTER TABLE items ALTER v DROP NOT NULL");
    // What pgoutput prints as NULL is nothing else, whatever the catalog says.
    if Plugin::asked() == Plugin::Wal2json {
        world.wait_for_log("starting again with what the catalog says now");
    }
    world.fill(&["vvv:a", "vvv:b"]);
    world.sql("INSERT INTO items VALUES (1, NULL), (2, 'a')");
    world.wait_gone(&["vvv:a"]);
    world.wait_confirmed();
    world.assert_cached(&["vvv:b"]);
}

#[test]
fn a_renamed_table_is_noticed_and_its_rules_fall_back() {
    let mut world = World::new(ITEMS, ITEM_RULES);
    world.start();
    let written = keys("item", (1..=ROWS).filter(|&id| is_written(id)));
    fill(&world, &written);
    world.fill(&["item:10", "slug:s10", "other:1"]);
    // What writes on under the old name writes through a view.
    write_while(
        &world,
        "BEGIN; ALTER TABLE items RENAME TO things; CREATE VIEW items AS SELECT * FROM things;
         COMMIT",
    );
    world.wait_for_log("a rule's table was renamed");
    world.wait_gone(&["item:10", "slug:s10"]);
    world.wait_confirmed();
    assert_eq!(cached(&world, &written), 0);
    world.assert_cached(&["other:1"]);
    let news = world.news();
    let line = news.lines().find(|line| line.contains("a rule's table was renamed")).unwrap();
    for said in ["WARN", "table=public.items", "renamed_to=public.things", "slugs, ids"] {
        assert!(line.contains(said), "{line}");
    }
    // A start with a rule whose table is not there says so, and falls back: it may have been
    // renamed meanwhile.
    world.stop();
    world.fill(&["item:10"]);
    world.start();
    world.wait_gone(&["item:10"]);
    world.wait_for_log("a rule's table does not exist");
    // It goes on where the table comes back.
    world.sql("DROP VIEW items; ALTER TABLE things RENAME TO items");
    world.fill(&["item:20", "item:30"]);
    world.sql("UPDATE items SET n = 0 WHERE id = 20");
    world.wait_gone(&["item:20"]);
    world.wait_confirmed();
    world.assert_cached(&["item:30", "other:1"]);
}

#[test]
fn a_table_that_is_dropped_or_replaced_runs_the_fallback_and_goes_on() {
    let mut world = World::new(ITEMS, ITEM_RULES);
    world.start();
    world.fill(&["item:1", "slug:s1", "other:1"]);
    world.sql("UPDATE items SET n = 1 WHERE id = 2; DROP TABLE items");
    world.wait_for_log("a rule's table was dropped");
    world.wait_gone(&["item:1", "slug:s1"]);
    world.sql("CREATE TABLE items (slug text, id bigint PRIMARY KEY, n int)");
    world.fill(&["item:1", "item:2"]);
    world.sql("INSERT INTO items VALUES ('s1', 1, 1)");
    world.wait_gone(&["item:1"]);
    world.wait_confirmed();
    world.assert_cached(&["item:2"]);
    // The look that comes next finds the new table; one of its name is another table.
    testkit::wait_until("another table is noticed", PATIENCE, || {
        world.sql(
            "CREATE TABLE items_new (LIKE items INCLUDING ALL);
             BEGIN; DROP TABLE items; ALTER TABLE items_new RENAME TO items; COMMIT",
        );
        testkit::holds_within(PATIENCE / 2, || world.log().contains("replaced by another one"))
    });
    world.wait_gone(&["item:2"]);
    world.wait_confirmed();
    world.assert_cached(&["other:1"]);
    world.stop();
}

#[test]
fn a_table_that_becomes_a_partitioned_one_is_followed_into_its_partitions() {
    let mut world = World::new(ITEMS, ITEM_RULES);
    world.start();
    world.fill(&["item:1", "other:1"]);
    world.sql(
        "BEGIN; ALTER TABLE items RENAME TO items_low;
         CREATE TABLE items (LIKE items_low) PARTITION BY RANGE (id);
         ALTER TABLE items ATTACH PARTITION items_low FOR VALUES FROM (0) TO (1000000); COMMIT",
    );
    world.wait_for_log("starting again with what the catalog says now");
    world.wait_gone(&["item:1"]);
    world.wait_confirmed();
    world.fill(&["item:1", "item:2"]);
    world.sql("UPDATE items SET n = 1 WHERE id = 1");
    world.wait_gone(&["item:1"]);
    world.wait_confirmed();
    world.assert_cached(&["item:2", "other:1"]);
}
