//! May and can this Redis do what the rules ask of it? Tried with the very commands, on a key of
//! our own; and the least rights for it, as the line that grants them.

use std::sync::Arc;

use super::LaneClass;
use super::config::{RedisConfig, TagMode};
use super::connection::Connection;
use super::error::{Verdict, classify};
use super::publish::STREAM_FIELD;
use super::wire::{Reply, Request};
use crate::action::Verb;
use crate::glob;
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

/// Every verb, and so the order in which they are reported.
const VERBS: [Verb; 7] = [
    Verb::Delete,
    Verb::DeleteMatching,
    Verb::Bump,
    Verb::BumpMatching,
    Verb::Tag,
    Verb::TagMatching,
    Verb::Publish,
];

/// How the keys of a trial start, behind the sink's prefix.
pub(super) const TRIAL_KEY: &str = "walpurge:check:";

/// What every connection and `check` itself use.
const COMMON_COMMANDS: [&str; 3] = ["client|setname", "info", "ping"];

/// The commands of a verb: what its module sends, for the rights and for the trial.
fn commands(verb: Verb, mode: TagMode) -> Vec<&'static str> {
    const BUMP: [&str; 4] = ["multi", "set", "incr", "exec"];
    const TAG: [&str; 9] =
        ["scard", "exists", "renamenx", "persist", "sscan", "multi", "unlink", "srem", "exec"];
    let (scan, commands): (&[_], &[_]) = match (verb, mode) {
        (Verb::Delete, _) => (&[], &["unlink"]),
        (Verb::DeleteMatching, _) => (&["scan"], &["unlink"]),
        (Verb::Bump, _) | (Verb::Tag, TagMode::Version) => (&[], &BUMP),
        (Verb::BumpMatching, _) | (Verb::TagMatching, TagMode::Version) => (&["scan"], &BUMP),
        (Verb::Tag, TagMode::Members) => (&[], &TAG),
        (Verb::TagMatching, TagMode::Members) => (&["scan"], &TAG),
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
    all.extend(duties.verbs.iter().flat_map(|verb| commands(*verb, config.tag_mode)));
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
    let mut connection = match Connection::open(Arc::new(config.clone())).await {
        Ok(connection) => connection,
        Err(failure) => return vec![failed("connect", failure)],
    };
    let mut lines = vec![match ping(&mut connection, config).await {
        Ok(line) => line,
        Err(failure) => return vec![failed("PING", failure)],
    }];
    for verb in VERBS {
        if !duties.verbs.contains(&verb) {
            continue;
        }
        let name = verb_name(verb);
        match try_verb(&mut connection, config, verb, duties).await {
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
) -> Result<(), Failure> {
    if verb == Verb::Publish {
        return try_publish(config, duties).await;
    }
    let name = format!("{TRIAL_KEY}{:016x}", fastrand::u64(..));
    let key = [&config.prefix[..], name.as_bytes()].concat();
    let other = [&key[..], b":renamed"].concat();
    let commands = commands(verb, config.tag_mode);
    let mut request = Request::default();
    for command in &commands {
        match *command {
            "multi" | "exec" => request.simple(&[command.as_bytes()]),
            "scan" => request.simple(&[b"SCAN", b"0", b"MATCH", &key, b"COUNT", b"1"]),
            "sscan" => request.simple(&[b"SSCAN", &key, b"0"]),
            "srem" => request.simple(&[b"SREM", &key, b"member"]),
            "renamenx" => request.simple(&[b"RENAMENX", &key, &other]),
            "set" => request.simple(&[b"SET", &key, b"1", b"NX", b"PX", b"10000"]),
            command => request.simple(&[command.as_bytes(), &key]),
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
