//! Two daemons that share a `state_dir`.

use std::process::Command;

use testkit::process::{Process, Signal};
use testkit::proxy::Proxy;
use testkit::wait_until;

use super::{CLOSED, FOREIGN, GAP, world, write};
use crate::invalidation::{PRODUCTS, RULE};
use crate::world::{PATIENCE, World};

/// A second daemon, which has read what is remembered and comes no further: it is kept from
/// Postgres.
fn second(world: &World, proxy: &Proxy) -> Process {
    proxy.stall();
    let (direct, proxied) = (format!(":{}/", world.pg.port()), format!(":{}/", proxy.port()));
    let config = std::fs::read_to_string(world.config_file()).unwrap().replace(&direct, &proxied);
    let (file, log) = (world.dir.join("second.toml"), world.dir.join("second.log"));
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_walpurge"));
    command.args(["run", "--log", "debug", "--config"]).arg(&file).env_remove("WALPURGE_LOG");
    command.env_remove("RUNTIME_DIRECTORY");
    command.env("STATE_DIRECTORY", world.state.as_ref().unwrap());
    let second = Process::spawn("second", command, &log, Signal::KILL).unwrap();
    wait_until("the second one wants to connect", PATIENCE, || proxy.open() > 0);
    second
}

/// The first one finds a gap that it cannot close, since Redis is stuck, while the second one, which
/// has not seen how it came about, waits for the slot.
fn closing() -> (World, Proxy, Process) {
    let mut world = world();
    world.edit("[redis.cache]", "create_slot = false\n[redis.cache]");
    world.start();
    world.wait_confirmed();
    let proxy = Proxy::to(world.pg.port());
    let second = second(&world, &proxy);
    world.stop();
    write(&world, 1);
    write(&world, 2);
    world.sql("SELECT pg_replication_slot_advance('walpurge', pg_current_wal_lsn())");
    world.redis.pause();
    world.spawn(&["run", "--log", "debug"]);
    world.wait_for_log(GAP);
    world.wait_for_log("following the write-ahead log");
    proxy.resume();
    let waits = || second.log().contains("is active for PID");
    wait_until("the second one waits", PATIENCE, waits);
    (world, proxy, second)
}

#[test]
fn a_gap_that_another_daemon_was_closing_is_closed_by_the_one_that_takes_over() {
    let (mut world, _proxy, second) = closing();
    world.kill_9();
    world.redis.resume();
    wait_until("the second one closes it", PATIENCE, || second.log().contains(CLOSED));
    world.wait_gone(&["product:1", "product:2"]);
    world.assert_cached(&[FOREIGN]);
}

#[test]
fn a_gap_that_another_daemon_has_closed_is_none() {
    let (mut world, _proxy, second) = closing();
    world.redis.resume();
    world.wait_for_log(CLOSED);
    world.wait_gone(&["product:1", "product:2"]);
    world.wait_confirmed();
    world.fill(&["product:1", "product:2"]);
    world.kill_9();
    wait_until("the second one follows", PATIENCE, || second.log().contains("following the"));
    write(&world, 2);
    world.wait_gone(&["product:2"]);
    assert!(!second.log().contains(GAP), "{}", second.log());
    world.assert_cached(&["product:1", FOREIGN]);
}

/// The second one is kept from Postgres while the first one works on and dies.
#[test]
fn what_another_daemon_has_done_since_our_start_is_no_gap() {
    let mut world = World::new(PRODUCTS, RULE);
    world.start();
    world.sql("UPDATE products SET category = 1 WHERE id = 1");
    world.wait_confirmed();
    let proxy = Proxy::to(world.pg.port());
    let second = second(&world, &proxy);

    world.sql("UPDATE products SET category = 2 WHERE id = 1");
    world.wait_confirmed();
    world.fill(&["product:1", "product:2", "product:77"]);
    world.kill_9();
    let is_free = "SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'walpurge'";
    wait_until("the slot is free", PATIENCE, || world.sql(is_free) == "t");
    proxy.resume();
    wait_until("the second one follows", PATIENCE, || second.log().contains("following the"));
    world.sql("UPDATE products SET category = 3 WHERE id = 2");
    world.wait_gone(&["product:2"]);
    assert!(!second.log().contains(GAP), "{}", second.log());
    world.assert_cached(&["product:1", "product:77"]);
}
