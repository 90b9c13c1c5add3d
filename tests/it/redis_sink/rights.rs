//! Passwords, rights, and the ways to connect.

use testkit::redis::{Redis, Reply};
use walpurge::action::{Address, Verb};
use walpurge::key_type::KeyType;
use walpurge::sinks::redis::{Duties, RedisConfig, RedisOptions, TagMode, check, least_acl};

use super::certificates::Certificates;
use super::{batch, cache_with_tag, lane_with, outage, refused, run, send, set_all};

const VERBS: [Verb; 12] = [
    Verb::Delete,
    Verb::DeleteMatching,
    Verb::DeleteTyped(KeyType::String),
    Verb::Bump,
    Verb::BumpMatching,
    Verb::Tag,
    Verb::TagMatching,
    Verb::Expire,
    Verb::ExpireMatching,
    Verb::ExpireTyped(KeyType::String),
    Verb::ExpireTag,
    Verb::ExpireTagMatching,
];

#[tokio::test]
async fn a_wrong_password_is_refused_and_shown_nowhere() {
    let redis = Redis::builder().password("richtig").start();
    for (credentials, code) in
        [("", "NOAUTH"), (":geheim@", "WRONGPASS"), ("u:geheim@", "WRONGPASS")]
    {
        let url = redis.url().replace("redis://", &format!("redis://{credentials}"));
        let mut lane = lane_with(&url, |_| {});
        let (message, hint) = refused(lane.send(&batch(Verb::Delete, ["a"])).await);
        assert!(message.contains(code) && hint.contains("url"), "{message} {hint}");
        assert!(!format!("{message}{hint}").contains("geheim"));
    }
    let url = redis.url().replace("redis://", "redis://:richtig@");
    send(&mut lane_with(&url, |_| {}), Verb::Delete, ["a"]).await;
}

#[tokio::test]
async fn a_user_that_needs_no_password_is_named_alone() {
    let redis = Redis::builder().password("richtig").acl("app on nopass ~* +@all").start();
    let url = redis.url().replace("redis://", "redis://app@");
    send(&mut lane_with(&url, |_| {}), Verb::Delete, ["a"]).await;
}

#[tokio::test]
async fn a_user_without_unlink_is_refused_with_the_line_that_grants_it() {
    let redis = Redis::builder().acl("app on >geheim ~* +ping +client|setname").start();
    let url = redis.url().replace("redis://", "redis://app:geheim@");
    let mut lane = lane_with(&url, |_| {});
    set_all(&redis, ["a"]);
    let (message, hint) = refused(lane.send(&batch(Verb::Delete, ["a"])).await);
    assert!(message.contains("NOPERM"), "{message}");
    assert!(!hint.contains("PASSWORD"), "{hint}");
    grant(&redis, &hint);
    // The same lane goes on once the right is there.
    assert_eq!(send(&mut lane, Verb::Delete, ["a"]).await.removed, 1);
}

/// Runs the line as an operator would.
#[track_caller]
fn grant(redis: &Redis, line: &str) {
    let line = line.replace("PASSWORD", "geheim");
    let args: Vec<_> = line.split(' ').collect();
    assert_eq!(redis.cmd(&args), Reply::Simple("OK".into()), "{line}");
}

#[tokio::test]
async fn the_least_rights_suffice_for_every_verb_and_for_its_check() {
    for tag_mode in [TagMode::Members, TagMode::Version] {
        for verb in VERBS {
            let redis = Redis::start();
            let mut options =
                RedisOptions::new("cache", redis.url().replace("redis://", "redis://app:geheim@"));
            options.prefix = "shop:".into();
            options.tag_mode = tag_mode;
            let config = RedisConfig::new(options.clone()).unwrap();
            grant(&redis, &least_acl(&Duties::of(&[verb]), &config));
            run(&redis, &cache_with_tag("shop:tags:a", "shop:member"));
            set_all(&redis, ["shop:a"]);
            if tag_mode == TagMode::Version {
                run(&redis, &[vec!["SET", "shop:tags:a", "1"]]);
            }
            if matches!(verb, Verb::Bump | Verb::BumpMatching) {
                run(&redis, &[vec!["SET", "shop:a", "1"]]);
            }
            let mut lane = lane_with(&redis.url(), |lane| *lane = options);
            let value = if verb.expires() { "10000\0a" } else { "a" };
            send(&mut lane, verb, [value]).await;
            let is_cut = |key| redis.cmd(&["PTTL", key]) != Reply::Int(-1);
            let changed = match (verb, tag_mode) {
                (Verb::Expire | Verb::ExpireMatching, _) => is_cut("shop:a"),
                (Verb::ExpireTyped(_), _) => is_cut("shop:a"),
                (Verb::DeleteTyped(_), _) => !redis.exists("shop:a"),
                (Verb::ExpireTag | Verb::ExpireTagMatching, TagMode::Members) => {
                    is_cut("shop:member")
                }
                (Verb::Delete | Verb::DeleteMatching, _) => !redis.exists("shop:a"),
                (Verb::Bump | Verb::BumpMatching, _) => redis.get("shop:a").unwrap() == "2",
                (_, TagMode::Members) => !redis.exists("shop:member"),
                (_, TagMode::Version) => redis.get("shop:tags:a").unwrap() == "2",
            };
            assert!(changed, "{verb:?} {tag_mode:?}");
            let lines = check(&config, &Duties::of(&[verb])).await;
            assert!(lines.iter().all(|line| line.ok), "{lines:?}");
            assert!(lines[0].what.contains("version"), "{lines:?}");
            // Nothing was tried that the line does not grant.
            assert_eq!(redis.cmd(&["ACL", "LOG"]), Reply::Array(Some(vec![])), "{verb:?}");
        }
    }
}

#[tokio::test]
async fn the_least_rights_for_a_stream_are_none_for_channels() {
    let redis = Redis::start();
    let mut options =
        RedisOptions::new("cache", redis.url().replace("redis://", "redis://app:geheim@"));
    options.prefix = "shop:".into();
    let config = RedisConfig::new(options.clone()).unwrap();
    let streams = vec![b"inv".to_vec()];
    let duties = Duties { streams, ..Duties::of(&[Verb::Publish]) };
    let line = least_acl(&duties, &config);
    assert!(!line.contains('&') && !line.contains("+publish"), "{line}");
    grant(&redis, &line.replace(" +xadd", ""));
    let mut lane = lane_with(&redis.url(), |lane| *lane = options);
    let message = format!("{}\0text", Address::stream("inv", 10));
    let sent = lane.send(&batch(Verb::Publish, [message.as_bytes()])).await;
    let (_, hint) = refused(sent);
    assert!(hint.contains("+xadd"), "{hint}");
    let lines = check(&config, &duties).await;
    assert!(lines.iter().any(|line| !line.ok), "{lines:?}");
    grant(&redis, &line);
    redis.cmd(&["ACL", "LOG", "RESET"]);
    send(&mut lane, Verb::Publish, [message.as_bytes()]).await;
    assert_eq!(redis.cmd(&["XLEN", "shop:inv"]), Reply::Int(1));
    let lines = check(&config, &duties).await;
    assert!(lines.iter().all(|line| line.ok), "{lines:?}");
    assert_eq!(redis.cmd(&["XLEN", "shop:inv"]), Reply::Int(1), "the trial adds nothing");
    assert_eq!(redis.cmd(&["ACL", "LOG"]), Reply::Array(Some(vec![])));
}

#[tokio::test]
async fn check_names_each_missing_right_and_its_mend() {
    let redis = Redis::builder().acl("app on >geheim ~* +ping +unlink +scan").start();
    let url = redis.url().replace("redis://", "redis://app:geheim@");
    let config = RedisConfig::new(RedisOptions::new("cache", url)).unwrap();
    let lines = check(&config, &Duties::of(&VERBS)).await;
    let ok: Vec<_> = lines.iter().map(|line| line.ok).collect();
    assert!(ok == (0..ok.len()).map(|at| at < 3).collect::<Vec<_>>(), "{lines:#?}");
    assert!(lines[3].hint.as_ref().unwrap().contains("+incr"), "{lines:?}");
    assert!(!format!("{lines:?}").contains("geheim"));
    grant(&redis, lines[3].hint.as_ref().unwrap());
    let lines = check(&config, &Duties::of(&VERBS)).await;
    assert!(lines.iter().all(|line| line.ok), "{lines:?}");
}

#[tokio::test]
async fn check_tells_a_replica_and_an_absent_server() {
    let mut redis = Redis::start();
    redis.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    let config = RedisConfig::new(RedisOptions::new("cache", redis.url())).unwrap();
    let lines = check(&config, &Duties::of(&[Verb::Delete])).await;
    assert!(!lines[1].ok && lines[1].what.contains("primary"), "{lines:?}");
    redis.stop();
    let lines = check(&config, &Duties::of(&[Verb::Delete])).await;
    assert!(lines.len() == 1 && !lines[0].ok, "{lines:?}");
}

#[tokio::test]
async fn a_unix_socket_serves_as_well() {
    let redis = Redis::start();
    set_all(&redis, ["a"]);
    let mut lane = lane_with(&redis.socket_url(), |_| {});
    assert_eq!(send(&mut lane, Verb::Delete, ["a"]).await.removed, 1);
    let mut lane = lane_with("unix:///nowhere/redis.sock", |_| {});
    let message = outage(lane.send(&batch(Verb::Delete, ["a"])).await);
    assert!(message.contains("/nowhere/redis.sock"), "{message}");
}

#[tokio::test]
async fn tls_trusts_the_configured_root_and_no_other() {
    let certificates = Certificates::make();
    let redis = certificates.server(Redis::builder(), "optional").start();
    set_all(&redis, (0..5_000).map(|number| number.to_string()));
    let mut lane = lane_with(&redis.url(), |options| options.tls = certificates.trusting());
    let values: Vec<_> = (0..5_000).map(|number| number.to_string()).collect();
    assert_eq!(send(&mut lane, Verb::Delete, &values).await.removed, 5_000);

    let mut lane = lane_with(&redis.url(), |options| options.tls = certificates.mutual());
    send(&mut lane, Verb::Delete, ["a"]).await;

    // A server that wants a certificate from everybody gets ours, and refuses whoever has none.
    let mutual = certificates.server(Redis::builder(), "yes");
    let mutual = mutual.acl("app on >geheim ~* +@all").start();
    let url = mutual.url().replace("rediss://", "rediss://app:geheim@").replace("/0", "/3");
    run(&mutual, &[vec!["SELECT", "3"], vec!["SET", "a", "cached"]]);
    let mut lane = lane_with(&url, |options| options.tls = certificates.mutual());
    assert_eq!(send(&mut lane, Verb::Delete, ["a"]).await.removed, 1);
    let mut lane = lane_with(&url, |options| options.tls = certificates.trusting());
    outage(lane.send(&batch(Verb::Delete, ["a"])).await);

    let mut lane = lane_with(&redis.url(), |_| {});
    let (message, hint) = refused(lane.send(&batch(Verb::Delete, ["a"])).await);
    assert!(hint.contains("tls_root"), "{message} {hint}");

    let mut lane = lane_with(&redis.url(), |options| {
        options.tls.root = Some(certificates.file("missing.pem"));
    });
    let (message, _) = refused(lane.send(&batch(Verb::Delete, ["a"])).await);
    assert!(message.contains("missing.pem"), "{message}");

    // Plain text to a TLS port is no protocol of Redis, and no panic.
    let url = redis.url().replace("rediss://", "redis://");
    outage(lane_with(&url, |_| {}).send(&batch(Verb::Delete, ["a"])).await);
}
