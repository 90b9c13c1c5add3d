//! How the daemon is doing: what `walpurge status`, `/status`, `/readyz` and the gauges of
//! `/metrics` show.
//!
//! Plain data. The daemon publishes it twice a second to a [`Board`]; whoever looks at it has a
//! copy. No value of a row and no secret is in it.

mod board;
mod pulse;
mod rules;
mod text;

use serde::{Deserialize, Serialize};

pub use board::{Board, Published};
pub use pulse::{Pulse, Stage};
pub use rules::{RuleStatus, rules};
pub use text::{Look, brief, line, text};

use crate::lsn::Lsn;
use crate::sinks::cdn::cloudfront::MonthCharges;

/// A stream that is further behind than this is not ready, in seconds.
pub const LAG_SECONDS_MAX: f64 = 60.0;

/// What the daemon is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It has no stream, and tries to get one.
    #[default]
    Connecting,
    /// Another daemon has the slot, and this one takes over when that ends.
    Standby,
    /// It follows the stream.
    Streaming,
    /// It follows a new slot's stream until every rule's fallback is done.
    ClosingGap,
    /// No daemon answers: what is known comes from Postgres alone.
    NotRunning,
}

/// The state of a walpurge. Its JSON keeps the names of its keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The version of the daemon, or of the command that asked Postgres.
    pub version: String,
    /// What the daemon is doing.
    pub role: Role,
    /// Why it does not keep up, in a sentence; `None`: it is ready.
    pub not_ready: Option<String>,
    /// The log and the slot.
    pub postgres: PostgresStatus,
    /// How far back one can replay; `None`: no further than the slot's own position.
    pub replay: Option<ReplayStatus>,
    /// Each sink, in the order of the configuration.
    pub sinks: Vec<SinkStatus>,
    /// Each enabled rule, in the order of the configuration; without a daemon none.
    pub rules: Vec<RuleStatus>,
    /// How many records there are of what was given up on; `None`: none are kept.
    pub parked: Option<u64>,
    /// How many gaps were found since the daemon started.
    pub gaps: u64,
}

/// The log and the slot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PostgresStatus {
    /// Where the configuration says that it is, without secrets.
    pub target: String,
    /// Which of those hosts it is.
    pub host: Option<String>,
    /// The slot.
    pub slot: String,
    /// The process of the server that streams from it.
    pub active_pid: Option<i32>,
    /// Everything before this is done, or was when the slot was asked.
    #[serde(with = "lsn_text")]
    pub confirmed_lsn: Option<Lsn>,
    /// The end of what the stream has brought.
    #[serde(with = "lsn_text")]
    pub received_lsn: Option<Lsn>,
    /// The end of the log.
    #[serde(with = "lsn_text")]
    pub wal_end_lsn: Option<Lsn>,
    /// How much of the log is not done.
    pub lag_bytes: Option<u64>,
    /// Since when, as far as that is known.
    pub lag_seconds: Option<f64>,
    /// How much WAL the slot holds.
    pub wal_held_bytes: Option<u64>,
    /// How much more it can hold before it is lost; `None`: only the disk bounds it.
    pub wal_left_bytes: Option<u64>,
    /// When that is at the present rate; `None`: never.
    pub wal_left_seconds: Option<f64>,
    /// What went wrong last, until it is over.
    pub error: Option<ErrorStatus>,
}

/// What replays can be made of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplayStatus {
    /// The slot that keeps it.
    pub slot: String,
    /// The first position that can be replayed from.
    #[serde(with = "lsn_text")]
    pub from_lsn: Option<Lsn>,
    /// When that was the end of the log, in seconds since 1970.
    pub from_seconds: Option<f64>,
    /// How long ago that is, in seconds.
    pub horizon_seconds: Option<f64>,
}

/// One sink.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SinkStatus {
    /// Its name.
    pub name: String,
    /// Its kind, as its section is called.
    pub kind: String,
    /// How it is.
    pub state: SinkState,
    /// Everything before this is done there; `None`: not known.
    #[serde(with = "lsn_text")]
    pub position_lsn: Option<Lsn>,
    /// How many actions wait, or are being sent.
    pub waiting: u64,
    /// How many were done since the daemon started.
    pub done: u64,
    /// How many batches had to be sent again.
    pub retries: u64,
    /// How many records there are of actions that it refused for good.
    pub parked: u64,
    /// What its provider has charged this month; `None`: it charges for no single purge.
    pub charges: Option<ChargesStatus>,
    /// What went wrong last, until it is over.
    pub error: Option<ErrorStatus>,
    /// What went wrong last of what is over, since the configuration was loaded.
    pub last_error: Option<PastError>,
}

/// What a CDN has charged in a month: the daemon's purges, replays' and those tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChargesStatus {
    /// The month, in UTC: `2026-11`.
    pub month: String,
    /// How many paths, tags and wildcards.
    pub charged: u64,
    /// How many may be before everything is purged by one; `None`: any number.
    pub most: Option<u64>,
}

/// How a sink is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkState {
    /// No daemon says.
    #[default]
    Unknown,
    /// Its last attempt went well, or there was none.
    Up,
    /// It is tried again: an outage.
    Down,
    /// It refuses us: a person must act.
    Refused,
    /// Its `mode` is "hold".
    Held,
    /// Its `mode` is "off".
    Off,
}

/// An error that lasts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ErrorStatus {
    /// What it is, as the log says it.
    pub message: String,
    /// What mends it.
    pub hint: Option<String>,
    /// Since when, in seconds since 1970.
    pub since_seconds: f64,
}

/// An error that is over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PastError {
    /// What it was, as the log says it.
    pub message: String,
    /// When it began, in seconds since 1970.
    pub since_seconds: f64,
    /// When it was over, in seconds since 1970.
    pub until_seconds: f64,
}

impl ErrorStatus {
    /// It begins now.
    pub fn now(message: String, hint: Option<String>) -> Self {
        ErrorStatus { message, hint, since_seconds: now_seconds() }
    }

    /// It is over now.
    pub fn over_now(self) -> PastError {
        let ErrorStatus { message, since_seconds, .. } = self;
        PastError { message, since_seconds, until_seconds: now_seconds() }
    }
}

impl From<MonthCharges> for ChargesStatus {
    fn from(MonthCharges { month, charged, most }: MonthCharges) -> Self {
        ChargesStatus { month, charged, most }
    }
}

impl Status {
    /// Why work does not keep up, if it does not.
    pub fn unready(&self) -> Option<String> {
        match self.role {
            Role::Standby => None,
            Role::NotRunning => Some("no daemon answers".to_owned()),
            Role::Connecting => Some(match &self.postgres.error {
                Some(error) => format!("not streaming: {}", error.message),
                None => "not streaming yet".to_owned(),
            }),
            Role::ClosingGap => Some("closing a gap: every rule's fallback runs".to_owned()),
            Role::Streaming => {
                let lag = self.postgres.lag_seconds.filter(|&lag| lag > LAG_SECONDS_MAX)?;
                let bad =
                    |sink: &&SinkStatus| !matches!(sink.state, SinkState::Up | SinkState::Off);
                let names: Vec<_> =
                    self.sinks.iter().filter(bad).map(|sink| sink.name.as_str()).collect();
                let of = match names.is_empty() {
                    true => String::new(),
                    false => format!("; not working: {}", names.join(", ")),
                };
                Some(format!("{lag:.0} s behind, where {LAG_SECONDS_MAX:.0} s are allowed{of}"))
            }
        }
    }
}

/// The time in seconds since 1970.
pub fn now_seconds() -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0.0, |since| since.as_secs_f64())
}

/// A position as Postgres writes it, or null.
mod lsn_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::lsn::Lsn;

    pub(super) fn serialize<S: Serializer>(
        lsn: &Option<Lsn>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match lsn {
            Some(lsn) => serializer.collect_str(lsn),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Lsn>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;

    #[test]
    fn a_standby_is_ready_and_a_stream_that_is_behind_is_not() {
        let mut status = Status::default();
        assert_eq!(status.unready().as_deref(), Some("not streaming yet"));
        status.role = Role::Standby;
        assert_eq!(status.unready(), None);
        status.role = Role::Streaming;
        assert_eq!(status.unready(), None);
        status.postgres.lag_seconds = Some(61.0);
        let (name, state) = ("cache".to_owned(), SinkState::Down);
        status.sinks.push(SinkStatus { name, state, ..SinkStatus::default() });
        let said = status.unready().unwrap();
        assert_eq!(said, "61 s behind, where 60 s are allowed; not working: cache");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut status = Status { role: Role::ClosingGap, ..Status::default() };
        status.postgres.confirmed_lsn = Some(Lsn(0x16_B374_8480));
        let json = serde_json::to_string(&status).unwrap();
        assert!(json.contains(r#""confirmed_lsn":"16/B3748480""#), "{json}");
        assert!(json.contains(r#""role":"closing_gap""#), "{json}");
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
    }
}
