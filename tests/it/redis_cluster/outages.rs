//! Masters that stall, die and are replaced, and replies that are cut.

use std::time::{Duration, Instant};

use testkit::proxy::Proxy;
use testkit::redis::{RedisCluster, Reply};
use walpurge::action::Verb;
use walpurge::sinks::Failure;
use walpurge::sinks::redis::Timeouts;

use super::{
    NODE_TIMEOUT, at, batch, cache_with_tag, exists, lane, left, names, options, send, send_batch,
    set, topology,
};
use crate::world::{PATIENCE, World};

/// So long that no replica takes over unless it is told to.
pub const NO_FAILOVER: Duration = Duration::from_secs(600);

/// Patience short enough for a test, and long enough for a busy machine.
pub const SHORT: Timeouts =
    Timeouts { connect: Duration::from_secs(2), command: Duration::from_secs(1) };

/// Those of `keys` whose slot belonged to a master at the start, and the others.
pub fn homes(cluster: &RedisCluster, keys: &[String], master: usize) -> (Vec<String>, Vec<String>) {
    keys.iter().cloned().partition(|key| cluster.home(cluster.slot(key)) == master)
}

/// Waits until a replica has all that its master has.
#[track_caller]
pub fn wait_replicated(cluster: &RedisCluster, master: usize) {
    let offset = |node: &testkit::redis::Redis, name: &str| {
        let info = node.cli(&["INFO", "replication"]);
        info.lines().find_map(|line| Some(line.strip_prefix(name)?.to_owned())).unwrap()
    };
    testkit::wait_until("the replica has everything", PATIENCE, || {
        offset(cluster.node(master), "master_repl_offset:")
            == offset(cluster.replica_of(master), "slave_repl_offset:")
    });
}

/// Makes the replica of a master that is gone its successor.
#[track_caller]
pub fn take_over(cluster: &RedisCluster, master: usize) {
    cluster.replica_of(master).cli(&["CLUSTER", "FAILOVER", "TAKEOVER"]);
    let port = format!(":{}@", cluster.replica_of(master).port());
    testkit::wait_until("the others know the new master", PATIENCE, || {
        (0..3).filter(|&number| number != master).all(|number| {
            let nodes = cluster.node(number).cli(&["CLUSTER", "NODES"]);
            nodes.lines().any(|line| line.contains(&port) && line.contains("master"))
        })
    });
}

#[tokio::test]
async fn what_a_scan_has_found_and_nobody_could_delete_is_found_again() {
    let cluster = RedisCluster::start(3, false, NODE_TIMEOUT);
    let mut lane = lane(&topology(options(&cluster.urls())));
    let keys = names("list:", 300);
    let tagged = names("m:", 30);
    for verb in [Verb::DeleteMatching, Verb::ExpireMatching, Verb::BumpMatching, Verb::TagMatching]
    {
        keys.iter().for_each(|key| drop(at(&cluster, key, &["SET", key, "7"])));
        tagged.iter().for_each(|key| cache_with_tag(&cluster, "tags:list:", key));
        let command = match verb {
            Verb::ExpireMatching => "pexpire",
            Verb::BumpMatching => "incr",
            _ => "unlink",
        };
        for node in 0..3 {
            cluster.node(node).cmd(&["ACL", "SETUSER", "default", &format!("-{command}")]);
        }
        let value = if verb.expires() { "600000\0list:*" } else { "list:*" };
        let batch = batch(verb, [value]);
        for _ in 0..2 {
            let failure = lane.send(&batch).await.unwrap_err();
            assert!(matches!(failure, Failure::Refused { .. }), "{failure}");
        }
        for node in 0..3 {
            cluster.node(node).cmd(&["ACL", "SETUSER", "default", &format!("+{command}")]);
        }
        send_batch(&mut lane, &batch).await;
        let is_done = |key: &&String| match verb {
            Verb::DeleteMatching => !exists(&cluster, key),
            Verb::ExpireMatching => at(&cluster, key, &["PTTL", key]) != Reply::Int(-1),
            _ => at(&cluster, key, &["GET", key]).to_string() != "7",
        };
        match verb {
            Verb::TagMatching => assert_eq!(left(&cluster, &tagged), [""; 0]),
            _ => assert_eq!(keys.iter().filter(is_done).count(), 300, "{verb:?}"),
        }
    }
}

#[tokio::test]
async fn a_master_that_stalls_or_dies_in_a_scan_or_a_tag_delays_its_own_keys_alone() {
    let mut cluster = RedisCluster::start(3, true, NO_FAILOVER);
    let mut options = options(&cluster.urls());
    options.timeouts = SHORT;
    let mut lane = lane(&topology(options));
    send(&mut lane, Verb::Delete, names("k:", 30)).await;

    // Stalled: each verb fails in the stated time, and all that others have is done.
    let keys = names("k:", 300);
    keys.iter().for_each(|key| set(&cluster, key));
    let (own, others) = homes(&cluster, &keys, 0);
    for key in &own {
        cache_with_tag(&cluster, "tags:{1}", key);
    }
    assert_ne!(cluster.home(cluster.slot("tags:{1}")), 0, "the tag's set is on another master");
    let near = names("{1}:", 10);
    near.iter().for_each(|key| cache_with_tag(&cluster, "tags:near{1}", key));
    cluster.node_mut(0).pause();
    for (verb, value) in [(Verb::DeleteMatching, "k:*"), (Verb::Tag, "{1}")] {
        let start = Instant::now();
        let failure = lane.send(&batch(verb, [value, "near{1}"])).await.unwrap_err();
        assert!(matches!(failure, Failure::Outage { .. }), "{failure:?}");
        // A command, and then who serves its slots now.
        assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
        assert_eq!(left(&cluster, &others), [""; 0]);
    }
    assert_eq!(left(&cluster, &near), [""; 0]);
    // Another lane does not even notice.
    others.iter().for_each(|key| set(&cluster, key));
    let mut other = super::lane(&topology({
        let mut options = super::options(&cluster.urls());
        options.timeouts = SHORT;
        options
    }));
    send(&mut other, Verb::Delete, &others).await;
    assert_eq!(left(&cluster, &others), [""; 0]);
    cluster.node_mut(0).resume();
    send_batch(&mut lane, &batch(Verb::DeleteMatching, ["k:*"])).await;
    assert_eq!(left(&cluster, &own), [""; 0]);
    send(&mut lane, Verb::Tag, ["{1}"]).await;
    assert!(!exists(&cluster, "tags:{1}"));

    // Dead in the middle: the others' keys go, and its own with its successor.
    keys.iter().for_each(|key| set(&cluster, key));
    set(&cluster, "kept");
    wait_replicated(&cluster, 0);
    cluster.node_mut(0).pause();
    let pattern = batch(Verb::DeleteMatching, ["k:*"]);
    let (outcome, ()) = tokio::join!(lane.send(&pattern), async {
        cluster.node_mut(0).kill_9();
    });
    outcome.unwrap_err();
    take_over(&cluster, 0);
    send_batch(&mut lane, &pattern).await;
    let replica = cluster.replica_of(0);
    let found = replica.cli(&["KEYS", "k:*"]);
    assert_eq!(found, "");
    for number in 1..3 {
        assert_eq!(cluster.node(number).cli(&["KEYS", "k:*"]), "");
    }
    let holders = (1..3).map(|number| cluster.node(number)).chain([replica]);
    let kept: usize = holders
        .map(|node| node.cli(&["KEYS", "kept"]).lines().filter(|l| !l.is_empty()).count())
        .sum();
    assert_eq!(kept, 1);
}

#[tokio::test]
async fn replies_that_are_cut_anywhere_lose_nothing_once_the_batch_is_repeated() {
    let mut cluster = RedisCluster::start(3, false, NO_FAILOVER);
    let proxy = Proxy::to(cluster.node(1).port());
    cluster.announce(1, proxy.port());
    let mut options = options(&cluster.urls()[..1]);
    options.timeouts = SHORT;
    let topology = topology(options);
    for after in (0..10).map(|step| step * 300) {
        let keys = names("k:", 100);
        keys.iter().for_each(|key| set(&cluster, key));
        let members = names("m:", 60);
        members.iter().for_each(|key| cache_with_tag(&cluster, "tags:t", key));
        set(&cluster, "kept");
        let mut lane = lane(&topology);
        send(&mut lane, Verb::Delete, ["none"]).await;
        for verb in [Verb::Delete, Verb::Tag, Verb::DeleteMatching] {
            proxy.cut_after_bytes(after);
            match verb {
                Verb::Delete => send(&mut lane, verb, &keys[..80]).await,
                Verb::Tag => send(&mut lane, verb, ["t"]).await,
                _ => send(&mut lane, verb, ["k:*"]).await,
            };
        }
        assert_eq!(left(&cluster, &keys), [""; 0], "cut after {after}");
        assert_eq!(left(&cluster, &members), [""; 0], "cut after {after}");
        assert!(!exists(&cluster, "tags:t") && exists(&cluster, "kept"));
    }
}

#[test]
fn the_daemon_goes_on_at_all_masters_but_the_one_that_is_away() {
    let mut cluster = RedisCluster::start(3, true, NO_FAILOVER);
    let mut world = World::new(
        "CREATE TABLE row (id int PRIMARY KEY, body text);
         INSERT INTO row SELECT id, 'old' FROM generate_series(0, 299) id",
        "[[rule]]\ntable = \"public.row\"\ndelete = [\"row:{id}\"]\ntags = [\"row:{id}\"]\n",
    );
    let (url, urls) = (world.redis.url(), cluster.urls());
    world.edit(&format!("url = \"{url}\""), &format!("cluster = {urls:?}"));
    let keys = names("row:", 300);
    let (own, others) = homes(&cluster, &keys, 0);
    world.start();
    let update = |world: &World, from: usize, to: usize| {
        world.sql(&format!("UPDATE row SET body = body || 'x' WHERE id BETWEEN {from} AND {to}"));
    };
    let fill =
        |cluster: &RedisCluster, keys: &[String]| keys.iter().for_each(|key| set(cluster, key));
    let is_gone = |cluster: &RedisCluster, keys: &[String], world: &World| {
        let gone = testkit::holds_within(PATIENCE, || left(cluster, keys).is_empty());
        assert!(gone, "{:?} of {}\n{}", left(cluster, keys).len(), keys.len(), world.log());
    };

    fill(&cluster, &keys);
    set(&cluster, "row:unwritten");
    update(&world, 0, 299);
    is_gone(&cluster, &keys, &world);
    world.wait_confirmed();

    // Stalled: its own keys wait, and so does the log; the others' go, again and again.
    fill(&cluster, &keys);
    (0..3).for_each(|master| wait_replicated(&cluster, master));
    cluster.node_mut(0).pause();
    for round in 0..3 {
        update(&world, round * 100, round * 100 + 99);
    }
    is_gone(&cluster, &others, &world);
    fill(&cluster, &others);
    update(&world, 0, 299);
    is_gone(&cluster, &others, &world);
    cluster.node_mut(0).resume();
    is_gone(&cluster, &own, &world);
    world.wait_confirmed();

    // Dead, and replaced. What it acknowledged has reached its replica, and it acknowledges nothing
    // of what follows.
    fill(&cluster, &keys);
    (0..3).for_each(|master| wait_replicated(&cluster, master));
    cluster.node_mut(0).kill_9();
    update(&world, 0, 299);
    let at_others = |number: usize| cluster.node(number).cli(&["KEYS", "row:?*"]);
    testkit::wait_until("the others' keys are gone", PATIENCE, || {
        (1..3).all(|number| {
            at_others(number).lines().all(|key| key.is_empty() || key == "row:unwritten")
        })
    });
    assert_eq!(
        cluster.replica_of(0).cli(&["DBSIZE"]),
        (own.len() + unwritten_at(&cluster)).to_string()
    );
    take_over(&cluster, 0);
    testkit::wait_until("its own keys are gone at its successor", PATIENCE, || {
        cluster.replica_of(0).cli(&["DBSIZE"]) == unwritten_at(&cluster).to_string()
    });
    world.wait_confirmed();
    let left: usize = [cluster.node(1), cluster.node(2), cluster.replica_of(0)]
        .map(|node| node.cli(&["DBSIZE"]).parse::<usize>().unwrap())
        .iter()
        .sum();
    assert_eq!(left, 1, "what was never written is there, and nothing else");
    world.stop();
}

/// Whether the key that is never written lies on the first master: how many there are.
fn unwritten_at(cluster: &RedisCluster) -> usize {
    usize::from(cluster.home(cluster.slot("row:unwritten")) == 0)
}
