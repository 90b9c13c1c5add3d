//! Tags whose keys are sets of keys.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use testkit::redis::Redis;
use walpurge::action::Verb;

use super::{batch, bulks, cache_with_tag, keys, lane, lane_with, run, send, set_all};

/// Where the set `tags:t` is put while it is emptied.
const TAKEN: &str = "tags:t{tags:t}walpurge:invalidating";

#[tokio::test]
async fn a_tag_deletes_its_members_and_nothing_else() {
    let redis = Redis::start();
    for key in ["a", "b"] {
        run(&redis, &cache_with_tag("tags:t", key));
    }
    run(&redis, &cache_with_tag("tags:other", "c"));
    set_all(&redis, ["t", "tags", "tags:"]);
    let report = send(&mut lane(&redis), Verb::Tag, ["t", "missing"]).await;
    assert_eq!((report.requested, report.removed), (2, 2));
    assert_eq!(keys(&redis, b"*"), [&b"c"[..], b"t", b"tags", b"tags:", b"tags:other"]);
}

#[tokio::test]
async fn a_tag_may_come_twice_in_a_batch() {
    let redis = Redis::start();
    run(&redis, &cache_with_tag("tags:t", "a"));
    let report = send(&mut lane(&redis), Verb::Tag, ["t", "t"]).await;
    assert_eq!(report.removed, 1);
    assert!(keys(&redis, b"*").is_empty());
}

#[tokio::test]
async fn members_are_whole_keys_while_the_sets_have_the_prefix() {
    let redis = Redis::start();
    run(&redis, &cache_with_tag("p:tags:t", "p:a"));
    set_all(&redis, ["a", "p:p:a"]);
    let mut lane = lane_with(&redis.url(), |options| options.prefix = "p:".into());
    send(&mut lane, Verb::Tag, ["t"]).await;
    assert_eq!(keys(&redis, b"*"), [&b"a"[..], b"p:p:a"]);
}

#[tokio::test]
async fn odd_tags_are_invalidated() {
    let redis = Redis::start();
    let tags = ["", "with space", "{x}", "}{", "{", "{}", "a}b", "line\nbreak", "*"];
    for (number, tag) in tags.iter().enumerate() {
        run(&redis, &cache_with_tag(&format!("tags:{tag}"), &format!("member:{number}")));
    }
    let report = send(&mut lane(&redis), Verb::Tag, tags).await;
    assert_eq!(report.removed, tags.len() as u64);
    assert!(keys(&redis, b"*").is_empty());
}

#[tokio::test]
async fn a_tag_with_a_hundred_thousand_members_and_many_small_ones() {
    let redis = Redis::start();
    let big: Vec<_> = (0..100_000).map(|number| format!("big:{number}")).collect();
    set_all(&redis, &big);
    let commands = big.chunks(1_000).map(|keys| {
        ["SADD", "tags:big"].into_iter().chain(keys.iter().map(String::as_str)).collect()
    });
    run(&redis, &commands.collect::<Vec<Vec<&str>>>());
    let mut tags = vec!["big".to_owned()];
    for number in 0..500 {
        tags.push(format!("small:{number}"));
        run(&redis, &cache_with_tag(&format!("tags:small:{number}"), &format!("one:{number}")));
    }
    set_all(&redis, ["kept"]);
    let report = send(&mut lane(&redis), Verb::Tag, &tags).await;
    assert_eq!(report.removed, 100_500);
    assert_eq!(keys(&redis, b"*"), [b"kept"]);
}

#[tokio::test]
async fn a_tag_key_that_is_no_set_is_rejected_and_stays() {
    let redis = Redis::start();
    redis.set("tags:text", "mine");
    run(&redis, &cache_with_tag("tags:t", "a"));
    let report = lane(&redis).send(&batch(Verb::Tag, ["text", "t"])).await.unwrap();
    let rejected: Vec<_> = report.rejected.iter().map(|rejected| rejected.index).collect();
    assert_eq!((rejected, report.removed), (vec![0], 1));
    assert_eq!(redis.get("tags:text").as_deref(), Some("mine"));
}

#[tokio::test]
async fn a_crash_at_any_step_is_finished_by_the_next_invalidation() {
    let redis = Redis::start();
    let mut lane = lane(&redis);
    // Died after RENAMENX; the readers have filled a fresh set or have not.
    for refilled in [false, true] {
        for exact in [true, false] {
            for key in ["a", "b", "c"] {
                run(&redis, &cache_with_tag("tags:t", key));
            }
            run(&redis, &[vec!["RENAMENX", "tags:t", TAKEN]]);
            if refilled {
                run(&redis, &cache_with_tag("tags:t", "b"));
                run(&redis, &cache_with_tag("tags:t", "d"));
            }
            if exact {
                send(&mut lane, Verb::Tag, ["t"]).await;
            } else {
                send(&mut lane, Verb::TagMatching, ["t"]).await;
            }
            assert!(keys(&redis, b"*").is_empty(), "refilled: {refilled}, exact: {exact}");
        }
    }
    // Died after a page was removed.
    for key in ["a", "b", "c"] {
        run(&redis, &cache_with_tag("tags:t", key));
    }
    run(
        &redis,
        &[vec!["RENAMENX", "tags:t", TAKEN], vec!["UNLINK", "a"], vec!["SREM", TAKEN, "a"]],
    );
    run(&redis, &cache_with_tag("tags:t", "a"));
    send(&mut lane, Verb::Tag, ["t"]).await;
    assert!(keys(&redis, b"*").is_empty());
}

/// No test can place a reader between two commands of one request, so the order of the steps,
/// on which the reasoning about readers and crashes rests, is read from the server itself.
#[tokio::test]
async fn a_set_is_renamed_kept_from_expiry_and_emptied_in_one_step_with_its_members() {
    let redis = Redis::start();
    run(&redis, &cache_with_tag("tags:t", "a"));
    redis.cli(&["EXPIRE", "tags:t", "1000"]);
    let mut monitor = redis.client().unwrap();
    monitor.cmd(&["MONITOR"]).unwrap();
    send(&mut lane(&redis), Verb::Tag, ["t"]).await;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|command| command != "EXEC") {
        let line = monitor.read_reply().unwrap().to_string();
        seen.push(line.split('"').nth(1).unwrap().to_owned());
    }
    let rename = seen.iter().position(|command| command == "RENAMENX").unwrap();
    let expected = ["RENAMENX", "PERSIST", "SSCAN", "MULTI", "UNLINK", "SREM", "EXEC"];
    assert_eq!(seen[rename..], expected);
}

#[tokio::test]
async fn a_pattern_invalidates_every_tag_that_matches() {
    let redis = Redis::start();
    let mut lane = lane_with(&redis.url(), |options| options.tag_key = "t[{tag}]".into());
    for number in 0..300 {
        run(&redis, &cache_with_tag(&format!("t[product:{number}]"), &format!("p:{number}")));
        run(&redis, &cache_with_tag(&format!("t[user:{number}]"), &format!("u:{number}")));
    }
    redis.set("t[product:text]", "no set");
    let report = send(&mut lane, Verb::TagMatching, ["product:*", "user:1?"]).await;
    assert_eq!(report.removed, 310);
    assert!(keys(&redis, b"p:*").is_empty());
    assert_eq!(keys(&redis, b"u:*").len(), 290);
    assert!(redis.exists("t[product:text]"));
}

/// Readers that fill a tag's set as fast as they can, until they are told to stop.
fn fill(redis: &Redis, stop: &AtomicBool, filled: &AtomicU64) {
    let mut client = redis.client().unwrap();
    let mut random = 7_u64;
    while !stop.load(Ordering::Relaxed) {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let key = format!("member:{}", (random >> 33) % 300);
        client.pipeline(&cache_with_tag("tags:t", &key)).unwrap();
        filled.fetch_add(1, Ordering::Relaxed);
    }
}

/// Invalidates with `lanes` at once while readers fill the set; no key may be forgotten.
fn invalidate_while_readers_fill(lanes: usize, rounds: usize) {
    let redis = Redis::start();
    let (stop, filled) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| fill(&redis, &stop, &filled));
        let invalidators: Vec<_> = (0..lanes)
            .map(|_| {
                scope.spawn(|| {
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(async {
                        let mut lane = lane(&redis);
                        let mut removed = 0;
                        for _ in 0..rounds {
                            removed += send(&mut lane, Verb::Tag, ["t"]).await.removed;
                        }
                        removed
                    })
                })
            })
            .collect();
        let removed: u64 = invalidators.into_iter().map(|lane| lane.join().unwrap()).sum();
        testkit::wait_until("the readers fill", Duration::from_secs(10), || {
            filled.load(Ordering::Relaxed) > 100
        });
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap();
        assert!(removed > 0, "the readers and the invalidations never met");
    });
    // Nothing is under way any more: what exists must be listed.
    let cached = keys(&redis, b"member:*");
    let listed = bulks(redis.cmd(&["SMEMBERS", "tags:t"]));
    assert!(!redis.exists(TAKEN));
    for key in &cached {
        assert!(listed.contains(key), "{} is orphaned", String::from_utf8_lossy(key));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { send(&mut lane(&redis), Verb::Tag, ["t"]).await });
    assert!(keys(&redis, b"*").is_empty());
}

#[test]
fn a_reader_in_between_orphans_no_key() {
    invalidate_while_readers_fill(1, 1_500);
}

#[test]
fn three_lanes_on_one_tag_orphan_no_key() {
    invalidate_while_readers_fill(3, 700);
}

#[tokio::test]
async fn two_lanes_leave_nothing_of_what_both_found() {
    let redis = Redis::start();
    let (mut one, mut two) = (lane(&redis), lane(&redis));
    for _ in 0..20 {
        let commands: Vec<_> = (0..3_000)
            .flat_map(|number| cache_with_tag("tags:t", &format!("member:{number}")))
            .collect();
        run(&redis, &commands);
        let (tag, pattern) = (batch(Verb::Tag, ["t"]), batch(Verb::TagMatching, ["*"]));
        let (one, two) = tokio::join!(one.send(&tag), two.send(&pattern));
        assert_eq!(one.unwrap().removed + two.unwrap().removed, 3_000);
        assert!(keys(&redis, b"*").is_empty());
    }
}
