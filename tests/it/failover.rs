//! The daemon, while a Redis is replaced by its replica.

use std::time::Duration;

use testkit::postgres::Postgres;
use testkit::redis::{Redis, Sentinels};

use crate::oracle::{RULE, TABLE, Verdict, Writer, fill_redis, judge_redis};
use crate::world::{PATIENCE, World};

/// No failover happens by itself on a machine that is too busy to answer.
const NEVER: Duration = Duration::from_secs(600);

/// The master goes on for a while, cut off from its replica, and dies: everything that it
/// acknowledged meanwhile is lost with it.
#[test]
fn a_master_that_dies_under_load_leaves_no_stale_key() {
    let mut sentinels = Sentinels::start(NEVER);
    let mut world = World::new(TABLE, RULE);
    let url = format!("url = \"{}\"", world.redis.url());
    let sentinel = format!("sentinel = {}\nfailover_window = \"60s\"", sentinels.toml());
    world.edit(&url, &sentinel);
    fill_redis(&sentinels.servers[0]);
    let have_all = |redis: &Redis| redis.cli(&["DBSIZE"]) == "20000";
    testkit::wait_until("the replica has them", PATIENCE, || have_all(&sentinels.servers[1]));
    world.start();
    let writer = Writer::start(&world);
    writer.wait_for_percent(20);
    sentinels.cut_off();
    let lost = sentinels.servers[1].cli(&["DBSIZE"]);
    writer.wait_for_percent(50);
    testkit::wait_until("deletes are acknowledged that will be lost", PATIENCE, || {
        let left = sentinels.servers[0].cli(&["DBSIZE"]).parse::<u64>().unwrap();
        left + 1000 < lost.parse::<u64>().unwrap()
    });
    sentinels.servers[0].kill_9();
    sentinels.set_down_after(Duration::from_secs(1));
    writer.finish();
    sentinels.wait_for_failover();
    let new = &sentinels.servers[1];
    let clean = testkit::holds_within(2 * PATIENCE, || judge_redis(new) == Verdict::default());
    assert!(clean, "{:?}\n{}", judge_redis(new), world.news());
    world.wait_confirmed();
    assert!(world.news().contains("another server has taken over"), "{}", world.news());
    world.stop();
}

#[test]
fn a_server_that_was_set_back_while_walpurge_was_down_gets_the_fallbacks() {
    let table = "CREATE TABLE items (id int PRIMARY KEY, n int);
        INSERT INTO items VALUES (1, 0), (2, 0)";
    let bare = "[[rule]]\nname = \"bare\"\ntable = \"public.items\"\n\
        delete = [\"bare:{id}\"]\nfallback = \"none\"\n";
    let rules = format!("{RULE}{bare}");
    let mut world = World::with(Postgres::start(), Redis::start(), table, &rules);
    world.edit("[redis.cache]", "[redis.cache]\nfailover_window = \"10s\"");
    world.fill(&["item:1", "item:2", "kept"]);
    world.redis.cli(&["SAVE"]);
    world.start();
    world.sql("UPDATE items SET n = 1 WHERE id = 1");
    world.wait_gone(&["item:1"]);
    world.wait_confirmed();
    world.kill_9();
    world.redis.kill_9();
    world.redis.start_again();
    world.assert_cached(&["item:1", "item:2", "kept"]);
    let file = world.state.as_ref().unwrap().join("servers.json");
    let noted = std::fs::read_to_string(&file).unwrap();
    world.start();
    world.wait_gone(&["item:1", "item:2"]);
    testkit::wait_until("the new server is noted", PATIENCE, || {
        std::fs::read_to_string(&file).unwrap() != noted
    });
    world.assert_cached(&["kept"]);
    // Of the two rules only the one is named whose keys may be back.
    world.wait_for_log("what rules without a fallback have removed may be back");
    assert!(world.news().contains("rules=\"bare\""), "{}", world.news());
    // It is known from now on.
    world.fill(&["item:2"]);
    world.kill_9();
    world.start();
    world.sql("UPDATE items SET n = 2 WHERE id = 1");
    world.wait_confirmed();
    world.assert_cached(&["item:2"]);
    world.stop();
}
