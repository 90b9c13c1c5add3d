//! A server that comes back with another history.

use std::path::Path;
use std::process::Command;

use testkit::postgres::{Postgres, StopMode};
use testkit::redis::Redis;

use super::{CLOSED, FOREIGN, assert_closed, assert_works, gaps, world, write};
use crate::invalidation::{PRODUCTS, RULE};
use crate::world::World;

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

/// A world whose server was copied while it was stopped, and has gone on since: a reader has cached
/// what the copy does not hold.
fn copied() -> World {
    let mut world = world();
    world.start();
    write(&world, 3);
    world.wait_gone(&["product:3"]);
    world.wait_confirmed();
    world.pg.stop(StopMode::Fast);
    copy(&world.pg.data_dir(), &world.dir.join("snapshot"));
    world.pg.start_again();
    write(&world, 1);
    world.wait_gone(&["product:1"]);
    world.wait_confirmed();
    world.fill(&["product:1"]);
    world
}

fn put_back(world: &mut World) {
    world.pg.stop(StopMode::Immediate);
    std::fs::remove_dir_all(world.pg.data_dir()).unwrap();
    copy(&world.dir.join("snapshot"), &world.pg.data_dir());
    world.pg.start_again();
}

#[test]
fn a_server_that_is_restored_under_walpurge_is_a_gap() {
    let mut world = copied();
    put_back(&mut world);
    world.wait_gone(&["product:1"]);
    world.wait_for_log(CLOSED);
    assert!(world.log().contains("it is an older copy"), "{}", world.news());
    assert_works(&mut world);
    world.stop();
    world.start();
    assert_works(&mut world);
    assert_eq!(gaps(&world), 1);
}

#[test]
fn a_restored_server_that_has_gone_on_further_than_before_is_a_gap() {
    let mut world = copied();
    world.kill_9();
    put_back(&mut world);
    // Its log is longer now than what was followed, with other commits in the same places.
    world.sql("INSERT INTO products SELECT id, 'x', 1 FROM generate_series(1001, 3000) id");
    world.fill(&["product:2"]);
    write(&world, 2);
    world.spawn(&["run", "--log", "debug"]);
    assert_closed(&mut world);
    assert!(world.log().contains("which was seen before, is not in"), "{}", world.news());
    assert_eq!(gaps(&world), 1);
    world.stop();
}

/// Brings the copy back and lets it pass the position that was followed, with changes below it.
fn restored_and_passed(failpoint: Option<&'static str>) -> World {
    let mut world = copied();
    // Far beyond what the restored server writes next.
    world.sql("INSERT INTO products SELECT id, 'x', 1 FROM generate_series(1001, 3000) id");
    world.wait_confirmed();
    world.kill_9();
    put_back(&mut world);
    world.fill(&["product:2"]);
    write(&world, 2);
    world.sql("INSERT INTO products SELECT id, 'y', 1 FROM generate_series(3001, 8000) id");
    world.failpoint = failpoint;
    world.spawn(&["run", "--log", "debug"]);
    world.fill(&["product:3"]);
    write(&world, 3);
    world.wait_gone(&["product:3"]);
    world
}

#[test]
fn starting_at_the_own_position_leaves_a_stale_key() {
    let world = restored_and_passed(Some("own_position"));
    world.wait_confirmed();
    world.assert_cached(&["product:2"]);
    let mut world = restored_and_passed(None);
    assert_closed(&mut world);
}

#[test]
fn a_crash_of_the_server_is_no_gap_although_its_slot_falls_back() {
    let mut world = world();
    world.start();
    for _ in 0..3 {
        write(&world, 1);
        world.wait_gone(&["product:1"]);
        world.wait_confirmed();
        world.pg.kill_9();
        world.pg.start_again();
        world.wait_confirmed();
        world.kill_9();
        world.start();
    }
    world.fill(&["product:2"]);
    assert_works(&mut world);
    assert_eq!(gaps(&world), 0, "{}", world.news());
}

#[test]
fn another_cluster_is_a_gap() {
    let mut world = world();
    world.start();
    write(&world, 3);
    world.wait_gone(&["product:3"]);
    world.wait_confirmed();
    world.stop();
    // Private servers are copies of one template, unless they are made in another way.
    let pg = Postgres::builder().initdb_arg("--wal-segsize=1").start();
    let other = World::with(pg, Redis::start(), PRODUCTS, RULE);
    let (from, to) = (world.pg.port(), other.pg.port());
    world.edit(&format!(":{from}/"), &format!(":{to}/"));
    world.pg = other.pg;
    world.spawn(&["run", "--log", "debug"]);
    assert_closed(&mut world);
    assert!(world.log().contains("the server is another one than before"), "{}", world.news());
    world.stop();
    world.start();
    assert_works(&mut world);
    assert_eq!(gaps(&world), 1);
}

#[test]
fn a_promoted_standby_without_the_slot_is_a_gap_even_with_a_fresh_state() {
    let mut world = world();
    world.start();
    write(&world, 3);
    world.wait_gone(&["product:3"]);
    let standby = Postgres::standby_of(&world.pg, &[]);
    let caught_up = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", world.pg.current_lsn());
    testkit::wait_until("the standby has caught up", crate::world::PATIENCE, || {
        standby.psql("postgres", &caught_up) == "t"
    });
    world.kill_9();
    write(&world, 1);
    world.pg.kill_9();
    standby.promote();
    let (from, to) = (world.pg.port(), standby.port());
    world.edit(&format!(":{from}/"), &format!(":{to}/"));
    world.pg = standby;
    world.state = Some(world.dir.join("fresh"));
    world.fill(&[FOREIGN]);
    write(&world, 2);
    world.spawn(&["run", "--log", "debug"]);
    assert_closed(&mut world);
}
