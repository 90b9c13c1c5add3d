//! May and can this Redis do what the rules ask of it? Tried with the very commands, on a key of
//! our own; and the least rights for it, as the line that grants them.

use std::sync::Arc;
use std::time::Duration;

use super::config::{Address, RedisConfig, TagMode};
use super::connection::Connection;
use super::error::{Verdict, classify};
use super::publish::STREAM_FIELD;
use super::replicas;
use super::wire::{Reply, Request};
use super::{LaneClass, cluster};
use crate::action::Verb;
use crate::glob;
use crate::key_type::KeyType;
use crate::sinks::Failure;

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckLine {
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was looked at, and what came of it.
    pub what: String,
    /// The command or setting that mends it.
    pub hint: Option<String>,
}

/// What rules ask of a sink.
#[derive(Clone, Debug, Default)]
pub struct Duties {
    /// The verbs.
    pub verbs: Vec<Verb>,
    /// The channels of their messages; none, and no stream either: any.
    pub channels: Vec<Vec<u8>>,
    /// The keys of the streams that messages go to, without the sink's prefix.
    pub streams: Vec<Vec<u8>>,
}

impl Duties {
    /// These verbs.
    pub fn of(verbs: &[Verb]) -> Self {
        Duties { verbs: verbs.to_vec(), ..Duties::default() }
    }
}

/// Stands for every type: they take the same commands.
const ANY_TYPE: KeyType = KeyType::String;

/// Every verb, and so the order in which they are reported.
const VERBS: [Verb; 13] = [
    Verb::Delete,
    Verb::DeleteMatching,
    Verb::DeleteTyped(ANY_TYPE),
    Verb::Bump,
    Verb::BumpMatching,
    Verb::Tag,
    Verb::TagMatching,
    Verb::Expire,
    Verb::ExpireMatching,
    Verb::ExpireTyped(ANY_TYPE),
    Verb::ExpireTag,
    Verb::ExpireTagMatching,
    Verb::Publish,
];

/// How the keys of a trial start, behind the sink's prefix.
pub(super) const TRIAL_KEY: &str = "walpurge:check:";

/// What every connection and `check` itself use.
const COMMON_COMMANDS: [&str; 3] = ["client|setname", "info", "ping"];

/// What a cluster takes besides.
const CLUSTER_COMMANDS: [&str; 3] = ["asking", "cluster|nodes", "cluster|slots"];

/// The commands of a verb: what its module sends, for the rights and for the trial.
fn commands(verb: Verb, config: &RedisConfig) -> Vec<&'static str> {
    const BUMP: [&str; 4] = ["multi", "set", "incr", "exec"];
    const TAG: [&str; 9] =
        ["scard", "exists", "renamenx", "persist", "sscan", "multi", "unlink", "srem", "exec"];
    const EXPIRE_TAG: [&str; 4] = ["multi", "sscan", "exec", "pexpire"];
    let mode = config.tag_mode;
    let verb = match mode {
        // A counter is raised, and not cut.
        TagMode::Version if verb.key() == Verb::Tag.key() => verb.deleting(),
        _ => verb,
    };
    // A cluster's pages say where they come from.
    let expire_tag: &[_] = if config.is_cluster() { &EXPIRE_TAG } else { &["sscan", "pexpire"] };
    let (scan, commands): (&[_], &[_]) = match (verb, mode) {
        (Verb::Delete, _) => (&[], &["unlink"]),
        (Verb::DeleteMatching, _) => (&["scan"], &["unlink"]),
        (Verb::DeleteTyped(_), _) => (&["scan"], &["type", "unlink"]),
        (Verb::Bump, _) | (Verb::Tag, TagMode::Version) => (&[], &BUMP),
        (Verb::BumpMatching, _) | (Verb::TagMatching, TagMode::Version) => (&["scan"], &BUMP),
        (Verb::Tag, TagMode::Members) => (&[], &TAG),
        (Verb::TagMatching, TagMode::Members) => (&["scan"], &TAG),
        (Verb::Expire, _) => (&[], &["pexpire"]),
        (Verb::ExpireMatching, _) => (&["scan"], &["pexpire"]),
        (Verb::ExpireTyped(_), _) => (&["scan"], &["type", "pexpire"]),
        (Verb::ExpireTag, _) => (&[], expire_tag),
        (Verb::ExpireTagMatching, _) => (&["scan"], expire_tag),
        // The trial is never executed.
        (Verb::Publish, _) => (&[], &["multi", "publish"]),
        (Verb::PurgeKey | Verb::PurgePath | Verb::PurgeAll | Verb::Lookup, _) => (&[], &[]),
    };
    [scan, commands].concat()
}

/// The verbs that a lane of `class` may get.
pub(super) fn class_verbs(config: &RedisConfig, class: LaneClass) -> &'static [Verb] {
    match (class, config.tag_mode) {
        (LaneClass::Precise, TagMode::Members) => &[Verb::Delete, Verb::Bump],
        (LaneClass::Precise, TagMode::Version) => &[Verb::Delete, Verb::Bump, Verb::Tag],
        (LaneClass::Tags, _) => &[Verb::Tag],
        (LaneClass::Found, _) => &[Verb::Delete],
        (LaneClass::Publish, _) => &[Verb::Publish],
        (LaneClass::Scan, _) => &[Verb::DeleteMatching, Verb::BumpMatching, Verb::TagMatching],
    }
}

/// The `ACL SETUSER` line that makes a user with the least rights that `duties` need.
///
/// The keys are those with the sink's prefix. The members of tag sets are deleted too: keys as
/// the readers wrote them, which then need the prefix as well.
pub fn least_acl(duties: &Duties, config: &RedisConfig) -> String {
    acl_line(" on >PASSWORD", duties, config)
}

/// The line that adds those rights to the user that there is: run as it stands, it must not give
/// that user a password that everybody knows.
pub(super) fn missing_rights(duties: &Duties, config: &RedisConfig) -> String {
    acl_line("", duties, config)
}

fn acl_line(login: &str, duties: &Duties, config: &RedisConfig) -> String {
    let mut all: Vec<&str> = COMMON_COMMANDS.to_vec();
    if config.db != 0 {
        all.push("select");
    }
    if config.wait_replicas > 0 {
        // What WAIT has to stand behind.
        all.extend([if config.is_cluster() { "set" } else { "publish" }, "wait"]);
    }
    if config.is_cluster() {
        all.extend(CLUSTER_COMMANDS);
        all.extend((!config.failover_window.is_zero()).then_some("cluster|info"));
    }
    all.extend(duties.verbs.iter().flat_map(|verb| commands(*verb, config)));
    if !duties.streams.is_empty() {
        all.push("xadd");
        // Nobody is told through a channel.
        all.retain(|command| *command != "publish" || !duties.channels.is_empty());
    }
    all.sort_unstable();
    all.dedup();
    let mut pattern = b"~".to_vec();
    glob::escape(&config.prefix, &mut pattern);
    pattern.push(b'*');
    let mut patterns = vec![quoted(&pattern)];
    if config.wait_replicas > 0 && !config.is_cluster() {
        patterns.push(format!("&{}", String::from_utf8_lossy(replicas::CHANNEL)));
    }
    if duties.verbs.contains(&Verb::Publish) {
        let granted = |channel: &Vec<u8>| {
            let mut pattern = b"&".to_vec();
            glob::escape(channel, &mut pattern);
            quoted(&pattern)
        };
        patterns.extend(duties.channels.iter().map(granted));
        if duties.channels.is_empty() && duties.streams.is_empty() {
            patterns.push("&*".to_owned());
        }
    }
    let user = quoted(config.user.as_deref().unwrap_or("walpurge").as_bytes());
    let rights: Vec<String> = all.iter().map(|command| format!("+{command}")).collect();
    format!("ACL SETUSER {user}{login} {} {}", patterns.join(" "), rights.join(" "))
}

/// Tries everything that `duties` need, on the real server.
///
/// The key that it uses has a random name under the sink's prefix, is gone ten seconds later
/// even where it cannot be deleted, and is the only one that it touches. Nothing is published.
pub async fn check(config: &RedisConfig, duties: &Duties) -> Vec<CheckLine> {
    if config.is_cluster() {
        return cluster::check(config, duties).await;
    }
    let mut lines = sentinels(config).await;
    lines.extend(check_server(config, duties, |_| true).await);
    lines
}

/// Tries one server, or one master of a cluster, with a key that `takes` allows: none of another
/// master's slots.
pub(super) async fn check_server(
    config: &RedisConfig,
    duties: &Duties,
    takes: impl Fn(&[u8]) -> bool,
) -> Vec<CheckLine> {
    let mut lines = Vec::new();
    let mut connection = match Connection::open(Arc::new(config.clone())).await {
        Ok(connection) => connection,
        Err(failure) => {
            lines.push(failed("connect", failure));
            return lines;
        }
    };
    match ping(&mut connection, config).await {
        Ok(line) => lines.push(line),
        Err(failure) => {
            lines.push(failed("PING", failure));
            return lines;
        }
    }
    if config.wait_replicas > 0 {
        let key = trial_key(config, &takes).filter(|_| config.is_cluster());
        match try_wait(config, duties, key.as_deref()).await {
            Ok(line) => lines.push(line),
            Err(failure) => lines.push(failed("wait_replicas", failure)),
        }
    }
    if config.is_cluster() && !config.failover_window.is_zero() {
        match cluster::try_window(&mut connection, config, duties).await {
            Ok(line) => lines.push(line),
            Err(failure) => {
                lines.push(failed("failover_window", failure));
                return lines;
            }
        }
    }
    for verb in VERBS {
        let is_it = |duty: &Verb| match duty.key_type() {
            None => *duty == verb,
            Some(_) => {
                verb.key_type().is_some()
                    && (duty.untyped(), duty.expires()) == (verb.untyped(), verb.expires())
            }
        };
        if !duties.verbs.iter().any(is_it) {
            continue;
        }
        let name = verb_name(verb);
        let key = trial_key(config, &takes);
        match try_verb(&mut connection, config, verb, duties, key.as_deref()).await {
            Ok(()) => lines.push(CheckLine { ok: true, what: name.to_owned(), hint: None }),
            Err(failure) => {
                lines.push(failed(name, failure));
                // Replies may be under way still.
                match Connection::open(Arc::new(config.clone())).await {
                    Ok(fresh) => connection = fresh,
                    Err(failure) => {
                        lines.push(failed("connect", failure));
                        break;
                    }
                }
            }
        }
    }
    lines
}

/// What each Sentinel says, one line each.
async fn sentinels(config: &RedisConfig) -> Vec<CheckLine> {
    let Address::Sentinel(sentinel) = &config.address else { return Vec::new() };
    let mut lines = Vec::new();
    for node in sentinel.nodes() {
        lines.push(match sentinel.ask(node, &mut None).await {
            Ok(answer) => {
                let down_after = Duration::from_millis(answer.down_after_ms);
                let window = config.failover_window;
                let is_short = !window.is_zero() && window <= down_after;
                let what = format!(
                    "sentinel {}: the master is {}:{}, of {} replicas, down after {down_after:?}",
                    node.target(),
                    answer.host,
                    answer.port,
                    answer.replicas
                );
                let hint = format!(
                    "a master that is cut off from its replicas goes on for {down_after:?} and \
                     loses it all: set failover_window above that, or wait_replicas = 1"
                );
                let is_covered = !is_short || config.wait_replicas > 0;
                CheckLine { ok: is_covered, what, hint: (!is_covered).then_some(hint) }
            }
            Err(failure) => failed(&format!("sentinel {}", node.target()), failure),
        });
    }
    lines
}

/// An empty message to a channel of our own, or in a cluster a key, and WAIT.
async fn try_wait(
    config: &RedisConfig,
    duties: &Duties,
    key: Option<&[u8]>,
) -> Result<CheckLine, Failure> {
    let mut connection = Connection::open(Arc::new(config.clone())).await?;
    let wanted = config.wait_replicas;
    let patience = replicas::WAIT_TIMEOUT.min(config.timeouts.command / 2);
    let (count, millis) = (wanted.to_string(), patience.as_millis().to_string());
    let mut request = Request::default();
    let write = match key {
        Some(key) => {
            request.simple(&[b"SET", key, b"", b"PX", b"1000"]);
            "SET"
        }
        None => {
            request.simple(&[b"PUBLISH", replicas::CHANNEL, b""]);
            "PUBLISH"
        }
    };
    request.simple(&[b"WAIT", count.as_bytes(), millis.as_bytes()]);
    connection.send(&request).await?;
    let mut have = 0;
    for command in [write, "WAIT"] {
        match connection.reply(command).await? {
            Reply::Error(text) => {
                let acl = || missing_rights(duties, config);
                return Err(failure(&text, command, config, acl));
            }
            reply => have = reply.int().unwrap_or_default(),
        }
    }
    let ok = have >= i64::from(wanted);
    let what = format!("wait_replicas: {have} of {wanted} replicas acknowledge");
    let hint = "nothing is done until there are as many: mend the replicas, or lower wait_replicas";
    Ok(CheckLine { ok, what, hint: (!ok).then(|| hint.to_owned()) })
}

/// A key of our own, with a random name. Its hash tag keeps in its slot what it is renamed to.
fn trial_key(config: &RedisConfig, takes: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    /// Of a cluster of 1,000 masters, each is found.
    const TRIES: u32 = 100_000;
    (0..TRIES).find_map(|_| {
        let name = format!("{TRIAL_KEY}{{{:016x}}}", fastrand::u64(..));
        let key = [&config.prefix[..], name.as_bytes()].concat();
        takes(&key).then_some(key)
    })
}

/// PING, and the version if INFO may be read.
async fn ping(connection: &mut Connection, config: &RedisConfig) -> Result<CheckLine, Failure> {
    let mut request = Request::default();
    request.simple(&[b"PING"]).simple(&[b"INFO", b"server"]);
    connection.send(&request).await?;
    let acl = || missing_rights(&Duties::default(), config);
    if let Reply::Error(text) = connection.reply("PING").await? {
        return Err(failure(&text, "PING", config, acl));
    }
    let version = match connection.reply("INFO").await? {
        Reply::Bulk(info) => String::from_utf8_lossy(&info)
            .lines()
            .find_map(|line| line.strip_prefix("redis_version:").map(str::to_owned)),
        _ => None,
    };
    let major = version.as_deref().and_then(|version| version.split('.').next()?.parse().ok());
    let old = major.is_some_and(|major: u32| major < 6);
    let shown = version.as_deref().unwrap_or("unknown, as INFO is not granted");
    Ok(CheckLine {
        ok: !old,
        what: format!("redis {} at {}: version {shown}", config.name(), config.target()),
        hint: old.then(|| "walpurge needs Redis 6.0 or newer".to_owned()),
    })
}

/// Sends each command of `verb` once.
async fn try_verb(
    connection: &mut Connection,
    config: &RedisConfig,
    verb: Verb,
    duties: &Duties,
    key: Option<&[u8]>,
) -> Result<(), Failure> {
    if verb == Verb::Publish {
        return try_publish(config, duties).await;
    }
    // No key of the sink's prefix can come here.
    let Some(key) = key else { return Ok(()) };
    let other = [key, b":renamed"].concat();
    let commands = commands(verb, config);
    let mut request = Request::default();
    for command in &commands {
        match *command {
            "multi" | "exec" => request.simple(&[command.as_bytes()]),
            "scan" => request.simple(&[b"SCAN", b"0", b"MATCH", key, b"COUNT", b"1"]),
            "sscan" => request.simple(&[b"SSCAN", key, b"0"]),
            "srem" => request.simple(&[b"SREM", key, b"member"]),
            "renamenx" => request.simple(&[b"RENAMENX", key, &other]),
            "pexpire" => request.simple(&[b"PEXPIRE", key, b"10000", b"LT"]),
            "set" => request.simple(&[b"SET", key, b"1", b"NX", b"PX", b"10000"]),
            command => request.simple(&[command.as_bytes(), key]),
        };
    }
    connection.send(&request).await?;
    for command in &commands {
        match connection.reply(command).await? {
            // What RENAMENX says of a key that does not exist, and may say: it was let through.
            Reply::Error(text) if text == "ERR no such key" => {}
            Reply::Error(text) => {
                let acl = || missing_rights(duties, config);
                return Err(failure(&text, &command.to_uppercase(), config, acl));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Queues a message to each channel in a transaction that is never executed, on a connection that
/// is then closed.
async fn try_publish(config: &RedisConfig, duties: &Duties) -> Result<(), Failure> {
    let mut connection = Connection::open(Arc::new(config.clone())).await?;
    let acl = || missing_rights(duties, config);
    let mut request = Request::default();
    request.simple(&[b"MULTI"]);
    connection.send(&request).await?;
    if let Reply::Error(text) = connection.reply("MULTI").await? {
        return Err(failure(&text, "MULTI", config, acl));
    }
    for channel in &duties.channels {
        request.clear();
        request.simple(&[b"PUBLISH", channel, b""]);
        connection.send(&request).await?;
        if let Reply::Error(text) = connection.reply("PUBLISH").await? {
            return Err(failure(&text, "PUBLISH", config, acl));
        }
    }
    for stream in &duties.streams {
        request.clear();
        request.command("XADD", 5).arg_joined(&[&config.prefix, stream]);
        request.arg(b"*").arg(STREAM_FIELD).arg(b"");
        connection.send(&request).await?;
        if let Reply::Error(text) = connection.reply("XADD").await? {
            return Err(failure(&text, "XADD", config, acl));
        }
    }
    Ok(())
}

fn failure(
    text: &str,
    command: &str,
    config: &RedisConfig,
    acl: impl FnOnce() -> String,
) -> Failure {
    match classify(text, command, config, acl) {
        Verdict::Batch(failure) | Verdict::Unknown(failure) => failure,
        Verdict::Key(message) => Failure::Outage { message },
    }
}

fn failed(what: &str, failure: Failure) -> CheckLine {
    let what = format!("{what}: {failure}");
    match failure {
        Failure::Outage { .. } | Failure::Held => CheckLine { ok: false, what, hint: None },
        Failure::Refused { hint, .. } => CheckLine { ok: false, what, hint: Some(hint) },
    }
}

/// A verb's name, of which two may share a rule key.
fn verb_name(verb: Verb) -> &'static str {
    match verb {
        Verb::BumpMatching => "bump by pattern",
        Verb::TagMatching => "tags by pattern",
        Verb::Expire => "delete with expire_in",
        Verb::ExpireMatching => "delete_matching with expire_in",
        Verb::DeleteTyped(_) => "delete_matching of a type",
        Verb::ExpireTyped(_) => "delete_matching of a type with expire_in",
        Verb::ExpireTag => "tags with expire_in",
        Verb::ExpireTagMatching => "tags by pattern with expire_in",
        verb => verb.key(),
    }
}

/// As redis-cli reads it.
fn quoted(bytes: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\');
    if bytes.iter().all(plain) {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut out = String::from("\"");
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend(['\\', byte as char]),
            b' '..=b'~' => out.push(byte as char),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;
    use crate::sinks::redis::RedisOptions;

    #[track_caller]
    fn line(verbs: &[Verb], options: RedisOptions) -> String {
        least_acl(&Duties::of(verbs), &RedisConfig::new(options).unwrap())
    }

    #[test]
    fn the_acl_line_grants_the_verbs_commands_and_no_more() {
        let options = RedisOptions::new("cache", "redis://u:geheim@h");
        assert_eq!(
            line(&[Verb::Delete], options.clone()),
            "ACL SETUSER u on >PASSWORD ~* +client|setname +info +ping +unlink"
        );
        let options = RedisOptions { prefix: "shop:".into(), ..options };
        assert_eq!(
            line(&[Verb::Bump, Verb::DeleteMatching], options),
            "ACL SETUSER u on >PASSWORD ~shop:* \
             +client|setname +exec +incr +info +multi +ping +scan +set +unlink"
        );
        let options = RedisOptions {
            tag_mode: TagMode::Version,
            prefix: "a *".into(),
            ..RedisOptions::new("cache", "redis://h/3")
        };
        assert_eq!(
            line(&[Verb::Tag], options),
            r#"ACL SETUSER walpurge on >PASSWORD "~a \\**" +client|setname +exec +incr +info +multi +ping +select +set"#
        );
    }
}
