//! How replays end, and what they leave behind.

use std::process::{Command, Stdio};

use testkit::postgres::StopMode;
use testkit::process::{Process, Signal};
use testkit::wait_until;

use super::{keeping, replayed, temporary_slots, wait_until_copies_are_gone};
use crate::invalidation::{PRODUCTS, RULE};
use crate::oracle;
use crate::world::{PATIENCE, World};

#[test]
fn a_replay_that_is_interrupted_leaves_nothing_behind_and_says_how_to_go_on() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut world = keeping(World::new(oracle::TABLE, oracle::RULE), "1h", "1GiB");
        let position = world.pg.confirmed_flush_lsn("walpurge");
        world.sql("UPDATE items SET n = 1 WHERE id <= 500");
        world.redis.pause();
        let log = world.dir.join("replay.log");
        let command = world.command(&["replay", "--from-lsn", &position, "--log", "debug"]);
        let mut replay = Process::spawn("replay", command, &log, Signal::KILL).unwrap();
        wait_until("it is at work", PATIENCE, || replay.log().contains("item:500"));
        assert_eq!(temporary_slots(&world), "1", "{}", replay.log());
        replay.signal(signal);
        let status = replay.wait(PATIENCE).expect("it ends");
        assert_eq!(status.code(), Some(1), "{}", replay.log());
        wait_until_copies_are_gone(&world);
        let said = replay.log();
        assert!(said.contains("replayed 1 transaction, 500 changes: cache "), "{said}");
        let go_on = "interrupted; go on with: walpurge replay --from-lsn ";
        let from = said.split_once(go_on).unwrap_or_else(|| panic!("{said}")).1;
        let args: Vec<&str> = from.split_whitespace().collect();
        world.redis.resume();
        let out = replayed(&world, &[&["--from-lsn"], &args[..]].concat());
        assert_eq!(out, "replayed 1 transaction, 500 changes: cache 500 actions\n");
    }
}

#[test]
fn a_transaction_that_is_open_does_not_keep_a_replay_from_its_end() {
    let world = World::new(PRODUCTS, RULE);
    let position = world.pg.confirmed_flush_lsn("walpurge");
    world.sql("UPDATE products SET category = 0 WHERE id = 1");
    // Full pages are flushed, and so the first part of a record alone.
    let mut open = world.pg.session("postgres", "postgres");
    open.run(
        "BEGIN; INSERT INTO products SELECT n, repeat('x', 1000) FROM generate_series(10, 20000) n",
    );
    let log = world.dir.join("replay.log");
    let command = world.command(&["replay", "--from-lsn", &position]);
    let mut replay = Process::spawn("replay", command, &log, Signal::KILL).unwrap();
    let status = replay.wait(PATIENCE).unwrap_or_else(|| panic!("no end\n{}", replay.log()));
    assert!(status.success(), "{}", replay.log());
    let said = "replayed 1 transaction, 1 change: cache 2 actions";
    assert!(replay.log().contains(said), "{}", replay.log());
    open.run("ROLLBACK");
}

#[test]
fn a_replay_that_loses_postgres_says_how_to_go_on() {
    let mut world = World::new(oracle::TABLE, oracle::RULE);
    let position = world.pg.confirmed_flush_lsn("walpurge");
    world.sql("UPDATE items SET n = 1 WHERE id <= 500");
    world.redis.pause();
    let log = world.dir.join("replay.log");
    let command = world.command(&["replay", "--from-lsn", &position, "--log", "debug"]);
    let mut replay = Process::spawn("replay", command, &log, Signal::KILL).unwrap();
    wait_until("it is at work", PATIENCE, || replay.log().contains("item:500"));
    world.pg.restart(StopMode::Immediate);
    let status = replay.wait(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(1), "{}", replay.log());
    let go_on = "error: the replay broke off; go on with: walpurge replay --from-lsn ";
    assert!(replay.log().contains(go_on), "{}", replay.log());
    world.redis.resume();
    replayed(&world, &["--from-lsn", &position]);
}

#[test]
fn a_terminal_shows_how_far_it_is() {
    let world = World::new(PRODUCTS, RULE);
    let position = world.pg.confirmed_flush_lsn("walpurge");
    world.sql("UPDATE products SET category = 0");
    let command = world.command(&["replay", "--from-lsn", &position]);
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    let mut script = Command::new("script");
    script.args(["-qefc", &words.join(" "), "/dev/null"]).stdin(Stdio::null());
    let output = script.output().expect("script, of bsdutils, is installed");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{shown}");
    assert!(shown.contains("]   0 %") || shown.contains("] 100 %"), "{shown:?}");
    assert!(shown.contains("replayed 1 transaction, 3 changes: cache 6 actions"), "{shown:?}");
}
