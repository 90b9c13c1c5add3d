//! `walpurge replay`, and the slot that the daemon keeps for it.

mod ends;
mod slot;

use std::process::{Command, Output, Stdio};

use testkit::wait_until;

use crate::invalidation::{PRODUCTS, RULE};
use crate::oracle::{self, Verdict, Writer, judge};
use crate::world::{PATIENCE, World};

/// A world whose daemon keeps so much for replays.
pub(super) fn keeping(mut world: World, window: &str, max_wal: &str) -> World {
    let section = format!("[postgres.replay]\nwindow = '{window}'\nmax_wal = '{max_wal}'\n");
    world.edit("[redis.cache]", &format!("{section}[redis.cache]"));
    world
}

/// A world whose daemon runs, and keeps an hour for replays.
fn started() -> World {
    let mut world = keeping(World::new(PRODUCTS, RULE), "1h", "1GiB");
    observe(&world);
    world.start();
    world.wait_for_log("made the replay slot");
    world
}

/// A slot of the test's own, which knows of every commit.
pub(super) fn observe(world: &World) {
    world.sql("SELECT pg_create_logical_replication_slot('observer', 'wal2json')");
}

/// The commit_lsn of each transaction that changed a product.
pub(super) fn commits(world: &World) -> Vec<String> {
    let lsns = world.sql(
        "WITH lines AS MATERIALIZED (
             SELECT data::json AS line FROM pg_logical_slot_peek_changes('observer', NULL, NULL,
                 'format-version', '2', 'include-lsn', 'true', 'include-xids', 'true',
                 'add-tables', 'public.products'))
         SELECT line ->> 'lsn' FROM lines WHERE line ->> 'action' = 'B' AND line ->> 'xid' IN
             (SELECT line ->> 'xid' FROM lines WHERE line ->> 'action' IN ('I', 'U', 'D'))",
    );
    lsns.lines().map(str::to_owned).collect()
}

/// Three transactions, each of which changes a product, done by the daemon; and the keys cached
/// again.
fn three_done(world: &World) -> [String; 3] {
    for id in 1..=3 {
        world.sql(&format!("UPDATE products SET category = category + 1 WHERE id = {id}"));
    }
    world.wait_confirmed();
    world.fill(&["product:1", "product:2", "product:3"]);
    commits(world).try_into().expect("three commits")
}

fn plus(lsn: &str, bytes: i64) -> String {
    let (high, low) = lsn.split_once('/').unwrap();
    let number = |text| i64::from_str_radix(text, 16).unwrap();
    let sum = (number(high) << 32 | number(low)) + bytes;
    format!("{:X}/{:X}", sum >> 32, sum & 0xFFFF_FFFF)
}

pub(super) struct Ran {
    pub(super) code: Option<i32>,
    pub(super) out: String,
    pub(super) err: String,
}

pub(super) fn ran(world: &World, args: &[&str]) -> Ran {
    let mut command: Command = world.command(&[&["replay"], args].concat());
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: status.code(), out: text(stdout), err: text(stderr) }
}

#[track_caller]
pub(super) fn replayed(world: &World, args: &[&str]) -> String {
    let Ran { code, out, err } = ran(world, args);
    assert_eq!(code, Some(0), "{out}{err}");
    out
}

/// Slots that end with their session.
pub(super) fn temporary_slots(world: &World) -> String {
    world.sql("SELECT count(*) FROM pg_replication_slots WHERE temporary")
}

/// The server ends a session some time after its client has gone.
#[track_caller]
pub(super) fn wait_until_copies_are_gone(world: &World) {
    wait_until("no copy of a slot is left", PATIENCE, || temporary_slots(world) == "0");
}

#[test]
fn what_was_committed_since_a_position_is_invalidated_once_more() {
    let mut world = started();
    let [_, second, third] = three_done(&world);
    let before = world.sql("SELECT slot_name, confirmed_flush_lsn FROM pg_replication_slots");
    let out = replayed(&world, &["--from-lsn", &second]);
    assert_eq!(out, "replayed 2 transactions, 2 changes: cache 4 actions\n");
    world.wait_gone(&["product:2", "product:3"]);
    world.assert_cached(&["product:1"]);
    wait_until_copies_are_gone(&world);
    world.fill(&["product:2", "product:3"]);
    let out = replayed(&world, &["--from-lsn", &second, "--to-lsn", &second]);
    assert_eq!(out, "replayed 1 transaction, 1 change: cache 2 actions\n");
    world.wait_gone(&["product:2"]);
    world.assert_cached(&["product:1", "product:3"]);
    let out = replayed(&world, &["--from-lsn", &second, "--to-lsn", &plus(&third, -1)]);
    assert!(out.starts_with("replayed 1 transaction,"), "{out}");
    let after = world.sql("SELECT slot_name, confirmed_flush_lsn FROM pg_replication_slots");
    let of = |slots: &str, name: &str| {
        slots.lines().find(|line| line.starts_with(name)).map(str::to_owned)
    };
    assert_eq!(of(&before, "walpurge_replay"), of(&after, "walpurge_replay"));
    world.stop();
}

#[test]
fn the_edge_of_what_is_kept_can_be_had_and_nothing_below() {
    let mut world = started();
    let [first, second, third] = three_done(&world);
    world.sql(&format!("SELECT pg_replication_slot_advance('walpurge_replay', '{second}')"));
    let out = replayed(&world, &["--from-lsn", &second]);
    assert!(out.starts_with("replayed 2 transactions, 2 changes"), "{out}");
    world.wait_gone(&["product:2", "product:3"]);
    world.fill(&["product:2", "product:3"]);
    for less in [&first, &plus(&second, -1)] {
        let Ran { code, out, err } = ran(&world, &["--from-lsn", less]);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        assert!(err.contains(&format!("the log is kept only from {second} on")), "{err}");
        let today = world.sql("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD')");
        assert!(err.contains(&format!("what was committed since {today}T")), "{err}");
        assert!(err.contains(&format!("hint: walpurge replay --from-lsn {second}")), "{err}");
    }
    world.assert_cached(&["product:1", "product:2", "product:3"]);
    // Behind the last commit.
    let out = replayed(&world, &["--from-lsn", &plus(&third, 1)]);
    assert_eq!(out, "replayed 0 transactions, 0 changes: cache 0 actions\n");
    let out = replayed(&world, &["--from-lsn", &plus(&third, 1 << 30)]);
    assert_eq!(out, "replayed 0 transactions, 0 changes: cache 0 actions\n");
    world.assert_cached(&["product:1", "product:2", "product:3"]);
    wait_until_copies_are_gone(&world);
    world.stop();
}

#[test]
fn a_transaction_counts_by_its_commit_and_not_by_where_its_changes_stand() {
    let mut world = started();
    let mut open = world.pg.session("postgres", "postgres");
    open.run("BEGIN; UPDATE products SET category = 0 WHERE id = 1");
    world.sql("UPDATE products SET category = 0 WHERE id = 2");
    let amid = world.pg.current_lsn();
    open.run("UPDATE products SET category = 0 WHERE id = 3; COMMIT");
    world.wait_confirmed();
    world.fill(&["product:1", "product:2", "product:3"]);
    let [_, second] = <[String; 2]>::try_from(commits(&world)).unwrap();
    let out = replayed(&world, &["--from-lsn", &plus(&second, 1)]);
    assert!(out.starts_with("replayed 0 transactions"), "{out}");
    let out = replayed(&world, &["--from-lsn", &amid]);
    assert_eq!(out, "replayed 1 transaction, 2 changes: cache 4 actions\n");
    world.wait_gone(&["product:1", "product:3"]);
    world.assert_cached(&["product:2"]);
    // Its end is not within, though most of it is.
    let out = replayed(&world, &["--from-lsn", &amid, "--to-lsn", &plus(&second, -1)]);
    assert!(out.starts_with("replayed 0 transactions"), "{out}");
    world.stop();
}

#[test]
fn what_was_committed_since_a_time_is_replayed_with_and_without_state() {
    for state_dir in [false, true] {
        let mut world = keeping(World::new(PRODUCTS, RULE), "1h", "1GiB");
        if state_dir {
            let line = format!("state_dir = '{}'\n[postgres]\n", world.dir.path().display());
            world.edit("[postgres]\n", &line);
        }
        world.start();
        world.wait_for_log("made the replay slot");
        if state_dir {
            let file = world.dir.join("replay_times");
            wait_until("times are kept", PATIENCE, || file.exists());
        }
        world.sql("UPDATE products SET category = 0 WHERE id = 1");
        let first = std::time::Instant::now();
        wait_until("it is long ago", PATIENCE, || first.elapsed().as_millis() > 4000);
        world.sql("UPDATE products SET category = 0 WHERE id = 2");
        let second = std::time::Instant::now();
        world.wait_confirmed();
        world.fill(&["product:1", "product:2"]);
        // Between the two, and nearer to the first, since the command takes its time.
        let since = format!("{}ms", second.elapsed().as_millis() + 3000);
        let out = replayed(&world, &["--since", &since]);
        assert_eq!(out, "replayed 1 transaction, 1 change: cache 2 actions\n");
        world.wait_gone(&["product:2"]);
        world.assert_cached(&["product:1"]);
        let Ran { code, err, .. } = ran(&world, &["--since", "1h"]);
        assert_eq!(code, Some(1), "{err}");
        let position = world.pg.confirmed_flush_lsn("walpurge_replay");
        assert!(
            err.contains(&format!("kept only from {position} on (what was committed")),
            "{err}"
        );
        world.stop();
    }
}

#[test]
fn without_a_slot_for_replays_only_what_is_not_confirmed_can_be_had() {
    let mut world = World::new(PRODUCTS, RULE);
    let position = world.pg.confirmed_flush_lsn("walpurge");
    world.sql("UPDATE products SET category = 0 WHERE id = 1");
    world.fill(&["product:1"]);
    let out = replayed(&world, &["--from-lsn", &position]);
    assert_eq!(out, "replayed 1 transaction, 1 change: cache 2 actions\n");
    world.wait_gone(&["product:1"]);
    assert_eq!(world.pg.confirmed_flush_lsn("walpurge"), position);
    world.start();
    world.wait_confirmed();
    let Ran { code, err, .. } = ran(&world, &["--from-lsn", &position]);
    assert_eq!(code, Some(1));
    assert!(err.contains("[postgres.replay] keeps more from now on"), "{err}");
    world.stop();
}

#[test]
fn rules_and_sinks_can_be_picked_and_a_dry_run_does_nothing() {
    let other = "[[rule]]\nname = 'other'\ntable = 'public.products'\ndelete = ['other:{id}']\n";
    let world = World::new(PRODUCTS, &format!("{RULE}{other}"));
    let second = testkit::redis::Redis::start();
    let mut world = keeping(world, "1h", "1GiB");
    world
        .edit("[redis.cache]", &format!("[redis.second]\nurl = '{}'\n[redis.cache]", second.url()));
    let position = world.pg.confirmed_flush_lsn("walpurge");
    // It is flushed with what is committed after it.
    world.sql("SELECT pg_logical_emit_message(false, 'walpurge', '{\"delete\":[\"message\"]}')");
    world.sql("UPDATE products SET category = 0 WHERE id = 1");
    let keys = ["product:1", "other:1", "message"];
    let fill = || {
        world.fill(&keys);
        keys.iter().for_each(|key| second.set(key, "cached"));
    };
    let left = || {
        let of = |redis: &testkit::redis::Redis| {
            keys.iter().filter(|key| redis.exists(key)).copied().collect::<Vec<_>>()
        };
        (of(&world.redis), of(&second))
    };
    fill();
    let from = ["--from-lsn", position.as_str()];
    let with = |more: &[&'static str]| {
        let args: Vec<&str> = from.iter().copied().chain(more.iter().copied()).collect();
        ran(&world, &args)
    };
    let Ran { code, out, err } = with(&["--dry-run"]);
    let would = "would replay 2 transactions, 2 changes: second 4 actions, cache 4 actions\n";
    assert_eq!((code, out.as_str()), (Some(0), would), "{err}");
    assert!(err.contains("would invalidate") && err.contains("product:1"), "{err}");
    assert_eq!(left(), (keys.to_vec(), keys.to_vec()));
    let Ran { code, out, err } = with(&["--sink", "second"]);
    let said = "replayed 2 transactions, 2 changes: second 4 actions\n";
    assert_eq!((code, out.as_str()), (Some(0), said), "{err}");
    assert_eq!(left(), (keys.to_vec(), vec![]));
    fill();
    let Ran { code, out, err } = with(&["--rule", "other", "--sink", "cache"]);
    let said = "replayed 1 transaction, 1 change: cache 1 action\n";
    assert_eq!((code, out.as_str()), (Some(0), said), "{err}");
    assert_eq!(left(), (vec!["product:1", "message"], keys.to_vec()));
    for (wrong, says) in [("--rule", "no enabled rule othr"), ("--sink", "no enabled sink othr")] {
        let Ran { code, err, .. } = with(&[wrong, "othr"]);
        assert_eq!(code, Some(2), "{err}");
        assert!(err.contains(says), "{err}");
    }
    let Ran { code, err, .. } = with(&["--to-lsn", "0/1"]);
    assert_eq!(code, Some(2), "{err}");
    assert_eq!(ran(&world, &[]).code, Some(2));
    assert_eq!(ran(&world, &["--from-lsn", "0/1", "--since", "1h"]).code, Some(2));
}

#[test]
fn replays_under_load_disturb_neither_the_daemon_nor_each_other() {
    let mut world = keeping(World::new(oracle::TABLE, oracle::RULE), "1h", "1GiB");
    oracle::fill(&world);
    world.start();
    world.wait_for_log("made the replay slot");
    let position = world.pg.confirmed_flush_lsn("walpurge_replay");
    let writer = Writer::start(&world);
    writer.wait_for_percent(30);
    let outputs = std::thread::scope(|scope| {
        let replays = [(); 2].map(|()| scope.spawn(|| ran(&world, &["--from-lsn", &position])));
        replays.map(|replay| replay.join().unwrap())
    });
    for Ran { code, out, err } in &outputs {
        assert_eq!(*code, Some(0), "{out}{err}");
        let changes: u64 = out
            .split_whitespace()
            .nth(3)
            .and_then(|changes| changes.parse().ok())
            .unwrap_or_else(|| panic!("{out}"));
        assert!(changes >= 20_000 * 9 / 10 * 30 / 100, "{out}");
    }
    writer.finish();
    world.wait_confirmed();
    assert_eq!(judge(&world), Verdict::default(), "{}", world.news());
    // Everything once more, into a cache that is full again.
    oracle::fill(&world);
    replayed(&world, &["--from-lsn", &position]);
    assert_eq!(judge(&world), Verdict::default(), "{}", world.news());
    wait_until_copies_are_gone(&world);
    assert!(!world.news().contains("WARN"), "{}", world.news());
    world.stop();
}

#[test]
fn a_partition_that_is_gone_is_invalidated_by_its_fallback() {
    let table = "CREATE TABLE products (id bigint, slug text) PARTITION BY RANGE (id);
        CREATE TABLE low PARTITION OF products FOR VALUES FROM (0) TO (10);
        CREATE TABLE high PARTITION OF products FOR VALUES FROM (10) TO (20)";
    let world = World::new(table, RULE);
    let position = world.pg.confirmed_flush_lsn("walpurge");
    world.sql("INSERT INTO products VALUES (11, 'a')");
    world.fill(&["product:1", "product:11", "other:1"]);
    replayed(&world, &["--from-lsn", &position]);
    world.assert_cached(&["product:1", "other:1"]);
    world.wait_gone(&["product:11"]);
    world.sql("DROP TABLE high");
    world.fill(&["product:11"]);
    replayed(&world, &["--from-lsn", &position]);
    world.wait_gone(&["product:1", "product:11"]);
    world.assert_cached(&["other:1"]);
}
