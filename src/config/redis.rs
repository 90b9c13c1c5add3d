//! `[redis.NAME]`.

use std::path::PathBuf;
use std::time::Duration;

use super::entry::Entry;
use super::secret::{Secret, SecretError};
use super::sentinel::{self, SentinelConfig};
use super::table::Table;
use crate::problem::Problem;
use crate::sinks::redis::{RedisConfig, RedisOptions, RedisTls, TagMode};

/// One Redis that actions go to.
#[derive(Clone, Debug)]
pub struct RedisSinkConfig {
    /// `url`: `redis://`, `rediss://` or `unix://`.
    pub url: Secret,
    /// `sentinel`, instead of `url`.
    pub sentinel: Option<SentinelConfig>,
    /// `cluster`: some nodes of a cluster, instead of `url`. Empty: it is none.
    pub cluster: Vec<Secret>,
    /// `mode`.
    pub mode: SinkMode,
    /// Its name, which is unique over all kinds of sinks, and all that holds no secret: whatever
    /// says where the server is stays empty.
    pub settings: RedisOptions,
}

/// What becomes of a sink's actions: a switch for incidents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SinkMode {
    /// They are done.
    #[default]
    On,
    /// They wait, and so does the WAL.
    Hold,
    /// They are dropped; the fallbacks run when it is on again.
    Off,
}

impl SinkMode {
    /// Its word in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            SinkMode::On => "on",
            SinkMode::Hold => "hold",
            SinkMode::Off => "off",
        }
    }
}

impl RedisSinkConfig {
    /// What the sink is made of, its URL fetched.
    ///
    /// # Errors
    /// When the URL is kept elsewhere and cannot be fetched.
    pub fn options(&self) -> Result<RedisOptions, SecretError> {
        let mut options = self.settings.clone();
        match &self.sentinel {
            Some(sentinel) => options.sentinel = Some(sentinel.options()?),
            None if self.cluster.is_empty() => options.url = self.url.resolve()?,
            None => {
                options.cluster =
                    self.cluster.iter().map(Secret::resolve).collect::<Result<_, _>>()?;
            }
        }
        Ok(options)
    }
}

/// What stands for the tag in `tag_key`.
const TAG: &str = "{tag}";

const EXAMPLE: &str = "[redis.cache]\nurl = \"redis://localhost:6379/0\"";

/// The default of `failover_window` where a failover is to be expected. Replicas are behind by
/// milliseconds; a second goes by until a lane sees that its server was replaced.
const FAILOVER_WINDOW: Duration = Duration::from_secs(10);

/// The most that makes sense: beyond, memory has its bound long before.
const FAILOVER_WINDOW_MAX: Duration = Duration::from_secs(3600);

/// More than one Redis can delete.
const KEYS_PER_SECOND_MAX: u32 = 100_000_000;

/// More replicas than anybody has.
const WAIT_REPLICAS_MAX: u32 = 100;

const URL_EXAMPLE: &str = "url = \"redis://localhost:6379/0\"";

/// Reads every `[redis.NAME]` of the document.
pub(super) fn read(root: &mut Table<'_>) -> Vec<RedisSinkConfig> {
    let Some(section) = root.entry("redis") else { return Vec::new() };
    if !section.value.get_ref().is_table() {
        section.wrong_type("a section with a name", "write [redis.cache]");
        return Vec::new();
    }
    let Some(table) = section.table() else { return Vec::new() };
    let entries = table.entries();
    if entries.is_empty() {
        table.missing("no sink is configured", EXAMPLE);
    }
    if entries.iter().any(|(name, entry)| is_setting(name, entry)) {
        table.reader.report(
            Problem::new(section.key, "a Redis sink needs a name", "no name here")
                .help("write [redis.cache]"),
        );
        return Vec::new();
    }
    entries.iter().filter_map(|(name, entry)| read_sink(name, entry)).collect()
}

/// Whether this is a key of a sink in a `[redis]` without name.
fn is_setting(name: &str, entry: &Entry<'_>) -> bool {
    let is_known = [
        "url",
        "cluster",
        "sentinel",
        "mode",
        "prefix",
        "tag_key",
        "tag_mode",
        "tls_root",
        "tls_cert",
        "tls_key",
        "wait_replicas",
        "failover_window",
        "max_keys_per_second",
    ]
    .contains(&name);
    is_known && !entry.value.get_ref().is_table()
}

fn read_sink(name: &str, entry: &Entry<'_>) -> Option<RedisSinkConfig> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if name.is_empty() || !name.bytes().all(is_allowed) {
        let message = format!("a sink cannot be named `{name}`");
        entry.reader.report(
            Problem::new(entry.key.clone(), message, "not a sink name")
                .help("letters, digits, `_` and `-`"),
        );
    }
    let mut table = entry.table()?;
    let mut config = RedisSinkConfig {
        url: Secret::literal(format!("redis.{name}.url"), ""),
        sentinel: None,
        cluster: Vec::new(),
        mode: SinkMode::On,
        settings: RedisOptions::new(name, ""),
    };
    if let Some(entry) = table.entry("cluster") {
        config.cluster = read_cluster(&entry, name);
        if table.has("url") {
            entry.problem_with_help(
                format!("`redis.{name}` has both `url` and `cluster`"),
                "one of them",
                "`url` leads to a single server, `cluster` names some nodes of a Redis Cluster",
            );
        }
    }
    match table.entry("url") {
        Some(entry) => {
            if let Some(url) = entry.secret() {
                check_url(&entry, name, &url);
                config.url = url;
            }
        }
        None if table.has("cluster") || table.has("sentinel") => {}
        None => table.missing(format!("`redis.{name}.url` is missing"), URL_EXAMPLE),
    }
    read_failover(&mut table, &mut config);
    let words = [("on", SinkMode::On), ("hold", SinkMode::Hold), ("off", SinkMode::Off)];
    if let Some(mode) = table.entry("mode").and_then(|entry| entry.one_of(&words)) {
        config.mode = mode;
    }
    if let Some(prefix) = table.entry("prefix").and_then(|entry| entry.text()) {
        config.settings.prefix = prefix.value;
    }
    if let Some(tag_key) = table.entry("tag_key").and_then(|entry| read_tag_key(&entry)) {
        config.settings.tag_key = tag_key;
    }
    let words = [("members", TagMode::Members), ("version", TagMode::Version)];
    if let Some(tag_mode) = table.entry("tag_mode").and_then(|entry| entry.one_of(&words)) {
        config.settings.tag_mode = tag_mode;
    }
    config.settings.max_keys_per_second = table
        .entry("max_keys_per_second")
        .and_then(|entry| entry.number(1, KEYS_PER_SECOND_MAX, "max_keys_per_second = 10000"));
    config.settings.tls = read_tls(&mut table);
    table.finish();
    Some(config)
}

/// Who takes over, and what that must not lose.
fn read_failover(table: &mut Table<'_>, config: &mut RedisSinkConfig) {
    if let Some(entry) = table.entry("sentinel") {
        config.sentinel = sentinel::read(&entry, &config.settings.name);
        config.settings.failover_window = FAILOVER_WINDOW;
        if let Some(other) = ["url", "cluster"].into_iter().find(|key| table.has(key)) {
            let message = format!("`{}` stands beside `{other}`", entry.path);
            let help = "keep one of them: the Sentinels say where the server is";
            let problem = Problem::new(entry.key.clone(), message, "one too many");
            entry.reader.report(problem.help(help));
        }
    }
    let wait = table.entry("wait_replicas");
    let window = table.entry("failover_window");
    let wait = wait.and_then(|entry| entry.number(0, WAIT_REPLICAS_MAX, "wait_replicas = 1"));
    config.settings.wait_replicas = wait.unwrap_or_default();
    if let Some(entry) = window
        && let Some(window) = entry.duration()
    {
        if window > FAILOVER_WINDOW_MAX {
            let message = format!("`{}` is longer than an hour", entry.path);
            let help = "what was done within it is kept in memory: write, for example, \"30s\"";
            entry.problem_with_help(message, "too long", help);
        }
        config.settings.failover_window = window;
    }
}

fn read_tls(table: &mut Table<'_>) -> RedisTls {
    let mut file = |key| Some(PathBuf::from(table.entry(key)?.text()?.value));
    let tls = RedisTls { root: file("tls_root"), cert: file("tls_cert"), key: file("tls_key") };
    if tls.cert.is_some() != tls.key.is_some() {
        table.missing(
            "`tls_cert` and `tls_key` belong together",
            "tls_cert = \"client.crt\"\ntls_key = \"client.key\"",
        );
    }
    tls
}

const CLUSTER_EXAMPLE: &str = "cluster = [\"redis://n1:7000\", \"redis://n2:7000\"]";

fn read_cluster(entry: &Entry<'_>, name: &str) -> Vec<Secret> {
    let items = entry.items().unwrap_or_default();
    if items.is_empty() {
        entry.wrong_type("a list of URLs", &format!("write {CLUSTER_EXAMPLE}"));
    }
    let as_node =
        |url: &str| RedisOptions { cluster: vec![url.into()], ..RedisOptions::new(name, "") };
    let (mut nodes, mut known) = (Vec::new(), Vec::new());
    let mut all_good = true;
    for item in &items {
        let Some(node) = item.secret() else { continue };
        nodes.push(node.clone());
        let Some(url) = node.in_file() else { continue };
        if let Err(error) = RedisConfig::new(as_node(url)) {
            all_good = false;
            item.problem_with_help(
                format!("`{}` is not the URL of a cluster's node", item.path),
                error.problem,
                "write redis://HOST:PORT or rediss://… (TLS)",
            );
        }
        known.push(url.into());
    }
    let together = RedisOptions { cluster: known, ..RedisOptions::new(name, "") };
    if all_good
        && !together.cluster.is_empty()
        && let Err(error) = RedisConfig::new(together)
    {
        let help = "user, password and scheme of one node are used for all";
        entry.problem_with_help(
            format!("the nodes of `{}` do not agree", entry.path),
            error.problem,
            help,
        );
    }
    nodes
}

fn check_url(entry: &Entry<'_>, name: &str, url: &Secret) {
    let Some(url) = url.in_file() else { return };
    // What the sink takes, the sink knows; its errors hold no part of the URL.
    if let Err(error) = RedisConfig::new(RedisOptions::new(name, url)) {
        entry.problem_with_help(
            format!("`{}` is not a Redis URL", entry.path),
            error.problem,
            "write redis://HOST:PORT/DATABASE, rediss://… (TLS) or unix:///PATH",
        );
    }
}

fn read_tag_key(entry: &Entry<'_>) -> Option<String> {
    let tag_key = entry.text()?.value;
    let label = match tag_key.matches(TAG).count() {
        1 => return Some(tag_key),
        0 => "holds no `{tag}`",
        _ => "holds `{tag}` more than once",
    };
    entry.problem_with_help(
        format!("`{}` must hold `{TAG}` once", entry.path),
        label,
        format!("write, for example, \"tags:{TAG}\""),
    );
    None
}
