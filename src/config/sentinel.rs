//! `sentinel = { … }` of `[redis.NAME]`.

use super::entry::Entry;
use super::secret::{Secret, SecretError};
use crate::sinks::redis::{RedisConfig, RedisOptions, SentinelOptions};

/// Who knows where the server is, and how to log in there.
#[derive(Clone, Debug)]
pub struct SentinelConfig {
    /// `master`: the name by which the Sentinels know it.
    pub master: String,
    /// `nodes`: the URL of each Sentinel, with a user and a password of its own.
    pub nodes: Vec<Secret>,
    /// `user`: the server's.
    pub user: Option<String>,
    /// `password`: the server's.
    pub password: Option<Secret>,
    /// `db`: the server's database.
    pub db: u32,
    /// `tls`: whether the server speaks TLS; by default if a Sentinel does.
    pub tls: Option<bool>,
}

impl SentinelConfig {
    /// With its secrets fetched.
    pub(super) fn options(&self) -> Result<SentinelOptions, SecretError> {
        Ok(SentinelOptions {
            master: self.master.clone(),
            nodes: self.nodes.iter().map(Secret::resolve).collect::<Result<_, _>>()?,
            user: self.user.clone(),
            password: self.password.as_ref().map(Secret::resolve).transpose()?,
            db: self.db,
            tls: self.tls,
        })
    }
}

const MASTER_EXAMPLE: &str = "sentinel = { master = \"cache\", nodes = [\"redis://s1:26379\"] }";

/// The highest number that a database can have.
const DB_MAX: u32 = i32::MAX as u32;

/// Reads the table of the sink `name`.
pub(super) fn read(entry: &Entry<'_>, name: &str) -> Option<SentinelConfig> {
    let mut table = entry.table()?;
    let path = &entry.path;
    let master = match table.entry("master") {
        Some(entry) => entry.text().map(|text| text.value).inspect(|master| {
            if master.is_empty() {
                entry.problem(format!("`{}` is empty", entry.path), "no name");
            }
        }),
        None => {
            table.missing(format!("`{path}.master` is missing"), MASTER_EXAMPLE);
            None
        }
    };
    let nodes = match table.entry("nodes") {
        Some(entry) => read_nodes(&entry, name),
        None => {
            table.missing(format!("`{path}.nodes` is missing"), MASTER_EXAMPLE);
            Vec::new()
        }
    };
    let user = table.entry("user").and_then(|entry| entry.text()).map(|text| text.value);
    let password = table.entry("password").and_then(|entry| entry.secret());
    let db = table.entry("db").and_then(|entry| entry.number(0, DB_MAX, "db = 0"));
    let tls = table.entry("tls").and_then(|entry| entry.boolean());
    table.finish();
    Some(SentinelConfig {
        master: master.unwrap_or_default(),
        nodes,
        user,
        password,
        db: db.unwrap_or_default(),
        tls,
    })
}

fn read_nodes(entry: &Entry<'_>, name: &str) -> Vec<Secret> {
    let Some(items) = entry.items() else {
        entry.wrong_type("a list of URLs", "write nodes = [\"redis://s1:26379\"]");
        return Vec::new();
    };
    if items.is_empty() {
        let message = format!("`{}` names no Sentinel", entry.path);
        entry.problem_with_help(message, "empty", "write nodes = [\"redis://s1:26379\"]");
    }
    let read = |item: &Entry<'_>| item.secret().inspect(|url| check_node(item, name, url));
    items.iter().filter_map(read).collect()
}

fn check_node(entry: &Entry<'_>, name: &str, url: &Secret) {
    let Some(url) = url.in_file() else { return };
    let (master, nodes) = ("any".to_owned(), vec![url.into()]);
    let sentinel = Some(SentinelOptions { master, nodes, ..SentinelOptions::default() });
    // What the sink takes, the sink knows; its errors hold no part of the URL.
    if let Err(error) = RedisConfig::new(RedisOptions { sentinel, ..RedisOptions::new(name, "") }) {
        entry.problem_with_help(
            format!("`{}` is not the URL of a Sentinel", entry.path),
            error.problem,
            "write redis://HOST:PORT or rediss://… (TLS)",
        );
    }
}
