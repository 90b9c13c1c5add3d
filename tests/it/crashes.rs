//! The daemon is killed under load at each place where that matters, and nothing is lost.

use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use testkit::redis::Redis;

use crate::oracle::{self, Verdict, Writer, judge};
use crate::world::{PATIENCE, Plugin, World};

/// Starts the daemon and waits until it has killed itself there.
#[track_caller]
fn crash(world: &mut World, kill_at: &'static str) {
    world.failpoint = Some(kill_at);
    world.spawn(&["run", "--log", "debug"]);
    assert_killed(world);
}

#[track_caller]
fn assert_killed(world: &mut World) {
    let daemon = world.daemon.as_mut().unwrap();
    let status = daemon.wait(PATIENCE);
    let killed = status.is_some_and(|status| status.signal() == Some(9));
    assert!(killed, "{:?}: {status:?}\n{}", world.failpoint, daemon.report());
}

/// Starts the daemon for good and waits until everything is done.
fn recover(world: &mut World) {
    world.failpoint = None;
    world.start();
    world.wait_confirmed();
}

#[track_caller]
fn assert_survives(kills: &[&'static str]) {
    assert_survives_with(Plugin::asked(), kills);
}

#[track_caller]
pub fn assert_survives_with(plugin: Plugin, kills: &[&'static str]) {
    let mut world = World::of(plugin, oracle::TABLE, oracle::RULE);
    oracle::fill(&world);
    let writer = Writer::start(&world);
    for kill_at in kills {
        crash(&mut world, kill_at);
    }
    world.failpoint = None;
    world.start();
    writer.finish();
    recover(&mut world);
    assert_eq!(judge(&world), Verdict::default(), "{}", world.news());
}

#[test]
fn killed_before_redis_answer_is_taken() {
    assert_survives(&["kill_at=sent", "kill_at=sent:2", "kill_at=sent:3"]);
}

#[test]
fn killed_after_redis_answer_was_taken() {
    assert_survives(&["kill_at=answered", "kill_at=answered:2", "kill_at=answered:3"]);
}

#[test]
fn killed_before_a_confirm() {
    assert_survives(&["kill_at=before_confirm", "kill_at=before_confirm:2"]);
}

#[test]
fn killed_after_a_confirm() {
    assert_survives(&["kill_at=after_confirm", "kill_at=after_confirm:2"]);
}

#[test]
fn killed_in_the_middle_of_a_transaction() {
    assert_survives(&["kill_at=in_transaction:2", "kill_at=in_transaction:300"]);
}

#[test]
fn killed_in_the_middle_of_a_transaction_of_which_a_part_is_done() {
    assert_survives_half_done(Plugin::asked());
}

pub fn assert_survives_half_done(plugin: Plugin) {
    let mut world = World::of(plugin, oracle::TABLE, oracle::RULE);
    oracle::fill(&world);
    world.failpoint = Some("kill_at=in_transaction:37000");
    world.spawn(&["run"]);
    world.wait_for_log("following the write-ahead log");
    world.sql(
        "BEGIN; UPDATE items SET n = 1 WHERE id % 10 <> 0;
         INSERT INTO items SELECT generate_series(100001, 120000); COMMIT",
    );
    assert_killed(&mut world);
    let verdict = judge(&world);
    assert!(verdict.stale < 18_000, "a part of it is done: {verdict:?}");
    world.failpoint = None;
    world.spawn(&["run"]);
    world.wait_confirmed();
    assert_eq!(judge(&world), Verdict::default());
}

#[test]
fn killed_when_one_sink_is_done_and_the_other_is_not() {
    let mut world = World::new(oracle::TABLE, oracle::RULE);
    let second = Redis::builder().persistent().start();
    world.edit("[[rule]]", &format!("[redis.second]\nurl = \"{}\"\n[[rule]]", second.url()));
    oracle::fill(&world);
    oracle::fill_redis(&second);
    let writer = Writer::start(&world);
    for kill_at in ["kill_at=between_sinks", "kill_at=between_sinks:2", "kill_at=between_sinks:3"] {
        crash(&mut world, kill_at);
    }
    writer.finish();
    recover(&mut world);
    assert_eq!(judge(&world), Verdict::default());
    assert_eq!(oracle::judge_redis(&second), Verdict::default());
}

/// One sink is down, so that positions of the other one are all that is written.
#[track_caller]
fn assert_positions_survive(kills: &[&'static str]) {
    assert_positions_survive_with(Plugin::asked(), kills);
}

#[track_caller]
pub fn assert_positions_survive_with(plugin: Plugin, kills: &[&'static str]) {
    let mut world = World::of(plugin, oracle::TABLE, oracle::RULE);
    let mut second = Redis::builder().persistent().start();
    world.edit("[[rule]]", &format!("[redis.second]\nurl = \"{}\"\n[[rule]]", second.url()));
    oracle::fill(&world);
    oracle::fill_redis(&second);
    second.pause();
    let writer = Writer::start(&world);
    // There is always something new to be remembered, however long it takes.
    let is_over = Arc::new(AtomicBool::new(false));
    let mut session = world.pg.session("postgres", "postgres");
    let over = Arc::clone(&is_over);
    let commits = thread::spawn(move || {
        while !over.load(Ordering::SeqCst) {
            session.run("SELECT pg_logical_emit_message(true, 'test', ''), pg_sleep(0.02)");
        }
    });
    for kill_at in kills {
        crash(&mut world, kill_at);
    }
    is_over.store(true, Ordering::SeqCst);
    commits.join().unwrap();
    second.resume();
    world.failpoint = None;
    world.start();
    writer.finish();
    recover(&mut world);
    assert_eq!(judge(&world), Verdict::default(), "{}", world.news());
    assert_eq!(oracle::judge_redis(&second), Verdict::default(), "{}", world.news());
}

#[test]
fn killed_before_a_position_is_written() {
    let kills =
        ["kill_at=before_position", "kill_at=before_position:3", "kill_at=before_position:5"];
    assert_positions_survive(&kills);
}

#[test]
fn killed_after_a_position_was_written() {
    let kills = ["kill_at=after_position", "kill_at=after_position:3", "kill_at=after_position:5"];
    assert_positions_survive(&kills);
}

#[test]
fn killed_before_and_after_something_was_given_up() {
    let rule =
        "[[rule]]\ntable = \"public.t\"\nbump = [\"version:{id}\"]\ndelete = [\"row:{id}\"]\n";
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY)", rule);
    let directory = world.dir.path().display().to_string();
    world.edit("[postgres]", &format!("state_dir = \"{directory}\"\n[postgres]"));
    world.redis.cmd(&["LPUSH", "version:1", "no counter"]);
    world.fill(&["row:1", "row:2", "row:3"]);
    world.sql("INSERT INTO t VALUES (1)");
    world.sql("SELECT pg_logical_emit_message(true, 'walpurge', 'nonsense')");
    world.sql("INSERT INTO t VALUES (2)");
    // What is kept is not kept again, so that each time it is the first.
    for _ in 0..2 {
        crash(&mut world, "kill_at=before_park");
        crash(&mut world, "kill_at=after_park");
    }
    recover(&mut world);
    world.wait_gone(&["row:1", "row:2"]);
    world.assert_cached(&["row:3"]);
    let listed = world.command(&["parked", "list", "--json"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed.lines().count(), 2, "each of them once: {listed}");
}

const TABLES: &str = "CREATE TABLE users (id int PRIMARY KEY, n int);
    CREATE TABLE posts (id int PRIMARY KEY, user_id int); CREATE INDEX ON posts (user_id);
    GRANT SELECT ON posts TO walpurge;
    INSERT INTO users SELECT n, 0 FROM generate_series(1, 400) n;
    INSERT INTO posts SELECT n, 1 + n % 400 FROM generate_series(0, 3999) n";

const LOOKUP: &str = r#"
[[rule]]
table = "public.users"
on = ["insert", "update"]
lookup = "SELECT id AS post_id FROM posts WHERE user_id = {id}"
delete = ["post:{post_id}"]
"#;

#[track_caller]
fn assert_lookups_survive(kills: &[&'static str]) {
    let mut world = World::new(TABLES, LOOKUP);
    let keys: Vec<String> = (0..4000).map(|id| format!("post:{id}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    world.fill(&keys);
    let mut session = world.pg.session("postgres", "postgres");
    // Every tenth user is never written.
    let writer = thread::spawn(move || {
        for id in (1..=400).filter(|id| id % 10 != 0) {
            session.run(&format!("UPDATE users SET n = n + 1 WHERE id = {id}"));
        }
    });
    for kill_at in kills {
        crash(&mut world, kill_at);
    }
    world.failpoint = None;
    world.start();
    writer.join().unwrap();
    recover(&mut world);
    for (id, key) in keys.iter().enumerate() {
        let is_kept = (1 + id % 400) % 10 == 0;
        assert_eq!(world.redis.exists(key), is_kept, "{key}\n{}", world.news());
    }
}

#[test]
fn killed_before_a_lookups_answer_is_handed_over() {
    assert_lookups_survive(&["kill_at=before_answer", "kill_at=before_answer"]);
}

#[test]
fn killed_while_a_lookups_answer_is_handed_over() {
    assert_lookups_survive(&["kill_at=amid_answer:5", "kill_at=amid_answer:42"]);
}

#[test]
fn killed_when_a_lookups_answer_has_been_handed_over() {
    assert_lookups_survive(&["kill_at=after_answer", "kill_at=after_answer"]);
}
