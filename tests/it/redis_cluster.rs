//! The Redis sink against a real cluster: three masters, each with a replica.

mod again;
mod login;
mod moves;
mod outages;
mod pacing;
mod replicas;
mod verbs;
mod window;

use std::sync::Arc;
use std::time::Duration;

use testkit::redis::{RedisCluster, Reply};
use walpurge::action::{Action, Batch, Verb};
use walpurge::sinks::redis::{ClusterLane, LaneClass, RedisConfig, RedisOptions, Topology};
use walpurge::sinks::{Failure, Report};

/// How long a master may be silent: as short as a busy machine allows.
const NODE_TIMEOUT: Duration = Duration::from_secs(3);

/// The options of a sink on the cluster.
fn options(urls: &[String]) -> RedisOptions {
    let mut options = RedisOptions::new("cache", "");
    options.cluster = urls.iter().map(|url| url.as_str().into()).collect();
    options
}

/// What the lanes of a sink share.
fn topology(options: RedisOptions) -> Arc<Topology> {
    Arc::new(Topology::new(Arc::new(RedisConfig::new(options).unwrap())))
}

fn lane(topology: &Arc<Topology>) -> ClusterLane {
    ClusterLane::new(Arc::clone(topology), LaneClass::Precise)
}

fn batch<V: AsRef<[u8]>>(verb: Verb, values: impl IntoIterator<Item = V>) -> Batch {
    let mut batch = Batch::default();
    for value in values {
        batch.push(Action { verb, value: value.as_ref() });
    }
    batch
}

/// Sends values of one verb, again and again as the driver does, until they are done.
async fn send<V: AsRef<[u8]>>(
    lane: &mut ClusterLane,
    verb: Verb,
    values: impl IntoIterator<Item = V>,
) -> Report {
    let batch = batch(verb, values);
    let report = send_batch(lane, &batch).await;
    assert_eq!(report.rejected, []);
    report
}

async fn send_batch(lane: &mut ClusterLane, batch: &Batch) -> Report {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        match lane.send(batch).await {
            Ok(report) => return report,
            Err(Failure::Outage { message }) => {
                assert!(tokio::time::Instant::now() < deadline, "{message}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(failure) => panic!("{failure:?}"),
        }
    }
}

/// Runs a command about a key, where the key is.
#[track_caller]
fn at(cluster: &RedisCluster, key: &str, args: &[&str]) -> Reply {
    let reply = cluster.at_key(key, args);
    assert!(!reply.is_error(), "{args:?}: {reply}");
    reply
}

#[track_caller]
fn set(cluster: &RedisCluster, key: &str) {
    at(cluster, key, &["SET", key, "cached"]);
}

#[track_caller]
fn exists(cluster: &RedisCluster, key: &str) -> bool {
    at(cluster, key, &["EXISTS", key]) == Reply::Int(1)
}

/// What a reader does whose keys are not in the slot of the tag.
#[track_caller]
fn cache_with_tag(cluster: &RedisCluster, tag: &str, key: &str) {
    at(cluster, tag, &["SADD", tag, key]);
    set(cluster, key);
    at(cluster, tag, &["SADD", tag, key]);
}

/// Those of `keys` that are still there.
#[track_caller]
fn left<'a>(cluster: &RedisCluster, keys: &'a [String]) -> Vec<&'a str> {
    keys.iter().map(String::as_str).filter(|key| exists(cluster, key)).collect()
}

/// Numbered names, which lie on all masters.
fn names(start: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{start}{number}")).collect()
}
