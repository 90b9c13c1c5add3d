//! Every verb, with keys on all masters, and what `check` says.

use testkit::redis::{RedisCluster, Reply};
use walpurge::action::Verb;
use walpurge::key_type::KeyType;
use walpurge::sinks::redis::{Duties, KeyPattern, RedisConfig, TagMode, check, count, least_acl};

use super::{
    NODE_TIMEOUT, at, batch, cache_with_tag, exists, lane, left, names, options, send, set,
    topology,
};
use walpurge::action::Action;

const VERBS: [Verb; 13] = [
    Verb::Delete,
    Verb::DeleteMatching,
    Verb::DeleteTyped(KeyType::Hash),
    Verb::Bump,
    Verb::BumpMatching,
    Verb::Tag,
    Verb::TagMatching,
    Verb::Publish,
    Verb::Expire,
    Verb::ExpireMatching,
    Verb::ExpireTyped(KeyType::Hash),
    Verb::ExpireTag,
    Verb::ExpireTagMatching,
];

#[tokio::test]
async fn every_verb_reaches_all_masters_with_no_more_than_the_printed_rights() {
    let cluster = RedisCluster::start(3, false, NODE_TIMEOUT);
    let login = |url: &String| url.replace("redis://", "redis://app:geheim@");
    let urls: Vec<_> = cluster.urls().iter().map(login).collect();
    // One node is enough to find the others.
    let mut members = options(&urls[2..]);
    members.prefix = "shop:".into();
    let mut counters = members.clone();
    counters.tag_mode = TagMode::Version;
    let config = RedisConfig::new(members.clone()).unwrap();

    let refused = check(&config, &Duties::of(&VERBS)).await;
    assert!(refused.iter().all(|line| !line.ok), "{refused:?}");
    let grant = |config: &RedisConfig| {
        let line = least_acl(&Duties::of(&VERBS), config).replace("PASSWORD", "geheim");
        for node in 0..3 {
            let args: Vec<_> = line.split(' ').collect();
            assert_eq!(cluster.node(node).cmd(&args), Reply::Simple("OK".into()), "{line}");
        }
    };
    grant(&config);
    let lines = check(&config, &Duties::of(&VERBS)).await;
    assert!(lines.iter().all(|line| line.ok), "{lines:#?}");
    assert!(lines[0].what.contains("3 masters with 16384 of 16384 slots"), "{lines:#?}");
    assert_eq!(lines.len(), 1 + 3 + VERBS.len(), "{lines:#?}");

    let mut lane = lane(&topology(members));
    let keys = names("shop:k:", 300);
    keys.iter().for_each(|key| set(&cluster, key));
    let tagged = names("shop:{k:9}:", 20);
    tagged.iter().for_each(|key| set(&cluster, key));
    let values = |keys: &[String]| -> Vec<String> {
        keys.iter().map(|key| key.trim_start_matches("shop:").to_owned()).collect()
    };
    let gone: Vec<_> = keys[..250].iter().chain(&tagged[..10]).cloned().collect();
    let report = send(&mut lane, Verb::Delete, values(&gone)).await;
    assert_eq!((report.requested, report.removed), (260, 260));
    assert_eq!(left(&cluster, &gone), [""; 0]);
    assert_eq!(left(&cluster, &keys[250..]).len() + left(&cluster, &tagged[10..]).len(), 60);

    let patterns =
        [KeyPattern::new(Action { verb: Verb::DeleteMatching, value: b"k:*" }, &config).unwrap()];
    let counts = count(&config, &patterns, &Duties::of(&VERBS)).await.unwrap();
    assert_eq!((counts.keys, counts.matching), (Some(60), vec![50]));

    let report = send(&mut lane, Verb::DeleteMatching, ["k:2*", "{k:9}:1*"]).await;
    assert_eq!(report.removed, 60);
    assert_eq!(left(&cluster, &keys).len() + left(&cluster, &tagged).len(), 0);

    // Times that are cut, alone, by patterns, and beside a deletion in one pass.
    keys.iter().for_each(|key| set(&cluster, key));
    let report = send(&mut lane, Verb::Expire, keys[..100].iter().map(cut)).await;
    assert_eq!((report.requested, report.removed), (100, 100));
    assert_eq!(uncut(&cluster, &keys), keys[100..].iter().collect::<Vec<_>>());
    let mut mixed = batch(Verb::ExpireMatching, [cut("shop:k:2*")]);
    mixed.push(Action { verb: Verb::DeleteMatching, value: b"k:29*" });
    assert_eq!(super::send_batch(&mut lane, &mixed).await.rejected, []);
    assert_eq!(left(&cluster, &keys[290..]), [""; 0]);
    assert_eq!(uncut(&cluster, &keys[200..290]), [""; 0]);
    assert_eq!(uncut(&cluster, &keys[100..200]).len(), 100);
    let tagged = names("shop:e:", 60);
    tagged.iter().for_each(|key| cache_with_tag(&cluster, "shop:tags:e", key));
    let left_over = names("shop:f:", 10);
    for key in &left_over {
        cache_with_tag(&cluster, "shop:tags:f{shop:tags:f}walpurge:invalidating", key);
    }
    let report = send(&mut lane, Verb::ExpireTag, ["shop:e", "shop:f", "shop:none"].map(cut)).await;
    assert_eq!((report.requested, report.removed), (70, 70));
    assert_eq!(uncut(&cluster, &tagged).len() + uncut(&cluster, &left_over).len(), 0);
    let others = names("shop:g:", 30);
    others.iter().for_each(|key| cache_with_tag(&cluster, "shop:tags:g", key));
    send(&mut lane, Verb::ExpireTagMatching, [cut("shop:g*")]).await;
    assert_eq!(uncut(&cluster, &others), [""; 0]);
    send(&mut lane, Verb::Tag, ["e", "f", "g"]).await;
    assert_eq!(left(&cluster, &tagged).len() + left(&cluster, &others).len(), 0, "still listed");
    keys.iter().for_each(|key| drop(at(&cluster, key, &["DEL", key])));

    // Keys of one type, where all patterns want that, and beside others.
    for key in &keys[..100] {
        at(&cluster, key, &["HSET", key, "field", "value"]);
    }
    keys[100..].iter().for_each(|key| set(&cluster, key));
    let report = send(&mut lane, Verb::DeleteTyped(KeyType::Hash), ["k:1*", "k:2*"]).await;
    // 1, 2, 10 to 29.
    assert_eq!((report.requested, report.removed), (22, 22));
    let mut mixed = batch(Verb::DeleteTyped(KeyType::Hash), ["k:*"]);
    mixed.push(Action { verb: Verb::DeleteTyped(KeyType::List), value: b"k:*" });
    mixed.push(Action { verb: Verb::DeleteMatching, value: b"k:29*" });
    mixed.push(Action { verb: Verb::ExpireTyped(KeyType::String), value: b"500000\0k:28*" });
    assert_eq!(super::send_batch(&mut lane, &mixed).await.rejected, []);
    assert_eq!(left(&cluster, &keys[..100]), [""; 0]);
    assert_eq!(left(&cluster, &keys[100..]).len(), 190);
    assert_eq!(uncut(&cluster, &keys[100..290]).len(), 180);
    keys.iter().for_each(|key| drop(at(&cluster, key, &["DEL", key])));

    // Counters, of which one is no number.
    let versions = names("shop:v:", 30);
    send(&mut lane, Verb::Bump, values(&versions)).await;
    let before: Vec<u64> = versions.iter().map(|key| number(&cluster, key)).collect();
    send(&mut lane, Verb::BumpMatching, ["v:*"]).await;
    for (key, before) in versions.iter().zip(&before) {
        assert_eq!(number(&cluster, key), before + 1);
        assert!(*before > 1_700_000_000_000_000);
    }
    at(&cluster, "shop:v:1", &["SET", "shop:v:1", "page"]);
    at(&cluster, "shop:v:2", &["DEL", "shop:v:2"]);
    let outcome = lane.send(&batch(Verb::Bump, ["v:1", "v:2", "v:3"])).await.unwrap();
    assert_eq!(outcome.rejected.iter().map(|rejected| rejected.index).collect::<Vec<_>>(), [0]);
    assert!(number(&cluster, "shop:v:2") > before[2], "an evicted counter goes on above");

    // Tags whose members lie everywhere, one with a crash's leftover, one within its own slot.
    let everywhere = names("shop:m:", 60);
    everywhere.iter().for_each(|key| cache_with_tag(&cluster, "shop:tags:a", key));
    let left_over = names("shop:l:", 10);
    for key in &left_over {
        cache_with_tag(&cluster, "shop:tags:b{shop:tags:b}walpurge:invalidating", key);
    }
    let near = names("shop:{n}:", 30);
    near.iter().for_each(|key| cache_with_tag(&cluster, "shop:tags:{n}", key));
    let others = names("shop:o:", 30);
    others.iter().for_each(|key| cache_with_tag(&cluster, "shop:tags:o", key));
    let report = send(&mut lane, Verb::Tag, ["a", "b", "{n}", "none"]).await;
    assert_eq!(report.removed, 100);
    for keys in [&everywhere, &left_over, &near] {
        assert_eq!(left(&cluster, keys), [""; 0]);
    }
    for set in ["shop:tags:a", "shop:tags:{n}", "shop:tags:b{shop:tags:b}walpurge:invalidating"] {
        assert!(!exists(&cluster, set));
    }
    assert_eq!(left(&cluster, &others).len(), 30);
    send(&mut lane, Verb::TagMatching, ["o*"]).await;
    assert_eq!(left(&cluster, &others), [""; 0]);

    // A tag that is a counter.
    grant(&RedisConfig::new(counters.clone()).unwrap());
    let mut lane = super::lane(&topology(counters));
    send(&mut lane, Verb::Tag, ["c"]).await;
    let before = number(&cluster, "shop:tags:c");
    send(&mut lane, Verb::TagMatching, ["c*"]).await;
    assert_eq!(number(&cluster, "shop:tags:c"), before + 1);

    // A message reaches a subscriber of whichever node.
    let mut subscribers: Vec<_> = (0..3).map(|node| cluster.node(node).client().unwrap()).collect();
    for subscriber in &mut subscribers {
        subscriber.cmd(&["SUBSCRIBE", "news"]).unwrap();
    }
    send(&mut lane, Verb::Publish, ["news\0one"]).await;
    for subscriber in &mut subscribers {
        assert!(subscriber.read_reply().unwrap().to_string().ends_with("one"));
    }
}

/// An expiry's value for what has the prefix.
fn cut(key: impl AsRef<str>) -> String {
    format!("500000\0{}", key.as_ref().trim_start_matches("shop:"))
}

/// Those of `keys` that would live for ever.
#[track_caller]
fn uncut<'a>(cluster: &RedisCluster, keys: &'a [String]) -> Vec<&'a str> {
    let is_uncut = |key: &&str| at(cluster, key, &["PTTL", key]) == Reply::Int(-1);
    keys.iter().map(String::as_str).filter(is_uncut).collect()
}

#[track_caller]
fn number(cluster: &RedisCluster, key: &str) -> u64 {
    at(cluster, key, &["GET", key]).to_string().parse().expect("a number")
}

#[tokio::test]
async fn a_single_server_is_told_from_a_cluster() {
    let redis = testkit::redis::Redis::start();
    let url = format!("redis://127.0.0.1:{}", redis.port());
    let mut lane = lane(&topology(options(&[url])));
    let failure = lane.send(&batch(Verb::Delete, ["a"])).await.unwrap_err();
    let (message, hint) = failure.into_parts();
    assert!(message.contains("no cluster"), "{message}");
    assert!(hint.unwrap().contains("redis.cache.url"));
}
