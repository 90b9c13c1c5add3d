//! Readers that fill the cache from a replica: what they put there before it has replayed a commit
//! does not stay.

use testkit::postgres::{Postgres, StopMode};
use testkit::wait_until;

use crate::oracle;
use crate::world::{PATIENCE, World};

const KEY: &str = "item:1";
/// What no rule means.
const FOREIGN: &str = "session:1";

/// A primary with a standby, and a daemon that waits for it as long as `max_wait`; `None`: not.
fn world(settings: &[(&str, &str)], max_wait: Option<&str>) -> (World, Postgres) {
    let mut world = World::new(oracle::TABLE, oracle::RULE);
    let standby = Postgres::standby_of(&world.pg, settings);
    if let Some(max_wait) = max_wait {
        let url = standby.url("walpurge", "postgres");
        let section = format!(
            "[postgres.replicas]\nurls = [\"{url}\"]\nmax_wait = \"{max_wait}\"\n[redis.cache]"
        );
        world.edit("[redis.cache]", &section);
    }
    world.fill(&[FOREIGN]);
    wait_for_replay(&world, &standby);
    (world, standby)
}

fn wait_for_replay(world: &World, standby: &Postgres) {
    let caught_up = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", world.pg.current_lsn());
    wait_until("the standby has caught up", PATIENCE, || {
        standby.psql("postgres", &caught_up) == "t"
    });
}

fn row(server: &Postgres) -> String {
    server.psql("postgres", "SELECT n FROM items WHERE id = 1")
}

/// What an application does that reads from a replica: fills the cache, unless it is filled.
fn read_through(world: &World, standby: &Postgres) -> String {
    if let Some(cached) = world.redis.get(KEY) {
        return cached;
    }
    let row = row(standby);
    world.redis.set(KEY, &row);
    row
}

fn write(world: &World, n: u32) {
    world.sql(&format!("UPDATE items SET n = {n} WHERE id = 1"));
}

fn pause(standby: &Postgres) {
    standby.psql("postgres", "SELECT pg_wal_replay_pause()");
    wait_until("replay is paused", PATIENCE, || {
        standby.psql("postgres", "SELECT pg_get_wal_replay_pause_state()") == "paused"
    });
}

fn resume(standby: &Postgres) {
    standby.psql("postgres", "SELECT pg_wal_replay_resume()");
}

#[test]
fn without_the_wait_a_reader_of_a_delayed_replica_puts_the_old_row_back_for_good() {
    let (mut world, standby) = world(&[], None);
    pause(&standby);
    world.fill(&[KEY]);
    world.start();
    write(&world, 7);
    world.wait_gone(&[KEY]);
    assert_eq!(read_through(&world, &standby), "0");
    resume(&standby);
    wait_for_replay(&world, &standby);
    world.wait_confirmed();
    assert_eq!(read_through(&world, &standby), "0", "this is the danger, and nothing mends it");
    world.stop();
}

#[test]
fn a_replica_that_applies_commits_late_is_waited_for_to_the_end_of_the_commit() {
    // Replay stands at the start of the commit's record while it waits.
    let (mut world, standby) = world(&[("recovery_min_apply_delay", "1500ms")], Some("1h"));
    world.start();
    for n in 1..=3 {
        world.redis.set(KEY, "stale");
        write(&world, n);
        // The moment at which the key goes is the moment at which a reader fills it.
        world.wait_gone(&[KEY]);
        assert_eq!(read_through(&world, &standby), n.to_string());
    }
    world.wait_confirmed();
    assert_eq!(read_through(&world, &standby), "3");
    world.assert_cached(&[FOREIGN]);
    world.stop();
}

#[test]
fn what_has_waited_long_enough_runs_and_runs_again_when_the_replica_has_caught_up() {
    let (mut world, standby) = world(&[], Some("1s"));
    pause(&standby);
    world.fill(&[KEY]);
    world.start();
    let before = world.pg.current_lsn();
    write(&world, 7);
    world.wait_gone(&[KEY]);
    assert_eq!(read_through(&world, &standby), "0", "nothing keeps it from that");
    let end = world.pg.current_lsn();
    assert_ne!(before, end);
    assert!(!world.pg.has_confirmed("walpurge", &end), "it stays owed");
    // A crash forgets nothing of that.
    world.kill_9();
    world.start();
    world.wait_gone(&[KEY]);
    assert_eq!(read_through(&world, &standby), "0");
    resume(&standby);
    world.wait_gone(&[KEY]);
    assert_eq!(read_through(&world, &standby), "7");
    world.wait_confirmed();
    assert_eq!(read_through(&world, &standby), "7");
    world.assert_cached(&[FOREIGN]);
    world.stop();
}

#[test]
fn a_replica_that_is_gone_holds_up_nobody_and_gets_its_fallbacks_when_it_is_back() {
    let (mut world, mut standby) = world(&[], Some("1s"));
    world.start();
    standby.stop(StopMode::Fast);
    world.fill(&[KEY]);
    write(&world, 7);
    world.wait_gone(&[KEY]);
    world.wait_for_log("a replica is not waited for any more");
    world.wait_confirmed();
    // It is remembered over a crash, and what comes now waits for nobody.
    world.kill_9();
    world.start();
    world.fill(&[KEY]);
    write(&world, 8);
    world.wait_gone(&[KEY]);
    world.wait_confirmed();
    // A reader that had read there before.
    world.redis.set(KEY, "0");
    standby.start_again();
    world.wait_for_log("a replica is back");
    world.wait_gone(&[KEY]);
    assert_eq!(read_through(&world, &standby), "8");
    wait_until("the debt is paid", PATIENCE, || {
        let owed = std::fs::read_to_string(world.state.as_ref().unwrap().join("owed.json"));
        owed.is_ok_and(|owed| !owed.contains("replicas"))
    });
    // From now on it is waited for again.
    pause(&standby);
    world.fill(&[KEY]);
    write(&world, 9);
    world.wait_gone(&[KEY]);
    assert_eq!(read_through(&world, &standby), "8");
    resume(&standby);
    world.wait_gone(&[KEY]);
    assert_eq!(read_through(&world, &standby), "9");
    world.assert_cached(&[FOREIGN]);
    world.stop();
}

#[test]
fn a_promoted_replica_is_written_off() {
    let (mut world, standby) = world(&[], Some("1h"));
    world.start();
    standby.promote();
    world.fill(&[KEY]);
    write(&world, 7);
    world.wait_gone(&[KEY]);
    world.wait_for_log("a replica is not waited for any more");
    world.wait_confirmed();
    world.stop();
}

#[test]
fn another_cluster_is_no_replica_and_the_primary_itself_is_a_good_one() {
    let mut world = World::new(oracle::TABLE, oracle::RULE);
    let other = Postgres::start();
    other.create_role_replication("walpurge");
    let urls = [world.pg.url("walpurge", "postgres"), other.url("walpurge", "postgres")];
    let section = format!("[postgres.replicas]\nurls = {urls:?}\nmax_wait = \"1h\"\n[redis.cache]");
    world.edit("[redis.cache]", &section);
    world.fill(&[KEY]);
    world.start();
    write(&world, 7);
    world.wait_gone(&[KEY]);
    world.wait_for_log("it is not in recovery, but a primary of its own");
    assert_eq!(world.log().matches("is not waited for any more").count(), 1);
    world.wait_confirmed();
    world.stop();
}

#[test]
fn check_says_which_server_is_no_replica_and_how_far_the_others_are() {
    let (mut world, standby) = world(&[("recovery_min_apply_delay", "1h")], Some("5s"));
    let url = standby.url("walpurge", "postgres");
    let gone = format!("postgres://walpurge@127.0.0.1:{}/postgres", testkit::free_port());
    world.edit(&format!("[\"{url}\"]"), &format!("[\"{url}\", \"{gone}\"]"));
    let output = world.command(&["check"]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let line = |port: u16| {
        let of = format!("127.0.0.1:{port}");
        said.lines()
            .find(|line| line.contains("replica ") && line.contains(&of))
            .unwrap()
            .to_owned()
    };
    let late = line(standby.port());
    assert!(late.contains("recovery_min_apply_delay is 1h"), "{late}");
    standby.promote();
    let output = world.command(&["check"]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("on timeline 2, the server is on 1"), "{said}");
}

#[test]
fn a_gap_is_covered_only_when_the_replica_has_replayed_it() {
    let (mut world, standby) = world(&[], Some("1s"));
    world.sql("SELECT pg_drop_replication_slot('walpurge')");
    pause(&standby);
    write(&world, 7);
    world.fill(&[KEY]);
    world.spawn(&["run", "--log", "debug"]);
    world.wait_gone(&[KEY]);
    assert_eq!(read_through(&world, &standby), "0");
    assert!(!world.log().contains("the gap is closed"));
    resume(&standby);
    world.wait_for_log("the gap is closed");
    world.wait_gone(&[KEY]);
    assert_eq!(read_through(&world, &standby), "7");
    world.wait_confirmed();
    assert_eq!(read_through(&world, &standby), "7");
    world.stop();
}
