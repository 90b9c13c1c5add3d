//! The daemon on a cluster: what it deletes again, and what it tells through a stream.

use std::time::Duration;

use testkit::redis::{RedisCluster, Reply};
use testkit::wait_until;

use super::{NODE_TIMEOUT, at, exists, names, set};
use crate::world::{PATIENCE, World};

/// So long that no master counts as dead.
const NO_FAILOVER: Duration = Duration::from_secs(600);

const ROWS: &str = "CREATE TABLE row (id int PRIMARY KEY, n int);
    INSERT INTO row SELECT id, 0 FROM generate_series(0, 99) id;";

/// A daemon with a rule of these lines, whose Redis is the cluster.
fn world(cluster: &RedisCluster, lines: &str) -> World {
    let mut world = World::new(ROWS, &format!("[[rule]]\ntable = \"public.row\"\n{lines}"));
    let (url, urls) = (world.redis.url(), cluster.urls());
    world.edit(&format!("url = \"{url}\""), &format!("cluster = {urls:?}"));
    world
}

/// The first row whose key lies on a master.
fn row_on(cluster: &RedisCluster, master: usize) -> usize {
    let is_there = |key: &String| cluster.home(cluster.slot(key)) == master;
    names("row:", 100).iter().position(is_there).expect("a row")
}

fn number(world: &World, row: usize) -> String {
    world.sql(&format!("SELECT n FROM row WHERE id = {row}"))
}

/// A reader that reads a row before its commit and fills the cache after its delete. `change` is
/// what commits in between.
#[track_caller]
fn race(world: &World, cluster: &RedisCluster, row: usize, change: &str) {
    let key = format!("row:{row}");
    set(cluster, &key);
    let read = number(world, row);
    world.sql(change);
    wait_until("the key is gone", PATIENCE, || !exists(cluster, &key));
    at(cluster, &key, &["SET", &key, &read]);
}

/// Whether the cache holds what is in the table, or nothing.
fn is_clean(world: &World, cluster: &RedisCluster, row: usize) -> bool {
    let key = format!("row:{row}");
    match at(cluster, &key, &["GET", &key]) {
        Reply::Bulk(None) => true,
        cached => cached.to_string() == number(world, row),
    }
}

fn update(rows: &[usize]) -> String {
    let rows: Vec<_> = rows.iter().map(usize::to_string).collect();
    format!("UPDATE row SET n = n + 1 WHERE id IN ({})", rows.join(", "))
}

#[test]
fn slow_readers_leave_nothing_stale_while_another_master_stalls_or_is_dead() {
    let mut cluster = RedisCluster::start(3, false, NO_FAILOVER);
    let [away, near, other] = [0, 1, 2].map(|master| row_on(&cluster, master));
    let mut without = world(&cluster, "delete = [\"row:{id}\"]\n");
    without.start();
    race(&without, &cluster, near, &update(&[near]));
    without.wait_confirmed();
    assert!(!is_clean(&without, &cluster, near), "the test cannot fail");
    without.stop();
    at(&cluster, &format!("row:{near}"), &["DEL", &format!("row:{near}")]);

    let lines = "delete = [\"row:{id}\"]\nredelete_after = [\"200ms\", \"2s\"]\n";
    let mut world = world(&cluster, lines);
    world.start();
    let races = |world: &World, cluster: &RedisCluster| {
        for row in [near, other] {
            race(world, cluster, row, &update(&[row]));
            world.wait_confirmed();
            assert!(is_clean(world, cluster, row), "{row}\n{}", world.log());
        }
    };
    races(&world, &cluster);

    // Nothing waits for the master that is away: nobody notices.
    set(&cluster, &format!("row:{away}"));
    cluster.node_mut(0).pause();
    races(&world, &cluster);

    // Something does: what the others had deleted the first time is deleted again after that.
    race(&world, &cluster, near, &update(&[near, away]));
    let end = world.pg.current_lsn();
    assert!(!world.pg.has_confirmed("walpurge", &end), "nothing is forgotten");
    cluster.node_mut(0).resume();
    world.wait_confirmed();
    for row in [near, away] {
        assert!(is_clean(&world, &cluster, row), "{row}\n{}", world.log());
    }

    cluster.node_mut(0).kill_9();
    races(&world, &cluster);
    world.stop();
}

/// The entries of the stream.
fn entries(cluster: &RedisCluster) -> usize {
    match at(cluster, "news", &["XLEN", "news"]) {
        Reply::Int(entries) => entries as usize,
        reply => panic!("{reply}"),
    }
}

#[test]
fn a_stream_is_written_where_it_is_and_follows_its_slot() {
    let mut cluster = RedisCluster::start(3, false, NODE_TIMEOUT);
    let slot = cluster.slot("news");
    let from = cluster.home(slot);
    let (to, idle) = ((from + 1) % 3, (from + 2) % 3);
    // Each with its deletes on all masters.
    let rows = [0, 1, 2].map(|master| row_on(&cluster, master));
    let lines = "delete = [\"row:{id}\"]\npublish = { stream = \"news\" }\n";
    let mut world = world(&cluster, lines);
    world.start();
    let mut told = 0;
    let mut tell = |world: &World, cluster: &RedisCluster| {
        rows.iter().for_each(|row| set(cluster, &format!("row:{row}")));
        world.sql(&update(&rows));
        told += rows.len();
        wait_until("it is told", PATIENCE, || entries(cluster) == told);
        // After everything that it tells of.
        rows.iter().for_each(|row| assert!(!exists(cluster, &format!("row:{row}"))));
        world.wait_confirmed();
    };
    let has = |cluster: &RedisCluster, node: usize| {
        !cluster.node(node).cli(&["KEYS", "news"]).trim().is_empty()
    };
    tell(&world, &cluster);
    assert!(has(&cluster, from));
    cluster.open_move(slot, from, to);
    // It is still here.
    tell(&world, &cluster);
    assert!(has(&cluster, from) && !has(&cluster, to));
    while cluster.move_keys(slot, from, to, 10) > 0 {}
    // It is gone, and its slot is not.
    tell(&world, &cluster);
    assert!(has(&cluster, to) && !has(&cluster, from));
    cluster.close_move(slot, to);
    tell(&world, &cluster);
    // Whoever has nothing to do with it may be away, as long as it has no key of the transaction.
    cluster.node_mut(idle).pause();
    world.sql(&update(&[rows[to]]));
    let told = Reply::Int(told as i64 + 1);
    let is_told = || cluster.node(to).cmd(&["XLEN", "news"]) == told;
    wait_until("it is told", PATIENCE, is_told);
    cluster.node_mut(idle).resume();
    world.wait_confirmed();
    world.stop();
}
