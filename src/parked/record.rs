//! One record.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::action::{Action, Verb};
use crate::key_type::KeyType;
use crate::lsn::Lsn;

/// Something that was given up on. Others read its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When, as RFC 3339 in UTC.
    pub at: String,
    /// Why, without values.
    pub reason: String,
    /// Where in the log; `None` where it is not known.
    pub lsn: Option<String>,
    /// The sink that refused it; `None` for a message.
    pub sink: Option<String>,
    /// What it is.
    #[serde(flatten)]
    pub what: What,
    /// It is being tried again, or was when that was interrupted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retrying: bool,
}

/// What was given up on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct What {
    /// The verb's key, or "message".
    pub action: String,
    /// The value is a pattern, although the key stands for exact values too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub matching: bool,
    /// It leaves keys so many milliseconds instead of deleting them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expire_in_ms: Option<u64>,
    /// Of which type keys have to be that match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_type: Option<String>,
    /// Its value, where that is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Its value in base64, where it is no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
}

impl What {
    fn new(action: &str, value: &[u8]) -> Self {
        let text = std::str::from_utf8(value).ok().map(str::to_owned);
        let value_base64 = text.is_none().then(|| STANDARD.encode(value));
        What {
            action: action.to_owned(),
            matching: false,
            expire_in_ms: None,
            key_type: None,
            value: text,
            value_base64,
        }
    }

    /// What it asks a sink to do; `None`: nothing that a sink can do.
    pub fn verb(&self) -> Option<Verb> {
        let verb = match (self.action.as_str(), self.matching) {
            ("delete", _) => Verb::Delete,
            ("delete_matching", _) => match &self.key_type {
                None => Verb::DeleteMatching,
                Some(name) => Verb::DeleteTyped(KeyType::of_name(name)?),
            },
            ("bump", false) => Verb::Bump,
            ("bump", true) => Verb::BumpMatching,
            ("tags", false) => Verb::Tag,
            ("tags", true) => Verb::TagMatching,
            ("purge_keys", _) => Verb::PurgeKey,
            ("purge_paths", _) => Verb::PurgePath,
            ("purge_all", _) => Verb::PurgeAll,
            ("publish", _) => Verb::Publish,
            _ => return None,
        };
        Some(if self.expire_in_ms.is_some() { verb.expiring() } else { verb })
    }

    /// Its bytes, as the verb has them.
    pub fn value(&self) -> Vec<u8> {
        let value = match (&self.value, &self.value_base64) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(encoded)) => STANDARD.decode(encoded).unwrap_or_default(),
            (None, None) => Vec::new(),
        };
        match (self.expire_in_ms, self.verb()) {
            (Some(ms), Some(verb)) if verb.expires() => {
                [format!("{ms}\0").as_bytes(), &value].concat()
            }
            _ => value,
        }
    }
}

impl Record {
    /// A message that asks for what cannot be done.
    pub fn message(lsn: Lsn, reason: impl Into<String>, content: &[u8]) -> Self {
        let lsn = Some(lsn.to_string());
        Record {
            at: now(),
            reason: reason.into(),
            lsn,
            sink: None,
            what: What::new("message", content),
            retrying: false,
        }
    }

    /// An action that a sink refuses for good.
    pub fn action(sink: &str, reason: &str, action: Action<'_>) -> Self {
        let matching = matches!(action.verb.deleting(), Verb::BumpMatching | Verb::TagMatching);
        let expire_in_ms = action.expire_in_ms();
        let key_type = action.verb.key_type().map(|of| of.name().to_owned());
        // The address of a message is part of what is kept.
        let value = if expire_in_ms.is_some() { action.shown() } else { action.value };
        Record {
            at: now(),
            reason: reason.to_owned(),
            lsn: None,
            sink: Some(sink.to_owned()),
            what: What { matching, expire_in_ms, key_type, ..What::new(action.verb.key(), value) },
            retrying: false,
        }
    }
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_asks_for_the_same_again() {
        for (verb, value) in [
            (Verb::Delete, &b"k"[..]),
            (Verb::Expire, b"1500\0k\0\xff"),
            (Verb::DeleteTyped(KeyType::Zset), b"k*"),
            (Verb::ExpireTyped(KeyType::Hash), b"1500\0k*"),
            (Verb::ExpireTag, b"1500\0t"),
            (Verb::ExpireTagMatching, b"1500\0t*"),
            (Verb::TagMatching, b"t*"),
            (Verb::Publish, b"channel\0text"),
        ] {
            let what = Record::action("cache", "why", Action { verb, value }).what;
            assert_eq!((what.verb(), &what.value()[..]), (Some(verb), value));
        }
    }
}
