//! Servers that die, stall, refuse and talk nonsense.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use testkit::proxy::Proxy;
use testkit::redis::Redis;
use walpurge::action::Verb;
use walpurge::sinks::redis::{Timeouts, UNKNOWN_SENDS_MAX};

use super::{batch, cache_with_tag, keys, lane, lane_with, outage, run, send, set_all};

/// Patience short enough for a test, and long enough for a busy machine.
const SHORT: Timeouts =
    Timeouts { connect: Duration::from_secs(5), command: Duration::from_millis(300) };

#[tokio::test]
async fn a_server_killed_in_mid_call_is_an_outage_and_the_lane_recovers() {
    let mut redis = Redis::builder().persistent().start();
    let mut lane = lane(&redis);
    set_all(&redis, ["a"]);
    send(&mut lane, Verb::Delete, ["b"]).await;
    // Frozen, the server cannot answer before it is killed.
    redis.pause();
    let delete = batch(Verb::Delete, ["a"]);
    let start = Instant::now();
    let killing = tokio::task::spawn_blocking(move || {
        redis.kill_9();
        redis
    });
    let (outcome, redis) = tokio::join!(lane.send(&delete), killing);
    let mut redis = redis.unwrap();
    outage(outcome);
    // Nobody listens now.
    let message = outage(lane.send(&delete).await);
    assert!(message.contains("connect"), "{message}");
    assert!(start.elapsed() < Duration::from_secs(5));
    redis.start_again();
    assert_eq!(send(&mut lane, Verb::Delete, ["a"]).await.removed, 1);
}

#[tokio::test]
async fn a_stalled_server_is_an_outage_at_the_timeout() {
    let mut redis = Redis::start();
    let mut lane = lane_with(&redis.url(), |options| options.timeouts = SHORT);
    set_all(&redis, ["a"]);
    send(&mut lane, Verb::Delete, ["b"]).await;
    redis.pause();
    let start = Instant::now();
    let message = outage(lane.send(&batch(Verb::Delete, ["a"])).await);
    assert!(message.contains("UNLINK") && message.contains("300ms"), "{message}");
    assert!(start.elapsed() >= Duration::from_millis(300));
    // It reconnects (the kernel accepts for the server) and waits for the introduction's answer.
    outage(lane.send(&batch(Verb::Delete, ["a"])).await);
    assert!(start.elapsed() < Duration::from_secs(5));
    redis.resume();
    // The first of the requests may run now: a repeat is harmless either way.
    send(&mut lane, Verb::Delete, ["a"]).await;
    assert!(!redis.exists("a"));
}

#[tokio::test]
async fn a_connection_cut_anywhere_loses_nothing_once_the_batch_is_repeated() {
    let redis = Redis::start();
    let proxy = Proxy::to(redis.port());
    let url = format!("redis://127.0.0.1:{}/0", proxy.port());
    for after in (0..12).map(|step| step * 400) {
        let names: Vec<_> = (0..50).map(|number| format!("member:{number}")).collect();
        for name in &names {
            run(&redis, &cache_with_tag("tags:t", name));
        }
        set_all(&redis, ["kept"]);
        let mut lane = lane_with(&url, |options| options.timeouts = SHORT);
        let tag = batch(Verb::Tag, ["t"]);
        proxy.cut_after_bytes(after);
        let first = lane.send(&tag).await;
        if let Err(failure) = first {
            outage(Err(failure));
            send(&mut lane, Verb::Tag, ["t"]).await;
        }
        assert_eq!(keys(&redis, b"*"), [b"kept"], "cut after {after} bytes");
    }
}

#[tokio::test]
async fn a_dropped_send_leaves_no_foreign_reply_to_the_next() {
    let mut redis = Redis::start();
    let mut lane = lane(&redis);
    send(&mut lane, Verb::Delete, ["x"]).await;
    set_all(&redis, ["a", "b"]);
    redis.pause();
    let two = batch(Verb::Delete, ["a", "b"]);
    let dropped = tokio::time::timeout(Duration::from_millis(50), lane.send(&two)).await;
    assert!(dropped.is_err());
    redis.resume();
    let report = send(&mut lane, Verb::Delete, ["missing"]).await;
    assert_eq!((report.requested, report.removed), (1, 0));
}

#[tokio::test]
async fn a_timed_out_send_leaves_no_foreign_reply_to_the_next() {
    let mut redis = Redis::start();
    let mut lane = lane_with(&redis.url(), |options| options.timeouts = SHORT);
    send(&mut lane, Verb::Delete, ["x"]).await;
    set_all(&redis, ["a", "b"]);
    redis.pause();
    outage(lane.send(&batch(Verb::Delete, ["a", "b"])).await);
    redis.resume();
    let report = send(&mut lane, Verb::Delete, ["missing"]).await;
    assert_eq!((report.requested, report.removed), (1, 0));
}

#[tokio::test]
async fn a_replica_is_an_outage_that_names_the_primary() {
    let redis = Redis::start();
    let mut lane = lane(&redis);
    redis.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    for verb in [Verb::Delete, Verb::Bump] {
        let message = outage(lane.send(&batch(verb, ["a"])).await);
        assert!(message.contains("READONLY") && message.contains("primary"), "{message}");
    }
    redis.cli(&["REPLICAOF", "NO", "ONE"]);
    send(&mut lane, Verb::Bump, ["a"]).await;
}

#[tokio::test]
async fn too_many_clients_are_an_outage_that_says_so() {
    let redis = Redis::builder().config("maxclients", "1").start();
    // The testkit's own client is the one.
    redis.cli(&["PING"]);
    let message = outage(lane(&redis).send(&batch(Verb::Delete, ["a"])).await);
    assert!(message.contains("maxclients"), "{message}");
}

#[tokio::test]
async fn a_server_out_of_memory_still_deletes_and_holds_bumps() {
    let redis = Redis::start();
    set_all(&redis, ["a"]);
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let mut lane = lane(&redis);
    let message = outage(lane.send(&batch(Verb::Bump, ["version"])).await);
    assert!(message.contains("OOM") && message.contains("maxmemory"), "{message}");
    assert_eq!(send(&mut lane, Verb::Delete, ["a"]).await.removed, 1);
}

#[tokio::test]
async fn a_server_that_is_busy_or_cannot_save_is_an_outage_that_says_so() {
    let redis =
        Redis::builder().config("lua-time-limit", "1").config("dbfilename", "taken.rdb").start();
    let mut lane = lane(&redis);
    set_all(&redis, ["a"]);
    // The name of its file is taken by a directory.
    std::fs::create_dir(redis.socket().with_file_name("taken.rdb")).unwrap();
    redis.cli(&["CONFIG", "SET", "save", "3600 1"]);
    redis.cli(&["BGSAVE"]);
    testkit::wait_until("it could not save", Duration::from_secs(20), || {
        redis.cli(&["INFO", "persistence"]).contains("rdb_last_bgsave_status:err")
    });
    let message = outage(lane.send(&batch(Verb::Delete, ["a"])).await);
    assert!(message.contains("MISCONF") && message.contains("stop-writes"), "{message}");
    redis.cli(&["CONFIG", "SET", "save", ""]);
    assert_eq!(send(&mut lane, Verb::Delete, ["a"]).await.removed, 1);

    let mut looping = redis.client().unwrap();
    let thread = std::thread::spawn(move || looping.cmd(&["EVAL", "while true do end", "0"]));
    let mut message = String::new();
    testkit::wait_until("it is busy", Duration::from_secs(20), || {
        redis.try_cmd(&["PING"]).is_ok_and(|reply| reply.to_string().starts_with("BUSY"))
    });
    if let Err(failure) = lane.send(&batch(Verb::Delete, ["b"])).await {
        message = failure.to_string();
    }
    assert!(message.contains("BUSY"), "{message}");
    redis.cli(&["SCRIPT", "KILL"]);
    assert!(thread.join().unwrap().unwrap().is_error());
    send(&mut lane, Verb::Delete, ["b"]).await;
}

/// A server that answers the introduction, and then each request with `answer`.
async fn fake(answer: &'static [u8]) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let mut reply = &b"+OK\r\n"[..];
                while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {
                    if stream.write_all(reply).await.is_err() {
                        break;
                    }
                    reply = answer;
                }
            });
        }
    });
    format!("redis://127.0.0.1:{port}")
}

#[tokio::test]
async fn an_unknown_error_of_one_action_is_tried_again_and_given_up_on_late() {
    // The first bump fails, the second is done.
    let answer = b"+OK\r\n+QUEUED\r\n+QUEUED\r\n-ERR upstream failure\r\n\
                   +OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n$-1\r\n:7\r\n";
    let mut lane = lane_with(&fake(answer).await, |_| {});
    let bumps = batch(Verb::Bump, ["a", "b"]);
    for _ in 1..UNKNOWN_SENDS_MAX {
        let message = outage(lane.send(&bumps).await);
        assert!(message.contains("upstream failure"), "{message}");
    }
    let report = lane.send(&bumps).await.unwrap();
    assert_eq!(report.rejected.len(), 1);
    assert_eq!(report.rejected[0].index, 0);
    // The count starts anew.
    outage(lane.send(&bumps).await);
}

#[tokio::test]
async fn an_unknown_error_of_a_whole_request_is_never_given_up_on() {
    let mut lane = lane_with(&fake(b"-ERR upstream failure\r\n").await, |_| {});
    for _ in 0..2 * UNKNOWN_SENDS_MAX {
        outage(lane.send(&batch(Verb::Delete, ["a", "b"])).await);
    }
}

#[tokio::test]
async fn a_reply_too_many_is_not_taken_for_the_next_ones() {
    let mut lane = lane_with(&fake(b":1\r\n:0\r\n").await, |_| {});
    for _ in 0..2 {
        assert_eq!(send(&mut lane, Verb::Delete, ["a"]).await.removed, 1);
    }
}

#[tokio::test]
async fn nonsense_is_an_outage() {
    let answers: [&[u8]; 6] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"*1\r\n:1\r\n",
        b"$-1\r\n",
        b"\0\0\n",
        b":-1\r\n",
        b":9223372036854775807\r\n",
    ];
    for answer in answers {
        let url = fake(answer).await;
        for verb in [Verb::Delete, Verb::DeleteMatching] {
            let mut lane = lane_with(&url, |options| options.timeouts = SHORT);
            outage(lane.send(&batch(verb, ["a"])).await);
        }
    }
}

#[tokio::test]
async fn an_address_that_does_not_answer_is_an_outage_at_the_timeout() {
    // It accepts, and says nothing to the introduction.
    let proxy = Proxy::to(1);
    proxy.stall();
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    let mut lane = lane_with(&url, |options| {
        options.timeouts = Timeouts { connect: Duration::from_millis(300), ..SHORT };
    });
    let start = Instant::now();
    outage(lane.send(&batch(Verb::Delete, ["a"])).await);
    assert!(start.elapsed() < Duration::from_secs(3));
}
