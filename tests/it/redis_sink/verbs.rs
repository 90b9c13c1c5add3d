//! Keys and counters.

use testkit::redis::{Redis, Reply};
use walpurge::action::{Action, Batch, Verb};
use walpurge::sinks::redis::TagMode;

use super::{batch, keys, lane, lane_with, run, send, set_all};

/// Keys that a careless request or pattern would mangle.
const ODD_KEYS: [&[u8]; 9] = [
    b"plain",
    b"with space",
    b"line\r\nbreak",
    b"*",
    b"[a-z]?\\",
    b"\xff\xfe",
    b"",
    b"{tag}",
    b"$3\r\nfoo\r\n",
];

#[tokio::test]
async fn delete_removes_odd_keys_and_counts_them() {
    let redis = Redis::start();
    let mut lane = lane(&redis);
    set_all(&redis, ODD_KEYS);
    set_all(&redis, ["kept", "a", "wit", "z"]);
    for key in ODD_KEYS {
        let report = send(&mut lane, Verb::Delete, [key]).await;
        assert_eq!((report.requested, report.removed), (1, 1), "{key:?}");
    }
    let report = send(&mut lane, Verb::Delete, ODD_KEYS).await;
    assert_eq!((report.requested, report.removed), (9, 0));
    assert_eq!(keys(&redis, b"*"), [&b"a"[..], b"kept", b"wit", b"z"]);
}

#[tokio::test]
async fn delete_removes_thousands_of_keys_of_any_type() {
    let redis = Redis::start();
    let names: Vec<_> = (0..20_000).map(|number| format!("product:{number}")).collect();
    set_all(&redis, &names[..5_000]);
    run(
        &redis,
        &[vec!["LPUSH", "list", "a"], vec!["HSET", "hash", "a", "b"], vec!["SADD", "set", "a"]],
    );
    set_all(&redis, ["kept"]);
    let report = send(&mut lane(&redis), Verb::Delete, &names).await;
    assert_eq!((report.requested, report.removed), (20_000, 5_000));
    let report = send(&mut lane(&redis), Verb::Delete, ["list", "hash", "set"]).await;
    assert_eq!(report.removed, 3);
    assert_eq!(keys(&redis, b"*"), [b"kept"]);
}

#[tokio::test]
async fn a_prefix_is_put_before_every_key() {
    let redis = Redis::start();
    let mut lane = lane_with(&redis.url(), |options| options.prefix = "shop*:".into());
    set_all(&redis, ["shop*:a", "a", "shopX:a", "shop*:list:1", "shopX:list:1", "list:1"]);
    send(&mut lane, Verb::Delete, ["a"]).await;
    send(&mut lane, Verb::DeleteMatching, ["list:*"]).await;
    send(&mut lane, Verb::Bump, ["version"]).await;
    assert_eq!(
        keys(&redis, b"*"),
        [&b"a"[..], b"list:1", b"shop*:version", b"shopX:a", b"shopX:list:1"]
    );
}

#[tokio::test]
async fn a_database_of_the_url_is_selected() {
    let redis = Redis::start();
    set_all(&redis, ["a"]);
    let url = redis.url().replace("/0", "/3");
    let report = send(&mut lane_with(&url, |_| {}), Verb::Delete, ["a"]).await;
    assert_eq!(report.removed, 0);
    assert!(redis.exists("a"));
}

fn counter(redis: &Redis, key: &str) -> u64 {
    redis.get(key).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_counter_never_repeats_even_after_eviction() {
    let redis = Redis::start();
    let mut lane = lane(&redis);
    let mut last = 0;
    for round in 0..200 {
        if round % 3 == 0 {
            redis.cli(&["DEL", "version"]);
        }
        // The second time in a batch is one more bump.
        send(&mut lane, Verb::Bump, ["version", "version"]).await;
        let now = counter(&redis, "version");
        assert!(now > last, "{now} after {last}");
        last = now;
    }
}

#[tokio::test]
async fn an_existing_counter_goes_on_from_its_value() {
    let redis = Redis::start();
    redis.set("version", "41");
    redis.cli(&["EXPIRE", "version", "1000"]);
    send(&mut lane(&redis), Verb::Bump, ["version"]).await;
    assert_eq!(counter(&redis, "version"), 42);
    assert_ne!(redis.cli(&["TTL", "version"]), "-1");
}

#[tokio::test]
async fn a_counter_of_the_wrong_type_is_rejected_and_the_others_are_raised() {
    let redis = Redis::start();
    redis.cli(&["LPUSH", "list", "a"]);
    redis.set("text", "geheim");
    redis.set("full", &i64::MAX.to_string());
    let values = ["a", "list", "b", "text", "full", "c"];
    let report = lane(&redis).send(&batch(Verb::Bump, values)).await.unwrap();
    let rejected: Vec<_> = report.rejected.iter().map(|rejected| rejected.index).collect();
    assert_eq!(rejected, [1, 3, 4]);
    assert!(report.rejected[0].reason.contains("WRONGTYPE"));
    assert!(!format!("{report:?}").contains("geheim"));
    assert_eq!(redis.get("text").as_deref(), Some("geheim"));
    for key in ["a", "b", "c"] {
        assert!(counter(&redis, key) > 1_000_000_000_000_000);
    }
}

#[tokio::test]
async fn thousands_of_counters_are_raised() {
    let redis = Redis::start();
    let names: Vec<_> = (0..3_000).map(|number| format!("version:{number}")).collect();
    let report = send(&mut lane(&redis), Verb::Bump, &names).await;
    assert_eq!(report.requested, 3_000);
    assert_eq!(keys(&redis, b"version:*").len(), 3_000);
}

#[tokio::test]
async fn a_tag_is_a_counter_where_tags_are_versions() {
    let redis = Redis::start();
    let mut lane = lane_with(&redis.url(), |options| {
        options.tag_mode = TagMode::Version;
        options.prefix = "p:".into();
        options.tag_key = "v:{tag}:tag".into();
    });
    send(&mut lane, Verb::Tag, ["a", "b"]).await;
    let (a, b) = (counter(&redis, "p:v:a:tag"), counter(&redis, "p:v:b:tag"));
    set_all(&redis, ["p:v:text:tag"]);
    send(&mut lane, Verb::TagMatching, ["a*", "t*"]).await;
    assert_eq!(counter(&redis, "p:v:a:tag"), a + 1);
    assert_eq!(counter(&redis, "p:v:b:tag"), b);
    assert_eq!(redis.get("p:v:text:tag").as_deref(), Some("cached"));
}

#[tokio::test]
async fn one_batch_may_hold_every_verb() {
    let redis = Redis::start();
    set_all(&redis, ["a", "list:1", "member", "member2"]);
    run(&redis, &[vec!["SADD", "tags:t", "member"], vec!["SADD", "tags:u:1", "member2"]]);
    redis.set("version:1", "1");
    let mut batch = Batch::default();
    for (verb, value) in [
        (Verb::TagMatching, "u:*"),
        (Verb::Bump, "version:new"),
        (Verb::Delete, "a"),
        (Verb::BumpMatching, "version:?"),
        (Verb::Tag, "t"),
        (Verb::DeleteMatching, "list:*"),
    ] {
        batch.push(Action { verb, value: value.as_bytes() });
    }
    let report = lane(&redis).send(&batch).await.unwrap();
    assert_eq!((report.removed, report.rejected.len()), (4, 0));
    assert_eq!(keys(&redis, b"*"), [&b"version:1"[..], b"version:new"]);
    assert_eq!(redis.get("version:1").as_deref(), Some("2"));
}

#[tokio::test]
async fn an_idle_connection_that_the_server_closed_is_replaced_without_an_outage() {
    let redis = Redis::start();
    let mut lane = lane(&redis);
    for _ in 0..5 {
        send(&mut lane, Verb::Delete, ["a"]).await;
        assert_eq!(redis.cmd(&["CLIENT", "KILL", "TYPE", "normal"]), Reply::Int(1));
        // The runtime has to hear of it, as it does while a daemon is idle.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
}
