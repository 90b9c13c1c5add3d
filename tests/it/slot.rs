//! How the daemon treats its slot: idle, missing, taken by another plugin.

use crate::invalidation::{PRODUCTS, RULE};
use crate::world::{PATIENCE, Plugin, World};

#[test]
fn an_idle_slot_moves_on_with_what_others_write_and_with_the_heartbeat() {
    let mut world = World::new(PRODUCTS, RULE);
    world.edit("[redis.cache]", "heartbeat = \"1s\"\n[redis.cache]");
    world.start();
    // Tables without a rule, another database, and nothing at all but heartbeats.
    world.sql("CREATE TABLE unruled (id int); INSERT INTO unruled SELECT generate_series(1, 1000)");
    world.wait_confirmed();
    world.sql("CREATE DATABASE other");
    world
        .pg
        .psql("other", "CREATE TABLE t (id int); INSERT INTO t SELECT generate_series(1, 1000)");
    world.wait_confirmed();
    let before = world.pg.current_lsn();
    testkit::wait_until("a heartbeat is written", PATIENCE, || world.pg.current_lsn() != before);
    world.wait_confirmed();
    world.stop();
}

#[test]
fn unix_sockets_reach_both_servers() {
    let mut world = World::new(PRODUCTS, RULE);
    let (pg, redis) = (world.pg.url("walpurge", "postgres"), world.redis.url());
    world.edit(&pg, &world.pg.socket_url("walpurge", "postgres"));
    world.edit(&redis, &world.redis.socket_url());
    world.start();
    world.fill(&["product:1"]);
    world.sql("UPDATE products SET category = 5 WHERE id = 1");
    world.wait_gone(&["product:1"]);
    world.stop();
}

#[test]
fn a_slot_of_another_plugin_ends_the_daemon_with_78_and_what_mends_it() {
    let mut world = World::new(PRODUCTS, RULE);
    world.sql("SELECT pg_drop_replication_slot('walpurge')");
    world.sql("SELECT pg_create_logical_replication_slot('walpurge', 'test_decoding')");
    world.spawn(&["run"]);
    let daemon = world.daemon.as_mut().unwrap();
    let status = daemon.wait(PATIENCE).expect("it ends by itself");
    assert_eq!(status.code(), Some(78));
    assert!(daemon.log().contains("is made for plugin test_decoding"), "{}", daemon.log());
}

#[test]
fn a_missing_slot_is_made_and_its_creation_says_for_whom_it_waits() {
    let mut world = World::new(PRODUCTS, RULE);
    world.sql("SELECT pg_drop_replication_slot('walpurge')");
    let mut open = world.pg.session("postgres", "postgres");
    open.run("BEGIN");
    open.run("UPDATE products SET category = 1 WHERE id = 1");
    let pid = open.run("SELECT pg_backend_pid()");
    world.spawn(&["run", "--log", "debug"]);
    world.wait_for_log(pid.trim());
    assert!(!world.log().contains("following the write-ahead log"));
    open.run("COMMIT");
    world.wait_for_log("the gap is closed");
    world.fill(&["product:2"]);
    world.sql("UPDATE products SET category = 5 WHERE id = 2");
    world.wait_gone(&["product:2"]);
}

#[test]
fn without_create_slot_a_missing_slot_is_waited_for() {
    let mut world = World::new(PRODUCTS, RULE);
    world.edit("[redis.cache]", "create_slot = false\n[redis.cache]");
    world.sql("SELECT pg_drop_replication_slot('walpurge')");
    world.spawn(&["run"]);
    let plugin = Plugin::asked().name();
    let create = format!("SELECT pg_create_logical_replication_slot('walpurge', '{plugin}')");
    world.wait_for_log(&create);
    world.sql(&create);
    world.wait_for_log("connected to Postgres again");
}

/// Within which a standby takes over after the first one's death.
const TAKEOVER: std::time::Duration = std::time::Duration::from_secs(2);

#[test]
fn a_second_daemon_waits_and_takes_over_within_two_seconds() {
    let mut world = World::new(PRODUCTS, RULE);
    world.start();
    // On a machine that is busy with something else one takeover may be late, not each.
    let mut quickest = PATIENCE;
    for _ in 0..5 {
        let mut first = world.daemon.take().unwrap();
        world.spawn(&["run", "--log", "debug"]);
        world.wait_for_log("is active for PID");
        world.fill(&["product:1"]);
        first.kill_9();
        let death = std::time::Instant::now();
        world.sql("UPDATE products SET category = category + 1 WHERE id = 1");
        world.wait_gone(&["product:1"]);
        quickest = quickest.min(death.elapsed());
        if quickest < TAKEOVER {
            break;
        }
    }
    assert!(quickest < TAKEOVER, "{quickest:?}");
    world.wait_confirmed();
    world.stop();
}
