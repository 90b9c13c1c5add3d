//! Where is a Redis, and how are its keys named? What was configured, checked once.
//!
//! In: [`RedisOptions`], as the configuration file has them. Out: a [`RedisConfig`] that every
//! lane of the sink shares. Reads no file and opens no connection. A password is in neither
//! `Debug` output nor in any error.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use redis::{ConnectionAddr, IntoConnectionInfo};
use secrecy::{ExposeSecret, SecretString};

use super::LaneClass;
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
    /// Put before every key, pattern and tag key.
    pub prefix: String,
    /// A tag's key, with `{tag}` for the tag.
    pub tag_key: String,
    /// What invalidating a tag means.
    pub tag_mode: TagMode,
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
            prefix: String::new(),
            tag_key: TAG_KEY.to_owned(),
            tag_mode: TagMode::default(),
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
#[derive(Clone, Debug)]
pub(super) enum Address {
    /// Host and port; whether TLS is spoken there.
    Tcp { host: String, port: u16, tls: bool },
    /// A Unix socket.
    Unix(PathBuf),
}

/// A Redis sink whose settings make sense.
#[derive(Clone)]
pub struct RedisConfig {
    pub(super) name: String,
    pub(super) address: Address,
    pub(super) user: Option<String>,
    pub(super) password: Option<SecretString>,
    pub(super) db: u32,
    pub(super) prefix: Vec<u8>,
    /// `prefix` and what stands before `{tag}`; what stands behind it.
    pub(super) tag_parts: (Vec<u8>, Vec<u8>),
    pub(super) tag_mode: TagMode,
    pub(super) tls: RedisTls,
    pub(super) timeouts: Timeouts,
    target: String,
}

impl RedisConfig {
    /// Checks the options.
    ///
    /// # Errors
    /// The first key that makes no sense. No error holds any part of the URL.
    pub fn new(options: RedisOptions) -> Result<Self, RedisConfigError> {
        let RedisOptions { name, url, prefix, tag_key, tag_mode, tls, timeouts } = options;
        let fail = |key, problem: String| RedisConfigError { sink: name.clone(), key, problem };

        let info = check_scheme(url.expose_secret())
            .and_then(|url| {
                // Its errors never quote the URL.
                let info = url.into_connection_info();
                info.map_err(|error| format!("not a Redis URL: {}", error.without_kind()))
            })
            .map_err(|problem| fail("url", problem))?;
        let address = address(info.addr()).map_err(|problem| fail("url", problem))?;
        let settings = info.redis_settings();
        let db = u32::try_from(settings.db())
            .map_err(|_| fail("url", "the database's number must not be negative".into()))?;

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
            Address::Tcp { host, port, tls } => {
                let scheme = if *tls { "rediss" } else { "redis" };
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                format!("{scheme}://{host}:{port}/{db}")
            }
            Address::Unix(path) => format!("unix://{}?db={db}", path.display()),
        };
        let tag_parts = ([prefix.as_bytes(), before.as_bytes()].concat(), behind.into());
        Ok(RedisConfig {
            user: settings.username().map(str::to_owned),
            password: settings.password().map(SecretString::from),
            name,
            address,
            db,
            prefix: prefix.into_bytes(),
            tag_parts,
            tag_mode,
            tls,
            timeouts,
            target,
        })
    }

    /// The sink's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Address and database, without secrets, for logs and for telling servers apart.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Address, database and what all keys' names depend on, without secrets: where this changes,
    /// nothing is known of what was done before.
    pub fn key_space(&self) -> String {
        let RedisConfig { target, prefix, tag_parts, tag_mode, .. } = self;
        format!("{target:?} {prefix:?} {tag_parts:?} {tag_mode:?}")
    }

    /// How a tag is invalidated.
    pub fn tag_mode(&self) -> TagMode {
        self.tag_mode
    }

    /// Which lane does `verb`, if Redis can do it. In the mode `version` a tag is a bump, and as
    /// quick.
    pub fn lane_class(&self, verb: Verb) -> Option<LaneClass> {
        match (verb, self.tag_mode) {
            (Verb::Delete | Verb::Bump, _) | (Verb::Tag, TagMode::Version) => {
                Some(LaneClass::Precise)
            }
            (Verb::Tag, TagMode::Members) => Some(LaneClass::Tags),
            (Verb::DeleteMatching | Verb::BumpMatching | Verb::TagMatching, _) => {
                Some(LaneClass::Scan)
            }
            (Verb::Publish, _) => Some(LaneClass::Publish),
            (Verb::PurgeKey | Verb::PurgePath | Verb::PurgeAll | Verb::Lookup, _) => None,
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
