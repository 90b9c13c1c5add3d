//! Tests of connection strings: what libpq takes, what is refused, and what is never shown.
#![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

use super::read::SOCKET_DIR;
use super::*;

#[track_caller]
fn parsed(text: &str) -> ConnectConfig {
    ConnectConfig::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

#[track_caller]
fn refused(text: &str) -> String {
    match ConnectConfig::parse(text) {
        Ok(config) => panic!("{text:?} was taken: {config:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn urls_and_key_value_strings_mean_the_same() {
    for text in [
        "postgres://me:s%20cret@db.example:5433/shop?sslmode=require&application_name=w",
        "postgresql://me:s%20cret@db.example:5433/shop?application_name=w&sslmode=require",
        "postgres:///shop?host=db.example&port=5433&user=me&password=s%20cret&sslmode=require&application_name=w",
        "host=db.example port = 5433 user=me password='s cret' dbname=shop sslmode=require application_name=w",
        r"host=db.example port=5433 user=me password=s\ cret dbname=shop sslmode=require application_name=w",
    ] {
        let config = parsed(text);
        assert_eq!(config.target(), "me@db.example:5433/shop", "{text}");
        assert_eq!(config.password(), Some("s cret"), "{text}");
        assert_eq!(config.sslmode, SslMode::Require, "{text}");
        assert_eq!(config.application_name(), "w", "{text}");
    }
}

#[test]
fn defaults_are_libpqs_with_bounds() {
    let config = parsed("postgres://me@h");
    assert_eq!(config.target(), "me@h:5432/me");
    assert_eq!(config.sslmode, SslMode::Prefer);
    assert_eq!(config.application_name(), "walpurge");
    assert_eq!(config.connect_timeout, Duration::from_secs(10));
    assert_eq!(config.tcp_user_timeout, Duration::from_secs(30));
    assert_eq!(config.keepalive.map(|k| k.idle), Some(Duration::from_secs(30)));
    assert_eq!(parsed("user=me").hosts[0].host, Host::Unix(SOCKET_DIR.into()));
}

#[test]
fn times_have_libpqs_units() {
    let config = parsed(
        "host=h user=me connect_timeout=3 tcp_user_timeout=1500 keepalives_idle=7 keepalives_count=9",
    );
    assert_eq!(config.connect_timeout, Duration::from_secs(3));
    assert_eq!(config.tcp_user_timeout, Duration::from_millis(1500));
    let keepalive = config.keepalive.unwrap();
    assert_eq!((keepalive.idle, keepalive.count), (Duration::from_secs(7), 9));
    assert_eq!(parsed("host=h user=me keepalives=0").keepalive, None);
}

#[test]
fn several_hosts_have_their_own_ports_and_addresses() {
    let config = parsed("postgres://me@a:1,b,[::1]:3/d");
    let hosts: Vec<String> = config.hosts.iter().map(HostSpec::to_string).collect();
    assert_eq!(hosts, ["a:1", "b:5432", "[::1]:3"]);
    let config = parsed("host=a,b port=7 hostaddr=10.0.0.1,10.0.0.2 user=me");
    assert_eq!(config.hosts[1].hostaddr, Some("10.0.0.2".parse().unwrap()));
    assert_eq!(config.hosts[1].port, 7);
    assert!(refused("host=a,b port=1,2,3 user=me").contains("port"));
    assert!(refused("host=a,b hostaddr=10.0.0.1 user=me").contains("hostaddr"));
}

#[test]
fn unix_sockets_come_in_three_spellings() {
    for text in [
        "postgres://me@%2Frun%2Fpg:5433/d",
        "postgres:///d?host=/run/pg&port=5433&user=me",
        "host=/run/pg port=5433 user=me dbname=d",
    ] {
        assert_eq!(parsed(text).target(), "me@/run/pg:5433/d", "{text}");
    }
}

#[test]
fn a_bad_value_is_named_with_what_is_allowed() {
    let error = refused("postgres://me@h/d?sslmode=verify");
    assert_eq!(
        error,
        r#"sslmode = "verify": allowed are disable, allow, prefer, require, verify-ca, verify-full"#
    );
    assert!(refused("postgres://me@h?target_session_attrs=rw").contains("prefer-standby"));
    assert!(refused("postgres://me@h?connect_timeout=soon").contains("whole numbers"));
    assert_eq!(
        refused("postgres://me@h?ssl_mode=require"),
        r#"unknown key "ssl_mode": did you mean "sslmode"?"#
    );
}

#[test]
fn tls_settings_that_would_check_nothing_are_refused() {
    assert!(refused("postgres://me@h?sslmode=verify-ca").contains("sslrootcert"));
    assert!(refused("postgres://me@h?sslmode=require&sslrootcert=system").contains("verify-full"));
    assert!(refused("postgres://me@h?sslcert=a").contains("sslkey"));
    assert!(refused("postgres://me@h?sslnegotiation=direct").contains("require"));
    parsed("postgres://me@h?sslmode=verify-full");
}

#[test]
fn a_password_is_never_shown() {
    for text in [
        "postgres://me:hunter2@h:x/d",
        "postgres://me:hun@ter2@h/d",
        "postgres://me:hunt/er2@h:1/d?sslmode=bad",
        "postgres://hunter2:5x/y",
        "postgres://me:x@h/d?password=a&hunter2=b",
        "user=me password=a hunter2=c",
        "user=me password='hunter2",
        "user=me password=a hunter2",
        "mysql://me:hunter2@h",
    ] {
        let error = refused(text);
        for part in ["hunter2", "hun", "ter2", "er2"] {
            assert!(!error.contains(part), "{text}: {error}");
        }
    }
    let config = parsed("postgres://me:hunter2@h/d");
    assert!(!format!("{config:?} {}", config.target()).contains("hunter2"));
}

proptest::proptest! {
    #[test]
    fn any_text_is_parsed_without_a_panic(text in "(postgres://)?\\PC{0,60}") {
        let _ = ConnectConfig::parse(&text);
    }

    #[test]
    fn any_password_survives_quoting(password in "[^\\x00]{1,20}") {
        let quoted = password.replace('\\', r"\\").replace('\'', r"\'");
        let config = parsed(&format!("host=h user=me password='{quoted}'"));
        proptest::prop_assert_eq!(config.password(), Some(password.as_str()));
    }
}
