//! One record.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::action::{Action, Verb};
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
        What { action: action.to_owned(), matching: false, value: text, value_base64 }
    }

    /// What it asks a sink to do; `None`: nothing that a sink can do.
    pub fn verb(&self) -> Option<Verb> {
        let verb = match (self.action.as_str(), self.matching) {
            ("delete", _) => Verb::Delete,
            ("delete_matching", _) => Verb::DeleteMatching,
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
        Some(verb)
    }

    /// Its bytes.
    pub fn value(&self) -> Vec<u8> {
        match (&self.value, &self.value_base64) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(encoded)) => STANDARD.decode(encoded).unwrap_or_default(),
            (None, None) => Vec::new(),
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
        let matching = matches!(action.verb, Verb::BumpMatching | Verb::TagMatching);
        Record {
            at: now(),
            reason: reason.to_owned(),
            lsn: None,
            sink: Some(sink.to_owned()),
            what: What { matching, ..What::new(action.verb.key(), action.value) },
            retrying: false,
        }
    }
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
