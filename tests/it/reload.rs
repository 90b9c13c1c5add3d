//! SIGHUP: new rules and switches without a lost change.

use testkit::process::Signal;
use testkit::redis::Redis;

use crate::oracle::{self, Verdict, Writer, judge};
use crate::world::{PATIENCE, World};

fn world() -> World {
    let mut world = World::plain();
    let directory = world.dir.path().display().to_string();
    world.edit("[postgres]", &format!("state_dir = \"{directory}\"\n[postgres]"));
    world
}

/// Changes the file, and waits until the daemon has said something about it.
fn reload(world: &mut World, from: &str, to: &str, said: &str) {
    world.edit(from, to);
    world.config_file();
    let before = world.log().matches(said).count();
    world.daemon.as_mut().unwrap().signal(Signal::HUP);
    let is_said = || world.log().matches(said).count() > before;
    testkit::wait_until(said, PATIENCE, is_said);
}

/// Starts the daemon after a stop; its log goes on.
fn start_again(world: &mut World) {
    let count = |world: &World| {
        std::fs::read_to_string(world.dir.join("walpurge.log")).unwrap().matches(TAKEN).count()
    };
    let before = count(world);
    world.start();
    testkit::wait_until("it streams again", PATIENCE, || count(world) > before);
}

const TAKEN: &str = "following the write-ahead log";

#[test]
fn new_rules_count_from_the_next_transaction_on() {
    let mut world = world();
    world.fill(&["key:1", "other:1", "other:2"]);
    world.start();
    world.sql("UPDATE t SET n = 1 WHERE id = 1");
    world.wait_gone(&["key:1"]);
    reload(&mut world, "\"key:{id}\"", "\"key:{id}\", \"other:{id}\"", TAKEN);
    world.sql("UPDATE t SET n = 2 WHERE id = 2");
    world.wait_gone(&["other:2"]);
    world.wait_confirmed();
    world.assert_cached(&["other:1"]);
    world.stop();
}

#[test]
fn a_bad_file_changes_nothing_and_is_said() {
    let mut world = world();
    world.fill(&["key:1"]);
    world.start();
    reload(&mut world, "delete =", "dlete =", "the new configuration is not taken");
    let news = world.news();
    assert!(news.contains("did you mean `delete`?"), "{news}");
    world.sql("UPDATE t SET n = 1 WHERE id = 1");
    world.wait_gone(&["key:1"]);
    reload(&mut world, "dlete =", "delete =", TAKEN);
    world.stop();
}

#[test]
fn a_rule_that_was_disabled_runs_its_fallback_once_when_it_is_enabled() {
    let mut world = world();
    world.fill(&["key:1"]);
    world.start();
    reload(&mut world, "name = \"t\"", "name = \"t\"\nenabled = false", TAKEN);
    world.sql("UPDATE t SET n = 1 WHERE id = 1");
    world.wait_confirmed();
    world.assert_cached(&["key:1"]);
    // A restart in between does not forget it.
    world.stop();
    start_again(&mut world);
    reload(&mut world, "\nenabled = false", "", TAKEN);
    world.wait_gone(&["key:1"]);
    world.wait_confirmed();
    world.fill(&["key:99"]);
    reload(&mut world, "name = \"t\"", "name = \"t\"\n", TAKEN);
    world.sql("UPDATE t SET n = 1 WHERE id = 2");
    world.wait_confirmed();
    world.assert_cached(&["key:99"]);
    world.stop();
}

#[test]
fn the_fallback_of_an_enabled_rule_runs_again_when_what_is_streamed_is_visible() {
    let mut world = world();
    world.edit("name = \"t\"", "name = \"t\"\nenabled = false");
    world.start();
    let mut hidden = world.hide_commits();
    let before = world.pg.current_lsn();
    hidden.send("UPDATE t SET n = 1 WHERE id = 1");
    testkit::wait_until("its commit is in the log", PATIENCE, || {
        let streamed = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        world.sql(streamed).trim() == "1" && world.pg.current_lsn() > before
    });
    // Nobody asks for anything of it.
    world.wait_confirmed();
    world.fill(&["key:1"]);
    reload(&mut world, "\nenabled = false", "", TAKEN);
    world.wait_gone(&["key:1"]);
    world.redis.set("key:1", "the old row");
    world.wait_confirmed();
    world.show_commits(hidden);
    world.wait_gone(&["key:1"]);
    // It is not owed any more.
    testkit::wait_until("it is paid", PATIENCE, || {
        let owed = world.dir.join("owed.json");
        std::fs::read_to_string(owed).is_ok_and(|owed| !owed.contains("\"t\""))
    });
    world.stop();
}

#[test]
fn a_sink_that_is_off_drops_its_actions_and_gets_fallbacks_when_it_is_on_again() {
    let other = Redis::builder().persistent().start();
    let mut world = world();
    let section = format!("[redis.other]\nurl = \"{}\"\nmode = \"off\"\n[[rule]]", other.url());
    world.edit("[[rule]]", &section);
    world.fill(&["key:1", "foreign"]);
    for key in ["key:1", "key:50", "foreign"] {
        other.set(key, "cached");
    }
    world.start();
    world.sql("UPDATE t SET n = 1 WHERE id = 1");
    world.wait_gone(&["key:1"]);
    world.wait_confirmed();
    assert!(other.exists("key:1"), "it is off");
    world.fill(&["key:50"]);
    reload(&mut world, "mode = \"off\"", "mode = \"on\"", TAKEN);
    let gone = || !other.exists("key:1") && !other.exists("key:50");
    testkit::wait_until("the fallback has run", PATIENCE, gone);
    world.wait_confirmed();
    assert!(other.exists("foreign"));
    world.assert_cached(&["key:50"]);
    world.stop();
}

#[test]
fn a_sink_that_is_held_keeps_its_actions_over_a_restart() {
    let mut world = world();
    world.edit("[[rule]]", "mode = \"hold\"\n[[rule]]");
    world.fill(&["key:1", "key:2"]);
    world.start();
    world.sql("UPDATE t SET n = 1 WHERE id = 1");
    world.wait_for_log("the sink is held by its mode");
    let end = world.pg.current_lsn();
    world.stop();
    world.assert_cached(&["key:1"]);
    assert!(!world.pg.has_confirmed("walpurge", &end), "the WAL is held");
    start_again(&mut world);
    reload(&mut world, "mode = \"hold\"", "mode = \"on\"", TAKEN);
    world.wait_gone(&["key:1"]);
    world.wait_confirmed();
    world.assert_cached(&["key:2"]);
    world.stop();
}

#[test]
fn reloads_under_load_lose_nothing() {
    let mut world = World::new(oracle::TABLE, oracle::RULE);
    oracle::fill(&world);
    world.start();
    let writer = Writer::start(&world);
    for percent in [15, 30, 45, 60, 75, 90] {
        writer.wait_for_percent(percent);
        reload(&mut world, "name = \"item\"", "name = \"item\"\n", TAKEN);
    }
    writer.finish();
    world.wait_confirmed();
    assert_eq!(judge(&world), Verdict::default(), "{}", world.news());
    world.stop();
}
