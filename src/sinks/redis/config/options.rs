//! A Redis sink as it was configured, unchecked.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::sinks::CONNECT_TIMEOUT;
use crate::sinks::redis::SentinelOptions;

/// How long one command may take: any reply must come this soon after the one before it.
///
/// The slowest command that walpurge sends (a page of 1,000 keys) takes Redis about a
/// millisecond, so this much silence means that the server is stuck or gone.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// The default of `tag_key`.
pub const TAG_KEY: &str = "tags:{tag}";

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
