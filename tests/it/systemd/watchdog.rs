//! systemd's watchdog gets its pings while walpurge's own stages turn, and not one more.

use std::time::{Duration, Instant};

use testkit::notify::NotifySocket;
use testkit::proxy::Proxy;

use super::{STREAMS, wait_for, world, write};
use crate::world::{PATIENCE, World};

/// How long systemd would wait for a ping.
const WITHIN: Duration = Duration::from_secs(2);

const PING: &str = "WATCHDOG=1";

/// Pings enough that what was pinged before does not count: as many as come in twice that time.
const ENOUGH: usize = 8;

fn watched((mut world, socket): (World, NotifySocket)) -> (World, NotifySocket) {
    world.env.push(("WATCHDOG_USEC", "2000000"));
    (world, socket)
}

/// It goes on being fed, whatever has happened now.
#[track_caller]
fn assert_fed(world: &World, socket: &NotifySocket) {
    let before = socket.count(PING);
    let is_fed = testkit::holds_within(PATIENCE, || socket.count(PING) >= before + ENOUGH);
    assert!(is_fed, "{}", world.news());
}

/// No ping comes any more.
#[track_caller]
fn assert_starves(world: &World, socket: &NotifySocket) {
    let last_ping =
        || socket.heard().iter().rev().find(|(_, text)| text.contains(PING)).map(|p| p.0);
    let starves = || last_ping().is_some_and(|at| Instant::now() > at + 3 * WITHIN);
    assert!(testkit::holds_within(PATIENCE, starves), "{:#?}", socket.heard());
    assert!(world.log().contains("watchdog is not told that all is well"), "{}", world.news());
}

fn a_stage_that_stalls_starves_it(failpoint: &'static str, said: &str) {
    let (mut world, socket) = watched(world());
    world.failpoint = Some(failpoint);
    world.start();
    wait_for(&socket, PING, ENOUGH);
    write(&world, 1);
    assert_starves(&world, &socket);
    assert!(world.log().contains(said), "{}", world.news());
    world.kill_9();
}

#[test]
fn a_thread_that_stands_still_starves_it() {
    a_stage_that_stalls_starves_it("stall_thread", "the daemon's thread has not moved");
}

#[test]
fn a_loop_that_stands_still_on_a_thread_that_moves_starves_it() {
    a_stage_that_stalls_starves_it("stall_loop", "the daemon's loop has not turned");
}

#[test]
fn a_loop_that_does_not_read_although_it_could_starves_it() {
    a_stage_that_stalls_starves_it("stall_reader", "the daemon's loop has not turned");
}

#[test]
fn a_sink_that_says_nothing_and_a_server_that_says_nothing_do_not() {
    let (mut world, socket) = watched(world());
    let proxy = Proxy::to(world.redis.port());
    let (direct, through) = (world.redis.url(), format!("redis://127.0.0.1:{}", proxy.port()));
    world.edit(&direct, &through);
    world.start();
    world.fill(&["key:1"]);
    proxy.stall();
    write(&world, 1);
    assert_fed(&world, &socket);
    world.pg.pause_walsenders();
    assert_fed(&world, &socket);
    world.pg.resume();
    world.pg.pause();
    assert_fed(&world, &socket);
    world.pg.resume();
    proxy.resume();
    world.wait_gone(&["key:1"]);
    world.stop();
}

#[test]
fn a_long_barrier_does_not() {
    let (mut world, socket) = watched(world());
    world.sql("ALTER DATABASE postgres SET synchronous_commit = local");
    world.sql("ALTER SYSTEM SET synchronous_standby_names = 'ghost'");
    world.sql("SELECT pg_reload_conf()");
    world.start();
    world.fill(&["key:1"]);
    let mut waiting = world.pg.session("postgres", "postgres");
    waiting.run("SET synchronous_commit = on");
    waiting.send("UPDATE t SET n = 7 WHERE id = 1");
    world.wait_for_log("key:1");
    assert_fed(&world, &socket);
    world.assert_cached(&["key:1"]);
    world.sql("ALTER SYSTEM SET synchronous_standby_names = ''");
    world.sql("SELECT pg_reload_conf()");
    waiting.finish(PATIENCE).expect("the commit ends").unwrap();
    world.wait_gone(&["key:1"]);
    world.stop();
}

#[test]
fn a_gap_that_cannot_be_closed_yet_does_not() {
    let (mut world, socket) = watched(world());
    world.sql("SELECT pg_drop_replication_slot('walpurge')");
    let mut open = world.pg.session("postgres", "postgres");
    open.run("BEGIN");
    open.run("UPDATE t SET n = 1 WHERE id = 1");
    world.spawn(&["run", "--log", "debug"]);
    world.wait_for_log("there is a gap: ");
    assert_fed(&world, &socket);
    assert!(!world.log().contains(STREAMS), "{}", world.news());
    open.run("COMMIT");
    world.wait_for_log("the gap is closed");
    assert_fed(&world, &socket);
    world.stop();
}

/// Of which every row is a line in the log besides, so that the socket always has more.
#[test]
fn a_large_transaction_and_a_fallback_over_many_keys_do_not() {
    let (mut world, socket) = watched(world());
    world.start();
    world.sql("INSERT INTO t SELECT generate_series(1000, 60000)");
    assert_fed(&world, &socket);
    let fill = "for i = 1, 200000 do redis.call('SET', 'key:' .. i, '1') end";
    world.redis.cmd(&["EVAL", fill, "0"]);
    world.sql("TRUNCATE t");
    assert_fed(&world, &socket);
    world.wait_gone(&["key:1", "key:200000"]);
    world.wait_confirmed();
    assert_eq!(world.log().matches(STREAMS).count(), 1, "{}", world.news());
    world.stop();
}
