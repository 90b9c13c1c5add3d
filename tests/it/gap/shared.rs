//! Two daemons that share a `state_dir`.

use std::process::Command;

use testkit::process::{Process, Signal};
use testkit::proxy::Proxy;
use testkit::wait_until;

use crate::invalidation::{PRODUCTS, RULE};
use crate::world::{PATIENCE, World};

/// The second one reads what is remembered, and is kept from Postgres while the first one works on
/// and dies.
#[test]
fn what_another_daemon_has_done_since_our_start_is_no_gap() {
    let mut world = World::new(PRODUCTS, RULE);
    world.start();
    world.sql("UPDATE products SET category = 1 WHERE id = 1");
    world.wait_confirmed();

    let proxy = Proxy::to(world.pg.port());
    proxy.stall();
    let (direct, proxied) = (format!(":{}/", world.pg.port()), format!(":{}/", proxy.port()));
    let config = std::fs::read_to_string(world.config_file()).unwrap().replace(&direct, &proxied);
    let (file, log) = (world.dir.join("second.toml"), world.dir.join("second.log"));
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_walpurge"));
    command.args(["run", "--config"]).arg(&file).env_remove("WALPURGE_LOG");
    command.env_remove("RUNTIME_DIRECTORY");
    command.env("STATE_DIRECTORY", world.state.as_ref().unwrap());
    let second = Process::spawn("second", command, &log, Signal::KILL).unwrap();
    wait_until("the second one wants to connect", PATIENCE, || proxy.open() > 0);

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
    assert!(!second.log().contains("there is a gap"), "{}", second.log());
    world.assert_cached(&["product:1", "product:77"]);
}
