//! The slot that the daemon keeps for replays.

use std::time::{Duration, Instant};

use testkit::postgres::Postgres;
use testkit::redis::Redis;
use testkit::wait_until;

use super::{commits, keeping, observe, replayed};
use crate::invalidation::{PRODUCTS, RULE};
use crate::oracle::{self, Verdict, Writer, judge};
use crate::world::{PATIENCE, World};

fn with_state(world: &mut World) {
    let line = format!("state_dir = '{}'\n[postgres]\n", world.dir.path().display());
    world.edit("[postgres]\n", &line);
}

fn is_past(world: &World, slot: &str, lsn: &str) -> bool {
    let sql = format!(
        "SELECT confirmed_flush_lsn > '{lsn}' FROM pg_replication_slots WHERE slot_name = '{slot}'"
    );
    world.sql(&sql) == "t"
}

/// How much WAL a slot holds, in MiB.
fn held_mib(world: &World, slot: &str) -> i64 {
    let sql = format!(
        "SELECT (pg_current_wal_flush_lsn() - restart_lsn)::bigint >> 20
         FROM pg_replication_slots WHERE slot_name = '{slot}'"
    );
    world.sql(&sql).parse().unwrap_or_else(|_| panic!("no slot {slot}"))
}

/// WAL that no rule is about.
fn write_mib(world: &World, mib: u32) {
    world.sql(&format!(
        "SELECT count(pg_logical_emit_message(false, 'other', repeat('x', 1 << 20)))
         FROM generate_series(1, {mib})"
    ));
}

#[test]
fn it_stays_the_window_behind_also_over_restarts() {
    let window = Duration::from_secs(4);
    let mut world = keeping(World::new(PRODUCTS, RULE), "4s", "1GiB");
    with_state(&mut world);
    observe(&world);
    world.start();
    world.wait_for_log("made the replay slot");
    world.sql("UPDATE products SET category = 0 WHERE id = 1");
    let committed = Instant::now();
    world.wait_confirmed();
    let lsn = commits(&world).remove(0);
    let is_behind = |world: &World| {
        let is_past = is_past(world, "walpurge_replay", &lsn);
        // The clock is read last: what is past now was not necessarily so before.
        assert!(!is_past || committed.elapsed() >= window, "let go of after {committed:?}");
        is_past
    };
    wait_until("most of the window is over", PATIENCE, || {
        // Positions have to come after it, whose times are kept.
        world.sql("UPDATE products SET category = 0 WHERE id = 2");
        is_behind(&world) || committed.elapsed() > window * 3 / 4
    });
    world.kill_9();
    world.sql("UPDATE products SET category = 0 WHERE id = 2");
    let end = world.pg.current_lsn();
    world.start();
    wait_until("it moves on", PATIENCE, || is_behind(&world));
    // A window that had begun again would have ended behind what was written meanwhile.
    assert!(!is_past(&world, "walpurge_replay", &end), "{}", world.news());
    assert!(!world.log().contains("it is not known since when"), "{}", world.news());
    world.stop();
}

#[test]
fn without_state_its_window_begins_again_and_that_is_said_once() {
    let window = Duration::from_secs(2);
    let mut world = keeping(World::new(PRODUCTS, RULE), "2s", "1GiB");
    world.state = None;
    world.start();
    world.wait_for_log("made the replay slot");
    world.kill_9();
    let end = world.pg.current_lsn();
    world.sql("UPDATE products SET category = 0 WHERE id = 1");
    let started = Instant::now();
    world.start();
    wait_until("it moves on", PATIENCE, || is_past(&world, "walpurge_replay", &end));
    assert!(started.elapsed() >= window);
    let said = world.news().matches("it is not known since when").count();
    assert_eq!(said, 1, "{}", world.news());
    world.stop();
}

#[test]
fn times_that_are_damaged_are_said_and_cost_nothing_else() {
    let mut world = keeping(World::new(PRODUCTS, RULE), "2s", "1GiB");
    with_state(&mut world);
    world.start();
    let file = world.dir.join("replay_times");
    wait_until("times are kept", PATIENCE, || file.exists());
    world.stop();
    std::fs::write(&file, "walpurge replay times 1 0").unwrap();
    world.start();
    world.wait_for_log("replay_times: it is damaged, or of another version");
    let end = world.pg.current_lsn();
    world.sql("UPDATE products SET category = 0 WHERE id = 1");
    wait_until("it moves on", PATIENCE, || is_past(&world, "walpurge_replay", &end));
    world.stop();
}

#[test]
fn a_kill_while_it_is_moved_loses_nothing() {
    let mut world = keeping(World::new(oracle::TABLE, oracle::RULE), "1s", "1GiB");
    with_state(&mut world);
    oracle::fill(&world);
    world.start();
    world.wait_for_log("made the replay slot");
    let writer = Writer::start(&world);
    for percent in [15, 40, 65, 90] {
        writer.wait_for_percent(percent);
        let position = world.pg.confirmed_flush_lsn("walpurge_replay");
        // It is moved only now and then: the less often, the longer it takes.
        wait_until("it is moved", 4 * PATIENCE, || is_past(&world, "walpurge_replay", &position));
        world.kill_9();
        world.start();
    }
    writer.finish();
    world.wait_confirmed();
    assert_eq!(judge(&world), Verdict::default(), "{}", world.news());
    let position = world.pg.confirmed_flush_lsn("walpurge_replay");
    wait_until("it is moved still", 4 * PATIENCE, || is_past(&world, "walpurge_replay", &position));
    world.stop();
}

/// Servers on which Postgres notes often from where on WAL is needed.
fn bounded(max_wal: &str) -> World {
    let pg = Postgres::builder().setting("checkpoint_timeout", "30s").start();
    let world = World::with(pg, Redis::start(), PRODUCTS, RULE);
    let mut world = keeping(world, "1h", max_wal);
    with_state(&mut world);
    world.start();
    world.wait_for_log("made the replay slot");
    world
}

#[test]
fn more_wal_than_it_may_hold_makes_the_window_shorter() {
    let mut world = bounded("16MiB");
    let old = world.pg.confirmed_flush_lsn("walpurge_replay");
    write_mib(&world, 24);
    // A checkpoint notes the transactions that run.
    world.sql("CHECKPOINT");
    write_mib(&world, 4);
    world.wait_for_log("the replay window is shorter than asked for");
    wait_until("it holds less", 3 * PATIENCE, || held_mib(&world, "walpurge_replay") <= 16);
    assert!(is_past(&world, "walpurge_replay", &old));
    assert!(!world.news().contains("made the replay slot anew"), "{}", world.news());
    world.stop();
}

#[test]
fn after_a_long_transaction_it_is_made_anew_where_moving_it_frees_nothing() {
    let mut world = bounded("16MiB");
    let mut open = world.pg.session("postgres", "postgres");
    open.run("BEGIN; UPDATE products SET category = 0 WHERE id = 1");
    world.sql("CHECKPOINT");
    let old = world.pg.confirmed_flush_lsn("walpurge_replay");
    write_mib(&world, 44);
    // The main slot needs that WAL too, so that nothing would be won.
    world.wait_for_log("by the main slot too");
    assert!(!is_past(&world, "walpurge_replay", &old), "it gave up its window for nothing");
    open.run("COMMIT");
    wait_until("it is made anew", 3 * PATIENCE, || {
        world.sql("CHECKPOINT; SELECT pg_logical_emit_message(false, 'other', '')");
        world.log().contains("made the replay slot anew")
    });
    assert!(is_past(&world, "walpurge_replay", &old));
    wait_until("it holds less", 3 * PATIENCE, || held_mib(&world, "walpurge_replay") <= 16);
    let position = world.pg.confirmed_flush_lsn("walpurge_replay");
    world.sql("UPDATE products SET category = 1 WHERE id = 2");
    world.wait_confirmed();
    world.fill(&["product:2"]);
    let out = replayed(&world, &["--from-lsn", &position]);
    assert!(out.starts_with("replayed 1 transaction, 1 change"), "{out}");
    world.wait_gone(&["product:2"]);
    world.stop();
}

#[test]
fn it_is_made_again_when_somebody_drops_it_and_that_is_no_gap() {
    let mut world = keeping(World::new(PRODUCTS, RULE), "1s", "1GiB");
    world.start();
    world.wait_for_log("made the replay slot");
    let count = |world: &World| world.log().matches("made the replay slot").count();
    wait_until("it is dropped", PATIENCE, || {
        world
            .pg
            .try_psql("postgres", "postgres", "SELECT pg_drop_replication_slot('walpurge_replay')")
            .is_ok()
    });
    wait_until("it is made again", PATIENCE, || count(&world) == 2);
    world.fill(&["product:1"]);
    world.sql("UPDATE products SET category = 0 WHERE id = 1");
    world.wait_gone(&["product:1"]);
    assert!(!world.log().contains("there is a gap"), "{}", world.news());
    world.stop();
}

#[test]
fn one_that_nobody_asks_for_any_more_is_told_of() {
    let mut world = World::new(PRODUCTS, RULE);
    world.sql("SELECT pg_copy_logical_replication_slot('walpurge', 'walpurge_replay')");
    world.spawn(&["run"]);
    world.wait_for_log("a replay slot holds WAL, and nothing moves it");
    world.wait_for_log("SELECT pg_drop_replication_slot('walpurge_replay');");
    world.stop();
}

#[test]
fn a_slot_of_another_plugin_under_its_name_is_left_alone() {
    let mut world = keeping(World::new(PRODUCTS, RULE), "1s", "1GiB");
    world.sql("SELECT pg_create_logical_replication_slot('walpurge_replay', 'test_decoding')");
    let position = world.pg.confirmed_flush_lsn("walpurge_replay");
    world.start();
    world.wait_for_log("the replay slot is not kept up");
    world.fill(&["product:1"]);
    world.sql("UPDATE products SET category = 0 WHERE id = 1");
    world.wait_gone(&["product:1"]);
    assert_eq!(world.pg.confirmed_flush_lsn("walpurge_replay"), position);
    world.stop();
}

#[test]
fn setup_makes_it_check_tells_of_it_and_teardown_drops_it() {
    let mut world = keeping(World::new(PRODUCTS, RULE), "1h", "1GiB");
    with_state(&mut world);
    let run = |world: &World, args: &[&str]| {
        let output = world.command(args).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let out = run(&world, &["check"]);
    assert!(out.contains("slot walpurge_replay: missing: run makes it"), "{out}");
    let out = run(&world, &["setup"]);
    assert!(out.contains("made slot walpurge_replay; what is committed after "), "{out}");
    let out = run(&world, &["setup"]);
    assert!(out.contains("slot walpurge_replay is there already, for replays"), "{out}");
    let position = world.pg.confirmed_flush_lsn("walpurge_replay");
    let said = format!("slot walpurge_replay: one can replay from {position} on (");
    let out = run(&world, &["check"]);
    assert!(out.contains(&format!("{said}since when is not known here); it holds ")), "{out}");
    world.start();
    let file = world.dir.join("replay_times");
    wait_until("times are kept", PATIENCE, || file.exists());
    let out = run(&world, &["check"]);
    assert!(out.contains(&format!("{said}what was committed since 2")), "{out}");
    world.stop();
    let slots = |world: &World| world.sql("SELECT slot_name FROM pg_replication_slots ORDER BY 1");
    let dropped = |world: &World| {
        wait_until("nobody uses it", PATIENCE, || {
            world.sql("SELECT count(*) FROM pg_replication_slots WHERE active") == "0"
        });
        run(world, &["teardown", "--yes"])
    };
    let out = dropped(&world);
    assert!(out.contains("dropped slot walpurge_replay, which held "), "{out}");
    assert_eq!(slots(&world), "");
    let printed = run(&world, &["setup", "--print"]);
    for _ in 0..2 {
        world.sql(&printed);
        assert_eq!(slots(&world), "walpurge\nwalpurge_replay");
    }
    world.edit("[postgres.replay]\nwindow = '1h'\nmax_wal = '1GiB'\n", "");
    let out = run(&world, &["check"]);
    assert!(out.contains("nothing moves it: [postgres.replay] is absent"), "{out}");
    let printed = run(&world, &["teardown", "--print"]);
    for _ in 0..2 {
        world.sql(&printed);
        assert_eq!(slots(&world), "");
    }
}
