//! `[postgres]`.

use std::time::Duration;

use super::entry::Entry;
use super::secret::Secret;
use super::table::Table;
use crate::rules::Messages;

/// How and where to read the write-ahead log.
#[derive(Clone, Debug)]
pub struct PostgresConfig {
    /// `url`: a URL or libpq's `key=value` words.
    pub url: Secret,
    /// `lookup_url`: where lookups run; `None`: at `url`.
    pub lookup_url: Option<Secret>,
    /// `slot`: a valid name for a replication slot.
    pub slot: String,
    /// `plugin`.
    pub plugin: Plugin,
    /// `publication`: what pgoutput sends; wal2json has none and leaves it alone.
    pub publication: String,
    /// `create_slot`: whether `run` creates the slot if it is missing.
    pub create_slot: bool,
    /// `visibility`.
    pub visibility: Visibility,
    /// `heartbeat`: the time between two; `None` is off.
    pub heartbeat: Option<Duration>,
    /// `on_gap`.
    pub on_gap: OnGap,
    /// `messages`: what messages may ask for.
    pub messages: Messages,
    /// `[postgres.replicas]`; `None`: replicas are not waited for.
    pub replicas: Option<ReplicasConfig>,
    /// `[postgres.replay]`; `None`: no WAL is kept for replays.
    pub replay: Option<ReplayConfig>,
}

/// `[postgres.replicas]`: where readers fill caches from besides the primary.
#[derive(Clone, Debug)]
pub struct ReplicasConfig {
    /// `urls`.
    pub urls: Vec<Secret>,
    /// `max_wait`: how long an action waits for them at most.
    pub max_wait: Duration,
}

/// `[postgres.replay]`: how much WAL is kept for replays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayConfig {
    /// `window`: how far one can go back.
    pub window: Duration,
    /// `max_wal`: how much WAL that may hold, in bytes.
    pub max_wal: u64,
}

impl Default for ReplayConfig {
    fn default() -> Self {
        ReplayConfig { window: Duration::from_secs(3600), max_wal: 4 << 30 }
    }
}

/// The slot's output plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// wal2json, format 2.
    Wal2json,
    /// pgoutput, protocol version 1; it sends what a publication holds.
    Pgoutput,
}

impl Plugin {
    /// Its name in Postgres.
    pub fn name(self) -> &'static str {
        match self {
            Plugin::Wal2json => "wal2json",
            Plugin::Pgoutput => "pgoutput",
        }
    }
}

/// Whether an action waits until its transaction is visible to readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// It waits.
    Wait,
    /// It does not: faster, and a reader can put an old row back for good.
    Skip,
}

/// What `run` does about a gap: a part of the log that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnGap {
    /// It runs every rule's fallback and goes on.
    Fallback,
    /// It ends with 78.
    Halt,
}

/// A slot's name is a Postgres identifier, and so is a publication's: at most NAMEDATALEN - 1
/// bytes. Postgres cuts a longer one without an error.
const NAME_BYTES_MAX: usize = 63;

/// What the name of the replay slot has in addition.
const REPLAY_SUFFIX: &str = "_replay";

/// The name of the slot that keeps WAL for the replays of another one.
pub fn replay_slot(slot: &str) -> String {
    format!("{slot}{REPLAY_SUFFIX}")
}

/// How long an action waits for replicas at most, unless it is said.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// The shortest window: beyond, nobody can tell what lies in it.
const WINDOW_MIN: Duration = Duration::from_secs(1);

/// The smallest `max_wal`: Postgres keeps WAL in files of 16 MiB.
const MAX_WAL_MIN: u64 = 16 << 20;

const SECTION_EXAMPLE: &str = "[postgres]\nurl = \"postgres://walpurge@localhost/shop\"";
const REPLICAS_EXAMPLE: &str = "urls = [\"postgres://walpurge@replica1/shop\"]";
const URL_EXAMPLE: &str = "url = \"postgres://walpurge@localhost/shop\"";

/// Reads `[postgres]`; `root` is where it is missed.
pub(super) fn read(table: Option<Table<'_>>, root: &Table<'_>) -> PostgresConfig {
    let mut config = PostgresConfig {
        url: Secret::literal("postgres.url", ""),
        lookup_url: None,
        slot: "walpurge".to_owned(),
        plugin: Plugin::Wal2json,
        publication: "walpurge".to_owned(),
        create_slot: true,
        visibility: Visibility::Wait,
        heartbeat: Some(Duration::from_secs(30)),
        on_gap: OnGap::Fallback,
        messages: Messages::Keys,
        replicas: None,
        replay: None,
    };
    let Some(mut table) = table else {
        // Something else under that name has been reported as such.
        if !root.has("postgres") {
            root.missing("`postgres.url` is missing", SECTION_EXAMPLE);
        }
        return config;
    };
    match table.entry("url") {
        Some(entry) => {
            if let Some(url) = entry.secret() {
                check_url(&entry, &url);
                config.url = url;
            }
        }
        None => table.missing("`postgres.url` is missing", URL_EXAMPLE),
    }
    if let Some(entry) = table.entry("lookup_url")
        && let Some(url) = entry.secret()
    {
        check_url(&entry, &url);
        config.lookup_url = Some(url);
    }
    // An empty section asks for the defaults.
    let replays = table.has("replay");
    if let Some(slot) = table.entry("slot").and_then(|entry| read_slot(&entry, replays)) {
        config.slot = slot;
    }
    let words = [Plugin::Wal2json, Plugin::Pgoutput].map(|plugin| (plugin.name(), plugin));
    let plugin = table.entry("plugin").map(|entry| entry.one_of(&words));
    // With a plugin that does not exist, that is the problem to report.
    let is_wal2json = plugin.is_none_or(|plugin| plugin == Some(Plugin::Wal2json));
    config.plugin = plugin.flatten().unwrap_or(Plugin::Wal2json);
    if let Some(entry) = table.entry("publication") {
        if is_wal2json {
            no_publication(&entry);
        }
        if let Some(publication) = read_publication(&entry) {
            config.publication = publication;
        }
    }
    if let Some(create) = table.entry("create_slot").and_then(|entry| entry.boolean()) {
        config.create_slot = create;
    }
    let words = [("wait", Visibility::Wait), ("skip", Visibility::Skip)];
    if let Some(visibility) = table.entry("visibility").and_then(|entry| entry.one_of(&words)) {
        config.visibility = visibility;
    }
    if let Some(heartbeat) = table.entry("heartbeat").and_then(|entry| entry.duration()) {
        config.heartbeat = Some(heartbeat).filter(|heartbeat| !heartbeat.is_zero());
    }
    let words = [("fallback", OnGap::Fallback), ("halt", OnGap::Halt)];
    if let Some(on_gap) = table.entry("on_gap").and_then(|entry| entry.one_of(&words)) {
        config.on_gap = on_gap;
    }
    let words = [("keys", Messages::Keys), ("all", Messages::All), ("off", Messages::Off)];
    if let Some(messages) = table.entry("messages").and_then(|entry| entry.one_of(&words)) {
        config.messages = messages;
    }
    if let Some(entry) = table.entry("replicas") {
        config.replicas = entry.table().map(read_replicas);
        if config.replicas.is_some() && config.visibility == Visibility::Skip {
            entry.problem_with_help(
                "`postgres.replicas` needs visibility = \"wait\"",
                "nothing waits",
                "leave `visibility` out, or this section: with \"skip\" an action waits for nobody",
            );
        }
    }
    config.replay = table.table("replay").map(read_replay);
    table.finish();
    config
}

fn read_replicas(mut table: Table<'_>) -> ReplicasConfig {
    let mut config = ReplicasConfig { urls: Vec::new(), max_wait: MAX_WAIT };
    match table.entry("urls") {
        None => table.missing("`postgres.replicas.urls` is missing", REPLICAS_EXAMPLE),
        Some(entry) => match entry.items() {
            Some(items) if !items.is_empty() => {
                for item in items {
                    let Some(url) = item.secret() else { continue };
                    check_url(&item, &url);
                    config.urls.push(url);
                }
            }
            _ => {
                let help = format!("write {REPLICAS_EXAMPLE}");
                entry.wrong_type("a list of URLs", &help);
            }
        },
    }
    if let Some(max_wait) = table.entry("max_wait").and_then(|entry| entry.duration()) {
        config.max_wait = max_wait;
    }
    table.finish();
    config
}

fn read_replay(mut table: Table<'_>) -> ReplayConfig {
    let mut config = ReplayConfig::default();
    if let Some(entry) = table.entry("window")
        && let Some(window) = entry.duration()
    {
        if window < WINDOW_MIN {
            let help = "at least \"1s\"; leave the section out to keep no WAL for replays";
            entry.problem_with_help("`postgres.replay.window` is too short", "too short", help);
        }
        config.window = window;
    }
    if let Some(entry) = table.entry("max_wal")
        && let Some(max_wal) = entry.size()
    {
        if max_wal < MAX_WAL_MIN {
            let help = "at least \"16MiB\": Postgres keeps WAL in files of that size";
            entry.problem_with_help("`postgres.replay.max_wal` is too small", "too small", help);
        }
        config.max_wal = max_wal;
    }
    table.finish();
    config
}

/// Only the form: what the parameters mean, the connection knows.
fn check_url(entry: &Entry<'_>, url: &Secret) {
    let Some(url) = url.in_file() else { return };
    let is_url = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
    let is_words = url.split("://").next().is_some_and(|start| start.contains('='));
    if !is_url && !is_words {
        entry.problem_with_help(
            format!("`{}` is not a Postgres URL", entry.path),
            "not a Postgres URL",
            "write postgres://USER@HOST:PORT/DATABASE or \"host=… user=… dbname=…\"",
        );
    }
}

fn read_slot(entry: &Entry<'_>, replays: bool) -> Option<String> {
    let slot = entry.text()?.value;
    let bytes_max = NAME_BYTES_MAX - if replays { REPLAY_SUFFIX.len() } else { 0 };
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let label = if slot.is_empty() {
        "empty"
    } else if slot.len() > bytes_max {
        "too long"
    } else if !slot.bytes().all(allowed) {
        "not a slot name"
    } else {
        return Some(slot);
    };
    entry.problem_with_help(
        format!("`postgres.slot` cannot be `{slot}`"),
        label,
        match replays {
            false => format!("at most {bytes_max} lower-case letters, digits and `_`"),
            true => format!(
                "at most {bytes_max} lower-case letters, digits and `_`: the slot for replays has \
                 {REPLAY_SUFFIX} behind it"
            ),
        },
    );
    None
}

/// Taken as it is written, as SQL takes a quoted name.
fn read_publication(entry: &Entry<'_>) -> Option<String> {
    let publication = entry.text()?.value;
    let label = if publication.is_empty() {
        "empty"
    } else if publication.len() > NAME_BYTES_MAX {
        "too long"
    } else if publication.contains('\0') {
        "not a name"
    } else {
        return Some(publication);
    };
    entry.problem_with_help(
        "`postgres.publication` cannot be this",
        label,
        format!("a name of at most {NAME_BYTES_MAX} bytes, without quotes of its own"),
    );
    None
}

fn no_publication(entry: &Entry<'_>) {
    entry.problem_with_help(
        "`postgres.publication` needs plugin = \"pgoutput\"",
        "nothing reads it",
        "leave `publication` out: wal2json sends the tables that it is asked for",
    );
}
