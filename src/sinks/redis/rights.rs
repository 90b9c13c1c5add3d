//! Which commands does each verb send? And the least rights for what rules ask, as the line that
//! grants them.

use super::LaneClass;
use super::config::{RedisConfig, TagMode};
use super::replicas;
use crate::action::Verb;
use crate::glob;

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

/// What every connection and `check` itself use.
const COMMON_COMMANDS: [&str; 3] = ["client|setname", "info", "ping"];

/// What a cluster takes besides.
const CLUSTER_COMMANDS: [&str; 3] = ["asking", "cluster|nodes", "cluster|slots"];

/// The commands of a verb: what its module sends, for the rights and for the trial.
pub(super) fn commands(verb: Verb, config: &RedisConfig) -> Vec<&'static str> {
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
