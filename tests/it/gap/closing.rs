//! Each step of closing a gap: whatever happens at it, nothing stays owed unnoticed.

use testkit::postgres::Postgres;
use testkit::redis::Redis;
use testkit::wait_until;

use super::{
    CLOSED, FOREIGN, GAP, assert_closed, assert_works, drop_slot, dropped_while_down, gaps, world,
    write,
};
use crate::invalidation::{PRODUCTS, RULE};
use crate::world::{PATIENCE, World};

/// Lets walpurge die at a step of closing a gap.
fn killed_at(step: &'static str) -> World {
    let mut world = dropped_while_down();
    // It must be the second run that removes them: the first one's fallbacks do not arrive.
    if step != "kill_at=gap_fallbacks_done" && step != "kill_at=gap_slot_copied" {
        world.redis.pause();
    }
    world.failpoint = Some(step);
    world.spawn(&["run", "--log", "debug"]);
    let daemon = world.daemon.as_mut().unwrap();
    assert!(daemon.wait(PATIENCE).is_some(), "it did not come to {step}\n{}", daemon.log());
    world.failpoint = None;
    world.redis.resume();
    world
}

fn permanent(world: &World) -> String {
    world.sql("SELECT count(*) FROM pg_replication_slots WHERE NOT temporary")
}

fn a_kill_leaves_the_gap_owed(step: &'static str) {
    let mut world = killed_at(step);
    assert_eq!(permanent(&world), "0");
    // Committed before the second run's slot: nobody ever streams it.
    world.fill(&["product:2"]);
    write(&world, 2);
    world.spawn(&["run", "--log", "debug"]);
    assert_closed(&mut world);
    assert_eq!(gaps(&world), 2);
}

#[test]
fn a_kill_when_the_slot_is_made_leaves_the_gap_owed() {
    a_kill_leaves_the_gap_owed("kill_at=gap_slot_created");
}

#[test]
fn a_kill_when_the_stream_starts_leaves_the_gap_owed() {
    a_kill_leaves_the_gap_owed("kill_at=gap_stream_started");
}

#[test]
fn a_kill_when_the_fallbacks_are_done_leaves_the_gap_owed() {
    a_kill_leaves_the_gap_owed("kill_at=gap_fallbacks_done");
}

#[test]
fn a_kill_when_the_slot_is_copied_leaves_nothing_owed() {
    let mut world = killed_at("kill_at=gap_slot_copied");
    assert_eq!(permanent(&world), "1");
    world.wait_gone(&["product:1", "product:2"]);
    // The copy brings it.
    world.fill(&["product:1", "product:2"]);
    write(&world, 2);
    world.start();
    world.wait_gone(&["product:2"]);
    world.assert_cached(&["product:1"]);
    assert_works(&mut world);
    assert_eq!(gaps(&world), 1);
}

#[test]
fn an_open_transaction_holds_up_the_slot_and_not_the_fallbacks() {
    let mut world = world();
    drop_slot(&world);
    let mut open = world.pg.session("postgres", "postgres");
    open.run("BEGIN");
    open.run("UPDATE products SET category = 1 WHERE id = 1");
    let pid = open.run("SELECT pg_backend_pid()");
    write(&world, 2);
    world.spawn(&["run", "--log", "debug"]);
    world.wait_gone(&["product:1", "product:2"]);
    world.wait_for_log(&format!("pid={}", pid.trim()));
    assert!(!world.log().contains(CLOSED), "{}", world.news());
    // Readers fill the cache with the row as it still is for them.
    world.fill(&["product:1", "product:2"]);
    open.run("COMMIT");
    assert_closed(&mut world);
    world.stop();
}

#[test]
fn a_transaction_that_is_committed_and_not_visible_is_waited_for() {
    let mut world = world();
    world.sql("ALTER DATABASE postgres SET synchronous_commit = local");
    drop_slot(&world);
    world.sql("ALTER SYSTEM SET synchronous_standby_names = 'ghost'");
    world.sql("SELECT pg_reload_conf()");
    // Postgres waits for it before it makes a slot; it is the one that comes next that matters.
    let mut first = world.pg.session("postgres", "postgres");
    first.run("BEGIN; UPDATE products SET category = 1 WHERE id = 3");
    world.spawn(&["run", "--log", "debug"]);
    world.wait_for_log("creating the slot waits");
    let mut second = world.pg.session("postgres", "postgres");
    second.run("SET synchronous_commit = on");
    second.send("UPDATE products SET category = 1 WHERE id = 1");
    let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    wait_until("it is committed and not visible", PATIENCE, || world.sql(sleeps) == "1");
    first.run("COMMIT");
    let waits = testkit::holds_within(std::time::Duration::from_secs(3), || {
        world.log().contains("following the write-ahead log")
    });
    // Wherever Postgres or walpurge waits for it: the slot is not permanent yet.
    assert!(!world.log().contains(CLOSED), "streams: {waits}\n{}", world.news());
    world.fill(&["product:1"]);
    world.sql("ALTER SYSTEM SET synchronous_standby_names = ''");
    world.sql("SELECT pg_reload_conf()");
    second.finish(PATIENCE).expect("the commit ends").unwrap();
    world.wait_gone(&["product:1"]);
    world.wait_for_log(CLOSED);
    world.assert_cached(&[FOREIGN]);
}

#[test]
fn a_sink_that_is_down_keeps_the_slot_temporary() {
    let mut world = world();
    drop_slot(&world);
    write(&world, 1);
    world.redis.kill_9();
    world.spawn(&["run", "--log", "debug"]);
    world.wait_for_log("following the write-ahead log");
    write(&world, 2);
    world.wait_for_log("the sink is down");
    assert_eq!(permanent(&world), "0");
    world.redis.start_again();
    assert_closed(&mut world);
}

#[test]
fn a_second_walpurge_waits_while_the_first_closes_the_gap() {
    let mut world = world();
    drop_slot(&world);
    world.redis.pause();
    world.spawn(&["run", "--log", "debug"]);
    world.wait_for_log("following the write-ahead log");
    let first = world.daemon.take().unwrap();
    let second_state = world.dir.join("second");
    let first_state = world.state.replace(second_state);
    world.spawn(&["run", "--log", "debug"]);
    let is_twice = || world.log().matches(GAP).count() == 2;
    wait_until("the second has found the gap too", PATIENCE, is_twice);
    world.redis.resume();
    world.wait_for_log(CLOSED);
    drop(first);
    drop(first_state);
    assert_works(&mut world);
    assert_eq!(world.log().matches(CLOSED).count(), 1, "{}", world.news());
}

#[test]
fn a_stop_while_the_slot_is_made_leaves_none() {
    let mut world = world();
    drop_slot(&world);
    let mut open = world.pg.session("postgres", "postgres");
    open.run("BEGIN; UPDATE products SET category = 1 WHERE id = 1");
    world.spawn(&["run", "--log", "debug"]);
    world.wait_for_log("creating the slot waits");
    world.stop();
    wait_until("nothing is left", PATIENCE, || {
        world.sql("SELECT count(*) FROM pg_replication_slots") == "0"
    });
    open.run("COMMIT");
}

#[test]
fn without_room_for_two_slots_the_new_one_stays_temporary_until_there_is() {
    let pg = Postgres::builder().setting("max_replication_slots", "2").start();
    let mut world = World::with(pg, Redis::builder().persistent().start(), PRODUCTS, RULE);
    world.fill(&["product:1", "product:2", FOREIGN]);
    drop_slot(&world);
    world.sql("SELECT pg_create_physical_replication_slot('other')");
    world.spawn(&["run", "--log", "debug"]);
    world.wait_for_log("the new slot stays temporary, trying again");
    assert!(world.log().contains("max_replication_slots"), "{}", world.news());
    world.sql("SELECT pg_drop_replication_slot('other')");
    assert_closed(&mut world);
    assert_eq!(gaps(&world), 1);
}
