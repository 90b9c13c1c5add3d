//! `max_keys_per_second`, for each verb.

use std::sync::Arc;
use std::time::{Duration, Instant};

use testkit::redis::Redis;
use walpurge::action::Verb;
use walpurge::sinks::redis::{LaneClass, RedisConfig, RedisLane, RedisOptions};

use super::{batch, cache_with_tag, run, set_all};

const RATE: u32 = 500;

/// The lanes of one sink.
fn lanes(redis: &Redis, classes: &[LaneClass]) -> Vec<RedisLane> {
    let mut options = RedisOptions::new("cache", redis.url());
    options.max_keys_per_second = Some(RATE);
    let config = Arc::new(RedisConfig::new(options).unwrap());
    classes.iter().map(|&class| RedisLane::new(Arc::clone(&config), class)).collect()
}

#[tokio::test]
async fn whatever_patterns_and_lookups_reach_takes_its_time() {
    /// More than a page.
    const KEYS: usize = 1200;
    // All but the first share.
    let least = Duration::from_secs_f64((KEYS - 25) as f64 / f64::from(RATE));
    let names: Vec<_> = (0..KEYS).map(|number| format!("key:{number}")).collect();
    for (verb, value, paced) in [
        (Verb::DeleteMatching, "key:*", LaneClass::Scan),
        (Verb::ExpireMatching, "1000000\0key:*", LaneClass::Scan),
        (Verb::BumpMatching, "key:*", LaneClass::Scan),
        (Verb::TagMatching, "t*", LaneClass::Scan),
        (Verb::ExpireTagMatching, "1000000\0t*", LaneClass::Scan),
        (Verb::Delete, "", LaneClass::Found),
        (Verb::Expire, "1000000\0", LaneClass::Found),
    ] {
        let redis = Redis::start();
        match verb.deleting() {
            Verb::BumpMatching => {
                run(&redis, &names.iter().map(|key| vec!["SET", key, "7"]).collect::<Vec<_>>());
            }
            Verb::TagMatching => {
                names.iter().for_each(|key| drop(run(&redis, &cache_with_tag("tags:t", key))));
            }
            _ => set_all(&redis, &names),
        }
        let values = match verb.deleting() {
            Verb::Delete => names.iter().map(|key| format!("{value}{key}")).collect(),
            _ => vec![value.to_owned()],
        };
        let began = Instant::now();
        let report = lanes(&redis, &[paced])[0].send(&batch(verb, &values)).await.unwrap();
        assert_eq!(
            (report.requested, report.removed > 0),
            (KEYS as u64, verb != Verb::BumpMatching)
        );
        assert!(began.elapsed() >= least, "{verb:?} {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn what_single_rows_ask_for_goes_at_once() {
    let redis = Redis::start();
    let names: Vec<_> = (0..1200).map(|number| format!("key:{number}")).collect();
    set_all(&redis, &names);
    let unlinks = |redis: &Redis| {
        let stats = redis.cli(&["INFO", "commandstats"]);
        let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_unlink:calls="));
        calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
    };
    lanes(&redis, &[LaneClass::Precise])[0].send(&batch(Verb::Delete, &names)).await.unwrap();
    assert_eq!(unlinks(&redis), 3, "as few commands as ever");
    lanes(&redis, &[LaneClass::Found])[0].send(&batch(Verb::Delete, &names)).await.unwrap();
    assert_eq!(unlinks(&redis), 3 + 48, "a share each");
}

#[tokio::test]
async fn the_lanes_of_a_sink_share_it() {
    let redis = Redis::start();
    let names: Vec<_> = (0..400).map(|number| format!("key:{number}")).collect();
    set_all(&redis, &names);
    let others: Vec<_> = (0..400).map(|number| format!("other:{number}")).collect();
    set_all(&redis, &others);
    let began = Instant::now();
    let mut lanes = lanes(&redis, &[LaneClass::Scan, LaneClass::Found]);
    let (one, other) = lanes.split_at_mut(1);
    let (patterns, found) = (batch(Verb::DeleteMatching, ["key:*"]), batch(Verb::Delete, &others));
    let (one, other) = tokio::join!(one[0].send(&patterns), other[0].send(&found));
    assert_eq!((one.unwrap().removed, other.unwrap().removed), (400, 400));
    assert!(began.elapsed() >= Duration::from_secs_f64(775.0 / f64::from(RATE)));
}
