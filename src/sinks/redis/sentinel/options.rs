//! Which Sentinels are asked, for what, and how does one log in to whom they name?

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::Sentinel;
use crate::sinks::redis::config::{
    Address, Login, RedisConfig, RedisConfigError, RedisOptions, RedisTls, Timeouts,
};

/// Where Sentinels listen, unless a URL says otherwise.
const PORT: u16 = 26379;

/// `sentinel = { … }` as it was configured, unchecked.
#[derive(Clone, Debug, Default)]
pub struct SentinelOptions {
    /// The name by which the Sentinels know the server.
    pub master: String,
    /// `redis://` or `rediss://` of each Sentinel, with its own user and password.
    pub nodes: Vec<SecretString>,
    /// The server's user.
    pub user: Option<String>,
    /// The server's password.
    pub password: Option<SecretString>,
    /// The server's database.
    pub db: u32,
    /// Whether the server speaks TLS; `None`: as the Sentinels do.
    pub tls: Option<bool>,
}

impl SentinelOptions {
    /// Checks the options of the sink `name`.
    ///
    /// # Errors
    /// The first key that makes no sense. No error holds any part of a URL.
    pub(in crate::sinks::redis) fn place(
        self,
        name: &str,
        tls: &RedisTls,
        timeouts: Timeouts,
    ) -> Result<Login, RedisConfigError> {
        let SentinelOptions { master, nodes, user, password, db, tls: server_tls } = self;
        let fail = |key, problem: &str| {
            Err(RedisConfigError { sink: name.to_owned(), key, problem: problem.to_owned() })
        };
        if master.is_empty() {
            return fail("sentinel.master", "must be the name that the Sentinels know");
        }
        if nodes.is_empty() {
            return fail("sentinel.nodes", "must name one Sentinel at least");
        }
        let nodes = nodes.iter().map(|url| node(name, url, tls, timeouts));
        let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
        let is_tls =
            |node: &Arc<RedisConfig>| matches!(node.address, Address::Tcp { tls: true, .. });
        let tls = server_tls.unwrap_or_else(|| nodes.iter().any(is_tls));
        let address = Address::Sentinel(Arc::new(Sentinel::new(master, nodes, tls)));
        Ok(Login { address, user, password, db })
    }
}

/// One Sentinel: a server that speaks the same protocol.
fn node(
    name: &str,
    url: &SecretString,
    tls: &RedisTls,
    timeouts: Timeouts,
) -> Result<Arc<RedisConfig>, RedisConfigError> {
    let fail = |problem: String| {
        let (sink, key) = (name.to_owned(), "sentinel.nodes");
        RedisConfigError { sink, key, problem }
    };
    // A question is answered at once or not in time: the others are asked as well.
    let timeouts = Timeouts { command: timeouts.connect, ..timeouts };
    let url = with_port(url.expose_secret());
    let options = RedisOptions { tls: tls.clone(), timeouts, ..RedisOptions::new(name, url) };
    let config = RedisConfig::new(options).map_err(|error| fail(error.problem))?;
    if config.db != 0 {
        return fail_db(fail);
    }
    Ok(Arc::new(config))
}

fn fail_db(
    fail: impl Fn(String) -> RedisConfigError,
) -> Result<Arc<RedisConfig>, RedisConfigError> {
    Err(fail("a Sentinel has no databases: the server's is sentinel.db".to_owned()))
}

/// The URL with the Sentinels' port where it names none, for which others read 6379.
fn with_port(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    if scheme == "unix" {
        return url.to_owned();
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let host = rest[..end].rfind('@').map_or(0, |at| at + 1);
    let behind_brackets = rest[host..end].rfind(']').map_or(host, |at| host + at);
    match rest[behind_brackets..end].contains(':') || host == end {
        true => url.to_owned(),
        false => format!("{scheme}://{}:{PORT}{}", &rest[..end], &rest[end..]),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;

    fn options(nodes: &[&str]) -> RedisOptions {
        let nodes = nodes.iter().map(|&node| node.into()).collect();
        let master = "main".to_owned();
        let sentinel = SentinelOptions { master, nodes, db: 2, ..SentinelOptions::default() };
        RedisOptions { sentinel: Some(sentinel), ..RedisOptions::new("cache", "") }
    }

    #[test]
    fn nodes_listen_on_the_sentinels_port_unless_they_say_otherwise() {
        let nodes =
            ["redis://a", "redis://u:p@b/", "redis://[::1]", "redis://[::1]:1", "redis://c:2"];
        let config = RedisConfig::new(options(&nodes)).unwrap();
        assert_eq!(
            config.target(),
            "redis+sentinel://[::1]:1,[::1]:26379,a:26379,b:26379,c:2/main/2"
        );
        let reversed: Vec<_> = nodes.into_iter().rev().collect();
        let reversed = RedisConfig::new(options(&reversed)).unwrap();
        assert_eq!(config.key_space(), reversed.key_space(), "their order says nothing");
    }

    #[test]
    fn the_server_speaks_tls_if_its_sentinels_do() {
        let tls = |nodes: &[&str], said| {
            let mut options = options(nodes);
            options.sentinel.as_mut().unwrap().tls = said;
            RedisConfig::new(options).unwrap().target().starts_with("rediss+")
        };
        assert!(!tls(&["redis://a"], None) && tls(&["rediss://a"], None));
        assert!(tls(&["redis://a"], Some(true)) && !tls(&["rediss://a"], Some(false)));
    }

    #[test]
    fn what_makes_no_sense_is_named_and_never_quoted() {
        let refused = |options: RedisOptions| {
            let error = RedisConfig::new(options).unwrap_err();
            assert!(!format!("{error:?}").contains("heim"), "{error:?}");
            error.key
        };
        assert_eq!(refused(options(&[])), "sentinel.nodes");
        assert_eq!(refused(options(&["redis://:geheim@h/1"])), "sentinel.nodes");
        assert_eq!(refused(options(&["http://:geheim@h"])), "sentinel.nodes");
        let mut nameless = options(&["redis://h"]);
        nameless.sentinel.as_mut().unwrap().master.clear();
        assert_eq!(refused(nameless), "sentinel.master");
    }
}
