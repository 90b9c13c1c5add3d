//! How many keys would patterns reach? Counted in one bounded pass over the keys.
//!
//! For `check`: all patterns share the pass, which looks at keys' names alone. It asks for no
//! right beyond those of the patterns themselves.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::check::TRIAL_KEY;
use super::cluster;
use super::config::{RedisConfig, TagMode};
use super::connection::Connection;
use super::error::{Verdict, classify, outage};
use super::rights::{Duties, missing_rights};
use super::scan::PAGE_KEYS;
use super::tags::{origin, page};
use super::wire::{Reply, Request};
use crate::action::{Action, Verb};
use crate::glob::Glob;
use crate::sinks::Failure;

/// How many keys are looked at. SCAN goes by hash, so that the first ones are a fair sample.
pub(super) const KEYS_MAX: u64 = 100_000;

/// How long the pass may go on, up to the page that is under way.
const PASS_TIMEOUT: Duration = Duration::from_secs(2);

/// A pattern as keys in Redis show it.
#[derive(Clone, Debug)]
pub struct KeyPattern {
    /// With the sink's prefix, or as the key of a tag.
    pub pattern: Vec<u8>,
    glob: Glob,
    /// Whether a set counts that a crash left under its taken name.
    is_tag_set: bool,
}

/// What a pass has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyCounts {
    /// How many keys there are, where that is known.
    pub keys: Option<u64>,
    /// How many of them were looked at.
    pub looked_at: u64,
    /// How many of those each pattern matches.
    pub matching: Vec<u64>,
}

impl KeyPattern {
    /// Which keys a coarse action reaches; `None` if it names its key itself.
    pub fn new(action: Action<'_>, config: &RedisConfig) -> Option<Self> {
        let pattern = match action.verb {
            Verb::DeleteMatching | Verb::BumpMatching | Verb::ExpireMatching => {
                config.key_pattern(action.shown())
            }
            Verb::TagMatching | Verb::ExpireTagMatching => config.tag_pattern(action.shown()),
            Verb::Delete
            | Verb::Bump
            | Verb::Tag
            | Verb::Expire
            | Verb::ExpireTag
            // Only names are looked at here.
            | Verb::DeleteTyped(_)
            | Verb::ExpireTyped(_)
            | Verb::Publish
            | Verb::Lookup
            | Verb::PurgeKey
            | Verb::PurgePath
            | Verb::PurgeAll => return None,
        };
        let is_tag = action.verb.deleting() == Verb::TagMatching;
        let is_tag_set = is_tag && config.tag_mode == TagMode::Members;
        Some(KeyPattern { glob: Glob::new(&pattern), pattern, is_tag_set })
    }

    fn matches(&self, key: &[u8]) -> bool {
        self.glob.matches(if self.is_tag_set { origin(key) } else { key })
    }
}

/// Counts the keys that each pattern matches; `duties` are what the rights are for.
///
/// # Errors
/// If the server cannot be reached, or does not let us scan.
pub async fn count(
    config: &RedisConfig,
    patterns: &[KeyPattern],
    duties: &Duties,
) -> Result<KeyCounts, Failure> {
    match config.is_cluster() {
        true => cluster::count(config, patterns, duties).await,
        false => count_at(config, patterns, duties, KEYS_MAX).await,
    }
}

/// The same at one server, of which at most about `keys_max` keys are looked at.
pub(super) async fn count_at(
    config: &RedisConfig,
    patterns: &[KeyPattern],
    duties: &Duties,
    keys_max: u64,
) -> Result<KeyCounts, Failure> {
    let mut connection = Connection::open(Arc::new(config.clone())).await?;
    let end = Instant::now() + PASS_TIMEOUT;
    let mut counts = KeyCounts { keys: None, looked_at: 0, matching: vec![0; patterns.len()] };
    // DBSIZE would say the same, but needs a right of its own.
    let mut request = Request::default();
    connection.send(request.simple(&[b"INFO", b"keyspace"])).await?;
    if let Reply::Bulk(info) = connection.reply("INFO").await? {
        counts.keys = Some(keys_of(&String::from_utf8_lossy(&info), config.db));
    }
    let mut cursor = b"0".to_vec();
    loop {
        request.clear();
        connection.send(request.simple(&[b"SCAN", &cursor, b"COUNT", PAGE_KEYS])).await?;
        let reply = match connection.reply("SCAN").await? {
            Reply::Error(text) => {
                return Err(
                    match classify(&text, "SCAN", config, || missing_rights(duties, config)) {
                        Verdict::Batch(failure) | Verdict::Unknown(failure) => failure,
                        Verdict::Key(reason) => outage(config, "SCAN", reason),
                    },
                );
            }
            reply => reply,
        };
        let Some((next, mut keys)) = page(reply) else {
            return Err(outage(config, "SCAN", "an answer that Redis does not give"));
        };
        // Those of a check, this one's too, are gone in seconds.
        keys.retain(|key| memchr::memmem::find(key, TRIAL_KEY.as_bytes()).is_none());
        counts.looked_at += keys.len() as u64;
        for (pattern, matching) in patterns.iter().zip(&mut counts.matching) {
            *matching += keys.iter().filter(|key| pattern.matches(key)).count() as u64;
        }
        if next == b"0" {
            // Some keys come twice, and some have come or gone since.
            counts.keys = Some(counts.looked_at);
            return Ok(counts);
        }
        if counts.looked_at >= keys_max || Instant::now() >= end {
            return Ok(counts);
        }
        cursor = next;
    }
}

/// The keys of a database, of which INFO has a line only if it has any:
/// `db0:keys=12,expires=0,avg_ttl=0`.
fn keys_of(info: &str, db: u32) -> u64 {
    let start = format!("db{db}:keys=");
    let rest = info.lines().find_map(|line| line.strip_prefix(&start));
    rest.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_databases_own_line_is_read() {
        let info = "# Keyspace\r\ndb0:keys=12,expires=1,avg_ttl=0\r\ndb1:keys=7,expires=0\r\n";
        assert_eq!([0, 1, 2].map(|db| keys_of(info, db)), [12, 7, 0]);
        assert_eq!(keys_of("", 0), 0);
    }
}
