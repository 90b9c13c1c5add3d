//! Where is a Redis, and how are its keys named? What was configured, checked once.
//!
//! In: [`RedisOptions`], as the configuration file has them. Out: a [`RedisConfig`] that every
//! lane of the sink shares. Reads no file and opens no connection. A password is in neither
//! `Debug` output nor in any error.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use redis::{ConnectionAddr, IntoConnectionInfo};
use secrecy::{ExposeSecret, SecretString};

use super::LaneClass;
use super::pacer::Pacer;
use super::sentinel::{Sentinel, SentinelOptions};
use crate::action::Verb;
use crate::glob;
use crate::sinks::CONNECT_TIMEOUT;

/// How long one command may take: any reply must come this soon after the one before it.
///
/// The slowest command that walpurge sends (a page of 1,000 keys) takes Redis about a
/// millisecond, so this much silence means that the server is stuck or gone.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// The default of `tag_key`.
pub const TAG_KEY: &str = "tags:{tag}";

/// What stands for the tag in `tag_key`.
const TAG_PLACEHOLDER: &str = "{tag}";

/// What invalidating a tag means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TagMode {
    /// The tag's key is a set of keys, as they are in Redis (with the prefix): delete those.
    #[default]
    Members,
    /// The tag's key is a counter that readers put into their keys: raise it.
    Version,
}

/// What `rediss://` trusts and shows. The system's roots are trusted always.
#[derive(Clone, Debug, Default)]
pub struct RedisTls {
    /// A PEM file with more roots.
    pub root: Option<PathBuf>,
    /// A PEM file with our certificate chain, where the server wants one.
    pub cert: Option<PathBuf>,
    /// The PEM file of its private key.
    pub key: Option<PathBuf>,
}

/// How long the server may keep us waiting.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For resolving the name, connecting, TLS and authentication together.
    pub connect: Duration,
    /// For each reply, counted from the one before it.
    pub command: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts { connect: CONNECT_TIMEOUT, command: COMMAND_TIMEOUT }
    }
}

/// A Redis sink as it was configured, unchecked.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// The sink's name: `cache` in `[redis.cache]`.
    pub name: String,
    /// `redis://`, `rediss://` or `unix://`, with user, password and database.
    pub url: SecretString,
    /// Who knows where the server is, instead of `url`.
    pub sentinel: Option<SentinelOptions>,
    /// How many replicas must have a batch before it counts as done.
    pub wait_replicas: u32,
    /// How much of what was done is repeated when another server has taken over; zero: nothing.
    pub failover_window: Duration,
    /// Some nodes of a cluster, instead of `url`: `redis://` or `rediss://`. Empty: it is none.
    pub cluster: Vec<SecretString>,
    /// Put before every key, pattern and tag key.
    pub prefix: String,
    /// A tag's key, with `{tag}` for the tag.
    pub tag_key: String,
    /// What invalidating a tag means.
    pub tag_mode: TagMode,
    /// How many keys a second patterns, fallbacks and lookups may take; `None`: any number.
    pub max_keys_per_second: Option<u32>,
    /// Certificates.
    pub tls: RedisTls,
    /// Patience.
    pub timeouts: Timeouts,
}

impl RedisOptions {
    /// A sink of which only the required keys are set.
    pub fn new(name: impl Into<String>, url: impl Into<String>) -> Self {
        RedisOptions {
            name: name.into(),
            url: SecretString::from(url.into()),
            sentinel: None,
            wait_replicas: 0,
            failover_window: Duration::ZERO,
            cluster: Vec::new(),
            prefix: String::new(),
            tag_key: TAG_KEY.to_owned(),
            tag_mode: TagMode::default(),
            max_keys_per_second: None,
            tls: RedisTls::default(),
            timeouts: Timeouts::default(),
        }
    }
}

/// Why options make no sink. `key` is the configuration's key at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("redis.{sink}.{key}: {problem}")]
pub struct RedisConfigError {
    /// The sink's name.
    pub sink: String,
    /// The key below it.
    pub key: &'static str,
    /// What is wrong, and what is allowed.
    pub problem: String,
}

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// Host and port; whether TLS is spoken there.
    Tcp { host: String, port: u16, tls: bool },
    /// A Unix socket.
    Unix(PathBuf),
    /// Wherever the Sentinels say.
    Sentinel(Arc<Sentinel>),
}

impl Address {
    /// What is done there, for a message about a server that is not in the configuration.
    pub(super) fn doing(&self, what: &str) -> String {
        match self {
            Address::Tcp { host, port, .. } => format!("{what} at {host}:{port}"),
            Address::Unix(_) | Address::Sentinel(_) => what.to_owned(),
        }
    }
}

/// A Redis sink whose settings make sense.
#[derive(Clone)]
pub struct RedisConfig {
    pub(super) name: String,
    pub(super) address: Address,
    /// The name in the server's certificate, where it is not the address's host.
    pub(super) tls_name: Option<String>,
    /// The configured nodes of a cluster; empty: it is a single server.
    pub(super) seeds: Vec<NodeAddress>,
    pub(super) user: Option<String>,
    pub(super) password: Option<SecretString>,
    pub(super) db: u32,
    pub(super) prefix: Vec<u8>,
    /// `prefix` and what stands before `{tag}`; what stands behind it.
    pub(super) tag_parts: (Vec<u8>, Vec<u8>),
    pub(super) tag_mode: TagMode,
    pub(super) tls: RedisTls,
    pub(super) timeouts: Timeouts,
    pub(super) wait_replicas: u32,
    pub(super) failover_window: Duration,
    /// What is shared by all that use this configuration, or one made of it.
    pacer: Option<Arc<Pacer>>,
    target: String,
}

impl RedisConfig {
    /// Checks the options.
    ///
    /// # Errors
    /// The first key that makes no sense. No error holds any part of the URL.
    pub fn new(options: RedisOptions) -> Result<Self, RedisConfigError> {
        let RedisOptions { name, prefix, tag_key, tag_mode, tls, timeouts, .. } = options;
        let RedisOptions { url, sentinel, cluster, wait_replicas, failover_window, .. } = options;
        let pacer = options.max_keys_per_second.map(|rate| Arc::new(Pacer::new(rate)));
        let fail = |key, problem: String| RedisConfigError { sink: name.clone(), key, problem };

        let (login, seeds) = match sentinel {
            Some(sentinel) => (sentinel.place(&name, &tls, timeouts)?, Vec::new()),
            None if cluster.is_empty() => {
                (Login::parse(&url).map_err(|problem| fail("url", problem))?, Vec::new())
            }
            None => cluster_nodes(&cluster).map_err(|problem| fail("cluster", problem))?,
        };
        let Login { address, user, password, db } = login;

        let parts: Vec<&str> = tag_key.split(TAG_PLACEHOLDER).collect();
        let [before, behind] = parts[..] else {
            let problem = format!("must contain {TAG_PLACEHOLDER} once, as the default {TAG_KEY}");
            return Err(fail("tag_key", problem));
        };
        if tls.cert.is_some() != tls.key.is_some() {
            let problem = "a client certificate needs its key, and the key its certificate";
            return Err(fail("tls_cert", problem.into()));
        }

        let target = match &address {
            Address::Tcp { tls, .. } if !seeds.is_empty() => {
                let nodes: Vec<_> = seeds.iter().map(NodeAddress::to_string).collect();
                format!("{}://{} (cluster)", scheme(*tls), nodes.join(","))
            }
            Address::Tcp { host, port, tls } => {
                let node = NodeAddress { host: host.clone(), port: *port };
                format!("{}://{node}/{db}", scheme(*tls))
            }
            Address::Unix(path) => format!("unix://{}?db={db}", path.display()),
            Address::Sentinel(sentinel) => format!("{}/{db}", sentinel.target()),
        };
        let tag_parts = ([prefix.as_bytes(), before.as_bytes()].concat(), behind.into());
        Ok(RedisConfig {
            name,
            address,
            tls_name: None,
            seeds,
            user,
            password,
            db,
            prefix: prefix.into_bytes(),
            tag_parts,
            tag_mode,
            tls,
            timeouts,
            wait_replicas,
            failover_window,
            pacer,
            target,
        })
    }

    /// The sink's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is a cluster.
    pub fn is_cluster(&self) -> bool {
        !self.seeds.is_empty()
    }

    /// The same sink as one node of its cluster has it. Certificates name `tls_name`, or else the
    /// node's host.
    pub(super) fn at(&self, node: &NodeAddress, tls_name: Option<String>) -> Self {
        let tls = matches!(self.address, Address::Tcp { tls: true, .. });
        let address = Address::Tcp { host: node.host.clone(), port: node.port, tls };
        let target = format!("{}://{node}", scheme(tls));
        RedisConfig { address, tls_name, target, ..self.clone() }
    }

    /// Address and database, without secrets, for logs and for telling servers apart.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Address, database and what all keys' names depend on, without secrets: where this changes,
    /// nothing is known of what was done before.
    pub fn key_space(&self) -> String {
        let RedisConfig { target, prefix, tag_parts, tag_mode, .. } = self;
        // The order in which a cluster's nodes are written says nothing.
        let mut nodes: Vec<_> = self.seeds.iter().map(NodeAddress::to_string).collect();
        nodes.sort();
        let target = if nodes.is_empty() { target } else { &nodes.join(",") };
        format!("{target:?} {prefix:?} {tag_parts:?} {tag_mode:?}")
    }

    /// Whether a connection has to know which server it leads to, and that it is a master.
    pub(super) fn needs_identity(&self) -> bool {
        matches!(self.address, Address::Sentinel(_)) || !self.failover_window.is_zero()
    }

    /// The key of the configuration that says where the server is.
    pub fn place_key(&self) -> &'static str {
        match self.address {
            Address::Sentinel(_) => "sentinel",
            Address::Tcp { .. } | Address::Unix(_) => "url",
        }
    }

    /// How much of what was done is repeated when another server has taken over.
    pub fn failover_window(&self) -> Duration {
        self.failover_window
    }

    /// Whether patterns, fallbacks and lookups may only take so many keys a second.
    pub fn is_paced(&self) -> bool {
        self.pacer.is_some()
    }

    /// What a lane of `class` has to ask before it touches keys.
    pub(super) fn pacer(&self, class: LaneClass) -> Option<&Pacer> {
        self.pacer.as_deref().filter(|_| matches!(class, LaneClass::Scan | LaneClass::Found))
    }

    /// How a tag is invalidated.
    pub fn tag_mode(&self) -> TagMode {
        self.tag_mode
    }

    /// Which lane does `verb`, if Redis can do it. In the mode `version` a tag is a bump, and as
    /// quick.
    pub fn lane_class(&self, verb: Verb) -> Option<LaneClass> {
        match (verb.deleting(), self.tag_mode) {
            (Verb::Delete | Verb::Bump, _) | (Verb::Tag, TagMode::Version) => {
                Some(LaneClass::Precise)
            }
            (Verb::Tag, TagMode::Members) => Some(LaneClass::Tags),
            (Verb::DeleteMatching | Verb::DeleteTyped(_), _) => Some(LaneClass::Scan),
            (Verb::BumpMatching | Verb::TagMatching, _) => Some(LaneClass::Scan),
            (Verb::Publish, _) => Some(LaneClass::Publish),
            (Verb::PurgeKey | Verb::PurgePath | Verb::PurgeAll | Verb::Lookup, _) => None,
            // Never what deletes instead.
            (Verb::Expire | Verb::ExpireMatching | Verb::ExpireTyped(_), _) => None,
            (Verb::ExpireTag | Verb::ExpireTagMatching, _) => None,
        }
    }

    /// The glob that matches `prefix` and then what `pattern` matches.
    pub(super) fn key_pattern(&self, pattern: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        glob::escape(&self.prefix, &mut out);
        out.extend_from_slice(pattern);
        out
    }

    /// The glob that matches the tag keys of the tags that `pattern` matches.
    pub(super) fn tag_pattern(&self, pattern: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        glob::escape(&self.tag_parts.0, &mut out);
        out.extend_from_slice(pattern);
        glob::escape(&self.tag_parts.1, &mut out);
        out
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("name", &self.name)
            .field("target", &self.target)
            .field("prefix", &String::from_utf8_lossy(&self.prefix))
            .field("tag_mode", &self.tag_mode)
            .finish_non_exhaustive()
    }
}

/// Where a node of a cluster listens; shown as `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct NodeAddress {
    pub(super) host: String,
    pub(super) port: u16,
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// What a URL says.
pub(super) struct Login {
    pub(super) address: Address,
    pub(super) user: Option<String>,
    pub(super) password: Option<SecretString>,
    pub(super) db: u32,
}

impl Login {
    fn parse(url: &SecretString) -> Result<Self, String> {
        // Its errors never quote the URL.
        let info = check_scheme(url.expose_secret())?
            .into_connection_info()
            .map_err(|error| format!("not a Redis URL: {}", error.without_kind()))?;
        let settings = info.redis_settings();
        Ok(Login {
            address: address(info.addr())?,
            user: settings.username().map(str::to_owned),
            password: settings.password().map(SecretString::from),
            db: u32::try_from(settings.db())
                .map_err(|_| "the database's number must not be negative")?,
        })
    }

    /// Whether one can log in there as here.
    fn is_like(&self, other: &Login) -> bool {
        let secret = |login: &Login| login.password.as_ref().map(|p| p.expose_secret().to_owned());
        let tls = |login: &Login| matches!(login.address, Address::Tcp { tls: true, .. });
        self.user == other.user && secret(self) == secret(other) && tls(self) == tls(other)
    }
}

/// The first node's URL, which stands for all, and where the nodes are.
fn cluster_nodes(urls: &[SecretString]) -> Result<(Login, Vec<NodeAddress>), String> {
    let mut first: Option<Login> = None;
    let mut nodes = Vec::new();
    for url in urls {
        let login = Login::parse(url)?;
        let Address::Tcp { host, port, .. } = &login.address else {
            return Err("a cluster's nodes are reached over TCP: redis:// or rediss://".into());
        };
        if login.db != 0 {
            return Err("a cluster has only database 0".into());
        }
        nodes.push(NodeAddress { host: host.clone(), port: *port });
        match &first {
            None => first = Some(login),
            Some(first) if first.is_like(&login) => {}
            Some(_) => {
                return Err("all nodes must have the same scheme, user and password".into());
            }
        }
    }
    nodes.dedup();
    let login = first.ok_or("it names no node")?;
    Ok((login, nodes))
}

fn scheme(tls: bool) -> &'static str {
    if tls { "rediss" } else { "redis" }
}

/// The URL, if its scheme is one that the documentation promises.
fn check_scheme(url: &str) -> Result<&str, String> {
    if url.starts_with("redis://") || url.starts_with("rediss://") || url.starts_with("unix://") {
        return Ok(url);
    }
    Err("must start with redis://, rediss:// or unix://".into())
}

fn address(addr: &ConnectionAddr) -> Result<Address, String> {
    match addr {
        ConnectionAddr::Tcp(host, port) => {
            Ok(Address::Tcp { host: host.clone(), port: *port, tls: false })
        }
        ConnectionAddr::TcpTls { insecure: true, .. } => {
            Err("#insecure is not supported: name the server's root in tls_root".into())
        }
        ConnectionAddr::TcpTls { host, port, .. } => {
            Ok(Address::Tcp { host: host.clone(), port: *port, tls: true })
        }
        ConnectionAddr::Unix(path) => Ok(Address::Unix(path.clone())),
        _ => Err("must start with redis://, rediss:// or unix://".into()),
    }
}

/// What redis-rs says of a URL, without the name of its error's kind.
trait WithoutKind {
    fn without_kind(&self) -> String;
}

impl WithoutKind for redis::RedisError {
    fn without_kind(&self) -> String {
        let text = self.to_string();
        match text.split_once(" - ") {
            Some((text, _)) => text.to_lowercase(),
            None => text,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

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
            (
                "unix:///run/r.sock?db=1&pass=geheim",
                "unix:///run/r.sock?db=1",
                None,
                Some("geheim"),
            ),
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
}
