//! Two Redis side by side: one that is down delays only itself.

use testkit::redis::Redis;
use testkit::{holds_within, wait_until};

use crate::world::{PATIENCE, World};

const TABLE: &str = "CREATE TABLE items (id int PRIMARY KEY, n int);
    INSERT INTO items SELECT id, 0 FROM generate_series(1, 50) id";

const RULE: &str = "[[rule]]\ntable = \"public.items\"\n\
    delete = [\"item:{id}\"]\ndelete_matching = [\"list:{id}:*\"]\ntags = [\"item:{id}\"]\n\
    bump = [\"version:{id}\"]\n";

/// Caches a row in each way.
#[track_caller]
fn fill(redis: &Redis, id: u32) {
    for key in [format!("item:{id}"), format!("list:{id}:a"), format!("page:{id}")] {
        redis.set(&key, "cached");
    }
    redis.cli(&["SADD", &format!("tags:item:{id}"), &format!("page:{id}")]);
}

/// Whether nothing of a row is left, and its version has been raised.
fn is_done(redis: &Redis, id: u32) -> bool {
    let is_gone = |key: String| !redis.exists(&key);
    is_gone(format!("item:{id}"))
        && is_gone(format!("list:{id}:a"))
        && is_gone(format!("page:{id}"))
        && redis.exists(&format!("version:{id}"))
}

#[test]
fn a_redis_that_stalls_or_dies_does_not_delay_the_one_beside_it() {
    let mut world = World::new(TABLE, RULE);
    let mut other = Redis::builder().persistent().start();
    world.edit("[[rule]]", &format!("[redis.other]\nurl = \"{}\"\n[[rule]]", other.url()));
    for id in 1..=50 {
        fill(&world.redis, id);
        fill(&other, id);
    }
    world.start();
    let update = |world: &World, id: u32| {
        world.sql(&format!("UPDATE items SET n = n + 1 WHERE id = {id}"));
        // The other one is down all the while: whoever waits for it waits for ever.
        let is_done = holds_within(PATIENCE, || is_done(&world.redis, id));
        assert!(is_done, "{id} waits for the other sink\n{}", world.news());
    };
    other.pause();
    (1..=20).for_each(|id| update(&world, id));
    let end = world.pg.current_lsn();
    other.resume();
    wait_until("the other has caught up", PATIENCE, || (1..=20).all(|id| is_done(&other, id)));
    wait_until("all is confirmed", PATIENCE, || world.pg.has_confirmed("walpurge", &end));

    other.kill_9();
    (21..=40).for_each(|id| update(&world, id));
    let end = world.pg.current_lsn();
    assert!(!world.pg.has_confirmed("walpurge", &end), "the other one has it to do still");
    other.start_again();
    wait_until("the other has caught up", PATIENCE, || (21..=40).all(|id| is_done(&other, id)));
    wait_until("all is confirmed", PATIENCE, || world.pg.has_confirmed("walpurge", &end));
    for redis in [&world.redis, &other] {
        assert!((41..=50).all(|id| redis.exists(&format!("item:{id}"))), "what did not change");
    }
    world.stop();
}
