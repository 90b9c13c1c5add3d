//! Each mechanism that keeps invalidations from being lost is switched off, and something is lost;
//! the same steps lose nothing with it on.

use std::time::Duration;

use testkit::proxy::Proxy;
use testkit::redis::Redis;

use crate::world::{PATIENCE, World};

/// How long something is waited for that only a broken build does.
const MOMENT: Duration = Duration::from_secs(2);

/// Two rules that remove the same pages.
const TABLES: &str =
    "CREATE TABLE a (id int PRIMARY KEY, n int); CREATE TABLE b (id int PRIMARY KEY);
    INSERT INTO a VALUES (1, 0)";

const RULES: &str = r#"
[[rule]]
table = "public.a"
delete = ["page:{id}"]
[[rule]]
table = "public.b"
enabled = true
delete = ["page:{id}"]
"#;

/// A running world whose Redis is reached through a proxy, over connections that are open already.
fn world(failpoint: Option<&'static str>, sink: &str) -> (World, Proxy) {
    let mut world = World::new(TABLES, &format!("{sink}{RULES}"));
    let proxy = Proxy::to(world.redis.port());
    let (port, through) = (format!(":{}/0", world.redis.port()), format!(":{}/0", proxy.port()));
    world.edit(&port, &through);
    world.failpoint = failpoint;
    world.fill(&["page:9"]);
    world.start();
    world.sql("INSERT INTO b VALUES (9)");
    world.wait_gone(&["page:9"]);
    // Redis' answer may come later than a reader sees the page gone.
    world.wait_confirmed();
    (world, proxy)
}

/// A reader fills a page while its change is streamed and not visible. Whether it stays stale.
fn stale_by_a_hidden_commit(failpoint: Option<&'static str>) -> bool {
    let mut world = World::new(TABLES, RULES);
    world.failpoint = failpoint;
    world.redis.set("page:1", "0");
    world.start();
    let mut hidden = world.hide_commits();
    hidden.send("UPDATE a SET n = 1 WHERE id = 1");
    world.wait_for_log("page:1");
    if testkit::holds_within(MOMENT, || !world.redis.exists("page:1")) {
        world.redis.set("page:1", world.sql("SELECT n FROM a WHERE id = 1").trim());
    }
    world.show_commits(hidden);
    world.wait_confirmed();
    world.redis.get("page:1").is_some_and(|cached| cached != world.sql("SELECT n FROM a").trim())
}

#[test]
fn acting_before_a_commit_is_visible_leaves_a_stale_key() {
    assert!(!stale_by_a_hidden_commit(None));
    assert!(stale_by_a_hidden_commit(Some("act_early")));
}

/// A page is asked for by two transactions. The older one is confirmed or not when the daemon is
/// killed, and the younger one asks for nothing any more at the next start. Whether the page stays.
fn stale_by_a_merge(failpoint: Option<&'static str>) -> bool {
    let (mut world, proxy) = world(failpoint, "");
    world.fill(&["page:0", "page:1"]);
    world.wait_confirmed();
    let mut hidden = world.hide_commits();
    hidden.send("UPDATE a SET n = 1 WHERE id = 1");
    world.wait_for_log("page:1");
    let older = world.pg.current_lsn();
    // The lane is busy with a younger transaction's action when the two meet.
    proxy.mute();
    world.sql("INSERT INTO b VALUES (0)");
    world.wait_gone(&["page:0"]);
    world.sql("INSERT INTO b VALUES (1)");
    world.show_commits(hidden);
    let patience = if failpoint.is_some() { PATIENCE } else { MOMENT };
    testkit::holds_within(patience, || world.pg.has_confirmed("walpurge", &older));
    world.kill_9();
    proxy.resume();
    world.assert_cached(&["page:1"]);
    world.edit("enabled = true", "enabled = false");
    world.failpoint = None;
    world.start();
    world.wait_confirmed();
    world.redis.exists("page:1")
}

#[test]
fn merging_for_the_newest_transaction_leaves_a_stale_key() {
    assert!(!stale_by_a_merge(None));
    assert!(stale_by_a_merge(Some("merge_newest")));
}

/// A page is removed, filled again and changed again before Redis' answer arrives. Whether it stays.
fn stale_by_what_is_in_flight(failpoint: Option<&'static str>) -> bool {
    let other = Redis::builder().start();
    let (world, proxy) = world(failpoint, &format!("[redis.other]\nurl = \"{}\"\n", other.url()));
    other.set("page:2", "cached");
    world.fill(&["page:1"]);
    proxy.mute();
    world.sql("UPDATE a SET n = 1 WHERE id = 1");
    world.wait_gone(&["page:1"]);
    world.redis.set("page:1", "1");
    world.sql("UPDATE a SET n = 2 WHERE id = 1");
    // When another sink has done what was committed later, this is planned.
    world.sql("INSERT INTO b VALUES (2)");
    testkit::wait_until("the other sink is done", PATIENCE, || !other.exists("page:2"));
    proxy.resume();
    world.wait_confirmed();
    world.redis.exists("page:1")
}

#[test]
fn merging_with_what_is_in_flight_leaves_a_stale_key() {
    assert!(!stale_by_what_is_in_flight(None));
    assert!(stale_by_what_is_in_flight(Some("merge_in_flight")));
}
