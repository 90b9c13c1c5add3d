//! Times that are cut instead of keys that are deleted.

use testkit::redis::{Redis, Reply};
use walpurge::action::{Action, Batch, Verb};
use walpurge::sinks::redis::TagMode;

use super::{batch, cache_with_tag, keys, lane, lane_with, run, send, set_all};

/// What is left of a key's time, in milliseconds: −1 is for ever, −2 is no key.
#[track_caller]
fn left(redis: &Redis, key: &str) -> i64 {
    match redis.cmd(&["PTTL", key]) {
        Reply::Int(left) => left,
        reply => panic!("{reply}"),
    }
}

/// Whether a key has what 100 s are cut to, less what the test takes.
#[track_caller]
fn assert_cut(redis: &Redis, key: &str) {
    let left = left(redis, key);
    assert!((40_000..=100_000).contains(&left), "{key}: {left}");
}

fn cut(value: &str) -> String {
    format!("100000\0{value}")
}

#[tokio::test]
async fn a_key_gets_less_time_and_never_more() {
    let redis = Redis::start();
    set_all(&redis, ["for ever", "long", "short", "with\0zero", "*"]);
    run(
        &redis,
        &[
            vec!["PEXPIRE", "long", "500000"],
            vec!["PEXPIRE", "short", "30000"],
            vec!["HSET", "hash", "field", "value"],
        ],
    );
    let mut lane = lane(&redis);
    let asked = ["for ever", "long", "short", "hash", "missing", "with\0zero", "*"].map(cut);
    let report = send(&mut lane, Verb::Expire, &asked).await;
    assert_eq!((report.requested, report.removed), (7, 5), "those whose time was cut");
    for key in ["for ever", "long", "hash", "with\0zero", "*"] {
        assert_cut(&redis, key);
    }
    assert!((1..=30_000).contains(&left(&redis, "short")));
    assert_eq!(left(&redis, "missing"), -2);
    // A repeat gives nothing back.
    let before = left(&redis, "long");
    send(&mut lane, Verb::Expire, ["500000\0long"]).await;
    assert!(left(&redis, "long") <= before);
    // What nobody can read leaves nothing.
    send(&mut lane, Verb::Expire, ["soon\0long"]).await;
    assert_eq!(left(&redis, "long"), -2);
}

#[tokio::test]
async fn keys_that_change_together_do_not_expire_together() {
    let redis = Redis::start();
    let names: Vec<_> = (0..5000).map(|number| format!("key:{number}")).collect();
    set_all(&redis, &names);
    let report = send(&mut lane(&redis), Verb::Expire, names.iter().map(|key| cut(key))).await;
    assert_eq!(report.removed, 5000);
    let times = |key: &String| vec!["PTTL".to_owned(), key.clone()];
    let replies = run(&redis, &names.iter().map(times).collect::<Vec<_>>());
    let mut times: Vec<i64> = replies
        .iter()
        .map(|reply| if let Reply::Int(left) = reply { *left } else { panic!("{reply}") })
        .collect();
    times.sort_unstable();
    assert!(times[4999] <= 100_000 && times[0] > 40_000, "{} {}", times[0], times[4999]);
    assert!(times[4999] - times[0] > 15_000, "{} {}", times[0], times[4999]);
}

#[tokio::test]
async fn patterns_cut_what_they_match_and_the_strongest_wins() {
    let redis = Redis::start();
    let names: Vec<_> = (0..5000).map(|number| format!("list:{number}")).collect();
    set_all(&redis, &names);
    set_all(&redis, ["other", "both:1", "both:2"]);
    let mut lane = lane_with(&redis.url(), |_| {});
    let report = send(&mut lane, Verb::ExpireMatching, [cut("list:*")]).await;
    assert_eq!((report.requested, report.removed), (5000, 5000));
    ["list:0", "list:4999"].iter().for_each(|key| assert_cut(&redis, key));
    assert_eq!(left(&redis, "other"), -1);
    let mut mixed = Batch::default();
    for (verb, value) in [
        (Verb::ExpireMatching, cut("both:*")),
        (Verb::ExpireMatching, "900000\0*".to_owned()),
        (Verb::DeleteMatching, "both:2".to_owned()),
        (Verb::DeleteMatching, "list:*".to_owned()),
    ] {
        mixed.push(Action { verb, value: value.as_bytes() });
    }
    lane.send(&mixed).await.unwrap();
    assert_cut(&redis, "both:1");
    assert!((400_000..=900_000).contains(&left(&redis, "other")));
    assert_eq!(keys(&redis, b"*"), [&b"both:1"[..], b"other"]);
}

#[tokio::test]
async fn a_tags_keys_are_cut_and_stay_listed() {
    let redis = Redis::start();
    // Several pages.
    let names: Vec<_> = (0..5000).map(|number| format!("m:{number}")).collect();
    names.iter().for_each(|key| drop(run(&redis, &cache_with_tag("tags:t", key))));
    // What a crash left of a deletion.
    run(&redis, &cache_with_tag("tags:t{tags:t}walpurge:invalidating", "left over"));
    run(&redis, &cache_with_tag("tags:other", "o"));
    run(&redis, &[vec!["SADD", "tags:t", "long gone"]]);
    redis.set("tags:text", "no set");
    let mut lane = lane(&redis);
    let tags = ["t", "text", "missing"].map(cut);
    let report = lane.send(&batch(Verb::ExpireTag, tags)).await.unwrap();
    assert_eq!((report.requested, report.removed), (5002, 5001));
    let rejected: Vec<_> = report.rejected.iter().map(|rejected| rejected.index).collect();
    assert_eq!(rejected, [1], "{report:?}");
    ["m:0", "m:2500", "m:4999", "left over"].iter().for_each(|key| assert_cut(&redis, key));
    assert_eq!(left(&redis, "o"), -1);
    send(&mut lane, Verb::ExpireTagMatching, [cut("o*"), "900000\0*".to_owned()]).await;
    assert_cut(&redis, "o");
    // Who deletes by the tag finds them.
    let report = send(&mut lane, Verb::Tag, ["t"]).await;
    assert_eq!(report.removed, 5001);
    assert_eq!(keys(&redis, b"*"), [&b"o"[..], b"tags:other", b"tags:text"]);
}

#[tokio::test]
async fn a_tag_that_is_a_counter_is_raised() {
    let redis = Redis::start();
    run(&redis, &[vec!["SET", "tags:t", "7"]]);
    let mut lane = lane_with(&redis.url(), |options| options.tag_mode = TagMode::Version);
    send(&mut lane, Verb::ExpireTag, [cut("t")]).await;
    send(&mut lane, Verb::ExpireTagMatching, [cut("t*")]).await;
    assert_eq!((redis.get("tags:t").unwrap(), left(&redis, "tags:t")), ("9".to_owned(), -1));
}
