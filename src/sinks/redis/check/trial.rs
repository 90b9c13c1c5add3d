//! The very commands, tried once each on a key of our own.

use std::sync::Arc;

use super::super::config::RedisConfig;
use super::super::connection::Connection;
use super::super::error::{Verdict, classify};
use super::super::publish::STREAM_FIELD;
use super::super::replicas;
use super::super::rights::{Duties, commands, missing_rights};
use super::super::wire::{Reply, Request};
use super::CheckLine;
use crate::action::Verb;
use crate::sinks::Failure;

/// How the keys of a trial start, behind the sink's prefix.
pub(in crate::sinks::redis) const TRIAL_KEY: &str = "walpurge:check:";

/// An empty message to a channel of our own, or in a cluster a key, and WAIT.
pub(super) async fn try_wait(
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
pub(super) fn trial_key(config: &RedisConfig, takes: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    /// Of a cluster of 1,000 masters, each is found.
    const TRIES: u32 = 100_000;
    (0..TRIES).find_map(|_| {
        let name = format!("{TRIAL_KEY}{{{:016x}}}", fastrand::u64(..));
        let key = [&config.prefix[..], name.as_bytes()].concat();
        takes(&key).then_some(key)
    })
}

/// PING, and the version if INFO may be read.
pub(super) async fn ping(
    connection: &mut Connection,
    config: &RedisConfig,
) -> Result<CheckLine, Failure> {
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
pub(super) async fn try_verb(
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
