//! Servers that are replaced, and what was acknowledged by the one before.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use testkit::redis::{Redis, Sentinels};
use walpurge::action::Verb;
use walpurge::sinks::redis::{
    Duties, Fallbacks, LaneClass, RedisConfig, RedisLane, RedisOptions, SentinelOptions,
    ServerRecord, check,
};

use super::{batch, lane_with, outage, refused, send, set_all};

/// Longer than any of these tests may take to fail over by itself.
const NEVER: Duration = Duration::from_secs(600);

/// Longer than a test, so that nothing is forgotten in it.
const WINDOW: Duration = Duration::from_secs(600);

const PATIENCE: Duration = Duration::from_secs(60);

fn options(sentinels: &Sentinels, window: Duration) -> RedisOptions {
    let nodes = sentinels.urls().into_iter().map(Into::into).collect();
    let master = sentinels.name().to_owned();
    let sentinel = SentinelOptions { master, nodes, ..SentinelOptions::default() };
    let failover_window = window;
    RedisOptions { sentinel: Some(sentinel), failover_window, ..RedisOptions::new("cache", "") }
}

fn lane_of(options: RedisOptions) -> RedisLane {
    RedisLane::new(Arc::new(RedisConfig::new(options).unwrap()), LaneClass::Precise)
}

/// What the driver does with a lane that has nothing to send, until `condition` holds.
async fn idle_until(lane: &mut RedisLane, what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            let look_at = lane.look_at().expect("there is something to look for");
            tokio::time::sleep_until(look_at.into()).await;
            if lane.look().await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "{what}");
}

/// The old master is cut off from its replica and from the Sentinels' orders. It acknowledges
/// deletes until the end, and all of them are lost.
#[tokio::test]
async fn what_a_cut_off_master_acknowledged_is_repeated_on_the_new_one() {
    let sentinels = Sentinels::start(NEVER);
    let [old, new] = &sentinels.servers;
    let mut remembering = lane_of(options(&sentinels, WINDOW));
    let mut forgetting = lane_of(options(&sentinels, Duration::ZERO));
    set_all(old, ["a", "b", "c", "d", "kept"]);
    testkit::wait_until("the replica has them", PATIENCE, || new.exists("kept"));
    sentinels.cut_off();
    assert_eq!(send(&mut remembering, Verb::Delete, ["a"]).await.removed, 1);
    assert_eq!(send(&mut forgetting, Verb::Delete, ["b"]).await.removed, 1);
    sentinels.fail_over();
    assert!(new.exists("a") && new.exists("b"), "the deletes were lost");
    assert!(old.cli(&["INFO", "replication"]).contains("role:master"), "it takes writes still");
    // With nothing to send, one lane finds out by itself.
    idle_until(&mut remembering, "a is deleted again", || !new.exists("a")).await;
    // The other one only leaves the old master.
    let deadline = std::time::Instant::now() + PATIENCE;
    while new.exists("c") {
        assert!(std::time::Instant::now() < deadline, "it works on the old master still");
        send(&mut forgetting, Verb::Delete, ["c"]).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(new.exists("b"), "it remembers nothing");
    assert_eq!(send(&mut remembering, Verb::Delete, ["d"]).await.removed, 1);
    assert!(new.exists("kept"));
}

#[tokio::test]
async fn sentinels_that_are_down_or_know_nothing_are_told() {
    let mut sentinels = Sentinels::start(NEVER);
    let config = RedisConfig::new(options(&sentinels, Duration::ZERO)).unwrap();
    let lines = check(&config, &Duties::of(&[Verb::Delete])).await;
    assert!(lines.iter().all(|line| line.ok), "{lines:#?}");
    let port = sentinels.servers[0].port().to_string();
    assert!(lines[..3].iter().all(|line| line.what.contains(&port)), "{lines:#?}");
    // A partitioned master goes on for longer than what is remembered.
    let config = RedisConfig::new(options(&sentinels, Duration::from_secs(10))).unwrap();
    let lines = check(&config, &Duties::of(&[Verb::Delete])).await;
    assert!(!lines[0].ok && lines[0].hint.as_ref().unwrap().contains("failover_window"));

    let mut wrong = options(&sentinels, Duration::ZERO);
    wrong.sentinel.as_mut().unwrap().master = "mian".to_owned();
    let mut lane = lane_of(wrong);
    let (message, hint) = refused(lane.send(&batch(Verb::Delete, ["a"])).await);
    assert!(message.contains("No such master") && hint.contains("mian"), "{message} {hint}");

    sentinels.nodes[0].kill_9();
    set_all(&sentinels.servers[0], ["a"]);
    let mut lane = lane_of(options(&sentinels, WINDOW));
    assert_eq!(send(&mut lane, Verb::Delete, ["a"]).await.removed, 1);
    sentinels.nodes[1].kill_9();
    sentinels.nodes[2].kill_9();
    // Who is connected goes on; nobody says that this is wrong.
    send(&mut lane, Verb::Delete, ["a"]).await;
    let mut lane = lane_of(options(&sentinels, Duration::ZERO));
    let message = outage(lane.send(&batch(Verb::Delete, ["a"])).await);
    assert!(message.contains("no Sentinel says"), "{message}");
}

#[tokio::test]
async fn what_a_server_forgot_that_started_from_an_older_file_is_repeated() {
    let mut redis = Redis::start();
    let mut lane = lane_with(&redis.url(), |options| options.failover_window = WINDOW);
    set_all(&redis, ["a", "kept"]);
    redis.cli(&["SAVE"]);
    send(&mut lane, Verb::Delete, ["a"]).await;
    redis.kill_9();
    redis.start_again();
    assert!(redis.exists("a"), "the file is older than the delete");
    idle_until(&mut lane, "a is deleted again", || !redis.exists("a")).await;
    assert!(redis.exists("kept"));
    // It repeats nothing on the same server.
    set_all(&redis, ["a"]);
    lane.look().await.unwrap();
    send(&mut lane, Verb::Delete, ["x"]).await;
    assert!(redis.exists("a"));
}

#[tokio::test]
async fn a_server_that_is_not_the_one_of_the_run_before_gets_every_fallback() {
    let redis = Redis::start();
    set_all(&redis, ["item:1", "kept"]);
    let notes = Arc::new(Mutex::new(Vec::new()));
    let share = |lane: &mut RedisLane, noted: Option<String>| {
        let notes = Arc::clone(&notes);
        let note = move |server: &str| notes.lock().unwrap().push(server.to_owned());
        let batch = batch(Verb::DeleteMatching, ["item:*"]);
        let coarse = Arc::new(Fallbacks { batch, ..Fallbacks::default() });
        lane.share(Arc::new(ServerRecord::new(noted, note)), coarse);
    };
    let mut lane = lane_with(&redis.url(), |options| options.failover_window = WINDOW);
    share(&mut lane, Some("another".into()));
    // It looks at once, with nothing to do.
    idle_until(&mut lane, "the fallback runs", || !redis.exists("item:1")).await;
    assert!(redis.exists("kept"));
    let noted = notes.lock().unwrap().pop();
    assert!(noted.is_some());
    set_all(&redis, ["item:1"]);
    let mut lane = lane_with(&redis.url(), |options| options.failover_window = WINDOW);
    share(&mut lane, noted);
    send(&mut lane, Verb::Delete, ["x"]).await;
    assert!(redis.exists("item:1"), "it is the same server");
}

/// What was done last before a start is remembered by nobody.
#[tokio::test]
async fn a_server_that_is_replaced_soon_after_a_start_gets_every_fallback() {
    let mut redis = Redis::start();
    let noted = Arc::new(Mutex::new(None));
    let url = redis.url();
    let lane = |window| {
        let mut lane = lane_with(&url, |options| options.failover_window = window);
        let kept = Arc::clone(&noted);
        let note = move |server: &str| *kept.lock().unwrap() = Some(server.to_owned());
        let batch = batch(Verb::DeleteMatching, ["item:*"]);
        let coarse = Arc::new(Fallbacks { batch, ..Fallbacks::default() });
        let before = noted.lock().unwrap().clone();
        lane.share(Arc::new(ServerRecord::new(before, note)), coarse);
        lane
    };
    set_all(&redis, ["item:1", "kept"]);
    redis.cli(&["SAVE"]);
    send(&mut lane(WINDOW), Verb::Delete, ["item:1"]).await;
    let mut started = lane(WINDOW);
    started.look().await.unwrap();
    redis.kill_9();
    redis.start_again();
    assert!(redis.exists("item:1"), "the file is older than the delete");
    idle_until(&mut started, "the fallback runs", || !redis.exists("item:1")).await;
    assert!(redis.exists("kept"));
    // Once the window is over, there is nothing left to look for.
    let mut started = lane(Duration::from_secs(1));
    let ending = async {
        while started.look_at().is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
            started.look().await.unwrap();
        }
    };
    assert!(tokio::time::timeout(PATIENCE, ending).await.is_ok(), "it looks for ever");
}

#[tokio::test]
async fn a_batch_is_held_until_enough_replicas_have_it() {
    let master = Redis::builder().config("repl-diskless-sync-delay", "0").start();
    let mut replica = Redis::start();
    replica.cli(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
    let online = || master.cli(&["INFO", "replication"]).contains("state=online");
    testkit::wait_until("the replica follows", PATIENCE, online);
    set_all(&master, ["a", "b"]);
    let waiting = |count| lane_with(&master.url(), |options| options.wait_replicas = count);
    let mut lane = waiting(1);
    // A busy machine may need more than one attempt, which is what would happen.
    while lane.send(&batch(Verb::Delete, ["a"])).await.is_err() {}
    assert!(!replica.exists("a"), "it has it by now");
    replica.pause();
    for _ in 0..2 {
        let message = outage(lane.send(&batch(Verb::Delete, ["b"])).await);
        assert!(message.contains("0 of 1 replicas"), "{message}");
        // On another connection there is nothing left to delete, and no replica has it yet.
        lane = waiting(1);
    }
    assert!(!master.exists("b"));
    replica.resume();
    while lane.send(&batch(Verb::Delete, ["b"])).await.is_err() {}
    assert!(!replica.exists("b"));
    let options = RedisOptions { wait_replicas: 2, ..RedisOptions::new("cache", master.url()) };
    let lines = check(&RedisConfig::new(options).unwrap(), &Duties::of(&[Verb::Delete])).await;
    assert!(!lines[1].ok && lines[1].what.contains("1 of 2"), "{lines:#?}");
}
