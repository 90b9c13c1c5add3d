//! What options make a sink, and what is said of the others.

#![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

use secrecy::ExposeSecret;

use super::*;

fn config(url: &str) -> Result<RedisConfig, RedisConfigError> {
    RedisConfig::new(RedisOptions::new("cache", url))
}

#[test]
fn a_url_gives_address_database_and_credentials() {
    for (url, target, user, password) in [
        ("redis://localhost", "redis://localhost:6379/0", None, None),
        ("redis://h:1/2", "redis://h:1/2", None, None),
        ("redis://[::1]:7/", "redis://[::1]:7/0", None, None),
        ("rediss://u:p%40ss@h/3", "rediss://h:6379/3", Some("u"), Some("p@ss")),
        ("redis://:geheim@h", "redis://h:6379/0", None, Some("geheim")),
        ("unix:///run/r.sock?db=1&pass=geheim", "unix:///run/r.sock?db=1", None, Some("geheim")),
    ] {
        let config = config(url).unwrap();
        assert_eq!(config.target(), target, "{url}");
        assert_eq!(config.user.as_deref(), user, "{url}");
        assert_eq!(config.password.as_ref().map(|p| p.expose_secret()), password, "{url}");
    }
}

#[test]
fn a_bad_url_is_explained_and_never_quoted() {
    for url in [
        "",
        "geheim",
        "localhost:6379/geheim",
        "http://u:geheim@h",
        "redis://:geheim@",
        "redis://:geheim@h:99999",
        "redis://:geheim@h/x",
        "redis://:geheim@h/-1",
        "rediss://:geheim@h/#insecure",
        "rediss://:geheim@h/#other",
        "redis://:ge%ffheim@h/",
        "unix://?pass=geheim",
        "redis://h/?protocol=geheim",
    ] {
        let error = config(url).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert_eq!(error.key, "url");
        assert!(!shown.contains("heim"), "{shown}");
    }
}

fn cluster(urls: &[&str]) -> Result<RedisConfig, RedisConfigError> {
    let cluster = urls.iter().map(|url| SecretString::from(*url)).collect();
    RedisConfig::new(RedisOptions { cluster, ..RedisOptions::new("cache", "") })
}

#[test]
fn a_clusters_nodes_share_what_their_urls_say() {
    let config = cluster(&["rediss://u:geheim@a", "rediss://u:geheim@[::1]:7000/0"]).unwrap();
    assert!(config.is_cluster());
    assert_eq!(config.target(), "rediss://a:6379,[::1]:7000 (cluster)");
    let node = config.at(&NodeAddress { host: "b".into(), port: 1 }, None);
    assert_eq!((node.target(), node.user.as_deref()), ("rediss://b:1", Some("u")));
    assert_eq!(node.address, Address::Tcp { host: "b".into(), port: 1, tls: true });
    let turned = cluster(&["rediss://u:geheim@[::1]:7000/0", "rediss://u:geheim@a"]).unwrap();
    assert_eq!(turned.key_space(), config.key_space());
    assert_ne!(cluster(&["rediss://u:geheim@a"]).unwrap().key_space(), config.key_space());
}

#[test]
fn a_bad_list_of_nodes_is_explained_and_never_quoted() {
    for urls in [
        &["redis://:geheim@a/1"][..],
        &["unix:///geheim"],
        &["redis://:geheim@a", "redis://a"],
        &["redis://u:geheim@a", "rediss://u:geheim@a"],
        &["redis://a", "geheim"],
    ] {
        let error = cluster(urls).unwrap_err();
        assert_eq!(error.key, "cluster");
        assert!(!error.to_string().contains("geheim"), "{error}");
    }
}

#[test]
fn debug_output_has_no_password() {
    let options = RedisOptions::new("cache", "redis://u:geheim@h/");
    assert!(!format!("{options:?}").contains("geheim"));
    assert!(!format!("{:?}", RedisConfig::new(options).unwrap()).contains("geheim"));
}

#[test]
fn a_tag_key_without_its_placeholder_is_refused() {
    for tag_key in ["tags", "", "tags:{id}", "{tag}{tag}"] {
        let options =
            RedisOptions { tag_key: tag_key.into(), ..RedisOptions::new("c", "redis://h") };
        assert_eq!(RedisConfig::new(options).unwrap_err().key, "tag_key");
    }
}

#[test]
fn patterns_escape_what_the_sink_adds() {
    let options = RedisOptions {
        prefix: "a*:".into(),
        tag_key: "t[{tag}]".into(),
        ..RedisOptions::new("cache", "redis://h")
    };
    let config = RedisConfig::new(options).unwrap();
    assert_eq!(config.key_pattern(b"x*"), br"a\*:x*");
    assert_eq!(config.tag_pattern(b"x*"), br"a\*:t\[x*\]");
}
