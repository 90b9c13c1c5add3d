//! Sentinels and servers that want TLS, certificates and passwords, each pair its own.

use std::sync::Arc;
use std::time::Duration;

use testkit::redis::Sentinels;
use walpurge::action::Verb;
use walpurge::sinks::redis::{
    Duties, LaneClass, RedisConfig, RedisLane, RedisOptions, RedisTls, SentinelOptions, check,
};

use super::certificates::Certificates;
use super::{batch, outage, refused, send};

/// Longer than the test may take to fail over by itself.
const NEVER: Duration = Duration::from_secs(600);

const PATIENCE: Duration = Duration::from_secs(60);

/// The password of the Sentinels in `nodes`, and of the servers beside them.
fn lane(sentinels: &Sentinels, of_nodes: &str, of_server: &str, tls: RedisTls) -> RedisLane {
    RedisLane::new(Arc::new(config(sentinels, of_nodes, of_server, tls)), LaneClass::Precise)
}

fn config(sentinels: &Sentinels, of_nodes: &str, of_server: &str, tls: RedisTls) -> RedisConfig {
    let login = format!("rediss://:{of_nodes}@");
    let nodes = sentinels.urls().into_iter().map(|url| url.replace("rediss://", &login).into());
    let sentinel = SentinelOptions {
        master: sentinels.name().to_owned(),
        nodes: nodes.collect(),
        user: Some("app".to_owned()),
        password: Some(of_server.into()),
        db: 2,
        ..SentinelOptions::default()
    };
    let options = RedisOptions { sentinel: Some(sentinel), tls, ..RedisOptions::new("cache", "") };
    RedisConfig::new(options).unwrap()
}

#[tokio::test]
async fn sentinels_and_servers_that_want_tls_and_passwords_are_followed_through_a_failover() {
    let certificates = Certificates::make();
    let server = |builder| {
        certificates
            .server(builder, "yes")
            .password("server")
            .config("masterauth", "server")
            .config("tls-replication", "yes")
            .acl("app on >geheim ~* +@all")
    };
    let node = |builder| {
        certificates
            .server(builder, "yes")
            .password("node")
            .config("tls-replication", "yes")
            .config("sentinel", &format!("auth-pass {} server", Sentinels::NAME))
            .config("sentinel", "sentinel-pass node")
    };
    let sentinels = Sentinels::of(NEVER, server, node);
    let [old, new] = &sentinels.servers;
    // In the database that is asked for.
    old.cli(&["SELECT", "2"]);
    old.cli(&["MSET", "a", "cached", "b", "cached", "kept", "cached"]);
    let mutual = certificates.mutual();
    let checked = config(&sentinels, "node", "geheim", mutual.clone());
    let lines = check(&checked, &Duties::of(&[Verb::Delete])).await;
    assert!(lines.iter().all(|line| line.ok), "{lines:#?}");
    let mut following = lane(&sentinels, "node", "geheim", mutual.clone());
    assert_eq!(send(&mut following, Verb::Delete, ["a"]).await.removed, 1);

    // What is wrong is told, and no password with it.
    let mut wrong = lane(&sentinels, "falsch", "geheim", mutual.clone());
    let (message, hint) = refused(wrong.send(&batch(Verb::Delete, ["b"])).await);
    assert!(message.contains("WRONGPASS") && !message.contains("falsch"), "{message} {hint}");
    let mut wrong = lane(&sentinels, "node", "falsch", mutual.clone());
    let (message, hint) = refused(wrong.send(&batch(Verb::Delete, ["b"])).await);
    assert!(message.contains("WRONGPASS") && !message.contains("falsch"), "{message} {hint}");
    let mut without = lane(&sentinels, "node", "geheim", certificates.trusting());
    outage(without.send(&batch(Verb::Delete, ["b"])).await);
    let mut distrusting = lane(&sentinels, "node", "geheim", RedisTls::default());
    let (message, hint) = refused(distrusting.send(&batch(Verb::Delete, ["b"])).await);
    assert!(hint.contains("tls_root"), "{message} {hint}");

    sentinels.fail_over();
    new.cli(&["SELECT", "2"]);
    assert!(new.exists("b"));
    let deadline = std::time::Instant::now() + PATIENCE;
    while new.exists("b") {
        assert!(std::time::Instant::now() < deadline, "it does not find the new master");
        let _ = following.send(&batch(Verb::Delete, ["b"])).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(new.exists("kept"));
}
