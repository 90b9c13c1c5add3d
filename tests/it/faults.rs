//! Nothing is lost, whatever dies.

use std::time::{Duration, Instant};

use testkit::postgres::{Postgres, StopMode};
use testkit::redis::Redis;
use testkit::wait_until;

use crate::oracle::{self, Verdict, Writer, judge};
use crate::world::{PATIENCE, Plugin, World};

fn world() -> World {
    world_of(Plugin::asked())
}

fn world_of(plugin: Plugin) -> World {
    let world = World::of(plugin, oracle::TABLE, oracle::RULE);
    oracle::fill(&world);
    world
}

/// Waits until everything is confirmed, and judges.
#[track_caller]
fn assert_clean(world: &mut World) {
    world.wait_confirmed();
    assert_eq!(judge(world), Verdict::default(), "{}", world.log());
    world.stop();
}

/// Freezes Redis, waits until changes have been received that cannot be done, and kills the daemon
/// with them in its memory.
fn kill_with_actions_in_memory(world: &mut World) -> Verdict {
    world.start();
    world.redis.pause();
    let writer = Writer::start(world);
    writer.finish();
    world.wait_for_log("item:19999");
    // A status update after that: the wrong build confirms in it what was received.
    let end = world.pg.current_lsn();
    let confirms =
        testkit::holds_within(Duration::from_secs(2), || world.pg.has_confirmed("walpurge", &end));
    assert_eq!(confirms, world.failpoint.is_some(), "whether it confirms what is not done");
    world.kill_9();
    world.redis.resume();
    world.start();
    world.wait_confirmed();
    judge(world)
}

#[test]
fn actions_in_memory_at_a_kill_are_repeated() {
    assert_repeats_what_was_in_memory(Plugin::asked());
}

pub fn assert_repeats_what_was_in_memory(plugin: Plugin) {
    let mut world = world_of(plugin);
    assert_eq!(kill_with_actions_in_memory(&mut world), Verdict::default());
}

#[test]
fn the_oracle_catches_a_build_that_confirms_before_it_acts() {
    assert_oracle_can_fail(Plugin::asked());
}

pub fn assert_oracle_can_fail(plugin: Plugin) {
    let mut world = world_of(plugin);
    world.failpoint = Some("confirm_early");
    // With one, it would notice at its next start that the slot is ahead of what it has done.
    world.state = None;
    let verdict = kill_with_actions_in_memory(&mut world);
    assert!(verdict.stale > 10_000, "{verdict:?}");
}

#[test]
fn kills_under_load_lose_nothing() {
    assert_kills_lose_nothing(Plugin::asked());
}

pub fn assert_kills_lose_nothing(plugin: Plugin) {
    let mut world = world_of(plugin);
    world.start();
    let writer = Writer::start(&world);
    for percent in [10, 30, 50, 70, 90] {
        writer.wait_for_percent(percent);
        world.kill_9();
        world.start();
    }
    writer.finish();
    assert_clean(&mut world);
}

#[test]
fn a_redis_that_dies_under_load_loses_nothing() {
    let mut world = world();
    world.start();
    let writer = Writer::start(&world);
    for percent in [20, 60] {
        writer.wait_for_percent(percent);
        world.redis.kill_9();
        writer.wait_for_percent(percent + 20);
        world.redis.start_again();
    }
    writer.finish();
    assert_clean(&mut world);
}

#[test]
fn a_stalled_redis_stops_neither_feedback_nor_keeps_growing() {
    // Without a fallback, which would take the place of what waits.
    let mut world = World::new(oracle::TABLE, &format!("{}fallback = \"none\"\n", oracle::RULE));
    oracle::fill(&world);
    // The server drops a session that is silent for so long.
    let url = world.pg.url("walpurge", "postgres");
    world.edit(&url, &format!("{url}?options=-c%20wal_sender_timeout%3D5000"));
    world.spawn(&["run"]);
    world.wait_for_log("following the write-ahead log");
    let walsender = |world: &World| world.sql("SELECT pid FROM pg_stat_replication");
    let before = walsender(&world);
    world.redis.pause();
    // Several times what may wait, in distinct keys.
    world.sql("INSERT INTO items SELECT generate_series(100001, 1100000)");
    let stalled = Instant::now();
    let daemon = world.daemon.as_ref().expect("a daemon").pid();
    wait_until("the stall has lasted two of the server's timeouts", PATIENCE, || {
        stalled.elapsed() > Duration::from_secs(12)
    });
    let writer = Writer::start(&world);
    writer.finish();
    assert_eq!(walsender(&world), before, "the session was dropped\n{}", world.news());
    let peak = peak_rss_mib(daemon);
    assert!(peak < 100, "{peak} MiB in a debug build");
    world.redis.resume();
    wait_until("everything is confirmed", 6 * PATIENCE, || {
        world.pg.has_confirmed("walpurge", &world.pg.current_lsn())
    });
    assert_eq!(walsender(&world), before, "the session was dropped\n{}", world.news());
    assert_clean(&mut world);
}

/// The most memory that a process has used.
fn peak_rss_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024
}

#[test]
fn a_postgres_that_restarts_under_load_loses_nothing() {
    assert_restarts_lose_nothing(Plugin::asked());
}

pub fn assert_restarts_lose_nothing(plugin: Plugin) {
    let mut world = world_of(plugin);
    world.start();
    let writer = Writer::start(&world);
    for (percent, mode) in [(20, StopMode::Fast), (50, StopMode::Immediate)] {
        writer.wait_for_percent(percent);
        world.pg.restart(mode);
    }
    writer.wait_for_percent(75);
    world.pg.kill_9();
    world.pg.start_again();
    writer.finish();
    assert_clean(&mut world);
}

#[test]
fn a_replication_connection_that_is_cut_loses_nothing() {
    assert_cuts_lose_nothing(Plugin::asked());
}

pub fn assert_cuts_lose_nothing(plugin: Plugin) {
    let mut world = world_of(plugin);
    let proxy = testkit::proxy::Proxy::to(world.pg.port());
    let (port, through) = (format!(":{}/", world.pg.port()), format!(":{}/", proxy.port()));
    world.edit(&port, &through);
    world.start();
    let writer = Writer::start(&world);
    for percent in [10, 25, 40, 55] {
        writer.wait_for_percent(percent);
        proxy.cut();
    }
    for bytes in [1, 1000, 100_000] {
        proxy.cut_after_bytes(bytes);
        wait_until("it is cut", PATIENCE, || proxy.open() == 0 || proxy.accepted() > 20);
    }
    writer.finish();
    assert_clean(&mut world);
}

#[test]
fn sigterm_finishes_and_confirms_everything() {
    let mut world = world();
    world.start();
    let writer = Writer::start(&world);
    writer.finish();
    world.wait_gone(&[&oracle::key(19_999)]);
    world.stop();
    assert_eq!(judge(&world), Verdict::default());
    // Nothing else has written, and the daemon is gone: the last commit is confirmed.
    let unconfirmed = world.sql(match Plugin::asked() {
        Plugin::Wal2json => {
            "SELECT count(*) FROM pg_logical_slot_peek_changes('walpurge', NULL, NULL,
             'format-version', '2', 'include-transaction', 'false', 'add-tables', 'public.items')"
        }
        Plugin::Pgoutput => {
            "SELECT count(*) FROM pg_logical_slot_peek_binary_changes('walpurge', NULL, NULL,
             'proto_version', '1', 'publication_names', 'walpurge')
             WHERE chr(get_byte(data, 0)) IN ('I', 'U', 'D')"
        }
    });
    assert_eq!(unconfirmed.trim(), "0");
}

#[test]
fn sigterm_does_not_wait_for_a_sink_that_is_down() {
    let mut world = world();
    world.start();
    world.redis.kill_9();
    world.sql("UPDATE items SET n = 1 WHERE id = 1");
    world.wait_for_log("the sink is down");
    let stopping = Instant::now();
    world.stop();
    assert!(stopping.elapsed() < Duration::from_secs(5));
    world.redis.start_again();
    world.start();
    world.wait_gone(&[&oracle::key(1)]);
}

#[test]
fn the_daemon_starts_before_its_servers() {
    let pg = Postgres::start();
    let redis = Redis::builder().persistent().start();
    let mut world = World::with(pg, redis, oracle::TABLE, oracle::RULE);
    oracle::fill(&world);
    world.sql("UPDATE items SET n = 1 WHERE id = 1");
    world.pg.stop(StopMode::Fast);
    world.redis.stop();
    world.spawn(&["run", "--log", "debug"]);
    world.wait_for_log("trying again");
    world.redis.start_again();
    world.pg.start_again();
    world.wait_gone(&[&oracle::key(1)]);
}

#[test]
fn a_barrier_that_may_not_ask_says_so_and_works_once_it_may() {
    let mut world = World::new(oracle::TABLE, oracle::RULE);
    let right = "ON FUNCTION pg_catalog.pg_current_snapshot()";
    world.sql(&format!("REVOKE EXECUTE {right} FROM PUBLIC"));
    world.fill(&[&oracle::key(1)]);
    world.start();
    world.sql("UPDATE items SET n = 1 WHERE id = 1");
    world.wait_for_log("invalidations wait until visibility can be asked for");
    world.assert_cached(&[&oracle::key(1)]);
    world.sql(&format!("GRANT EXECUTE {right} TO PUBLIC"));
    world.wait_gone(&[&oracle::key(1)]);
    world.wait_for_log("the barrier's connection works again");
}

#[test]
fn a_streamed_commit_that_is_not_visible_invalidates_nothing_yet() {
    let mut world = World::new(oracle::TABLE, oracle::RULE);
    world.sql("ALTER DATABASE postgres SET synchronous_commit = local");
    world.sql("ALTER SYSTEM SET synchronous_standby_names = 'ghost'");
    world.sql("SELECT pg_reload_conf()");
    let visible_late = |world: &mut World| {
        world.fill(&[&oracle::key(1), &oracle::key(2)]);
        let mut waiting = world.pg.session("postgres", "postgres");
        waiting.run("SET synchronous_commit = on");
        waiting.send("UPDATE items SET n = n + 1 WHERE id = 1");
        world.wait_for_log("item:1");
        waiting
    };
    world.start();
    let mut waiting = visible_late(&mut world);
    assert_eq!(world.sql("SELECT n FROM items WHERE id = 1").trim(), "0", "it is not visible");
    // Another transaction is not held up, though its commit is later.
    world.sql("UPDATE items SET n = 1 WHERE id = 2");
    world.wait_gone(&[&oracle::key(2)]);
    world.assert_cached(&[&oracle::key(1)]);
    world.sql("ALTER SYSTEM SET synchronous_standby_names = ''");
    world.sql("SELECT pg_reload_conf()");
    waiting.finish(PATIENCE).expect("the commit ends").unwrap();
    world.wait_gone(&[&oracle::key(1)]);
    world.wait_confirmed();
    world.stop();

    // The same with the barrier switched off: the key goes while readers still see the old row.
    world.sql("ALTER SYSTEM SET synchronous_standby_names = 'ghost'");
    world.sql("SELECT pg_reload_conf()");
    world.edit("[redis.cache]", "visibility = \"skip\"\n[redis.cache]");
    world.start();
    let waiting = visible_late(&mut world);
    world.wait_gone(&[&oracle::key(1)]);
    assert_eq!(world.sql("SELECT n FROM items WHERE id = 1").trim(), "1", "it is not visible");
    drop(waiting);
}

#[test]
fn a_sink_that_is_down_for_long_gets_the_fallback_and_delays_no_other() {
    const ROWS: usize = 500_000;
    let mut healthy = Redis::builder().persistent().start();
    let mut world = World::new(oracle::TABLE, oracle::RULE);
    let other = format!("[redis.healthy]\nurl = \"{}\"\n[[rule]]", healthy.url());
    world.edit("[[rule]]", &other);
    for redis in [&world.redis, &healthy] {
        redis.set("item:999999999", "cached");
        redis.set("item:77", "cached");
        redis.set("foreign", "cached");
    }
    // Without a line for each of so many.
    world.spawn(&["run"]);
    world.wait_for_log("following the write-ahead log");
    world.redis.pause();
    world.sql(&format!("INSERT INTO items SELECT generate_series(100001, {})", 100_000 + ROWS));
    world.sql("UPDATE items SET n = 1 WHERE id = 77");
    // The stream goes on to its end.
    wait_until("the other sink is served", 3 * PATIENCE, || !healthy.exists("item:77"));
    assert!(healthy.exists("item:999999999"), "the sink that works gets exact keys");
    let end = world.pg.current_lsn();
    assert!(!world.pg.has_confirmed("walpurge", &end), "confirmed what is not done");
    assert!(world.news().contains("the sink is down: a rule's fallback"), "{}", world.news());
    world.redis.resume();
    world.wait_gone(&["item:77", "item:999999999"]);
    world.wait_confirmed();
    world.assert_cached(&["foreign"]);
    assert!(healthy.exists("foreign"));
    healthy.stop();
}

#[test]
fn a_server_that_would_wait_for_us_is_left_at_once_with_78_and_what_mends_it() {
    let mut world = world();
    world.start();
    world.sql("ALTER SYSTEM SET synchronous_standby_names = '*'; SELECT pg_reload_conf()");
    let mut writer = world.pg.session("postgres", "postgres");
    writer.send("UPDATE items SET n = 1 WHERE id = 1");
    let mut daemon = world.daemon.take().unwrap();
    let status = daemon.wait(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(78), "{}", daemon.log());
    assert!(
        daemon.log().contains("ALTER SYSTEM SET synchronous_standby_names"),
        "{}",
        daemon.log()
    );
    // At the next start it does not even begin.
    world.spawn(&["run"]);
    let mut daemon = world.daemon.take().unwrap();
    assert_eq!(daemon.wait(PATIENCE).expect("it ends").code(), Some(78), "{}", daemon.log());
    world.pg.psql(
        "postgres",
        "SET synchronous_commit = local;
         ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()",
    );
    writer.finish(PATIENCE).expect("the write goes on").unwrap();
    world.start();
    world.wait_gone(&["item:1"]);
}

#[test]
fn wal_that_is_held_for_a_sink_that_is_down_is_reported_with_the_time_that_is_left() {
    let pg = Postgres::builder().fsync(false).setting("max_slot_wal_keep_size", "256MB").start();
    let redis = Redis::builder().persistent().start();
    let mut world = World::with(pg, redis, oracle::TABLE, oracle::RULE);
    world.redis.pause();
    world.start();
    world.sql("UPDATE items SET n = 1 WHERE id = 1");
    let writes = "CREATE TABLE filler (t text); ALTER TABLE filler ALTER t SET STORAGE EXTERNAL;
        INSERT INTO filler SELECT repeat('x', 1000000) FROM generate_series(1, 10)";
    world.sql(writes);
    let is_said = |world: &World| world.news().contains("the slot holds WAL, and is lost when");
    let mut written = 0;
    wait_until("it is said", 3 * PATIENCE, || {
        // Not so much that the slot is lost.
        if written < 60 {
            world.sql("INSERT INTO filler SELECT repeat('x', 1000000) FROM generate_series(1, 2)");
            written += 1;
        }
        is_said(&world)
    });
    assert!(world.news().contains("left="), "{}", world.news());
    world.redis.resume();
    world.wait_confirmed();
}

/// How long the walsender says nothing: longer than the `wal_sender_timeout` of our session.
const SILENCE: Duration = Duration::from_secs(12);

#[test]
fn a_server_that_decodes_for_long_is_silent_and_not_dead() {
    let mut world = world();
    world.start();
    world.fill(&["item:1"]);
    world.pg.pause_walsenders();
    world.sql("UPDATE items SET n = 1 WHERE id = 1");
    let starts = |world: &World| world.log().matches("following the write-ahead log").count();
    assert!(!testkit::holds_within(SILENCE, || starts(&world) > 1), "{}", world.news());
    world.pg.resume();
    world.wait_gone(&["item:1"]);
    assert_eq!(starts(&world), 1, "it connected again\n{}", world.news());
    world.wait_confirmed();
    world.stop();
}
