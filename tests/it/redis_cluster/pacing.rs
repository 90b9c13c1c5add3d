//! `max_keys_per_second`: all masters of a cluster together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use testkit::redis::RedisCluster;
use walpurge::action::Verb;
use walpurge::sinks::redis::{ClusterLane, LaneClass};

use super::{NODE_TIMEOUT, cache_with_tag, left, names, options, send, set, topology};

#[tokio::test]
async fn patterns_and_lookups_take_their_time_on_all_masters_together() {
    const RATE: u32 = 400;
    let cluster = RedisCluster::start(3, false, NODE_TIMEOUT);
    let mut options = options(&cluster.urls());
    options.max_keys_per_second = Some(RATE);
    let topology = topology(options);
    let keys = names("k:", 600);
    let near = names("{t}:", 600);
    let least = Duration::from_secs_f64(580.0 / f64::from(RATE));
    for (verb, value, class) in [
        (Verb::DeleteMatching, "k:*", LaneClass::Scan),
        (Verb::ExpireMatching, "1000000\0k:*", LaneClass::Scan),
        (Verb::TagMatching, "a*", LaneClass::Scan),
        (Verb::TagMatching, "\\{t\\}*", LaneClass::Scan),
        (Verb::Delete, "", LaneClass::Found),
    ] {
        let (tag, members) = match value {
            "a*" => ("tags:a", &keys),
            _ => ("tags:{t}", &near),
        };
        match verb {
            Verb::TagMatching => members.iter().for_each(|key| cache_with_tag(&cluster, tag, key)),
            _ => keys.iter().for_each(|key| set(&cluster, key)),
        }
        let values = if verb == Verb::Delete { keys.clone() } else { vec![value.to_owned()] };
        let mut lane = ClusterLane::new(Arc::clone(&topology), class);
        let began = Instant::now();
        let report = send(&mut lane, verb, values).await;
        assert_eq!((report.requested, report.removed), (600, 600), "{verb:?}");
        assert!(began.elapsed() >= least, "{verb:?} {:?}", began.elapsed());
        assert!(verb.expires() || left(&cluster, members).is_empty());
    }
}
