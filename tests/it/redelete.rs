//! Deletes that are done again, against readers that read before a commit and write after its
//! delete.

use std::time::{Duration, Instant};

use testkit::cdn::Fastly;
use testkit::redis::Redis;
use testkit::wait_until;

use crate::world::{PATIENCE, World};

const TABLE: &str = "CREATE TABLE items (id int PRIMARY KEY, n int);
    CREATE TABLE tagged (id int PRIMARY KEY, item int);
    GRANT SELECT ON tagged TO walpurge;
    INSERT INTO items VALUES (1, 0); INSERT INTO tagged VALUES (7, 1);";

/// A delay that no test lives to see.
const NEVER: &str = "redelete_after = [\"1h\"]\n";

const RULE: &str = "
[[rule]]
name = \"item\"
table = \"public.items\"
delete = [\"item:{id}\"]
";

fn world(redelete: &str) -> World {
    World::new(TABLE, &format!("{RULE}{redelete}"))
}

/// A cache-aside reader that reads before the update commits, and fills the cache after the delete.
#[track_caller]
fn race(world: &World) {
    world.fill(&["item:1"]);
    let mut reader = world.pg.session("postgres", "postgres");
    let read = reader.run("SELECT n FROM items WHERE id = 1");
    world.sql("UPDATE items SET n = n + 1 WHERE id = 1");
    world.wait_gone(&["item:1"]);
    world.redis.set("item:1", &read);
}

/// Whether the cache holds what is in the table, or nothing.
fn is_clean(world: &World) -> bool {
    match world.redis.get("item:1") {
        Some(cached) => cached == world.sql("SELECT n FROM items WHERE id = 1"),
        None => true,
    }
}

#[test]
fn a_reader_that_fills_after_the_delete_leaves_a_stale_key_without_it_and_none_with_it() {
    let mut without = world("");
    without.start();
    race(&without);
    without.wait_confirmed();
    assert!(!is_clean(&without), "the test cannot fail");
    without.stop();

    let mut with = world("redelete_after = [\"200ms\", \"2s\"]\n");
    with.start();
    for _ in 0..2 {
        race(&with);
        with.wait_confirmed();
        assert!(is_clean(&with), "{}", with.log());
    }
    with.stop();
}

#[test]
fn a_kill_between_the_deletes_loses_none() {
    let mut world = world(NEVER);
    world.start();
    race(&world);
    let end = world.pg.current_lsn();
    world.kill_9();
    assert!(!is_clean(&world) && !world.pg.has_confirmed("walpurge", &end));
    world.edit(NEVER, "redelete_after = [\"100ms\", \"1s\"]\n");
    world.start();
    world.wait_confirmed();
    assert!(is_clean(&world), "{}", world.log());
    world.stop();
}

#[test]
fn a_stop_does_not_wait_for_it_and_the_next_start_repeats() {
    let mut world = world(NEVER);
    world.start();
    race(&world);
    let end = world.pg.current_lsn();
    world.stop();
    assert!(!world.pg.has_confirmed("walpurge", &end));
    world.start();
    world.wait_gone(&["item:1"]);
    world.stop();
}

/// How many calls of a command Redis has counted.
fn calls(redis: &Redis, command: &str) -> u64 {
    let stats = redis.cli(&["INFO", "commandstats"]);
    let line = stats.lines().find_map(|line| {
        line.strip_prefix(&format!("cmdstat_{command}:calls="))?.split(',').next()
    });
    line.map_or(0, |calls| calls.parse().unwrap())
}

#[test]
fn patterns_tags_and_what_lookups_find_are_deleted_again() {
    let rules = "
[[rule]]
table = \"public.items\"
delete_matching = [\"list:*:{id}\"]
tags = [\"item-{id}\"]
bump = [\"version:{id}\"]
redelete_after = [\"50ms\", \"300ms\"]
[[rule]]
name = \"found\"
table = \"public.items\"
on = [\"insert\", \"update\"]
lookup = \"SELECT id AS tag FROM tagged WHERE item = {id}\"
delete = [\"tagged:{tag}\"]
redelete_after = [\"50ms\", \"300ms\"]
";
    let mut world = World::new(TABLE, rules);
    world.start();
    world.sql("UPDATE items SET n = 5 WHERE id = 1");
    world.wait_confirmed();
    assert!((2..=3).contains(&calls(&world.redis, "unlink")), "the looked-up key");
    assert!((2..=3).contains(&calls(&world.redis, "scan")), "the pattern");
    assert!((2..=3).contains(&calls(&world.redis, "scard")), "the tag");
    assert_eq!(calls(&world.redis, "incr"), 1, "a version needs no repeat");
    world.stop();
}

/// Keys that Redis was asked to remove, and that the daemon has done so far.
fn done(world: &World) -> u64 {
    let output = world.command(&["status", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    status["sinks"][0]["done"].as_u64().unwrap()
}

#[test]
fn a_backlog_is_deleted_once() {
    let mut world = world("redelete_after = [\"500ms\", \"1s\"]\n");
    world.runtime = Some(world.dir.join("."));
    let rows = 100_000;
    world.sql(&format!("INSERT INTO items SELECT n, 0 FROM generate_series(2, {rows} + 1) n"));
    world.sql("CHECKPOINT");
    // The margin of a checkpoint's time, and the last delay.
    let old = "SELECT clock_timestamp() - checkpoint_time > '4 s' FROM pg_control_checkpoint()";
    wait_until("the checkpoint is old", PATIENCE, || world.sql(old) == "t");
    world.start();
    let began = Instant::now();
    let end = world.pg.current_lsn();
    wait_until("it is drained", 6 * PATIENCE, || world.pg.has_confirmed("walpurge", &end));
    wait_until("it is shown", PATIENCE, || done(&world) >= rows);
    assert_eq!(done(&world), rows, "after {:?}", began.elapsed());
    // What comes now is young.
    world.sql("UPDATE items SET n = 1 WHERE id = 1");
    world.wait_confirmed();
    wait_until("it is repeated", PATIENCE, || done(&world) >= rows + 2);
    world.stop();
    assert!(began.elapsed() > Duration::from_secs(1));
}

#[test]
fn too_much_to_delete_again_becomes_the_fallback() {
    let mut world = world("redelete_after = [\"30s\"]\n");
    // A line for each would take longer than the deletes.
    world.spawn(&["run"]);
    world.wait_for_log("following the write-ahead log");
    world.sql("INSERT INTO items SELECT n, 0 FROM generate_series(2, 150001) n");
    let is_said = || world.log().contains("too much is to be deleted again");
    wait_until("it is too much", 4 * PATIENCE, is_said);
    world.fill(&["item:1", "other"]);
    let end = world.pg.current_lsn();
    wait_until("it is done", 6 * PATIENCE, || world.pg.has_confirmed("walpurge", &end));
    world.assert_cached(&["other"]);
    assert!(!world.redis.exists("item:1"), "the fallback ran last");
    world.stop();
}

#[test]
fn a_message_comes_after_the_first_delete_and_once_more_after_the_last() {
    let publish = "publish = { channel = \"inv\", message = \"item:{id}\" }\n";
    let mut world = world(&format!("{publish}redelete_after = [\"100ms\", \"3s\"]\n"));
    let mut listener = world.redis.client().unwrap();
    listener.set_timeout(Some(PATIENCE)).unwrap();
    listener.cmd(&["SUBSCRIBE", "inv"]).unwrap();
    world.start();
    race(&world);
    for is_last in [false, true] {
        listener.read_reply().unwrap();
        assert!(!is_last || is_clean(&world), "told before it was gone");
    }
    world.wait_confirmed();
    listener.set_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(listener.read_reply().is_err(), "told too often");
    world.stop();
}

#[test]
fn a_purge_comes_after_the_first_delete_and_once_more_after_the_last() {
    let fastly = Fastly::start();
    let rules = format!(
        "[fastly.edge]\n{}{RULE}purge_keys = [\"item-{{id}}\"]\n\
         redelete_after = [\"100ms\", \"3s\"]\n",
        fastly.settings()
    );
    let mut world = World::new(TABLE, &rules);
    world.start();
    race(&world);
    wait_until("it is purged once more", PATIENCE, || fastly.keys().len() == 2);
    assert!(is_clean(&world), "the edge may fill with what was deleted again later");
    world.wait_confirmed();
    assert_eq!(fastly.keys(), ["item-1", "item-1"]);
    world.stop();
}
