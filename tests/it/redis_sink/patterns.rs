//! Everything that matches.

use testkit::redis::{Redis, Reply};
use walpurge::action::{Action, Batch, Verb};
use walpurge::glob;
use walpurge::key_type::KeyType;

use super::{keys, lane, run, send, set_all};

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

/// Keys of every type, under each of some starts.
fn fill_types(redis: &Redis, starts: &[&str]) {
    for start in starts {
        let key = |of: &str| format!("{start}:{of}");
        let commands = [
            vec!["SET".into(), key("string"), "v".into()],
            vec!["HSET".into(), key("hash"), "f".into(), "v".into()],
            vec!["RPUSH".into(), key("list"), "v".into()],
            vec!["SADD".into(), key("set"), "v".into()],
            vec!["ZADD".into(), key("zset"), "1".into(), "v".into()],
            vec!["XADD".into(), key("stream"), "*".into(), "f".into(), "v".into()],
        ];
        run(redis, &commands);
    }
}

/// How many calls of a command Redis has counted.
fn calls(redis: &Redis, command: &str) -> u64 {
    let stats = redis.cli(&["INFO", "commandstats"]);
    let start = format!("cmdstat_{command}:calls=");
    let calls = stats.lines().find_map(|line| line.strip_prefix(&start));
    calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn a_pattern_of_a_type_spares_all_others() {
    for of in KeyType::ALL {
        let redis = Redis::start();
        fill_types(&redis, &["a", "b", "c"]);
        let mut lane = lane(&redis);
        let report = send(&mut lane, Verb::DeleteTyped(of), ["a:*", "b:*"]).await;
        assert_eq!((report.requested, report.removed), (2, 2), "{of:?}");
        assert_eq!(calls(&redis, "type"), 0, "the server leaves out the others");
        assert_eq!(keys(&redis, b"*").len(), 16);
        for start in ["a", "b"] {
            assert!(!redis.exists(&format!("{start}:{}", of.name())));
        }
    }
}

#[tokio::test]
async fn patterns_of_several_types_share_a_pass() {
    let redis = Redis::start();
    let mut lane = lane(&redis);
    let names: Vec<_> = (0..3000).map(|number| format!("many:{number}")).collect();
    set_all(&redis, &names);
    fill_types(&redis, &["a", "b", "c", "d"]);
    send(&mut lane, Verb::DeleteMatching, ["none:*"]).await;
    let one = scans(&redis);
    let mut mixed = Batch::default();
    for (verb, value) in [
        (Verb::DeleteTyped(KeyType::Set), "a:*"),
        (Verb::DeleteTyped(KeyType::Hash), "a:*"),
        (Verb::DeleteMatching, "b:*"),
        (Verb::DeleteTyped(KeyType::String), "b:*"),
        (Verb::ExpireTyped(KeyType::List), "100000\0c:*"),
        (Verb::DeleteTyped(KeyType::Stream), "many:*"),
    ] {
        mixed.push(Action { verb, value: value.as_bytes() });
    }
    let report = lane.send(&mixed).await.unwrap();
    assert_eq!((report.requested, report.removed), (2 + 6 + 1, 2 + 6 + 1));
    assert!(scans(&redis) <= 2 * one + 1, "{} and {one}", scans(&redis));
    assert_eq!(calls(&redis, "type"), 6 + 6 + 3000, "of which something depends");
    for gone in ["a:set", "a:hash", "b:string", "b:zset"] {
        assert!(!redis.exists(gone), "{gone}");
    }
    let left = |key: &str| redis.cmd(&["PTTL", key]);
    assert_ne!(left("c:list"), Reply::Int(-1));
    for kept in ["a:string", "a:list", "c:string", "d:set", "many:0", "many:2999"] {
        assert_eq!(left(kept), Reply::Int(-1), "{kept}");
    }
}
