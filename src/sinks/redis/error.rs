//! What does an error of Redis mean for the batch? One `match`, [`classify`].
//!
//! The server's own words reach the operator, but never an argument of the command: those are
//! keys, which hold values of rows.

use super::config::RedisConfig;
use crate::sinks::Failure;

/// How a Sentinel's error starts that does not know a master.
pub(super) const NO_SUCH_MASTER: &str = "No such master";

/// What became of one command.
pub(super) enum Verdict {
    /// It can never succeed at this key: the action is rejected, the others go on.
    Key(String),
    /// Nobody knows. The others go on, but this one is not done.
    Unknown(Failure),
    /// Nothing goes on.
    Batch(Failure),
}

/// Judges the error `text` (`CODE words`) that `command` got.
///
/// `acl` is the line that grants the lane all it needs.
pub(super) fn classify(
    text: &str,
    command: &str,
    config: &RedisConfig,
    acl: impl FnOnce() -> String,
) -> Verdict {
    let said = without_arguments(text);
    let message = format!("redis {} at {}: {command}: {said}", config.name, config.target());
    let outage =
        |advice: &str| Verdict::Batch(Failure::Outage { message: format!("{message}{advice}") });
    let refused =
        |hint: String| Verdict::Batch(Failure::Refused { message: message.clone(), hint });
    let (code, words) = said.split_once(' ').unwrap_or((&said, ""));
    let key = config.place_key();
    let replica = match key {
        "url" => " (is this a replica? url must lead to the primary)",
        _ => " (a failover is under way: the Sentinels are asked again)",
    };
    match code {
        "NOAUTH" if key == "url" => {
            refused("put user and password into url: redis://USER:PASSWORD@HOST".into())
        }
        "NOAUTH" => refused(format!("put the server's user and password into {key}")),
        "WRONGPASS" => {
            let encoded = if key == "url" { " (percent-encoded)" } else { "" };
            refused(format!(
                "check user and password in {key}{encoded}, or set them: \
                 ACL SETUSER walpurge on >PASSWORD"
            ))
        }
        "NOPERM" => refused(acl()),
        "DENIED" => refused(
            "the server is in protected mode: give it a password (requirepass) or bind it to \
             an address that only trusted hosts reach"
                .into(),
        ),
        "MOVED" | "ASK" | "CROSSSLOT" => refused(format!(
            "this is a node of a cluster: write redis.{0}.cluster = [\"redis://…\"] instead of \
                 redis.{0}.url",
            config.name()
        )),
        "READONLY" => outage(replica),
        "MISCONF" => outage(
            " (the server cannot save to disk and so refuses writes: see its log, or set \
             stop-writes-on-bgsave-error no)",
        ),
        "OOM" => outage(" (maxmemory is reached: raise it or set maxmemory-policy)"),
        "LOADING" | "BUSY" | "CLUSTERDOWN" | "TRYAGAIN" | "MASTERDOWN" | "NOREPLICAS" => outage(""),
        "WRONGTYPE" => Verdict::Key(format!("{command}: {said}")),
        "ERR"
            if words.starts_with("value is not an integer")
                || words.starts_with("increment or decrement would overflow") =>
        {
            Verdict::Key(format!("{command}: {said}"))
        }
        // Older servers know PEXPIRE, but not with LT.
        "ERR"
            if command == "PEXPIRE"
                && ["wrong number", "syntax error", "Unsupported option"]
                    .iter()
                    .any(|start| words.starts_with(start)) =>
        {
            refused("`expire_in` needs Redis 7.0 or newer, or Valkey: PEXPIRE with LT".into())
        }
        "ERR" if words.starts_with(NO_SUCH_MASTER) => refused("correct sentinel.master".into()),
        "ERR" if words.starts_with("WAIT cannot be used with replica") => outage(replica),
        "ERR" if words.starts_with("max number of clients") => outage(" (see maxclients)"),
        "ERR"
            if words.starts_with("unknown command") || words.starts_with("unknown subcommand") =>
        {
            refused(format!(
                "walpurge needs Redis 6.0 or newer with {command} not renamed or disabled"
            ))
        }
        "ERR" if words.starts_with("AUTH <password> called without any password") => {
            refused(format!("the server has no password: remove it from {key}"))
        }
        "ERR" if words.starts_with("invalid password") => {
            refused(format!("check the password in {key}"))
        }
        "ERR"
            if words.starts_with("DB index is out of range")
                || words.starts_with("invalid DB index")
                || words.starts_with("SELECT is not allowed in cluster mode") =>
        {
            refused(format!("the server has no database {}: check {key}", config.db))
        }
        _ => Verdict::Unknown(Failure::Outage { message }),
    }
}

/// An outage that is no answer of the server: I/O, timeouts.
pub(super) fn outage(config: &RedisConfig, doing: &str, error: impl std::fmt::Display) -> Failure {
    Failure::Outage {
        message: format!("redis {} at {}: {doing}: {error}", config.name, config.target()),
    }
}

/// The server's sentence up to where it quotes what we sent.
fn without_arguments(text: &str) -> String {
    const CHARS_MAX: usize = 160;
    // The first quoted word is the command's name; what is quoted after it is ours.
    let second_quoted = text.match_indices('\'').nth(2).map(|(at, _)| at);
    let end = [text.find(", with args"), second_quoted].into_iter().flatten().min();
    let end = end.unwrap_or(text.len());
    text[..end].chars().filter(|char| !char.is_control()).take(CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;
    use crate::sinks::redis::RedisOptions;

    fn judge(text: &str) -> Verdict {
        let config = RedisConfig::new(RedisOptions::new("cache", "redis://:geheim@h")).unwrap();
        classify(text, "UNLINK", &config, || "ACL SETUSER …".into())
    }

    #[test]
    fn refusals_say_how_to_mend_them() {
        for (text, hint) in [
            ("NOPERM this user has no permissions to run the 'unlink' command", "ACL SETUSER"),
            ("NOAUTH Authentication required.", "url"),
            ("WRONGPASS invalid username-password pair or user is disabled.", "ACL SETUSER"),
            ("ERR unknown command 'UNLINK', with args beginning with: 'k'", "6.0"),
            ("MOVED 866 10.0.0.1:6379", "cluster"),
            ("ERR DB index is out of range", "database 0"),
        ] {
            let Verdict::Batch(Failure::Refused { message, hint: got }) = judge(text) else {
                panic!("{text} is not refused")
            };
            assert!(got.contains(hint), "{got}");
            assert!(!message.contains("geheim") && !message.contains("'k'"), "{message}");
        }
    }

    #[test]
    fn a_server_that_is_too_old_to_cut_times_is_told_so() {
        let config = RedisConfig::new(RedisOptions::new("cache", "redis://h")).unwrap();
        let text = "ERR wrong number of arguments for 'pexpire' command";
        let verdict = classify(text, "PEXPIRE", &config, String::new);
        let Verdict::Batch(Failure::Refused { hint, .. }) = verdict else { panic!("not refused") };
        assert!(hint.contains("7.0"), "{hint}");
    }

    #[test]
    fn passing_states_are_outages() {
        for text in [
            "LOADING Redis is loading the dataset in memory",
            "READONLY You can't write against a read only replica.",
            "MISCONF Redis is configured to save RDB snapshots",
            "OOM command not allowed when used memory > 'maxmemory'.",
            "BUSY Redis is busy running a script.",
            "CLUSTERDOWN Hash slot not served",
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "MASTERDOWN Link with MASTER is down",
            "ERR max number of clients reached",
        ] {
            assert!(matches!(judge(text), Verdict::Batch(Failure::Outage { .. })), "{text}");
        }
        let Verdict::Batch(failure) = judge("READONLY You can't write against a replica.") else {
            panic!("not an outage")
        };
        assert!(failure.to_string().contains("primary"));
    }

    #[test]
    fn errors_of_one_key_reject_one_action() {
        for text in [
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "ERR value is not an integer or out of range",
            "ERR increment or decrement would overflow",
        ] {
            assert!(matches!(judge(text), Verdict::Key(_)), "{text}");
        }
    }

    #[test]
    fn an_unknown_error_is_not_taken_for_done() {
        for text in ["ERR upstream failure", "", "-", "WHAT"] {
            assert!(matches!(judge(text), Verdict::Unknown(Failure::Outage { .. })), "{text}");
        }
    }
}
