//! `expire_in`: keys live on for a while instead of being deleted.

use testkit::redis::{Redis, Reply};
use testkit::wait_until;

use crate::world::{PATIENCE, World};

const TABLE: &str = "CREATE TABLE items (id int PRIMARY KEY, n int);
    CREATE TABLE tagged (id int PRIMARY KEY, item int);
    GRANT SELECT ON tagged TO walpurge;
    INSERT INTO items VALUES (1, 0); INSERT INTO tagged VALUES (7, 1);";

/// Longer than any test.
const RULE: &str = "
[[rule]]
name = \"item\"
table = \"public.items\"
delete = [\"item:{id}\"]
delete_matching = [\"list:*:{id}\"]
tags = [\"item-{id}\"]
expire_in = \"10m\"
";

/// What is left of a key's time, in milliseconds: −1 is for ever, −2 is no key.
#[track_caller]
fn left(redis: &Redis, key: &str) -> i64 {
    match redis.cmd(&["PTTL", key]) {
        Reply::Int(left) => left,
        reply => panic!("{reply}"),
    }
}

fn is_cut(redis: &Redis, key: &str) -> bool {
    (1..=600_000).contains(&left(redis, key))
}

#[track_caller]
fn wait_cut(world: &World, keys: &[&str]) {
    for key in keys {
        wait_until(&format!("{key} is cut"), PATIENCE, || is_cut(&world.redis, key));
    }
}

#[test]
fn keys_live_on_for_a_while_whatever_reaches_them() {
    let mut world = World::new(TABLE, RULE);
    world.start();
    world.fill(&["item:1", "list:a:1", "member", "item:2", "list:a:2", "other"]);
    world.redis.cmd(&["SADD", "tags:item-1", "member"]);
    world.sql("UPDATE items SET n = 1 WHERE id = 1");
    wait_cut(&world, &["item:1", "list:a:1", "member"]);
    world.assert_cached(&["item:1", "list:a:1", "member"]);
    for key in ["item:2", "list:a:2", "other"] {
        assert_eq!(left(&world.redis, key), -1, "{key}");
    }
    // A reader that fills again begins a new life, which the next change cuts.
    world.fill(&["item:1"]);
    assert_eq!(left(&world.redis, "item:1"), -1);
    world.sql("UPDATE items SET n = 2 WHERE id = 1");
    wait_cut(&world, &["item:1"]);
    // So do fallbacks.
    world.fill(&["item:1"]);
    world.sql("TRUNCATE items");
    wait_cut(&world, &["item:1", "item:2", "list:a:2"]);
    world.wait_confirmed();
    assert_eq!(left(&world.redis, "other"), -1);
    world.stop();
}

#[test]
fn a_short_life_ends() {
    let mut world = World::new(TABLE, &RULE.replace("10m", "300ms"));
    world.start();
    world.fill(&["item:1", "other"]);
    world.sql("UPDATE items SET n = 1 WHERE id = 1");
    world.wait_gone(&["item:1"]);
    world.assert_cached(&["other"]);
    world.stop();
}

#[test]
fn a_delete_of_another_rule_wins() {
    let delete = "[[rule]]\nname = \"now\"\ntable = \"public.items\"\ndelete = [\"item:{id}\"]\n";
    for rules in [format!("{RULE}{delete}"), format!("{delete}{RULE}")] {
        let mut world = World::new(TABLE, &rules);
        world.start();
        world.fill(&["item:1"]);
        world.sql("UPDATE items SET n = 1 WHERE id = 1");
        world.wait_gone(&["item:1"]);
        world.wait_confirmed();
        assert_eq!(left(&world.redis, "item:1"), -2);
        world.stop();
    }
}

#[test]
fn what_a_slow_reader_puts_back_is_cut_again() {
    let mut world = World::new(TABLE, &format!("{RULE}redelete_after = [\"100ms\", \"3s\"]\n"));
    world.start();
    world.fill(&["item:1"]);
    world.sql("UPDATE items SET n = 1 WHERE id = 1");
    wait_cut(&world, &["item:1"]);
    // Read before the commit, written after it.
    world.fill(&["item:1"]);
    world.wait_confirmed();
    assert!(is_cut(&world.redis, "item:1"), "{}", world.log());
    world.stop();
}

#[test]
fn what_lookups_find_is_cut_and_told() {
    let rules = "
[[rule]]
name = \"found\"
table = \"public.items\"
on = [\"insert\", \"update\"]
lookup = \"SELECT id AS tag FROM tagged WHERE item = {id}\"
delete = [\"tagged:{tag}\"]
expire_in = \"10m\"
publish = { channel = \"news\" }
";
    let mut world = World::new(TABLE, rules);
    let mut listener = world.redis.client().unwrap();
    listener.set_timeout(Some(PATIENCE)).unwrap();
    listener.cmd(&["SUBSCRIBE", "news"]).unwrap();
    world.start();
    world.fill(&["tagged:7"]);
    world.sql("UPDATE items SET n = 1 WHERE id = 1");
    let told = listener.read_reply().unwrap().to_string();
    assert!(told.contains("\"value\":\"tagged:7\",\"expire_in_ms\":600000,"), "{told}");
    assert!(is_cut(&world.redis, "tagged:7"), "told before it was cut");
    world.stop();
}

#[test]
fn what_was_done_before_a_kill_may_be_done_again() {
    let mut world = World::new(TABLE, &format!("{RULE}redelete_after = [\"1h\"]\n"));
    world.start();
    world.fill(&["item:1"]);
    world.sql("UPDATE items SET n = 1 WHERE id = 1");
    wait_cut(&world, &["item:1"]);
    let before = left(&world.redis, "item:1");
    world.kill_9();
    world.start();
    world.fill(&["item:3"]);
    world.sql("INSERT INTO items VALUES (3, 0)");
    wait_cut(&world, &["item:3"]);
    assert!(left(&world.redis, "item:1") <= before, "a repeat lengthens nothing");
    world.stop();
}
