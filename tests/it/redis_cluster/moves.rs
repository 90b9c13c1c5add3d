//! Slots that move while their keys are deleted, found and tagged.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use testkit::proxy::Proxy;
use testkit::redis::{RedisCluster, Reply};
use walpurge::action::Verb;
use walpurge::sinks::redis::{RedisOptions, Timeouts};

use super::{
    NODE_TIMEOUT, at, batch, cache_with_tag, exists, lane, left, names, options, send, send_batch,
    set, topology,
};

/// All keys of all nodes that match, wherever they should be: a copy that nobody serves counts too.
#[track_caller]
fn copies(cluster: &RedisCluster, pattern: &str) -> Vec<String> {
    let mut found = Vec::new();
    for number in 0..3 {
        let keys = cluster.node(number).cli(&["KEYS", pattern]);
        found.extend(keys.lines().filter(|key| !key.is_empty()).map(str::to_owned));
    }
    found
}

#[tokio::test]
async fn keys_that_are_moved_while_they_are_deleted_survive_nowhere() {
    let cluster = RedisCluster::start(3, false, NODE_TIMEOUT);
    // With what remembers where keys were deleted: that they have moved is no loss to it.
    let failover_window = Duration::from_secs(600);
    let topology = topology(RedisOptions { failover_window, ..options(&cluster.urls()) });
    let mut lane = lane(&topology);
    let slot = cluster.slot("{m}");
    let (from, to) = (cluster.home(slot), (cluster.home(slot) + 1) % 3);

    // Half of them moved: what is there, what is here, and what is nowhere, in one command and
    // alone.
    let keys = names("{m}:", 100);
    keys.iter().for_each(|key| set(&cluster, key));
    set(&cluster, "{m}kept");
    at(&cluster, "{m}v1", &["SET", "{m}v1", "7"]);
    send(&mut lane, Verb::Delete, ["{m}:0"]).await;
    cluster.open_move(slot, from, to);
    assert_eq!(cluster.move_keys(slot, from, to, 50), 50);
    let mut all = keys.clone();
    all.extend(names("{m}none:", 20));
    fastrand::shuffle(&mut all);
    let report = send(&mut lane, Verb::Delete, &all).await;
    assert_eq!((report.requested, report.removed), (120, 99));
    assert_eq!(copies(&cluster, "{m}:*"), [""; 0]);
    send(&mut lane, Verb::Bump, ["{m}v1", "{m}v2"]).await;
    assert_eq!(at(&cluster, "{m}v1", &["GET", "{m}v1"]).to_string(), "8");
    assert!(exists(&cluster, "{m}v2"));
    // A pattern waits for the end of a move that brings keys, but deletes what it finds.
    keys.iter().for_each(|key| set(&cluster, key));
    let pattern = batch(Verb::DeleteMatching, ["{m}:*"]);
    let failure = lane.send(&pattern).await.unwrap_err().to_string();
    assert!(failure.contains("being moved"), "{failure}");
    assert_eq!(copies(&cluster, "{m}:*"), [""; 0]);
    // A tag without a set has nothing to wait for; one with a set waits.
    send(&mut lane, Verb::Tag, ["{m}"]).await;
    let members = names("{m}member:", 10);
    for key in members.iter().chain(&names("abroad:", 10)) {
        cache_with_tag(&cluster, "tags:{m}", key);
    }
    let tag = batch(Verb::Tag, ["{m}"]);
    let failure = lane.send(&tag).await.unwrap_err().to_string();
    assert!(failure.contains("TRYAGAIN"), "{failure}");
    while cluster.move_keys(slot, from, to, 100) > 0 {}
    cluster.close_move(slot, to);
    send_batch(&mut lane, &pattern).await;
    send_batch(&mut lane, &tag).await;
    assert_eq!(left(&cluster, &members), [""; 0]);
    assert_eq!(left(&cluster, &names("abroad:", 10)), [""; 0]);
    assert!(exists(&cluster, "{m}kept"));
    assert_ne!(at(&cluster, "{m}v2", &["GET", "{m}v2"]), Reply::Bulk(None));

    // To and fro under load, by both of two lanes.
    let keys = names("{m}:", 2000);
    keys.iter().for_each(|key| set(&cluster, key));
    let (mut gone, kept): (Vec<_>, Vec<_>) =
        keys.iter().cloned().partition(|key| !key.ends_with('7'));
    fastrand::shuffle(&mut gone);
    let done = AtomicBool::new(false);
    let cluster = &cluster;
    let mut other = super::lane(&topology);
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| {
            let (mut from, mut to, mut moves) = (to, from, 0);
            while !done.load(Ordering::Relaxed) || moves == 0 {
                cluster.open_move(slot, from, to);
                while cluster.move_keys(slot, from, to, 20) > 0 {}
                cluster.close_move(slot, to);
                (from, to) = (to, from);
                moves += 1;
            }
            moves
        });
        let (gone, done, lane, other) = (&gone, &done, &mut lane, &mut other);
        let working = scope.spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                for (turn, keys) in gone.chunks(20).enumerate() {
                    let lane = if turn % 2 == 0 { &mut *lane } else { &mut *other };
                    send(lane, Verb::Delete, keys).await;
                }
            });
            done.store(true, Ordering::Relaxed);
        });
        working.join().unwrap();
        assert!(moving.join().unwrap() > 0);
    });
    let mut copies = copies(cluster, "{m}:*");
    copies.sort();
    let mut kept = kept;
    kept.sort();
    assert_eq!(copies, kept);
}

#[tokio::test]
async fn keys_that_move_behind_a_scans_back_are_found() {
    /// So many that the scan of their master takes many pages.
    const MANY: usize = 20_000;
    let mut cluster = RedisCluster::start(3, false, NODE_TIMEOUT);
    let slot = cluster.slot("{m}");
    let (from, to) = (cluster.home(slot), (cluster.home(slot) + 1) % 3);
    let other = (0..).map(|number| format!("{{o{number}}}"));
    let many = other
        .map(|tag| (cluster.slot(&tag), tag))
        .find(|(other, _)| *other != slot && cluster.home(*other) == from)
        .unwrap()
        .1;
    let proxy = Proxy::to(cluster.node(from).port());
    cluster.announce(from, proxy.port());
    let mut options = options(&cluster.urls());
    // The stall below is no outage.
    options.timeouts =
        Timeouts { connect: Duration::from_secs(30), command: Duration::from_secs(60) };
    let mut lane = lane(&topology(options));
    let mut fill = cluster.node(from).client().unwrap();
    let scans = |cluster: &RedisCluster, number: usize| {
        let stats = cluster.node(number).cli(&["INFO", "commandstats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_scan:calls="));
        line.and_then(|line| line.split(',').next()?.parse::<u64>().ok()).unwrap_or_default()
    };
    for attempt in 0.. {
        assert!(attempt < 10, "the move never came in the middle of a scan");
        let commands: Vec<Vec<String>> = names(&format!("{many}:"), MANY)
            .into_iter()
            .chain(names("{m}:", 300))
            .map(|key| vec!["SET".to_owned(), key, "cached".to_owned()])
            .collect();
        let replies = fill.pipeline(&commands).unwrap();
        assert!(!replies.iter().any(Reply::is_error));
        for number in [from, to] {
            cluster.node(number).cli(&["CONFIG", "RESETSTAT"]);
        }
        let pattern = batch(Verb::DeleteMatching, ["*:*"]);
        let mut was_amid = false;
        std::thread::scope(|scope| {
            let cluster = &cluster;
            let proxy = &proxy;
            let moving = scope.spawn(move || {
                // The target has few keys: one page, and its scan is over.
                testkit::wait_until("the target is scanned", Duration::from_secs(30), || {
                    scans(cluster, to) > 0
                });
                proxy.stall();
                cluster.open_move(slot, from, to);
                while cluster.move_keys(slot, from, to, 100) > 0 {}
                cluster.close_move(slot, to);
                let was_amid = scans(cluster, from) < MANY as u64 / 1000 / 2;
                proxy.resume();
                was_amid
            });
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let lane = &mut lane;
            let pattern = &pattern;
            scope.spawn(move || runtime.block_on(send_batch(lane, pattern))).join().unwrap();
            was_amid = moving.join().unwrap();
        });
        assert_eq!(copies(&cluster, "*:*"), [""; 0]);
        if was_amid {
            return;
        }
        // Back, for another attempt.
        cluster.open_move(slot, to, from);
        while cluster.move_keys(slot, to, from, 100) > 0 {}
        cluster.close_move(slot, from);
    }
}

#[tokio::test]
async fn a_tags_set_that_moves_while_it_is_read_is_read_from_its_start_again() {
    /// So many that the set has many pages.
    const MANY: usize = 40_000;
    let mut cluster = RedisCluster::start(3, false, NODE_TIMEOUT);
    let slot = cluster.slot("tags:{m}");
    let (from, to) = (cluster.home(slot), (cluster.home(slot) + 1) % 3);
    // The members stay where they are, on the third.
    let third = (0..).map(|number| format!("{{o{number}}}"));
    let third = third
        .map(|tag| (cluster.home(cluster.slot(&tag)), tag))
        .find(|(home, _)| *home != from && *home != to)
        .unwrap();
    let members = names(&format!("{}:", third.1), MANY);
    let proxy = Proxy::to(cluster.node(from).port());
    cluster.announce(from, proxy.port());
    let mut options = options(&cluster.urls());
    // The stall below is no outage.
    options.timeouts =
        Timeouts { connect: Duration::from_secs(30), command: Duration::from_secs(60) };
    let mut lane = lane(&topology(options));
    let pages = |cluster: &RedisCluster| {
        let stats = cluster.node(from).cli(&["INFO", "commandstats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_sscan:calls="));
        line.and_then(|line| line.split(',').next()?.parse::<usize>().ok()).unwrap_or_default()
    };
    let mut filled = cluster.node(from).client().unwrap();
    let mut holder = cluster.node(third.0).client().unwrap();
    // Twice cut, twice deleted, or more often until the move came in the middle.
    let mut moved_amid = 0;
    for attempt in 0.. {
        assert!(attempt < 20, "the move never came in the middle");
        let verb = if moved_amid < 2 { Verb::ExpireTag } else { Verb::Tag };
        for members in members.chunks(1000) {
            let command =
                ["SADD", "tags:{m}"].into_iter().chain(members.iter().map(String::as_str));
            assert!(!filled.cmd(&command.collect::<Vec<_>>()).unwrap().is_error());
        }
        let set = |key: &String| vec!["SET".to_owned(), key.clone(), "cached".to_owned()];
        let replies = holder.pipeline(&members.iter().map(set).collect::<Vec<_>>()).unwrap();
        assert!(!replies.iter().any(Reply::is_error));
        cluster.node(from).cli(&["CONFIG", "RESETSTAT"]);
        let tag = batch(verb, [if verb.expires() { "1000000\0{m}" } else { "{m}" }]);
        let mut was_amid = false;
        std::thread::scope(|scope| {
            let (cluster, proxy, pages) = (&cluster, &proxy, &pages);
            let moving = scope.spawn(move || {
                testkit::wait_until("it is being read", Duration::from_secs(30), || {
                    pages(cluster) > 0
                });
                proxy.stall();
                cluster.open_move(slot, from, to);
                while cluster.move_keys(slot, from, to, 100) > 0 {}
                cluster.close_move(slot, to);
                let was_amid = pages(cluster) < MANY / 1000 - 5;
                proxy.resume();
                was_amid
            });
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (lane, tag) = (&mut lane, &tag);
            scope.spawn(move || runtime.block_on(send_batch(lane, tag))).join().unwrap();
            was_amid = moving.join().unwrap();
        });
        let ask = |key: &String| vec!["PTTL".to_owned(), key.clone()];
        let left = holder.pipeline(&members.iter().map(ask).collect::<Vec<_>>()).unwrap();
        let uncut = left.iter().filter(|left| **left == Reply::Int(-1)).count();
        assert_eq!(uncut, 0, "{verb:?}: of {MANY}");
        moved_amid += usize::from(was_amid);
        if moved_amid == 4 {
            return;
        }
        // Back, for another attempt.
        cluster.open_move(slot, to, from);
        while cluster.move_keys(slot, to, from, 100) > 0 {}
        cluster.close_move(slot, from);
    }
}
