//! The configuration: what does the TOML file mean, and what is wrong with it?
//!
//! A file goes in; a [`Config`] of plain structs comes out, one for each part of the program, or
//! every problem that the file has, together. The document is walked by hand and not through
//! serde, which stops at the first mistake.
//!
//! Secrets (`url` of Postgres and of sinks) are only parsed here; [`Secret::resolve`] fetches them,
//! so that a command without network needs none. Any other string that is `{ env = … }`,
//! `{ file = … }` or `{ credential = … }` is fetched while it is read, since without it one cannot
//! tell whether the configuration is right.

mod admin;
mod cdn;
mod credentials;
mod entry;
mod error;
mod filter;
mod indirect;
mod mask;
mod postgres;
mod redis;
mod render;
mod rule;
mod rule_test;
mod schema;
mod secret;
mod sentinel;
mod table;
mod times;

use std::path::{Path, PathBuf};

pub use admin::AdminConfig;
pub use cdn::{
    CdnApi, CdnParts, CdnSinkConfig, CloudFrontConfig, FastlyConfig, HeaderSource, HttpConfig,
    Kept, RequestConfig, SignatureConfig,
};
pub use error::ConfigError;
pub use postgres::{
    OnGap, Plugin, PostgresConfig, ReplayConfig, ReplicasConfig, Visibility, replay_slot,
};
pub use redis::{RedisSinkConfig, SinkMode};
pub use render::{Source, Style, render};
pub use schema::schema;
pub use secret::{Secret, SecretError};
pub use sentinel::SentinelConfig;

use crate::problem::{Problem, Span};
use crate::rules::{RuleSet, RuleSpec, SinkSpec, compile, rule_names};
use table::{Reader, Table};

/// The most that a configuration file may hold, in bytes: far more than anyone writes, and small
/// enough that a wrong path (a log, a device) cannot fill the memory.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What the whole file says.
#[derive(Clone, Debug)]
pub struct Config {
    /// `state_dir`; `$STATE_DIRECTORY` decides if it is not given.
    pub state_dir: Option<PathBuf>,
    /// `[postgres]`.
    pub postgres: PostgresConfig,
    /// Every `[redis.NAME]`, in the order of the file.
    pub redis: Vec<RedisSinkConfig>,
    /// Every CDN sink, kind by kind, in the order of the file.
    pub cdn: Vec<CdnSinkConfig>,
    /// `[admin]`.
    pub admin: AdminConfig,
    /// Every `[[rule]]`, in the order of the file.
    pub rules: Vec<RuleSpec>,
}

impl Config {
    /// Each sink's name and mode. A [`SinkId`](crate::rules::SinkId) is a place in this order.
    pub fn sinks(&self) -> impl Iterator<Item = (&str, SinkMode)> {
        let caches = self.redis.iter().map(|sink| (sink.settings.name.as_str(), sink.mode));
        caches.chain(self.cdn.iter().map(|sink| (sink.name.as_str(), sink.mode)))
    }
}

/// Where state is kept over restarts, if anywhere: `state_dir`, or the first of systemd's
/// directories.
pub fn state_dir(config: &Config) -> Option<PathBuf> {
    config.state_dir.clone().or_else(|| {
        let directories = std::env::var_os("STATE_DIRECTORY")?;
        let first = std::env::split_paths(&directories).next()?;
        (!first.as_os_str().is_empty()).then_some(first)
    })
}

/// Where the admin endpoint's socket is, if anywhere: in the first of systemd's directories.
pub fn admin_socket() -> Option<PathBuf> {
    let directories = std::env::var_os("RUNTIME_DIRECTORY")?;
    let first = std::env::split_paths(&directories).next()?;
    (!first.as_os_str().is_empty()).then(|| first.join(crate::admin::SOCKET_NAME))
}

/// A configuration without problems.
#[derive(Debug)]
pub struct Loaded {
    /// What it says.
    pub config: Config,
    /// Its rules, compiled. A [`SinkId`](crate::rules::SinkId) of theirs is a place in
    /// [`Config::sinks`].
    pub rules: RuleSet,
    /// What it said it in.
    pub source: Source,
}

/// Loads the file at `path`.
///
/// # Errors
/// When it cannot be read, and when it has problems.
pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
    understand(Source::open(path)?)
        .map_err(|(source_text, problems)| ConfigError::Invalid { source_text, problems })
}

/// Parses `source`, which came from the file `file_name`.
///
/// # Errors
/// Every problem of the text, sorted by position.
pub fn parse(file_name: &str, source: &str) -> Result<Loaded, Vec<Problem>> {
    let source = Source { name: file_name.to_owned(), text: source.to_owned() };
    understand(source).map_err(|(_, problems)| problems)
}

fn understand(source: Source) -> Result<Loaded, (Source, Vec<Problem>)> {
    let (config, mut problems) = read(&source);
    let Some(config) = config else { return Err((source, problems)) };
    let caches = config.redis.iter().map(|sink| SinkSpec::redis(&sink.settings.name));
    let sinks = caches.chain(config.cdn.iter().map(CdnSinkConfig::spec)).collect();
    let names = rule_names(&config.rules);
    let rules = compile(&config.rules, names, sinks, &mut problems);
    if problems.is_empty() {
        return Ok(Loaded { config, rules, source });
    }
    Err((source, render::sorted(problems)))
}

/// Reads as much as can be read, with every problem on the way.
///
/// The config is there even with problems, so that the rules can be compiled and their problems
/// shown with these; what is missing or wrong has its default then, and an absent URL is an empty
/// one. It is `None` where the text is not TOML: what follows a syntax error cannot be told from
/// what belongs to it.
fn read(source: &Source) -> (Option<Config>, Vec<Problem>) {
    let (document, errors) = toml::de::DeTable::parse_recoverable(&source.text);
    let reader = Reader::new(source);
    if reader.syntax_errors(&errors) {
        return (None, render::sorted(reader.into_problems()));
    }
    let root = Table::new(&reader, "", 0..0, document.get_ref());
    let config = read_root(root);
    (Some(config), reader.into_problems())
}

fn read_root(mut root: Table<'_>) -> Config {
    let state_dir = root.entry("state_dir").and_then(|entry| {
        let text = entry.text()?;
        if text.value.is_empty() {
            entry.problem("`state_dir` is empty", "not a directory");
        }
        Some(PathBuf::from(text.value))
    });
    let postgres = postgres::read(root.table("postgres"), &root);
    let redis = redis::read(&mut root);
    let admin = admin::read(root.table("admin"));
    let mut configured = names_of(&redis);
    let cdn = cdn::read(&mut root, &configured);
    cdn::check_names(&root, &SINK_KINDS);
    configured.extend(cdn.iter().map(|sink| sink.name.clone()));
    if !SINK_KINDS.iter().any(|kind| root.has(kind)) {
        root.missing("no sink is configured", "[redis.cache]\nurl = \"redis://localhost:6379/0\"");
    }
    let rules = rule::read(&mut root, &configured);
    root.finish();
    Config { state_dir, postgres, redis, cdn, admin, rules }
}

/// The sections that hold sinks: `[KIND.NAME]`.
const SINK_KINDS: [&str; 4] = ["redis", "fastly", "cloudfront", "http"];

fn names_of(redis: &[RedisSinkConfig]) -> Vec<String> {
    redis.iter().map(|sink| sink.settings.name.clone()).collect()
}

/// Where a problem of something absent is shown: the start of the file.
const START: Span = 0..0;

#[cfg(test)]
mod tests;
