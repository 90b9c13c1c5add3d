//! A publication that does not carry what the rules need: refused at the start, news later, and in
//! no case a lost invalidation.

use testkit::process::Signal;
use testkit::wait_until;

use crate::world::Plugin::Pgoutput;
use crate::world::{PATIENCE, World};

const TABLES: &str = "CREATE TABLE items (id int PRIMARY KEY, kind text NOT NULL DEFAULT '',
        n int, twice int GENERATED ALWAYS AS (n * 2) STORED);
    INSERT INTO items SELECT n, '', 0 FROM generate_series(1, 9) n;
    CREATE TABLE logs (id int, part int, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
    CREATE TABLE logs_1 PARTITION OF logs FOR VALUES IN (1);
    CREATE TABLE logs_2 PARTITION OF logs FOR VALUES IN (2)";

const RULES: &str = r#"
[[rule]]
name = "item"
table = "public.items"
delete = ["item:{id}"]
where = { kind = "" }
[[rule]]
name = "log"
table = "public.logs"
delete = ["log:{id}"]
"#;

/// A world with this publication and a slot behind it.
fn world(publication: &str) -> World {
    let world = World::of(Pgoutput, TABLES, RULES);
    world.sql("SELECT pg_drop_replication_slot('walpurge'); DROP PUBLICATION walpurge");
    world.sql(publication);
    world.sql("SELECT pg_create_logical_replication_slot('walpurge', 'pgoutput')");
    world
}

/// What it says when it does not start.
#[track_caller]
fn refused(world: &mut World) -> String {
    world.spawn(&["run"]);
    let mut daemon = world.daemon.take().unwrap();
    let status = daemon.wait(PATIENCE);
    let log = daemon.log();
    assert_eq!(status.and_then(|status| status.code()), Some(78), "{log}");
    log
}

/// Whether the server knows lists of columns, row filters and publications of schemas.
fn has_lists(world: &World) -> bool {
    world.sql("SHOW server_version_num").parse::<u32>().unwrap() >= 150_000
}

#[test]
fn a_publication_that_lacks_something_is_refused_at_the_start_with_what_it_lacks() {
    let mut world = world("SELECT 1");
    let log = refused(&mut world);
    assert!(log.contains("use publication \"walpurge\": there is none of that name"), "{log}");
    assert!(log.contains("walpurge setup"), "{log}");
    for (publication, lacks) in [
        ("FOR TABLE items", "partition public.logs_1 of table public.logs (rule log)"),
        ("FOR TABLE logs", "table public.items (rule item)"),
        ("FOR TABLE items, logs_2", "partition public.logs_1 of table public.logs (rule log)"),
        (
            "FOR TABLE items, logs WITH (publish = 'insert, update, delete')",
            "truncate of table public.items (rule item), truncate of table public.logs (rule log)",
        ),
        ("FOR TABLE items (id), logs", "column kind of table public.items (rule item)"),
        (
            "FOR TABLE items WHERE (id > 1), logs",
            "the rows of table public.items that its row filter leaves out (rule item)",
        ),
        (
            "FOR ALL TABLES WITH (publish_via_partition_root = true)",
            "TRUNCATE of single partitions of table public.logs",
        ),
    ] {
        if !has_lists(&world) && (publication.contains("(id)") || publication.contains("WHERE")) {
            continue;
        }
        world.sql(&format!(
            "DROP PUBLICATION IF EXISTS walpurge; CREATE PUBLICATION walpurge {publication}"
        ));
        let log = refused(&mut world);
        assert!(log.contains("it does not carry"), "{publication}: {log}");
        assert!(log.contains(lacks), "{publication}: {log}");
        assert!(log.contains("walpurge setup"), "{publication}: {log}");
    }
    // What is generated is not published, whatever the publication says.
    world.sql("DROP PUBLICATION walpurge; CREATE PUBLICATION walpurge FOR ALL TABLES");
    world.edit("item:{id}", "item:{twice}");
    let log = refused(&mut world);
    assert!(log.contains("generated column twice of table public.items (rule item)"), "{log}");
    assert!(log.contains("let the rule name the columns"), "{log}");
    world.edit("item:{twice}", "item:{id}");
    // The newest publication is younger than the slot.
    world.fill(&["item:1"]);
    world.sql("UPDATE items SET n = 1 WHERE id = 1");
    world.start();
    world.wait_gone(&["item:1"]);
}

#[test]
fn lists_that_hold_what_rules_need_and_the_rest_of_a_schema_are_taken() {
    for publication in [
        "FOR TABLE items (id, kind), logs",
        "FOR TABLE items, logs_1, logs_2",
        "FOR TABLES IN SCHEMA public",
    ] {
        let mut world = world("SELECT 1");
        if !has_lists(&world) && (publication.contains("(id") || publication.contains("SCHEMA")) {
            continue;
        }
        world.sql(&format!(
            "SELECT pg_drop_replication_slot('walpurge'); CREATE PUBLICATION walpurge {publication};
             SELECT pg_create_logical_replication_slot('walpurge', 'pgoutput')"
        ));
        world.fill(&["item:1", "item:2", "log:1"]);
        world.start();
        world.sql("UPDATE items SET n = 1 WHERE id = 1; INSERT INTO logs VALUES (1, 2)");
        world.wait_gone(&["item:1", "log:1"]);
        world.wait_confirmed();
        world.assert_cached(&["item:2"]);
        world.stop();
    }
}

/// Changes the file, and waits until the daemon has said something about it.
fn reload(world: &mut World, from: &str, to: &str, said: &str) {
    world.edit(from, to);
    world.config_file();
    let before = world.log().matches(said).count();
    world.daemon.as_mut().unwrap().signal(Signal::HUP);
    wait_until(said, PATIENCE, || world.log().matches(said).count() > before);
}

#[test]
fn rules_whose_tables_are_not_published_are_not_taken_and_the_old_ones_stay() {
    let mut world = world("CREATE PUBLICATION walpurge FOR TABLE items");
    let log_rule = &RULES[RULES.rfind("[[rule]]").unwrap()..];
    world.edit(log_rule, "# more");
    world.start();
    reload(&mut world, "# more", log_rule, "the new configuration is not taken");
    assert!(world.news().contains("partition public.logs_1 of table public.logs"));
    world.fill(&["item:1", "log:1"]);
    world.sql("UPDATE items SET n = 1 WHERE id = 1; INSERT INTO logs VALUES (1, 1)");
    world.wait_gone(&["item:1"]);
    world.assert_cached(&["log:1"]);
    world.sql("ALTER PUBLICATION walpurge ADD TABLE logs");
    reload(&mut world, log_rule, log_rule, "taking the new configuration");
    wait_until("it streams again", PATIENCE, || {
        world.log().matches("following the write-ahead log").count() > 1
    });
    world.sql("INSERT INTO logs VALUES (2, 1)");
    world.fill(&["log:3"]);
    world.sql("INSERT INTO logs VALUES (3, 1)");
    world.wait_gone(&["log:3"]);
    world.stop();
}

const LOST: &str = "the publication does not carry what the rules need";
const BACK: &str = "the publication was altered, and may not have carried tables for a while";

#[test]
fn a_table_that_leaves_the_publication_and_comes_back_gets_the_fallback_each_time() {
    let mut world = world("CREATE PUBLICATION walpurge FOR TABLE items, logs");
    world.fill(&["item:1", "item:2", "log:1"]);
    world.start();
    // Written before its table is back, committed long after.
    let mut open = world.pg.session("postgres", "postgres");
    world.sql("ALTER PUBLICATION walpurge DROP TABLE items; UPDATE items SET n = 1 WHERE id = 1");
    world.wait_for_log(LOST);
    assert!(world.news().contains("table public.items (rule item)"), "{}", world.news());
    world.wait_gone(&["item:1", "item:2"]);
    open.run("BEGIN; UPDATE items SET n = 3 WHERE id = 3");
    world.fill(&["item:1", "item:3"]);
    world.sql("UPDATE items SET n = 2 WHERE id = 1");
    world.sql("ALTER PUBLICATION walpurge ADD TABLE items");
    world.wait_for_log(BACK);
    world.wait_gone(&["item:1", "item:3"]);
    world.fill(&["item:3", "item:4", "item:5"]);
    open.run("COMMIT");
    world.wait_gone(&["item:3", "item:4", "item:5"]);
    world.wait_confirmed();
    world.fill(&["item:4", "item:5"]);
    world.sql("UPDATE items SET n = 4 WHERE id = 4");
    world.wait_gone(&["item:4"]);
    world.assert_cached(&["item:5", "log:1"]);
    world.stop();
}

#[test]
fn what_was_altered_while_walpurge_was_down_gets_the_fallback() {
    let mut world = world("CREATE PUBLICATION walpurge FOR TABLE items, logs");
    world.start();
    world.wait_confirmed();
    world.stop();
    world.fill(&["item:1", "log:1", "log:2"]);
    world.sql(
        "ALTER PUBLICATION walpurge DROP TABLE items; UPDATE items SET n = 1 WHERE id = 1;
         ALTER PUBLICATION walpurge ADD TABLE items; INSERT INTO logs VALUES (1, 1)",
    );
    world.start();
    world.wait_gone(&["item:1", "log:1"]);
    world.wait_confirmed();
    world.assert_cached(&["log:2"]);
    // Once.
    world.kill_9();
    world.fill(&["item:2"]);
    world.start();
    world.sql("INSERT INTO logs VALUES (2, 1)");
    world.wait_gone(&["log:2"]);
    world.assert_cached(&["item:2"]);
    world.stop();
}

#[test]
fn a_publication_that_is_younger_than_the_slot_is_a_gap() {
    let mut world = world("SELECT 1");
    world.fill(&["item:1", "item:2", "log:1"]);
    world.sql("UPDATE items SET n = 1 WHERE id = 1");
    world.sql("CREATE PUBLICATION walpurge FOR TABLE items, logs");
    world.spawn(&["run", "--log", "debug"]);
    world.wait_for_log("the gap is closed");
    assert!(world.news().contains("the publication was missing, or is younger"));
    world.wait_gone(&["item:1", "item:2", "log:1"]);
    world.fill(&["item:2", "item:3"]);
    world.sql("UPDATE items SET n = 1 WHERE id = 2");
    world.wait_gone(&["item:2"]);
    world.wait_confirmed();
    world.assert_cached(&["item:3"]);
    world.stop();
}

#[test]
fn a_publication_that_is_dropped_under_walpurge_is_waited_for_and_then_a_gap() {
    let mut world = world("CREATE PUBLICATION walpurge FOR TABLE items, logs");
    world.start();
    world.fill(&["item:1"]);
    world.sql("DROP PUBLICATION walpurge; UPDATE items SET n = 1 WHERE id = 1");
    world.wait_for_log("walpurge setup  makes it");
    assert!(world.daemon.as_mut().unwrap().is_running(), "{}", world.news());
    world.sql("CREATE PUBLICATION walpurge FOR TABLE items, logs");
    world.wait_for_log("the gap is closed");
    world.wait_gone(&["item:1"]);
    world.wait_confirmed();
    world.stop();
}

#[test]
fn without_leave_to_make_a_slot_a_younger_publication_ends_the_daemon() {
    let mut world = world("SELECT 1");
    world.edit("[redis.cache]", "create_slot = false\n[redis.cache]");
    world.sql("UPDATE items SET n = 1 WHERE id = 1");
    world.sql("CREATE PUBLICATION walpurge FOR TABLE items, logs");
    let log = refused(&mut world);
    assert!(log.contains("pg_drop_replication_slot('walpurge')"), "{log}");
}
