//! Messages: what `pg_logical_emit_message` asks for without a rule.
//!
//! `SELECT pg_logical_emit_message(true, 'walpurge', '{"delete":["k"],"tags":["t"]}')` runs those
//! verbs when its transaction commits. The values are exact: nothing in them is a template.

use serde::Deserialize;

use super::matcher::Emission;
use super::rule_set::{RuleSet, SinkId};
use super::spec::SinkSpec;
use crate::action::{Action, Verb};

/// The prefix of messages for walpurge.
pub const MESSAGE_PREFIX: &str = "walpurge";

/// What messages may ask for: whoever may run SQL in the database may emit one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Messages {
    /// Exact keys, counters, tags and surrogate keys.
    Keys,
    /// Patterns and paths too.
    All,
    /// Nothing.
    Off,
}

/// What a message holds: verbs by their keys in the configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    #[serde(default)]
    delete: Vec<String>,
    #[serde(default)]
    delete_matching: Vec<String>,
    #[serde(default)]
    bump: Vec<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    purge_keys: Vec<String>,
    #[serde(default)]
    purge_paths: Vec<String>,
}

/// Why nothing of a message is done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// It is not an object of lists of strings, or has a key that is no verb.
    #[error("not an object of verbs and lists of strings, at column {column}")]
    Malformed {
        /// Where reading stopped.
        column: usize,
    },
    /// `messages` does not allow a verb.
    #[error("`{verb}` is only allowed with messages = \"all\"")]
    NotAllowed {
        /// Its key.
        verb: &'static str,
    },
    /// No sink can do a verb.
    #[error("no sink can do `{verb}`")]
    NoSink {
        /// Its key.
        verb: &'static str,
    },
    /// A value is empty.
    #[error("an empty value for `{verb}`")]
    Empty {
        /// The verb's key.
        verb: &'static str,
    },
}

impl RuleSet {
    /// Calls `emit` for everything that a message asks for, verb by verb.
    ///
    /// # Errors
    /// If any of it cannot be done; then nothing was emitted. The error holds nothing of the
    /// message's values.
    pub fn message(
        &self,
        content: &[u8],
        allowed: Messages,
        mut emit: impl FnMut(Emission<'_>),
    ) -> Result<(), MessageError> {
        // A list would be taken for an object by position.
        if content.trim_ascii_start().first() != Some(&b'{') {
            return Err(MessageError::Malformed { column: 1 });
        }
        let content: Content = serde_json::from_slice(content)
            .map_err(|error| MessageError::Malformed { column: error.column() })?;
        let verbs = [
            (Verb::Delete, content.delete),
            (Verb::DeleteMatching, content.delete_matching),
            (Verb::Bump, content.bump),
            (Verb::Tag, content.tags),
            (Verb::PurgeKey, content.purge_keys),
            (Verb::PurgePath, content.purge_paths),
        ];
        let mut asked = Vec::new();
        for (verb, values) in verbs.iter().filter(|(_, values)| !values.is_empty()) {
            let is_coarse = matches!(verb, Verb::DeleteMatching | Verb::PurgePath);
            if is_coarse && allowed != Messages::All {
                return Err(MessageError::NotAllowed { verb: verb.key() });
            }
            if values.iter().any(String::is_empty) {
                return Err(MessageError::Empty { verb: verb.key() });
            }
            for value in values {
                let action = Action { verb: *verb, value: value.as_bytes() };
                let sinks = self.sinks_for(action);
                if sinks.is_empty() {
                    return Err(MessageError::NoSink { verb: verb.key() });
                }
                asked.push((action, sinks));
            }
        }
        for (action, sinks) in asked {
            emit(Emission { rule: None, sinks: &sinks, action, fallback: None });
        }
        Ok(())
    }

    /// Every sink that can do an action.
    fn sinks_for(&self, action: Action<'_>) -> Vec<SinkId> {
        let can = |sink: &SinkSpec| sink.supports(action.verb, action.value);
        let able = self.sinks().iter().enumerate().filter(|(_, sink)| can(sink));
        able.map(|(at, _)| SinkId(at as u32)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::SinkKind;
    use crate::rules::{PathPurges, Purges, compile};

    fn asked(content: &str, allowed: Messages) -> Result<Vec<String>, MessageError> {
        let sink = SinkSpec::redis("cache");
        let rules = compile(&[], Vec::new(), vec![sink], &mut Vec::new());
        let mut asked = Vec::new();
        rules.message(content.as_bytes(), allowed, |emission| {
            let value = String::from_utf8_lossy(emission.action.value);
            asked.push(format!("{} {value}", emission.action.verb.key()));
        })?;
        Ok(asked)
    }

    #[test]
    fn verbs_run_in_their_order_with_exact_values() {
        let content = r#"{"tags":["t"],"delete":["a b","{x}*"],"bump":["v"]}"#;
        let expected = ["delete a b", "delete {x}*", "bump v", "tags t"].map(String::from);
        assert_eq!(asked(content, Messages::Keys), Ok(expected.to_vec()));
        assert_eq!(asked("{}", Messages::Keys), Ok(Vec::new()));
    }

    #[test]
    fn patterns_need_to_be_allowed() {
        let content = r#"{"delete":["k"],"delete_matching":["a*"]}"#;
        let refused = MessageError::NotAllowed { verb: "delete_matching" };
        assert_eq!(asked(content, Messages::Keys), Err(refused));
        assert_eq!(asked(content, Messages::All).map(|asked| asked.len()), Ok(2));
    }

    #[test]
    fn a_path_goes_where_it_can_be_purged_as_it_is() {
        let sinks =
            [("exact", PathPurges::Exact), ("wild", PathPurges::Wildcards)].map(|(name, paths)| {
                SinkSpec {
                    purges: Purges { paths, ..Purges::default() },
                    kind: SinkKind::Http,
                    ..SinkSpec::redis(name)
                }
            });
        let rules = compile(&[], Vec::new(), sinks.to_vec(), &mut Vec::new());
        let mut asked = Vec::new();
        let content = br#"{"purge_paths":["/a","/b/*"]}"#;
        let emit = |emission: Emission<'_>| asked.push(emission.sinks.to_vec());
        assert_eq!(rules.message(content, Messages::All, emit), Ok(()));
        assert_eq!(asked, [vec![SinkId(0), SinkId(1)], vec![SinkId(1)]]);
        let refused = rules.message(content, Messages::Keys, |_| panic!("emitted"));
        assert_eq!(refused, Err(MessageError::NotAllowed { verb: "purge_paths" }));
    }

    #[test]
    fn what_cannot_be_done_is_refused_whole() {
        let no_sink = MessageError::NoSink { verb: "purge_keys" };
        assert_eq!(asked(r#"{"delete":["k"],"purge_keys":["p"]}"#, Messages::All), Err(no_sink));
        let empty = MessageError::Empty { verb: "delete" };
        assert_eq!(asked(r#"{"delete":["k",""]}"#, Messages::All), Err(empty));
        for content in ["", "x", "[]", r#"{"delete":"k"}"#, r#"{"dlete":["k"]}"#, r#"{"bump":[1]}"#]
        {
            let refused = asked(content, Messages::All);
            assert!(
                matches!(refused, Err(MessageError::Malformed { .. })),
                "{content}: {refused:?}"
            );
        }
    }
}
