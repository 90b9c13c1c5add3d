//! Where is a Redis, and how are its keys named? What was configured, checked once.
//!
//! In: [`RedisOptions`], as the configuration file has them. Out: a [`RedisConfig`] that every
//! lane of the sink shares. Reads no file and opens no connection. A password is in neither
//! `Debug` output nor in any error.

mod options;
mod place;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

pub use self::options::{
    COMMAND_TIMEOUT, RedisConfigError, RedisOptions, RedisTls, TAG_KEY, TagMode, Timeouts,
};
pub(super) use self::place::{Address, Login, NodeAddress};
use self::place::{cluster_nodes, scheme};
use super::LaneClass;
use super::pacer::Pacer;
use crate::action::Verb;
use crate::glob;

/// What stands for the tag in `tag_key`.
const TAG_PLACEHOLDER: &str = "{tag}";

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
