//! What masters acknowledge before their replicas have it, and `wait_replicas`, which holds it.

use std::time::Instant;

use testkit::redis::{RedisCluster, Reply};
use walpurge::action::Verb;
use walpurge::sinks::Failure;
use walpurge::sinks::redis::{ClusterLane, Duties, RedisConfig, RedisOptions, check, least_acl};

use super::outages::{NO_FAILOVER, SHORT, homes, take_over, wait_replicated};
use super::{batch, cache_with_tag, exists, lane, left, names, send, send_batch, set, topology};
use crate::world::PATIENCE;

fn options(cluster: &RedisCluster, wait_replicas: u32) -> RedisOptions {
    let timeouts = SHORT;
    RedisOptions { wait_replicas, timeouts, ..super::options(&cluster.urls()) }
}

/// Cuts a master off from its replica: what it does from now on is only its own.
#[track_caller]
pub fn cut_off(cluster: &RedisCluster, master: usize) {
    let node = cluster.node(master);
    node.cli(&["ACL", "SETUSER", "default", "-psync", "-sync"]);
    node.cli(&["CLIENT", "KILL", "TYPE", "replica"]);
    testkit::wait_until("the replica is cut off", PATIENCE, || {
        !node.cli(&["INFO", "replication"]).contains("state=online")
    });
}

/// A batch that is not done for want of replicas; as soon as the master is known.
async fn assert_held(lane: &mut ClusterLane, verb: Verb, values: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match lane.send(&batch(verb, values)).await {
            Err(Failure::Outage { message }) if message.contains("0 of 1 replicas") => return,
            Err(Failure::Outage { message }) => assert!(Instant::now() < deadline, "{message}"),
            other => panic!("it is not held: {other:?}"),
        }
    }
}

#[tokio::test]
async fn what_only_a_dead_master_had_is_done_again_by_its_successor_if_it_was_waited_for() {
    let mut cluster = RedisCluster::start(3, true, NO_FAILOVER);
    let (own, others) = homes(&cluster, &names("k:", 60), 0);
    own.iter().chain(&others).for_each(|key| set(&cluster, key));
    // A tag on another master, with members on the one that dies.
    assert_ne!(cluster.home(cluster.slot("tags:{1}")), 0, "the tag's set is on another master");
    own[4..8].iter().for_each(|key| cache_with_tag(&cluster, "tags:{1}", key));
    (0..3).for_each(|master| wait_replicated(&cluster, master));

    let mut forgetting = lane(&topology(options(&cluster, 0)));
    let mut waiting = lane(&topology(options(&cluster, 1)));
    send(&mut waiting, Verb::Delete, [&own[0], &others[0]]).await;
    cut_off(&cluster, 0);
    send(&mut forgetting, Verb::Delete, [&own[1]]).await;
    assert_held(&mut waiting, Verb::Delete, &[&own[2], &others[1]]).await;
    assert_held(&mut waiting, Verb::Tag, &["{1}"]).await;
    // Nor when there is nothing left to find.
    for _ in 0..2 {
        assert_held(&mut waiting, Verb::DeleteMatching, &["k:*"]).await;
    }
    assert_eq!(left(&cluster, &own), [""; 0], "it has done all of that, and told nobody");
    // The lane of another master does not even notice.
    let mut other = lane(&topology(options(&cluster, 1)));
    send(&mut other, Verb::Delete, [&others[2]]).await;

    cluster.node_mut(0).kill_9();
    take_over(&cluster, 0);
    let back = cluster.replica_of(0);
    assert!(!back.exists(&own[0]) && back.exists(&own[1]) && back.exists(&own[4]), "it was lost");
    // It has nobody to tell either, until the old one is its replica.
    assert_held(&mut waiting, Verb::Delete, &[&own[2]]).await;
    cluster.node_mut(0).start_again();
    testkit::wait_until("the successor has a replica", 3 * PATIENCE, || {
        cluster.replica_of(0).cli(&["INFO", "replication"]).contains("state=online")
    });
    send_batch(&mut waiting, &batch(Verb::Tag, ["{1}"])).await;
    assert_eq!(left(&cluster, &own[4..8]), [""; 0], "the tag's list was gone before its members");
    assert!(exists(&cluster, &own[3]), "only what was asked for");
    send_batch(&mut waiting, &batch(Verb::DeleteMatching, ["k:*"])).await;
    assert_eq!(left(&cluster, &own), [""; 0]);
}

#[tokio::test]
async fn the_printed_rights_suffice_for_waiting_and_check_counts_the_replicas() {
    let cluster = RedisCluster::start(3, true, NO_FAILOVER);
    let login = |options: RedisOptions| RedisOptions {
        cluster: cluster
            .urls()
            .iter()
            .map(|url| url.replace("redis://", "redis://app:geheim@").into())
            .collect(),
        prefix: "shop:".into(),
        ..options
    };
    let config = RedisConfig::new(login(options(&cluster, 1))).unwrap();
    let line = least_acl(&Duties::of(&[Verb::Delete]), &config);
    assert!(line.contains("+set") && line.contains("+wait") && !line.contains('&'), "{line}");
    let line = line.replace("PASSWORD", "geheim");
    for node in 0..6 {
        let args: Vec<_> = line.split(' ').collect();
        assert_eq!(cluster.node(node).cmd(&args), Reply::Simple("OK".into()), "{line}");
    }
    let lines = check(&config, &Duties::of(&[Verb::Delete])).await;
    assert!(lines.iter().all(|line| line.ok), "{lines:#?}");
    assert!(lines.iter().any(|line| line.what.contains("1 of 1 replicas")), "{lines:#?}");
    let more = RedisConfig::new(login(options(&cluster, 2))).unwrap();
    let lines = check(&more, &Duties::of(&[Verb::Delete])).await;
    assert!(lines.iter().any(|line| !line.ok && line.what.contains("1 of 2")), "{lines:#?}");

    let keys = names("shop:k:", 30);
    keys.iter().for_each(|key| set(&cluster, key));
    let mut lane = lane(&topology(login(options(&cluster, 1))));
    let values = names("k:", 30);
    // A busy machine may need more than one attempt, which is what would happen.
    send_batch(&mut lane, &batch(Verb::Delete, &values)).await;
    assert_eq!(left(&cluster, &keys), [""; 0]);
    testkit::wait_until("nothing of ours is left", PATIENCE, || {
        (0..3).all(|node| cluster.node(node).cli(&["KEYS", "*walpurge*"]).is_empty())
    });
}
