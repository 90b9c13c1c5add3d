//! Everything that matches.

use testkit::redis::Redis;
use walpurge::action::Verb;
use walpurge::glob;

use super::{keys, lane, send, set_all};

#[tokio::test]
async fn one_pattern_and_many_delete_what_matches() {
    let redis = Redis::start();
    let mut lane = lane(&redis);
    for patterns in [&["list:*"][..], &["list:1*", "list:[2-9]*", "nothing:*"]] {
        let names: Vec<_> = (1..20_000).map(|number| format!("list:{number}")).collect();
        set_all(&redis, &names);
        set_all(&redis, ["list", "list", "other:1", "xlist:1"]);
        let report = send(&mut lane, Verb::DeleteMatching, patterns).await;
        assert_eq!(report.removed, 19_999);
        assert_eq!(keys(&redis, b"*"), [&b"list"[..], b"other:1", b"xlist:1"]);
    }
}

/// How many calls of SCAN Redis has counted.
fn scans(redis: &Redis) -> u64 {
    let stats = redis.cli(&["INFO", "commandstats"]);
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_scan:calls="));
    calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn a_thousand_patterns_share_one_pass() {
    let redis = Redis::start();
    let mut lane = lane(&redis);
    let names: Vec<_> = (0..20_000).map(|number| format!("list:{number}:x")).collect();
    set_all(&redis, &names);
    send(&mut lane, Verb::DeleteMatching, ["other:*"]).await;
    let one = scans(&redis);
    let patterns: Vec<_> = (0..1000).map(|number| format!("list:{number}:*")).collect();
    let report = send(&mut lane, Verb::DeleteMatching, &patterns).await;
    assert_eq!(report.removed, 1000);
    let all = scans(&redis) - one;
    assert!(one >= 10 && all * 2 <= one * 3, "{all} for all, {one} for one");
}

#[tokio::test]
async fn an_escaped_value_matches_itself_alone() {
    let redis = Redis::start();
    let mut lane = lane(&redis);
    let literals = ["a*b", "a?b", "[ab]", "[^a]", r"a\b", r"\*", "a-b", "]", "a\nb", "*", "\u{e9}"];
    for (index, literal) in literals.iter().enumerate() {
        for many in [false, true] {
            set_all(&redis, literals);
            set_all(&redis, ["axb", "ab", "a", "b", "x"]);
            let mut pattern = Vec::new();
            glob::escape(literal.as_bytes(), &mut pattern);
            let mut patterns = vec![pattern];
            patterns.extend(many.then(|| b"nothing".to_vec()));
            let report = send(&mut lane, Verb::DeleteMatching, &patterns).await;
            assert_eq!(report.removed, 1, "{literal:?} {index}");
            assert!(!redis.exists(literal));
        }
    }
}

#[tokio::test]
async fn our_matcher_agrees_with_the_servers() {
    const ALPHABET: &[u8] = b"aabbc-*?[]^\\\xff";
    let redis = Redis::start();
    let mut lane = lane(&redis);
    // A fixed seed: a failure is the same one the next time.
    let mut random = fastrand::Rng::with_seed(1);
    let mut word = |length: usize| -> Vec<u8> {
        let length = random.usize(..=length);
        (0..length).map(|_| ALPHABET[random.usize(..ALPHABET.len())]).collect()
    };
    let all: Vec<_> = (0..400).map(|_| word(5)).collect();
    let mut matched = 0;
    for _ in 0..1_500 {
        let pattern = word(8);
        set_all(&redis, &all);
        let before = keys(&redis, b"*");
        let expected: Vec<_> = {
            let gone = keys(&redis, &pattern);
            matched += gone.len();
            before.into_iter().filter(|key| !gone.contains(key)).collect()
        };
        // The second pattern makes the lane match by itself.
        send(&mut lane, Verb::DeleteMatching, [&pattern[..], b"zzz"]).await;
        let left = keys(&redis, b"*");
        // A range over 0x80 matches what it would on a server of another platform, too.
        let agrees = left == expected
            || pattern.contains(&0xff) && left.iter().all(|key| expected.contains(key));
        assert!(agrees, "the pattern {:?} ({pattern:?})", String::from_utf8_lossy(&pattern));
    }
    assert!(matched > 3_000, "the patterns match too little: {matched}");
}

#[tokio::test]
async fn a_pattern_raises_existing_counters_only() {
    let redis = Redis::start();
    for key in ["version:1", "version:2", "other:1"] {
        redis.set(key, "5");
    }
    redis.set("version:text", "no counter");
    redis.cli(&["SADD", "version:set", "a"]);
    send(&mut lane(&redis), Verb::BumpMatching, ["version:*", "missing:*"]).await;
    let value = |key| redis.get(key).unwrap();
    assert_eq!([value("version:1"), value("version:2"), value("other:1")], ["6", "6", "5"]);
    assert_eq!(value("version:text"), "no counter");
    assert_eq!(keys(&redis, b"*").len(), 5);
}

#[tokio::test]
async fn an_empty_database_ends_every_scan() {
    let redis = Redis::start();
    let mut lane = lane(&redis);
    for verb in [Verb::DeleteMatching, Verb::BumpMatching, Verb::TagMatching] {
        send(&mut lane, verb, ["*"]).await;
    }
    assert!(keys(&redis, b"*").is_empty());
}
