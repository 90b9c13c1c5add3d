//! `[fastly.NAME]`, `[cloudfront.NAME]` and `[http.NAME]`: what all CDN sinks share, and the names of sinks.

mod cloudfront;
mod fastly;
mod http;
pub(super) mod schema;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::entry::Entry;
use super::redis::SinkMode;
use super::secret::{Secret, SecretError};
use super::table::{Table, list};
use super::times;
use crate::action::SinkKind;
use crate::problem::{Problem, Text, nearest};
use crate::rules::{Purges, SinkSpec};
use crate::sinks::cdn::cloudfront::CloudFrontOptions;
use crate::sinks::cdn::{ApiOptions, CdnOptions};

pub use cloudfront::CloudFrontConfig;
pub use fastly::FastlyConfig;
pub use http::{HeaderSource, HttpConfig, RequestConfig, SignatureConfig};

/// One CDN that purges go to.
#[derive(Clone, Debug)]
pub struct CdnSinkConfig {
    /// The sink's name, which is unique over all kinds of sinks.
    pub name: String,
    /// `mode`.
    pub mode: SinkMode,
    /// `after`: the cache sinks that finish a transaction before its purges go out. Every Redis
    /// sink if it is not given.
    pub after: Vec<String>,
    /// `max_requests_per_second`.
    pub max_requests_per_second: Option<u32>,
    /// `repurge_after`: how long after a purge was done it is done again, in ascending order.
    pub repurge_after: Arc<[Duration]>,
    /// The rest, which depends on its kind.
    pub api: CdnApi,
}

/// What is configured of one kind of CDN.
#[derive(Clone, Debug)]
pub enum CdnApi {
    /// `[fastly.NAME]`.
    Fastly(FastlyConfig),
    /// `[cloudfront.NAME]`.
    CloudFront(CloudFrontConfig),
    /// `[http.NAME]`.
    Http(Box<HttpConfig>),
}

/// What a process keeps of a CDN sink in `state_dir`.
#[derive(Clone, Copy, Debug)]
pub enum Kept<'d> {
    /// Nothing.
    Nothing,
    /// What was charged, beside a daemon that keeps the rest.
    Charges(&'d Path),
    /// Everything.
    All(&'d Path),
}

impl<'d> Kept<'d> {
    /// Everything, where there is a `state_dir`.
    pub fn all(state_dir: Option<&'d Path>) -> Self {
        state_dir.map_or(Kept::Nothing, Kept::All)
    }

    /// What was charged, where there is a `state_dir`.
    pub fn charges(state_dir: Option<&'d Path>) -> Self {
        state_dir.map_or(Kept::Nothing, Kept::Charges)
    }

    fn count_dir(self) -> Option<&'d Path> {
        match self {
            Kept::Nothing => None,
            Kept::Charges(directory) | Kept::All(directory) => Some(directory),
        }
    }

    fn state_dir(self) -> Option<&'d Path> {
        match self {
            Kept::Nothing | Kept::Charges(_) => None,
            Kept::All(directory) => Some(directory),
        }
    }
}

/// What a sink is made of.
#[derive(Clone, Debug)]
pub enum CdnParts {
    /// Of one that is spoken to over plain HTTP.
    Http(CdnOptions),
    /// Of one of Amazon's.
    CloudFront(CloudFrontOptions),
}

impl CdnSinkConfig {
    /// What rules need to know of it.
    pub(super) fn spec(&self) -> SinkSpec {
        SinkSpec { name: self.name.clone(), kind: self.kind(), purges: self.purges() }
    }

    /// Its kind.
    pub fn kind(&self) -> SinkKind {
        match &self.api {
            CdnApi::Fastly(_) => SinkKind::Fastly,
            CdnApi::CloudFront(_) => SinkKind::CloudFront,
            CdnApi::Http(_) => SinkKind::Http,
        }
    }

    fn purges(&self) -> Purges {
        match &self.api {
            CdnApi::Fastly(fastly) => fastly.purges(),
            CdnApi::CloudFront(cloudfront) => cloudfront.purges(),
            CdnApi::Http(http) => http.purges(),
        }
    }

    /// What the sink is made of, its secrets fetched.
    ///
    /// # Errors
    /// When a secret is kept elsewhere and cannot be fetched.
    pub fn parts(&self, kept: Kept<'_>) -> Result<CdnParts, SecretError> {
        let (name, max_requests_per_second) = (self.name.clone(), self.max_requests_per_second);
        let api = match &self.api {
            CdnApi::Fastly(fastly) => ApiOptions::Fastly(fastly.options()?),
            CdnApi::Http(http) => ApiOptions::Http(Box::new(http.options()?)),
            CdnApi::CloudFront(cloudfront) => {
                let mut options = cloudfront.options(&name, max_requests_per_second, kept);
                options.repeats = !self.repurge_after.is_empty();
                return Ok(CdnParts::CloudFront(options));
            }
        };
        Ok(CdnParts::Http(CdnOptions { name, max_requests_per_second, api }))
    }
}

/// The most requests a second that can be configured: more is no limit.
const REQUESTS_PER_SECOND_MAX: u32 = 10_000;

/// Reads every CDN sink of the document, kind by kind. `caches` are the names of the Redis sinks.
pub(super) fn read(root: &mut Table<'_>, caches: &[String]) -> Vec<CdnSinkConfig> {
    let mut sinks = Vec::new();
    let kinds: [(&'static str, &'static [&'static str]); 3] =
        [("fastly", fastly::KEYS), ("cloudfront", cloudfront::KEYS), ("http", http::KEYS)];
    for (kind, keys) in kinds {
        for (name, entry) in named(root, kind, keys) {
            sinks.extend(read_sink(kind, &name, &entry, caches));
        }
    }
    sinks
}

/// The sections below a kind of sink, with their names.
pub(super) fn named<'a>(
    root: &mut Table<'a>,
    kind: &'static str,
    keys: &[&str],
) -> Vec<(String, Entry<'a>)> {
    let Some(section) = root.entry(kind) else { return Vec::new() };
    let example = format!("write [{kind}.{}]", example_name(kind));
    if !section.value.get_ref().is_table() {
        section.wrong_type("a section with a name", &example);
        return Vec::new();
    }
    let Some(table) = section.table() else { return Vec::new() };
    let entries = table.entries();
    let is_setting = |(name, entry): &(&str, Entry<'_>)| {
        keys.contains(name) && !entry.value.get_ref().is_table()
    };
    if entries.is_empty() || entries.iter().any(is_setting) {
        let message = format!("a sink under `{kind}` needs a name");
        table.reader.report(Problem::new(section.key, message, "no name here").help(example));
        return Vec::new();
    }
    for (name, entry) in &entries {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if name.is_empty() || !name.bytes().all(is_allowed) {
            let message = format!("a sink cannot be named `{name}`");
            let problem = Problem::new(entry.key.clone(), message, "not a sink name");
            entry.reader.report(problem.help("letters, digits, `_` and `-`"));
        }
    }
    entries.into_iter().map(|(name, entry)| (name.to_owned(), entry)).collect()
}

fn example_name(kind: &str) -> &'static str {
    match kind {
        "fastly" => "edge",
        "http" => "varnish",
        _ => "site",
    }
}

/// Reports names that two sinks share. Two of one kind are one section to TOML.
pub(super) fn check_names(root: &Table<'_>, kinds: &[&'static str]) {
    let mut seen: Vec<(&str, String)> = Vec::new();
    for &kind in kinds {
        for (name, key) in root.keys_under(kind) {
            if let Some((first, _)) = seen.iter().find(|(_, known)| *known == name) {
                let message = format!("two sinks are named `{name}`");
                let problem = Problem::new(key, message, "named before");
                root.reader.report(problem.help(format!("the first one is [{first}.{name}]")));
                continue;
            }
            seen.push((kind, name));
        }
    }
}

fn read_sink(
    kind: &'static str,
    name: &str,
    entry: &Entry<'_>,
    caches: &[String],
) -> Option<CdnSinkConfig> {
    let mut table = entry.table()?;
    let words = [("on", SinkMode::On), ("hold", SinkMode::Hold), ("off", SinkMode::Off)];
    let mode = table.entry("mode").and_then(|entry| entry.one_of(&words)).unwrap_or_default();
    let after = table.entry("after").and_then(|entry| read_after(&entry, caches));
    let max_requests_per_second = table
        .entry("max_requests_per_second")
        .and_then(|entry| whole_number(&entry, 1, REQUESTS_PER_SECOND_MAX));
    let repurge_after =
        table.entry("repurge_after").and_then(|entry| times::read(&entry, "purge again"));
    let api = match kind {
        "fastly" => CdnApi::Fastly(fastly::read(name, &mut table)),
        "cloudfront" => CdnApi::CloudFront(cloudfront::read(name, &mut table)),
        _ => CdnApi::Http(Box::new(http::read(name, &mut table))),
    };
    table.finish();
    Some(CdnSinkConfig {
        name: name.to_owned(),
        mode,
        after: after.unwrap_or_else(|| caches.to_vec()),
        max_requests_per_second,
        repurge_after: repurge_after.unwrap_or_default(),
        api,
    })
}

/// The cache sinks that come first.
fn read_after(entry: &Entry<'_>, caches: &[String]) -> Option<Vec<String>> {
    let texts = entry.texts()?;
    for text in texts.iter().filter(|text| !caches.contains(&text.value)) {
        let message = format!("no cache sink is named `{}`", text.value);
        let problem = Problem::new(text.span.clone(), message, "not a [redis.NAME]");
        entry.reader.report(match nearest(&text.value, caches.iter().map(String::as_str)) {
            Some(known) => problem.help(format!("did you mean `{known}`?")),
            None if caches.is_empty() => problem.help("there is none: leave `after` out"),
            None => problem.help(format!("configured: {}", list(caches))),
        });
    }
    Some(texts.into_iter().map(|text| text.value).collect())
}

fn whole_number(entry: &Entry<'_>, least: u32, most: u32) -> Option<u32> {
    let number = entry.value.get_ref().as_integer().and_then(|text| text.as_str().parse().ok());
    let number = number.filter(|number| (least..=most).contains(number));
    if number.is_none() {
        let wanted = format!("a whole number from {least} to {most}");
        entry.wrong_type(&wanted, "write it without quotes");
    }
    number
}

/// A string that must be there.
fn required(table: &mut Table<'_>, path: &str, key: &'static str, example: &str) -> Option<Text> {
    match table.entry(key) {
        Some(entry) => entry.text(),
        None => {
            table.missing(format!("`{path}.{key}` is missing"), example);
            None
        }
    }
}

/// A provider's ID, which becomes part of a URL.
fn check_id(entry_path: &str, text: &Text, table: &Table<'_>) {
    if text.value.is_empty() || !text.value.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        let message = format!("`{entry_path}` cannot be `{}`", text.value);
        let problem = Problem::new(text.span.clone(), message, "not an ID");
        table.reader.report(problem.help("letters and digits"));
    }
}

/// `http://` or `https://` with a host.
fn check_base(entry: &Entry<'_>, url: &str) {
    let is_base = reqwest::Url::parse(url).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none()
    });
    if !is_base {
        let message = format!("`{}` is not a URL", entry.path);
        entry.problem_with_help(message, "not a URL", "write https://HOST or http://HOST:PORT");
    }
}

/// A secret that can be sent in a header.
fn check_header_value(entry: &Entry<'_>, secret: &Secret) {
    let Some(value) = secret.in_file() else { return };
    if value.is_empty() || reqwest::header::HeaderValue::from_str(value).is_err() {
        let message = format!("`{}` cannot be sent in a header", entry.path);
        entry.problem_with_help(message, "empty, or with line breaks", "write the token alone");
    }
}

/// `Bearer TOKEN`.
fn bearer(secret: &Secret) -> Result<secrecy::SecretString, SecretError> {
    Ok(format!("Bearer {}", secret.resolve()?.expose_secret()).into())
}
