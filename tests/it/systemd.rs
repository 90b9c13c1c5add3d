//! The daemon under a service manager: what it is told, when the watchdog goes hungry, what the
//! journal gets, and the units themselves.

mod journal;
mod units;
mod watchdog;

use std::path::PathBuf;

use testkit::notify::NotifySocket;
use testkit::postgres::StopMode;
use testkit::process::Signal;
use testkit::wait_until;

use crate::world::{PATIENCE, World};

/// Said once for each stream.
const STREAMS: &str = "following the write-ahead log";

/// A world whose daemon is told where a service manager listens.
fn world() -> (World, NotifySocket) {
    let mut world = World::plain();
    let path = world.dir.join("notify");
    let socket = NotifySocket::listen(&path);
    world.env.push(("NOTIFY_SOCKET", leaked(path)));
    (world, socket)
}

/// A variable's value lives as long as its test.
fn leaked(path: PathBuf) -> &'static str {
    path.into_os_string().into_string().unwrap().leak()
}

fn write(world: &World, id: u32) {
    world.sql(&format!("UPDATE t SET n = 1 WHERE id = {id}"));
}

#[track_caller]
fn wait_for(socket: &NotifySocket, line: &str, times: usize) {
    let held = testkit::holds_within(PATIENCE, || socket.count(line) >= times);
    assert!(held, "{line} did not come {times} times: {:#?}", socket.heard());
}

/// Waits until the state that was told last is as it should be.
#[track_caller]
fn wait_for_state(socket: &NotifySocket, is_so: impl Fn(&str) -> bool) {
    let is_told = || socket.last("STATUS=").is_some_and(|state| is_so(&state));
    let held = testkit::holds_within(PATIENCE, is_told);
    assert!(held, "{:#?}", socket.heard());
}

#[test]
fn it_is_ready_at_once_and_says_how_it_goes_and_that_it_stops() {
    let (mut world, socket) = world();
    world.start();
    wait_for(&socket, "READY=1", 1);
    wait_for_state(&socket, |state| state.starts_with("streaming; lag "));
    assert_eq!(socket.count("WATCHDOG=1"), 0, "nobody has asked for it");
    world.redis.pause();
    write(&world, 1);
    wait_for_state(&socket, |state| state.contains("cache down ("));
    world.redis.resume();
    wait_for_state(&socket, |state| state.ends_with("actions/s"));
    world.stop();
    assert_eq!(socket.count("READY=1"), 1);
    wait_for(&socket, "STOPPING=1", 1);
}

/// `run` waits for Postgres as long as it takes, and so must not be late for systemd meanwhile.
#[test]
fn it_is_ready_without_postgres_and_as_standby() {
    let (mut world, socket) = world();
    world.pg.stop(StopMode::Fast);
    world.spawn(&["run"]);
    wait_for(&socket, "READY=1", 1);
    wait_for_state(&socket, |state| state.starts_with("not streaming: "));
    world.pg.start_again();
    wait_for_state(&socket, |state| state.starts_with("streaming"));
    let first = world.daemon.take();
    let (mut standby, other) = (world, NotifySocket::listen(&first_free(&socket)));
    standby.env.clear();
    standby.env.push(("NOTIFY_SOCKET", leaked(other.path().to_owned())));
    standby.state = Some(standby.dir.join("other"));
    standby.spawn(&["run"]);
    wait_for(&other, "READY=1", 1);
    wait_for_state(&other, |state| state == "standby");
    standby.stop();
    drop(first);
}

/// A path beside a socket's.
fn first_free(socket: &NotifySocket) -> PathBuf {
    socket.path().with_extension("other")
}

#[test]
fn a_reload_is_told_with_its_time_and_its_end_also_where_the_file_is_bad() {
    let (mut world, socket) = world();
    world.start();
    wait_for(&socket, "READY=1", 1);
    let reload = |world: &mut World, from: &str, to: &str| {
        world.edit(from, to);
        world.config_file();
        world.daemon.as_mut().unwrap().signal(Signal::HUP);
    };
    reload(&mut world, "delete =", "dlete =");
    wait_for(&socket, "READY=1", 2);
    assert_eq!(socket.count("RELOADING=1"), 1);
    let heard = socket.heard();
    let reloading = heard.iter().position(|(_, text)| text.contains("RELOADING=1")).unwrap();
    let time = heard[reloading].1.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    assert!(time.is_some_and(|time| time.parse::<u64>().is_ok()), "{heard:?}");
    assert!(heard.iter().skip(reloading).any(|(_, text)| text.contains("READY=1")), "{heard:?}");
    wait_for_state(&socket, |state| {
        state.ends_with("the new configuration is not taken, see the log")
    });
    reload(&mut world, "dlete =", "delete =");
    wait_for(&socket, "READY=1", 3);
    assert_eq!(socket.count("RELOADING=1"), 2);
    wait_for_state(&socket, |state| state.starts_with("streaming") && !state.contains("taken"));
    world.stop();
}

#[test]
fn what_ends_it_by_itself_stays_to_be_read() {
    let (mut world, socket) = world();
    world.edit("[redis.cache]", "on_gap = \"halt\"\n[redis.cache]");
    world.sql("SELECT pg_drop_replication_slot('walpurge')");
    world.spawn(&["run"]);
    let status = world.daemon.as_mut().unwrap().wait(PATIENCE).expect("it ends by itself");
    assert_eq!(status.code(), Some(78));
    wait_for(&socket, "STOPPING=1", 1);
    wait_until("the reason", PATIENCE, || {
        socket.last("STATUS=").is_some_and(|state| state.starts_with("there is a gap: "))
    });
}
