//! The Redis sink against real servers.

pub mod certificates;
mod expire;
mod failover;
mod faults;
mod pacing;
mod patterns;
mod rights;
mod sentinel_login;
mod tags;
mod verbs;

use std::sync::Arc;

use testkit::redis::{Redis, Reply};
use walpurge::action::{Action, Batch, Verb};
use walpurge::sinks::Report;
use walpurge::sinks::redis::{LaneClass, RedisConfig, RedisLane, RedisOptions};

use crate::outcome::{outage, refused};

/// A lane with the options that `change` makes of the defaults.
#[track_caller]
fn lane_with(url: &str, change: impl FnOnce(&mut RedisOptions)) -> RedisLane {
    let mut options = RedisOptions::new("cache", url);
    change(&mut options);
    let config = RedisConfig::new(options).unwrap();
    RedisLane::new(Arc::new(config), LaneClass::Precise)
}

#[track_caller]
fn lane(redis: &Redis) -> RedisLane {
    lane_with(&redis.url(), |_| {})
}

fn batch<V: AsRef<[u8]>>(verb: Verb, values: impl IntoIterator<Item = V>) -> Batch {
    let mut batch = Batch::default();
    for value in values {
        batch.push(Action { verb, value: value.as_ref() });
    }
    batch
}

/// Sends values of one verb, each of which must be done.
async fn send<V: AsRef<[u8]>>(
    lane: &mut RedisLane,
    verb: Verb,
    values: impl IntoIterator<Item = V>,
) -> Report {
    let report = lane.send(&batch(verb, values)).await.expect("the batch is done");
    assert_eq!(report.rejected, []);
    report
}

/// Runs commands, none of which may fail.
#[track_caller]
fn run<A: AsRef<[u8]>>(redis: &Redis, commands: &[Vec<A>]) -> Vec<Reply> {
    let replies = redis.client().unwrap().pipeline(commands).unwrap();
    assert!(!replies.iter().any(Reply::is_error), "{:?}", replies.iter().find(|r| r.is_error()));
    replies
}

/// Sets keys to a value.
#[track_caller]
fn set_all<K: AsRef<[u8]>>(redis: &Redis, keys: impl IntoIterator<Item = K>) {
    let commands = keys
        .into_iter()
        .map(|key| vec![b"SET".to_vec(), key.as_ref().to_vec(), b"cached".to_vec()]);
    run(redis, &commands.collect::<Vec<_>>());
}

/// What a reader does: the value and the tag's entry in one step.
fn cache_with_tag(tag_key: &str, key: &str) -> Vec<Vec<String>> {
    [&["MULTI"][..], &["SET", key, "cached"], &["SADD", tag_key, key], &["EXEC"]]
        .map(|command| command.iter().map(|arg| (*arg).to_owned()).collect())
        .to_vec()
}

/// The keys that a pattern of the server finds, sorted.
#[track_caller]
fn keys(redis: &Redis, pattern: &[u8]) -> Vec<Vec<u8>> {
    bulks(redis.cmd(&[b"KEYS", pattern]))
}

/// An array's strings, sorted.
#[track_caller]
fn bulks(reply: Reply) -> Vec<Vec<u8>> {
    let Reply::Array(Some(items)) = reply else { panic!("{reply}") };
    let items = items.into_iter().map(|item| match item {
        Reply::Bulk(Some(bytes)) => bytes,
        item => panic!("{item}"),
    });
    let mut items: Vec<_> = items.collect();
    items.sort();
    items
}
