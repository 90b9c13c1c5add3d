//! A cache-aside reader between a commit's streaming and its visibility: with the barrier nothing
//! that it puts into the cache stays, without it the old row stays for good.

use testkit::postgres::{Postgres, Session, StopMode};
use testkit::wait_until;

use crate::oracle;
use crate::world::{PATIENCE, World};

/// A world in which commits that ask for it wait for a standby that does not exist, and so are
/// streamed long before they are visible.
fn world() -> World {
    let world = World::new(oracle::TABLE, oracle::RULE);
    world.sql("ALTER DATABASE postgres SET synchronous_commit = local");
    name_standbys(&world, "ghost");
    world
}

fn name_standbys(world: &World, names: &str) {
    world.sql(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"));
    world.sql("SELECT pg_reload_conf()");
}

/// Writes row 1 in a transaction that is streamed and not visible.
fn commit_that_waits(world: &mut World) -> Session {
    let mut waiting = world.pg.session("postgres", "postgres");
    waiting.run("SET synchronous_commit = on");
    waiting.send("UPDATE items SET n = 7 WHERE id = 1");
    world.wait_for_log("item:1");
    waiting
}

/// What an application does: fills the cache from the database, unless it is filled.
fn read_through(world: &World) -> String {
    let key = oracle::key(1);
    if let Some(cached) = world.redis.get(&key) {
        return cached;
    }
    let row = world.sql("SELECT n FROM items WHERE id = 1").trim().to_owned();
    world.redis.set(&key, &row);
    row
}

#[test]
fn a_reader_in_the_window_leaves_no_stale_value_behind() {
    let mut world = world();
    world.start();
    let mut waiting = commit_that_waits(&mut world);
    for _ in 0..20 {
        assert_eq!(read_through(&world), "0", "the old row is what everybody sees");
    }
    name_standbys(&world, "");
    waiting.finish(PATIENCE).expect("the commit ends").unwrap();
    world.wait_gone(&[&oracle::key(1)]);
    assert_eq!(read_through(&world), "7");
    world.wait_confirmed();
    assert_eq!(read_through(&world), "7");
    world.stop();
}

#[test]
fn without_the_barrier_the_reader_puts_the_old_row_back_for_good() {
    let mut world = world();
    world.edit("[redis.cache]", "visibility = \"skip\"\n[redis.cache]");
    world.fill(&[&oracle::key(1)]);
    world.start();
    let mut waiting = commit_that_waits(&mut world);
    world.wait_gone(&[&oracle::key(1)]);
    assert_eq!(read_through(&world), "0");
    name_standbys(&world, "");
    waiting.finish(PATIENCE).expect("the commit ends").unwrap();
    world.wait_confirmed();
    assert_eq!(read_through(&world), "0", "this is the danger, and nothing mends it");
    world.stop();
}

#[test]
fn a_fast_shutdown_does_not_wait_for_a_redis_that_stalls_and_nothing_is_lost() {
    let mut world = World::new(oracle::TABLE, oracle::RULE);
    world.fill(&[&oracle::key(1), &oracle::key(10)]);
    world.start();
    world.redis.pause();
    world.sql("UPDATE items SET n = 1 WHERE id = 1");
    world.wait_for_log("item:1");
    let deadline = std::time::Duration::from_secs(3);
    assert!(world.pg.stops_within(StopMode::Fast, deadline), "{}", world.news());
    world.pg.start_again();
    world.redis.resume();
    world.wait_gone(&[&oracle::key(1)]);
    world.wait_confirmed();
    world.assert_cached(&[&oracle::key(10)]);
}

#[test]
fn with_a_star_and_a_real_standby_no_commit_is_kept_waiting_for_walpurge() {
    let mut world = World::new(oracle::TABLE, oracle::RULE);
    let standby = Postgres::standby_of(&world.pg, &[]);
    world.fill(&[&oracle::key(1)]);
    world.start();
    name_standbys(&world, "*");
    // Postgres waits for whichever of the two it takes.
    let mut writer = world.pg.session("postgres", "postgres");
    writer.send("UPDATE items SET n = 7 WHERE id = 1");
    writer.finish(PATIENCE).expect("the commit ends").unwrap();
    let mut daemon = world.daemon.take().unwrap();
    let mut has_left = false;
    wait_until("it works on or leaves", PATIENCE, || {
        has_left = !daemon.is_running();
        has_left || !world.redis.exists(&oracle::key(1))
    });
    name_standbys(&world, "walreceiver");
    if has_left {
        assert_eq!(daemon.wait(PATIENCE).unwrap().code(), Some(78), "{}", daemon.log());
        world.start();
    } else {
        world.daemon = Some(daemon);
    }
    world.wait_gone(&[&oracle::key(1)]);
    drop(standby);
}
