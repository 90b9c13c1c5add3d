//! A cluster that wants TLS, certificates and a user.

use testkit::redis::{RedisCluster, Reply};
use walpurge::action::Verb;
use walpurge::sinks::Failure;
use walpurge::sinks::redis::{Duties, RedisConfig, RedisOptions, RedisTls, check, least_acl};

use super::{NODE_TIMEOUT, batch, cache_with_tag, lane, left, names, send, set, topology};
use crate::redis_sink::certificates::Certificates;

const VERBS: [Verb; 3] = [Verb::Delete, Verb::DeleteMatching, Verb::Tag];

/// A sink that logs in so.
fn options(cluster: &RedisCluster, login: &str, tls: RedisTls) -> RedisOptions {
    let urls = cluster.urls();
    // One node is enough to find the others, which are reached in the same way.
    let urls: Vec<_> = urls[1..2].iter().map(|url| url.replace("://", login)).collect();
    RedisOptions { tls, ..super::options(&urls) }
}

#[track_caller]
fn failed<T: std::fmt::Debug>(outcome: Result<T, Failure>) -> String {
    let (message, hint) = outcome.unwrap_err().into_parts();
    format!("{message} {}", hint.unwrap_or_default())
}

#[tokio::test]
async fn a_cluster_is_reached_over_mutual_tls_by_a_user_with_few_rights() {
    let certificates = Certificates::make();
    let cluster = RedisCluster::with(3, false, NODE_TIMEOUT, |_, builder| {
        certificates.server(builder, "yes").config("tls-cluster", "yes")
    });
    let login = "://app:geheim@";
    let config = RedisConfig::new(options(&cluster, login, certificates.mutual())).unwrap();
    let line = least_acl(&Duties::of(&VERBS), &config).replace("PASSWORD", "geheim");
    for node in 0..3 {
        let args: Vec<_> = line.split(' ').collect();
        assert_eq!(cluster.node(node).cmd(&args), Reply::Simple("OK".into()), "{line}");
    }
    let lines = check(&config, &Duties::of(&VERBS)).await;
    assert!(lines.iter().all(|line| line.ok), "{lines:#?}");
    // Each server's name: it speaks TLS alone.
    assert!(lines[0].what.contains("3 masters"), "{lines:#?}");

    let keys = names("k:", 300);
    keys.iter().for_each(|key| set(&cluster, key));
    let members = names("m:", 60);
    members.iter().for_each(|key| cache_with_tag(&cluster, "tags:t", key));
    set(&cluster, "kept");
    let mut mutual = lane(&topology(options(&cluster, login, certificates.mutual())));
    assert_eq!(send(&mut mutual, Verb::Delete, &keys[..200]).await.removed, 200);
    assert_eq!(send(&mut mutual, Verb::Tag, ["t"]).await.removed, 60);
    assert_eq!(send(&mut mutual, Verb::DeleteMatching, ["k:*"]).await.removed, 100);
    assert_eq!(left(&cluster, &keys), [""; 0]);
    assert_eq!(left(&cluster, &members), [""; 0]);

    let one = batch(Verb::Delete, ["kept"]);
    let mut bare = lane(&topology(options(&cluster, login, certificates.trusting())));
    failed(bare.send(&one).await);
    let mut distrusting = lane(&topology(options(&cluster, login, RedisTls::default())));
    let said = failed(distrusting.send(&one).await);
    assert!(said.contains("tls_root"), "{said}");
    let wrong = options(&cluster, "://app:falsch@", certificates.mutual());
    let said = failed(lane(&topology(wrong)).send(&one).await);
    assert!(said.contains("WRONGPASS") && !said.contains("falsch"), "{said}");
    assert_eq!(left(&cluster, &["kept".to_owned()]), ["kept"]);

    // Servers that ask nobody for a certificate.
    for node in 0..3 {
        cluster.node(node).cli(&["CONFIG", "SET", "tls-auth-clients", "no"]);
    }
    let mut bare = lane(&topology(options(&cluster, login, certificates.trusting())));
    assert_eq!(send(&mut bare, Verb::Delete, ["kept"]).await.removed, 1);
}
