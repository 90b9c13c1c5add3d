//! What masters acknowledge before their replicas have it, and `failover_window`, which does it
//! again on whoever has taken over.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use testkit::redis::{Redis, RedisCluster, Reply};
use walpurge::action::{Batch, Verb};
use walpurge::sinks::Failure;
use walpurge::sinks::redis::{
    ClusterLane, Duties, Fallbacks, LaneClass, Ledger, RedisConfig, RedisOptions, Topology, check,
    least_acl,
};

use super::outages::{NO_FAILOVER, SHORT, homes, take_over, wait_replicated};
use super::replicas::cut_off;
use super::{
    NODE_TIMEOUT, at, batch, cache_with_tag, exists, lane, left, names, send, send_batch, set,
    topology,
};
use crate::oracle::{self, ROWS as ORACLE_ROWS, Verdict, Writer, is_written};
use crate::world::{PATIENCE, World};

/// Longer than a test, so that nothing is forgotten in it.
const WINDOW: Duration = Duration::from_secs(600);

fn options(cluster: &RedisCluster, failover_window: Duration) -> RedisOptions {
    let timeouts = SHORT;
    RedisOptions { failover_window, timeouts, ..super::options(&cluster.urls()) }
}

fn remembering(cluster: &RedisCluster) -> Arc<Topology> {
    topology(options(cluster, WINDOW))
}

/// What the driver does with a lane that has nothing to send, until `condition` holds.
async fn idle_until(lane: &mut ClusterLane, what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            let look_at = lane.look_at().expect("there is something to look for");
            tokio::time::sleep_until(look_at.into()).await;
            if lane.look().await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    assert!(tokio::time::timeout(3 * PATIENCE, waiting).await.is_ok(), "{what}");
}

/// How often a node was asked how the cluster is: a lane knows what it said once it was asked again.
fn asked(cluster: &RedisCluster, node: usize) -> u64 {
    let stats = cluster.node(node).cli(&["INFO", "commandstats"]);
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_cluster|info:calls="));
    let calls = line.map(|line| line.split(',').next().unwrap().parse().unwrap());
    calls.unwrap_or_default()
}

/// Lets a lane look until it knows what the nodes say now.
async fn idle_until_all_is_known(cluster: &RedisCluster, node: usize, lane: &mut ClusterLane) {
    let before = asked(cluster, node);
    idle_until(lane, "the nodes are asked", || asked(cluster, node) >= before + 4).await;
    lane.look().await.unwrap();
}

/// Replaces the first master by its replica, which has got nothing since it was cut off.
#[track_caller]
fn fail_over(cluster: &mut RedisCluster) {
    cluster.node_mut(0).kill_9();
    take_over(cluster, 0);
}

#[tokio::test]
async fn what_only_a_dead_master_had_is_done_again_by_its_successor_within_the_window() {
    let mut cluster = RedisCluster::start(3, true, NO_FAILOVER);
    let (own, others) = homes(&cluster, &names("k:", 90), 0);
    let (listed, _) = homes(&cluster, &names("list:", 30), 0);
    own.iter().chain(&others).chain(&listed).for_each(|key| set(&cluster, key));
    // Tags on another master, with members on the one that dies.
    let [tag, stale_tag] = ["{1}", "{1}stale"];
    for tag in [tag, stale_tag] {
        let set = format!("tags:{tag}");
        assert_ne!(cluster.home(cluster.slot(&set)), 0, "the tag's set is on another master");
    }
    own[4..8].iter().for_each(|key| cache_with_tag(&cluster, "tags:{1}", key));
    own[8..9].iter().for_each(|key| cache_with_tag(&cluster, "tags:{1}stale", key));
    let (counters, _) = homes(&cluster, &names("n:", 30), 0);
    at(&cluster, &counters[0], &["SET", &counters[0], "7"]);
    (0..3).for_each(|master| wait_replicated(&cluster, master));

    let mut forgetting = lane(&topology(options(&cluster, Duration::ZERO)));
    let mut lane = lane(&remembering(&cluster));
    send(&mut lane, Verb::Delete, [&others[0]]).await;
    cut_off(&cluster, 0);
    send(&mut forgetting, Verb::Delete, [&own[1]]).await;
    send(&mut forgetting, Verb::Tag, [stale_tag]).await;
    send(&mut lane, Verb::Delete, [&own[0], &others[1]]).await;
    send(&mut lane, Verb::Tag, [tag]).await;
    send(&mut lane, Verb::DeleteMatching, ["list:*"]).await;
    send(&mut lane, Verb::Bump, [&counters[0]]).await;

    fail_over(&mut cluster);
    let back = cluster.replica_of(0);
    let lost = [&own[0], &own[1], &own[4], &own[8], &listed[0]];
    assert!(lost.iter().all(|key| back.exists(key)), "it was lost");
    [&others[0], &others[1]].into_iter().for_each(|key| set(&cluster, key));
    let is_clean = || left(&cluster, &own[4..8]).is_empty() && left(&cluster, &listed).is_empty();
    idle_until(&mut lane, "all of it is done again", || !exists(&cluster, &own[0]) && is_clean())
        .await;
    lane.look().await.unwrap();
    assert!(exists(&cluster, &own[1]) && exists(&cluster, &own[8]), "the test cannot fail");
    assert!(exists(&cluster, &own[2]), "only what was done");
    assert!(exists(&cluster, &others[0]), "only what touched the master that is gone");
    assert!(!exists(&cluster, &others[1]), "a batch is done again as a whole");
    assert_eq!(at(&cluster, &counters[0], &["GET", &counters[0]]).to_string(), "8");
}

#[tokio::test]
async fn a_master_that_is_replaced_alive_or_set_back_is_noticed_too() {
    let mut cluster = RedisCluster::start(3, true, NO_FAILOVER);
    let (own, _) = homes(&cluster, &names("k:", 60), 0);
    let (next, _) = homes(&cluster, &names("k:", 60), 1);
    own.iter().chain(&next).for_each(|key| set(&cluster, key));
    (0..3).for_each(|master| wait_replicated(&cluster, master));
    let mut lane = lane(&remembering(&cluster));
    cut_off(&cluster, 0);
    send(&mut lane, Verb::Delete, [&own[0]]).await;
    // It lives, and is its successor's replica from now on.
    take_over(&cluster, 0);
    assert!(cluster.replica_of(0).exists(&own[0]), "it was lost");
    idle_until(&mut lane, "it is done again", || !exists(&cluster, &own[0])).await;

    // Another one starts from an older file before anybody replaces it.
    cluster.node(1).cli(&["SAVE"]);
    cluster.node(1).cli(&["CONFIG", "SET", "save", ""]);
    send(&mut lane, Verb::Delete, [&next[0]]).await;
    cluster.node_mut(1).kill_9();
    cluster.node_mut(1).start_again();
    // It does not serve at once, and the lane is not asked before.
    let is_back = || cluster.node(1).exists(&next[0]);
    testkit::wait_until("the file is older than the delete", PATIENCE, is_back);
    idle_until(&mut lane, "it is done again", || !exists(&cluster, &next[0])).await;
    assert!(exists(&cluster, &own[1]) && exists(&cluster, &next[1]), "only what was done");
}

#[tokio::test]
async fn slots_that_move_run_nothing_again_until_their_new_master_is_replaced() {
    let mut cluster = RedisCluster::start(3, true, NO_FAILOVER);
    let keys = names("{m}:", 60);
    let slot = cluster.slot("{m}:");
    let from = cluster.home(slot);
    // To the one that is replaced later.
    let to = 0;
    assert_ne!(from, to, "choose another name");
    keys.iter().for_each(|key| set(&cluster, key));
    let mut lane = lane(&remembering(&cluster));
    send(&mut lane, Verb::Delete, &keys[..10]).await;
    cluster.open_move(slot, from, to);
    cluster.move_keys(slot, from, to, 20);
    // Some of these are here, and some are there.
    send(&mut lane, Verb::Delete, &keys[10..50]).await;
    assert_eq!(left(&cluster, &keys).len(), 10);
    while cluster.move_keys(slot, from, to, 20) > 0 {}
    cluster.close_move(slot, to);
    send(&mut lane, Verb::Delete, &keys[50..51]).await;
    (0..3).for_each(|master| wait_replicated(&cluster, master));

    // Readers fill the cache again, and nothing of that goes.
    keys[..51].iter().for_each(|key| set(&cluster, key));
    idle_until_all_is_known(&cluster, to, &mut lane).await;
    assert_eq!(left(&cluster, &keys).len(), 60, "nothing is done again");

    wait_replicated(&cluster, 0);
    cut_off(&cluster, 0);
    send(&mut lane, Verb::Delete, &keys[51..]).await;
    fail_over(&mut cluster);
    assert_eq!(left(&cluster, &keys[51..]).len(), 9, "it was lost");
    idle_until(&mut lane, "it is done again", || left(&cluster, &keys[51..]).is_empty()).await;
    assert_eq!(left(&cluster, &keys[..10]).len(), 10, "their place is there still");
}

/// The fallbacks of a sink, and the ledger of its lanes, which starts with what was `noted`.
fn share(
    lane: &mut ClusterLane,
    coarse: Batch,
    noted: Option<&str>,
) -> (Arc<Ledger>, Arc<Mutex<String>>) {
    let notes = Arc::new(Mutex::new(String::new()));
    let kept = Arc::clone(&notes);
    let note = move |note: &str| note.clone_into(&mut kept.lock().unwrap());
    let ledger = Arc::new(Ledger::new(noted, note));
    lane.share(&ledger, &Arc::new(Fallbacks { batch: coarse, ..Fallbacks::default() }));
    (ledger, notes)
}

#[tokio::test]
async fn fallbacks_run_where_more_was_done_than_is_remembered() {
    let mut cluster = RedisCluster::start(3, true, NO_FAILOVER);
    let (own, _) = homes(&cluster, &names("item:", 60), 0);
    own.iter().for_each(|key| set(&cluster, key));
    set(&cluster, "kept");
    (0..3).for_each(|master| wait_replicated(&cluster, master));
    let mut lane = lane(&remembering(&cluster));
    let _shared = share(&mut lane, batch(Verb::DeleteMatching, ["item:*"]), None);
    cut_off(&cluster, 0);
    send(&mut lane, Verb::Delete, [&own[0]]).await;
    // Of the same slot, and so of the same master.
    let start = format!("{{{}}}{}", own[0], "x".repeat(4000));
    for _ in 0..5 {
        send(&mut lane, Verb::Delete, names(&start, 500)).await;
    }
    fail_over(&mut cluster);
    assert!(exists(&cluster, &own[0]), "it was lost");
    idle_until(&mut lane, "the fallback runs", || left(&cluster, &own).is_empty()).await;
    assert!(exists(&cluster, "kept"));
}

#[tokio::test]
async fn who_starts_and_finds_a_master_replaced_runs_the_fallbacks_once() {
    let mut cluster = RedisCluster::start(3, true, NO_FAILOVER);
    let keys = names("item:", 60);
    let (own, others) = homes(&cluster, &keys, 0);
    keys.iter().for_each(|key| set(&cluster, key));
    set(&cluster, "kept");
    (0..3).for_each(|master| wait_replicated(&cluster, master));
    let coarse = || batch(Verb::DeleteMatching, ["item:*"]);
    let mut first = lane(&remembering(&cluster));
    let (_, notes) = share(&mut first, coarse(), None);
    cut_off(&cluster, 0);
    send(&mut first, Verb::Delete, [&own[0], &others[0]]).await;
    let noted = notes.lock().unwrap().clone();
    let port = |node: &Redis| format!(":{}#", node.port());
    assert!(noted.contains(&port(cluster.node(0))), "{noted}");
    drop(first);

    // Nothing has happened to them.
    let mut same = lane(&remembering(&cluster));
    let _shared = share(&mut same, coarse(), Some(&noted));
    assert!(same.look_at().is_some(), "it looks at once");
    idle_until_all_is_known(&cluster, 1, &mut same).await;
    assert!(exists(&cluster, &own[1]));

    // Of what was done before the start nobody knows more than where it was.
    fail_over(&mut cluster);
    assert!(exists(&cluster, &own[0]), "it was lost");
    idle_until(&mut same, "the fallback runs", || left(&cluster, &keys).is_empty()).await;
    assert!(exists(&cluster, "kept"));
    drop(same);

    // The same if it starts only now.
    keys.iter().for_each(|key| set(&cluster, key));
    let mut next = lane(&remembering(&cluster));
    let (_, notes) = share(&mut next, coarse(), Some(&noted));
    idle_until(&mut next, "the fallback runs", || left(&cluster, &keys).is_empty()).await;
    assert!(exists(&cluster, "kept"));
    let (old, new) = (port(cluster.node(0)), port(cluster.replica_of(0)));
    let is_noted = || {
        let now = notes.lock().unwrap();
        !now.contains(&old) && now.contains(&new)
    };
    idle_until(&mut next, "the successor is noted", is_noted).await;
    keys.iter().for_each(|key| set(&cluster, key));
    idle_until_all_is_known(&cluster, 1, &mut next).await;
    assert!(exists(&cluster, &own[1]), "once");
}

#[tokio::test]
async fn a_place_where_somebody_else_is_by_now_is_gone_and_holds_nobody() {
    let cluster = RedisCluster::start(3, false, NO_FAILOVER);
    let keys = names("item:", 30);
    keys.iter().for_each(|key| set(&cluster, key));
    let stranger = Redis::builder().password("geheim").start();
    let noted = format!("127.0.0.1:{}#8f3a", stranger.port());
    let mut lane = lane(&remembering(&cluster));
    let (_, notes) = share(&mut lane, batch(Verb::DeleteMatching, ["item:*"]), Some(&noted));
    send(&mut lane, Verb::Delete, ["other"]).await;
    idle_until(&mut lane, "the fallback runs", || left(&cluster, &keys).is_empty()).await;
    let is_struck = || !notes.lock().unwrap().contains("8f3a");
    idle_until(&mut lane, "the stranger is struck out", is_struck).await;
    send(&mut lane, Verb::Delete, ["other"]).await;
}

#[tokio::test]
async fn messages_come_again_after_what_they_tell_of() {
    let cluster = RedisCluster::start(3, true, NO_FAILOVER);
    let (own, _) = homes(&cluster, &names("k:", 60), 0);
    set(&cluster, &own[0]);
    // A stream whose master lives on.
    let (_, streams) = homes(&cluster, &names("news:", 30), 0);
    let news = &streams[0];
    wait_replicated(&cluster, 0);
    let mut timeouts = SHORT;
    timeouts.command = Duration::from_millis(500);
    let topology = topology(RedisOptions { timeouts, ..options(&cluster, WINDOW) });
    let mut lane = lane(&topology);
    let telling = || ClusterLane::new(Arc::clone(&topology), LaneClass::Publish);
    let (mut telling, mut once_more) = (telling(), telling());
    cut_off(&cluster, 0);
    send(&mut lane, Verb::Delete, [&own[0]]).await;
    let message = batch(Verb::Publish, [format!("\u{1}100:{news}\0k")]);
    send_batch(&mut telling, &message).await;
    let told = || at(&cluster, news, &["XLEN", news]);
    send_batch(&mut once_more, &message).await;
    assert_eq!(told(), Reply::Int(2));
    take_over(&cluster, 0);
    // Not before the other lane has done what is lost.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match telling.look().await {
            Ok(()) => assert!(tokio::time::Instant::now() < deadline, "it knows of nothing"),
            Err(Failure::Outage { message }) => {
                assert!(message.contains("messages wait"), "{message}");
                break;
            }
            Err(failure) => panic!("{failure:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(told(), Reply::Int(2));
    idle_until(&mut lane, "it is done again", || !exists(&cluster, &own[0])).await;
    // Those who tell do not wait for each other.
    idle_until(&mut telling, "it is told again", || told() == Reply::Int(3)).await;
    idle_until(&mut once_more, "and once more", || told() == Reply::Int(4)).await;
}

#[tokio::test]
async fn the_printed_rights_suffice_for_the_window_and_are_asked_for() {
    let cluster = RedisCluster::start(3, false, NO_FAILOVER);
    let login = |options: RedisOptions| RedisOptions {
        cluster: cluster
            .urls()
            .iter()
            .map(|url| url.replace("redis://", "redis://app:geheim@").into())
            .collect(),
        ..options
    };
    let options = login(options(&cluster, WINDOW));
    let config = RedisConfig::new(options.clone()).unwrap();
    let line = least_acl(&Duties::of(&[Verb::Delete]), &config).replace("PASSWORD", "geheim");
    let grant = |line: &str| {
        let args: Vec<_> = line.split(' ').collect();
        for node in 0..3 {
            assert_eq!(cluster.node(node).cmd(&args), Reply::Simple("OK".into()), "{line}");
        }
    };
    grant(&line.replace(" +cluster|info", ""));
    let lines = check(&config, &Duties::of(&[Verb::Delete])).await;
    let refused = lines.iter().find(|line| !line.ok).expect("a right is missing");
    assert!(refused.what.contains("failover_window"), "{lines:#?}");
    assert!(refused.hint.as_ref().unwrap().contains("+cluster|info"), "{lines:#?}");
    set(&cluster, "a");
    let mut lane = lane(&topology(options));
    send(&mut lane, Verb::Delete, ["a"]).await;
    // What cannot be looked after is not done.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let (message, hint) = loop {
        match lane.send(&batch(Verb::Delete, ["a"])).await {
            Err(failure @ Failure::Refused { .. }) => break failure.into_parts(),
            other => assert!(tokio::time::Instant::now() < deadline, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(message.contains("CLUSTER INFO"), "{message}");
    assert!(hint.unwrap().contains("+cluster|info"), "the right that is missing");
    grant(&line);
    let lines = check(&config, &Duties::of(&[Verb::Delete])).await;
    assert!(lines.iter().all(|line| line.ok), "{lines:#?}");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while lane.send(&batch(Verb::Delete, ["a"])).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "it works again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

const ROWS: &str = "CREATE TABLE row (id int PRIMARY KEY, n int);
    INSERT INTO row SELECT id, 0 FROM generate_series(0, 299) id;";

/// A daemon whose Redis is the cluster.
fn world(cluster: &RedisCluster, window: &str) -> World {
    let rules = "[[rule]]\nname = \"row\"\ntable = \"public.row\"\ndelete = [\"row:{id}\"]\n\
        [[rule]]\nname = \"pages\"\ntable = \"public.row\"\ntags = [\"row:{id}\"]\n";
    world_with(cluster, window, ROWS, rules)
}

fn world_with(cluster: &RedisCluster, window: &str, sql: &str, rules: &str) -> World {
    let mut world = World::new(sql, rules);
    let (url, urls) = (world.redis.url(), cluster.urls());
    let sink = format!("cluster = {urls:?}\nfailover_window = \"{window}\"");
    world.edit(&format!("url = \"{url}\""), &sink);
    world
}

/// What is stale on the nodes that live, and what is gone that nobody wrote.
fn judge(cluster: &RedisCluster) -> Verdict {
    let mut exists = vec![false; ORACLE_ROWS as usize];
    for node in (0..6).map(|number| cluster.node(number)).filter(|node| node.pid().is_some()) {
        let mut client = node.client().unwrap();
        let commands: Vec<Vec<String>> =
            (1..=ORACLE_ROWS).map(|id| vec!["EXISTS".to_owned(), oracle::key(id)]).collect();
        // Who does not serve a key says so.
        for (exists, reply) in exists.iter_mut().zip(client.pipeline(&commands).unwrap()) {
            *exists |= reply == Reply::Int(1);
        }
    }
    let mut verdict = Verdict::default();
    for (id, exists) in (1..=ORACLE_ROWS).zip(exists) {
        verdict.stale += usize::from(is_written(id) && exists);
        verdict.overdone += usize::from(!is_written(id) && !exists);
    }
    verdict
}

/// The master goes on for a while, cut off from its replica, and dies; the others elect that
/// replica, which lacks everything that was acknowledged meanwhile.
#[test]
fn a_master_that_dies_under_load_and_is_replaced_by_election_leaves_no_stale_key() {
    let mut cluster = RedisCluster::start(3, true, NO_FAILOVER);
    let mut world = world_with(&cluster, "600s", oracle::TABLE, oracle::RULE);
    // Each takes its own.
    (0..3).for_each(|master| oracle::fill_redis(cluster.node(master)));
    (0..3).for_each(|master| wait_replicated(&cluster, master));
    let size = |cluster: &RedisCluster, node: usize| {
        cluster.node(node).cli(&["DBSIZE"]).parse::<usize>().unwrap()
    };
    world.start();
    let writer = Writer::start(&world);
    writer.wait_for_percent(20);
    cut_off(&cluster, 0);
    testkit::wait_until("deletes are acknowledged that will be lost", PATIENCE, || {
        size(&cluster, 0) + 300 < size(&cluster, 3)
    });
    cluster.node_mut(0).kill_9();
    // No failover happened on a machine that was too busy to answer. From now on one may.
    let timeout = NODE_TIMEOUT.as_millis().to_string();
    for node in 1..6 {
        cluster.node(node).cli(&["CONFIG", "SET", "cluster-node-timeout", &timeout]);
    }
    writer.finish();
    let clean = testkit::holds_within(3 * PATIENCE, || judge(&cluster) == Verdict::default());
    assert!(clean, "{:?}\n{}", judge(&cluster), world.news());
    world.wait_confirmed();
    assert!(world.news().contains("a master was replaced"), "{}", world.news());
    assert_eq!(judge(&cluster), Verdict::default());
    world.stop();
}

fn update(world: &World) {
    world.sql("UPDATE row SET n = n + 1");
}

/// Pages with tags, each on another master than the set of its tag.
fn cache_pages(cluster: &RedisCluster) -> Vec<String> {
    let mut pages = Vec::new();
    for row in 0..30 {
        let tag = format!("tags:row:{row}");
        let elsewhere = |page: &String| {
            let home = cluster.home(cluster.slot(page));
            home == 0 && home != cluster.home(cluster.slot(&tag))
        };
        let page = names(&format!("page:{row}:"), 30).into_iter().find(elsewhere);
        if let Some(page) = page {
            cache_with_tag(cluster, &tag, &page);
            pages.push(page);
        }
    }
    pages
}

#[test]
fn a_master_that_dies_under_the_daemon_leaves_nothing_stale_with_the_window() {
    for (window, is_clean) in [("0s", false), ("600s", true)] {
        let mut cluster = RedisCluster::start(3, true, NO_FAILOVER);
        let mut world = world(&cluster, window);
        let keys = names("row:", 300);
        keys.iter().for_each(|key| set(&cluster, key));
        let pages = cache_pages(&cluster);
        assert!(pages.len() > 5, "{pages:?}");
        set(&cluster, "row:unwritten");
        (0..3).for_each(|master| wait_replicated(&cluster, master));
        cut_off(&cluster, 0);
        world.start();
        update(&world);
        world.wait_confirmed();
        assert!(left(&cluster, &keys).is_empty() && left(&cluster, &pages).is_empty());
        cluster.node_mut(0).kill_9();
        // It waits for the successor, and keeps nothing else from being done again.
        world.sql("UPDATE row SET n = n + 1 WHERE id < 100");
        take_over(&cluster, 0);
        if is_clean {
            let gone = || left(&cluster, &keys).is_empty() && left(&cluster, &pages).is_empty();
            assert!(testkit::holds_within(3 * PATIENCE, gone), "{}", world.news());
            world.wait_for_log("a master was replaced: what was done lately there is done again");
        } else {
            world.wait_confirmed();
            assert!(left(&cluster, &keys).len() > 30, "it was lost");
            assert_eq!(left(&cluster, &pages).len(), pages.len(), "it was lost");
            set(&cluster, "row:0");
            update(&world);
            world.wait_confirmed();
            assert!(left(&cluster, &keys).is_empty(), "what is written again goes");
            assert_eq!(left(&cluster, &pages).len(), pages.len(), "and no list names these");
        }
        assert!(exists(&cluster, "row:unwritten"));
        world.stop();
    }
}

#[test]
fn the_daemon_killed_in_a_failover_runs_the_fallbacks_and_names_the_rules_with_tags() {
    let mut cluster = RedisCluster::start(3, true, NO_FAILOVER);
    let mut world = world(&cluster, "600s");
    let keys = names("row:", 300);
    keys.iter().for_each(|key| set(&cluster, key));
    let pages = cache_pages(&cluster);
    set(&cluster, "kept");
    (0..3).for_each(|master| wait_replicated(&cluster, master));
    cut_off(&cluster, 0);
    world.start();
    update(&world);
    world.wait_confirmed();
    // The master is dead and not replaced yet: nothing has been done again.
    cluster.node_mut(0).kill_9();
    world.kill_9();
    take_over(&cluster, 0);
    assert!(left(&cluster, &keys).len() > 30, "it was lost");
    assert_eq!(left(&cluster, &pages).len(), pages.len(), "it was lost");
    world.start();
    let gone = || left(&cluster, &keys).is_empty();
    assert!(testkit::holds_within(3 * PATIENCE, gone), "{}", world.news());
    world.wait_for_log("members of tags may be back");
    assert!(world.news().contains("rules=\"pages\""), "{}", world.news());
    assert!(exists(&cluster, "kept"));
    // Once: the successor is noted.
    let file = world.state.as_ref().unwrap().join("servers.json");
    let old = format!(":{}#", cluster.node(0).port());
    testkit::wait_until("the old place is struck out", PATIENCE, || {
        !std::fs::read_to_string(&file).unwrap().contains(&old)
    });
    keys.iter().for_each(|key| set(&cluster, key));
    world.kill_9();
    world.start();
    world.sql("UPDATE row SET n = n + 1 WHERE id = 1");
    world.wait_confirmed();
    assert_eq!(left(&cluster, &keys).len(), 299);
    world.stop();
}
