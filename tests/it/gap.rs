//! Gaps: stretches of the log that nobody can read any more, and what looks like one and is none.
//!
//! Every key is cached before its row is written, and nobody fills it again; a key that no rule
//! means has to survive.

mod closing;
mod restored;
mod shared;
mod undecodable;

use testkit::postgres::Postgres;
use testkit::proxy::Proxy;
use testkit::redis::Redis;
use testkit::wait_until;

use crate::invalidation::{PRODUCTS, RULE};
use crate::world::{PATIENCE, World};

/// Said once for each gap, when its fallbacks start.
pub const GAP: &str = "there is a gap: ";
pub const CLOSED: &str = "the gap is closed";
/// What no rule means.
const FOREIGN: &str = "session:1";

fn world() -> World {
    let world = World::new(PRODUCTS, RULE);
    world.fill(&["product:1", "product:2", "product:3", FOREIGN]);
    world
}

fn write(world: &World, id: u32) {
    world.sql(&format!("UPDATE products SET category = category + 1 WHERE id = {id}"));
}

fn drop_slot(world: &World) {
    world.sql("SELECT pg_drop_replication_slot('walpurge')");
}

/// How many gaps were found so far.
fn gaps(world: &World) -> usize {
    world.log().matches(GAP).count()
}

/// The gap is closed, nothing stale is left, and what is written from now on goes as ever.
#[track_caller]
fn assert_closed(world: &mut World) {
    world.wait_for_log(CLOSED);
    world.wait_gone(&["product:1", "product:2"]);
    assert_works(world);
}

#[track_caller]
fn assert_works(world: &mut World) {
    let is_ours = || {
        world.sql("SELECT slot_name, temporary, active FROM pg_replication_slots") == "walpurge|f|t"
    };
    wait_until("the permanent slot is there alone, and in use", PATIENCE, is_ours);
    // The copy brings once more what the temporary slot has brought.
    world.wait_confirmed();
    world.fill(&["product:2", "product:3"]);
    write(world, 3);
    world.wait_gone(&["product:3"]);
    world.wait_confirmed();
    world.assert_cached(&["product:2", FOREIGN]);
}

/// Rows are written and the slot is dropped while walpurge is down.
fn dropped_while_down() -> World {
    let mut world = world();
    world.start();
    write(&world, 1);
    world.wait_gone(&["product:1"]);
    world.wait_confirmed();
    world.stop();
    world.fill(&["product:1"]);
    write(&world, 1);
    drop_slot(&world);
    write(&world, 2);
    world
}

#[test]
fn a_slot_that_is_dropped_while_walpurge_is_down_is_a_gap() {
    let mut world = dropped_while_down();
    world.spawn(&["run", "--log", "debug"]);
    assert_closed(&mut world);
    assert!(world.log().contains("there is a gap: there is no slot"), "{}", world.news());
    world.stop();
    // It is owed no more.
    world.start();
    assert_works(&mut world);
    assert_eq!(gaps(&world), 1);
    world.stop();
}

#[test]
fn a_slot_that_is_dropped_under_walpurge_is_a_gap() {
    let mut world = world();
    world.start();
    write(&world, 1);
    world.wait_gone(&["product:1"]);
    world.fill(&["product:1"]);
    wait_until("the slot is dropped", PATIENCE, || {
        world
            .pg
            .try_psql(
                "postgres",
                "postgres",
                "SELECT pg_terminate_backend(active_pid, 1000) FROM pg_replication_slots \
                 WHERE active; SELECT pg_drop_replication_slot('walpurge')",
            )
            .is_ok()
    });
    write(&world, 1);
    write(&world, 2);
    assert_closed(&mut world);
    world.stop();
}

#[test]
fn a_slot_whose_wal_is_gone_is_a_gap() {
    let pg = Postgres::builder()
        .fsync(false)
        .initdb_arg("--wal-segsize=1")
        .setting("max_slot_wal_keep_size", "1MB")
        .setting("min_wal_size", "2MB")
        .setting("max_wal_size", "2MB")
        .start();
    let redis = Redis::builder().persistent().start();
    let mut world = World::with(pg, redis, PRODUCTS, RULE);
    world.fill(&["product:1", "product:2", FOREIGN]);
    write(&world, 1);
    wait_until("the slot is lost", PATIENCE, || {
        world.sql(
            "SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000)); \
             SELECT pg_switch_wal(); CHECKPOINT",
        );
        world.sql("SELECT wal_status FROM pg_replication_slots") == "lost"
    });
    write(&world, 2);
    world.spawn(&["run", "--log", "debug"]);
    assert_closed(&mut world);
    world.stop();
}

#[test]
fn a_slot_that_somebody_else_has_moved_on_is_a_gap() {
    let mut world = world();
    world.start();
    write(&world, 3);
    world.wait_gone(&["product:3"]);
    world.stop();
    write(&world, 1);
    write(&world, 2);
    world.sql("SELECT pg_replication_slot_advance('walpurge', pg_current_wal_lsn())");
    world.spawn(&["run", "--log", "debug"]);
    assert_closed(&mut world);
    assert!(world.log().contains("there is a gap: the slot stands at "), "{}", world.news());
    world.stop();
}

#[test]
fn without_create_slot_a_gap_is_closed_on_the_slot_that_is_there() {
    let mut world = world();
    world.edit("[redis.cache]", "create_slot = false\n[redis.cache]");
    world.start();
    world.wait_confirmed();
    world.stop();
    write(&world, 1);
    write(&world, 2);
    world.sql("SELECT pg_replication_slot_advance('walpurge', pg_current_wal_lsn())");
    world.redis.pause();
    world.spawn(&["run", "--log", "debug"]);
    world.wait_for_log("following the write-ahead log host");
    world.wait_for_log(GAP);
    world.kill_9();
    world.redis.resume();
    world.spawn(&["run", "--log", "debug"]);
    assert_closed(&mut world);
    assert_eq!(gaps(&world), 2);
    world.stop();
    world.start();
    assert_works(&mut world);
    assert_eq!(gaps(&world), 2);
}

/// A gap is being closed on a slot that is not ours to make, and the daemon's connection is cut
/// while the server does not notice that.
fn lose_the_connection_that_closes_a_gap(world: &mut World, is_killed: bool) {
    let proxy = Proxy::to(world.pg.port());
    let (port, through) = (format!(":{}/", world.pg.port()), format!(":{}/", proxy.port()));
    world.edit(&port, &through);
    world.edit("[redis.cache]", "create_slot = false\n[redis.cache]");
    world.start();
    world.wait_confirmed();
    world.stop();
    write(world, 1);
    write(world, 2);
    world.sql("SELECT pg_replication_slot_advance('walpurge', pg_current_wal_lsn())");
    world.redis.pause();
    world.spawn(&["run", "--log", "debug"]);
    world.wait_for_log(GAP);
    let of_slot = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'walpurge'";
    wait_until("it streams", PATIENCE, || !world.sql(of_slot).is_empty());
    let walsender = world.sql(of_slot);
    let signal = |name: &str| {
        let sent = std::process::Command::new("kill").args([name, &walsender]).status();
        assert!(sent.unwrap().success());
    };
    signal("-STOP");
    if is_killed {
        world.kill_9();
        world.spawn(&["run", "--log", "debug"]);
    } else {
        proxy.cut();
    }
    world.wait_for_log("is active for PID");
    let streams = |world: &World| world.log().matches("following the write-ahead log").count();
    let before = streams(world);
    signal("-CONT");
    wait_until("it streams again", PATIENCE, || streams(world) > before);
    // Nothing but its file knows of the gap now.
    world.kill_9();
    world.redis.resume();
    world.spawn(&["run", "--log", "debug"]);
    assert_closed(world);
    world.stop();
}

#[test]
fn without_create_slot_a_gap_is_not_forgotten_when_its_stream_breaks_and_its_walsender_lingers() {
    lose_the_connection_that_closes_a_gap(&mut world(), false);
}

#[test]
fn without_create_slot_a_gap_is_not_forgotten_when_it_is_killed_and_its_walsender_lingers() {
    lose_the_connection_that_closes_a_gap(&mut world(), true);
}

#[test]
fn on_gap_halt_ends_with_78_and_assume_gap_goes_on() {
    let mut world = world();
    world.edit("[redis.cache]", "on_gap = \"halt\"\n[redis.cache]");
    write(&world, 1);
    drop_slot(&world);
    write(&world, 2);
    world.spawn(&["run"]);
    let daemon = world.daemon.as_mut().unwrap();
    let status = daemon.wait(PATIENCE).expect("it ends by itself");
    assert_eq!(status.code(), Some(78));
    let log = world.log();
    for part in ["there is a gap: there is no slot", "walpurge run --assume-gap"] {
        assert!(log.contains(part), "{log}");
    }
    world.assert_cached(&["product:1", "product:2"]);
    assert_eq!(world.sql("SELECT count(*) FROM pg_replication_slots"), "0");
    world.spawn(&["run", "--assume-gap", "--log", "debug"]);
    assert_closed(&mut world);
    world.stop();
    world.start();
    assert_works(&mut world);
    world.stop();
}

#[test]
fn assume_gap_closes_one_that_nobody_noticed() {
    let mut world = world();
    world.start();
    world.wait_confirmed();
    world.stop();
    world.spawn(&["run", "--assume-gap", "--log", "debug"]);
    assert_closed(&mut world);
    assert_eq!(gaps(&world), 1);
}

#[test]
fn a_takeover_with_a_state_directory_of_its_own_is_no_gap() {
    let mut world = world();
    // The one that will wait has worked before, long ago.
    world.start();
    world.wait_confirmed();
    world.stop();
    let first = world.state.replace(world.dir.join("other"));
    world.start();
    let active = world.daemon.take();
    write(&world, 1);
    world.wait_gone(&["product:1"]);
    world.state = first;
    world.spawn(&["run", "--log", "debug"]);
    world.wait_for_log("is active for PID");
    world.fill(&["product:1"]);
    write(&world, 1);
    world.wait_gone(&["product:1"]);
    world.wait_confirmed();
    active.unwrap().kill_9();
    assert_works(&mut world);
    assert_eq!(gaps(&world), 0, "{}", world.news());
    // What it has adopted is its own.
    world.kill_9();
    world.start();
    assert_works(&mut world);
    assert_eq!(gaps(&world), 0, "{}", world.news());
}

#[test]
fn a_state_that_is_lost_torn_or_another_ones_costs_nothing() {
    let mut world = world();
    world.start();
    world.wait_confirmed();
    world.stop();
    let file = world.state.clone().unwrap().join("position");
    let good = std::fs::read(&file).unwrap();
    let other = String::from_utf8(good.clone()).unwrap().replace("walpurge", "walrusge");
    let cases: [(Option<&[u8]>, &str); 3] = [
        (None, "following the write-ahead log"),
        (Some(&good[..good.len() / 2]), "its checksum is wrong"),
        (Some(other.as_bytes()), "its checksum is wrong"),
    ];
    for (content, said) in cases {
        match content {
            Some(content) => std::fs::write(&file, content).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        write(&world, 2);
        world.fill(&["product:1", "product:2"]);
        write(&world, 2);
        world.start();
        world.wait_for_log(said);
        world.wait_gone(&["product:2"]);
        world.wait_confirmed();
        world.stop();
        world.assert_cached(&["product:1"]);
    }
    assert_eq!(gaps(&world), 0, "{}", world.news());
}

#[test]
fn without_a_state_directory_one_warning_says_so() {
    let mut world = world();
    world.state = None;
    world.start();
    write(&world, 1);
    world.wait_gone(&["product:1"]);
    world.wait_confirmed();
    let said = |world: &World| world.log().matches("positions stay in memory").count();
    assert_eq!(said(&world), 1);
    world.stop();
}
