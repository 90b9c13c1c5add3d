//! `walpurge status`, with and without a daemon.

use serde_json::Value;
use testkit::postgres::StopMode;
use testkit::wait_until;

use super::{start, world};
use crate::world::{PATIENCE, World};

fn status(world: &World, args: &[&str]) -> (Option<i32>, String, String) {
    let output = world.command(&[&["status"], args].concat()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[track_caller]
fn json(world: &World) -> Value {
    let (code, out, said) = status(world, &["--json"]);
    assert_eq!(code, Some(0), "{said}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

#[test]
fn the_daemon_is_asked_while_it_runs_and_postgres_when_it_does_not() {
    let mut world = world();
    start(&mut world);
    world.sql("UPDATE t SET n = 1 WHERE id < 4");
    world.wait_confirmed();
    wait_until("it is told", PATIENCE, || json(&world)["sinks"][0]["done"] == 3);
    let told = json(&world);
    assert_eq!(told["role"], "streaming", "{told}");
    assert_eq!(told["sinks"][0]["name"], "cache");
    assert_eq!(told["sinks"][0]["state"], "up");
    assert_eq!(told["parked"], 0);
    wait_until("the lag is known", PATIENCE, || json(&world)["postgres"]["lag_bytes"].is_u64());
    let (code, page, _) = status(&world, &[]);
    assert!(code == Some(0) && page.contains("streaming"), "{page}");
    assert!(page.contains("✓ cache  redis  up"), "{page}");
    assert!(!page.contains('\x1b'), "no colours in a pipe");
    world.stop();

    world.sql("UPDATE t SET n = 2 WHERE id < 4");
    let told = json(&world);
    assert_eq!(told["role"], "not_running", "{told}");
    assert!(told["postgres"]["lag_bytes"].as_u64().unwrap() > 0, "{told}");
    assert!(told["postgres"]["confirmed_lsn"].is_string(), "{told}");
    assert!(told["postgres"]["active_pid"].is_null(), "{told}");
    assert_eq!(told["sinks"][0]["state"], "unknown");
    let (_, page, _) = status(&world, &[]);
    assert!(page.contains("no daemon answers") && page.contains("WAL held"), "{page}");

    world.pg.stop(StopMode::Fast);
    let (code, _, said) = status(&world, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no daemon answers, and neither does Postgres"), "{said}");
}

#[test]
fn a_missing_slot_and_a_daemon_without_a_socket_are_told_apart() {
    let mut world = World::plain();
    world.start();
    let told = json(&world);
    assert_eq!(told["role"], "not_running");
    assert!(told["postgres"]["active_pid"].is_i64(), "{told}");
    world.stop();
    world.sql("SELECT pg_drop_replication_slot('walpurge')");
    let told = json(&world);
    let error = told["postgres"]["error"]["message"].as_str().unwrap();
    assert_eq!(error, "there is no slot walpurge");
}

#[test]
fn what_can_be_replayed_and_what_was_given_up_on_is_told() {
    let mut world = world();
    world.edit("[redis.cache]", "[postgres.replay]\nwindow = \"1h\"\n[redis.cache]");
    start(&mut world);
    world.sql("SELECT pg_logical_emit_message(true, 'walpurge', 'nonsense')");
    wait_until("it is told", PATIENCE, || json(&world)["parked"] == 1);
    let has_horizon = || json(&world)["replay"]["horizon_seconds"].is_f64();
    wait_until("the horizon is told", PATIENCE, has_horizon);
    let told = json(&world);
    assert_eq!(told["replay"]["slot"], "walpurge_replay", "{told}");
    world.stop();
    let told = json(&world);
    assert_eq!(told["parked"], 1, "{told}");
    assert!(told["replay"]["from_lsn"].is_string(), "{told}");
}

#[test]
fn a_daemon_of_another_configuration_is_not_taken_for_ours() {
    let mut world = world();
    start(&mut world);
    world.edit("[redis.cache]", "slot = \"other\"\n[redis.cache]");
    let (code, out, said) = status(&world, &["--json"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("a daemon of another configuration"), "{said}");
    assert!(out.contains("there is no slot other"), "{out}");
}
