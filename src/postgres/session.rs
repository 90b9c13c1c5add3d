//! What can be asked on a replication connection while it does not stream?
//!
//! Start-up and simple queries: Postgres lets a `replication=database` connection run the
//! replication commands and SQL, both only through the simple protocol.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use postgres_protocol::message::frontend;

use super::auth;
use super::connect::{self, Opener, ServerRole};
use super::error::{PgError, PgErrorKind, Subject};
use super::fields::{Cursor, ServerError};
use super::query::{self, Answer, Rows};
use super::replication::ReplicationStream;
use super::socket::ChosenHost;
use super::standby_names;
use super::url::ConnectConfig;
use super::wire::Wire;
use crate::lsn::Lsn;

/// How values print, and how soon a dead daemon's slot is free: set for our session alone.
const SESSION_OPTIONS: &str = "-c DateStyle=ISO -c TimeZone=UTC -c IntervalStyle=postgres \
    -c extra_float_digits=1 -c bytea_output=hex -c wal_sender_timeout=10s";

/// The same, whatever the URL's `options` say: changes that wal2json drops come as warnings. A
/// startup packet also outranks what the role and the database have set.
const FORCED_OPTIONS: &str = "-c client_min_messages=warning";

/// Where the last checkpoint began in the log, and how many seconds ago. Everybody may ask.
const LAST_CHECKPOINT: &str = "SELECT redo_lsn, \
    extract(epoch FROM pg_catalog.clock_timestamp() - checkpoint_time) \
    FROM pg_catalog.pg_control_checkpoint()";

/// The time of a checkpoint is in whole seconds, and taken a little before its place in the log.
const CHECKPOINT_MARGIN: Duration = Duration::from_secs(2);

/// How long saying goodbye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Who a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// Made by initdb; the same on every standby and in every restore.
    pub system_id: String,
    /// Raised by every promotion.
    pub timeline: u32,
    /// The end of WAL that is flushed.
    pub flushed_lsn: Lsn,
    /// The database that the session is connected to.
    pub dbname: String,
}

/// A replication connection outside of a stream.
pub struct ReplicationSession {
    wire: Wire,
    host: ChosenHost,
    /// What the server reported about itself and the session.
    parameters: HashMap<String, String>,
    process_id: i32,
    subject: Subject,
}

/// Why a stream did not start. The session is given back if it can still be used.
#[derive(Debug)]
pub struct StartFailure {
    /// The session, unless the connection is gone.
    pub session: Option<Box<ReplicationSession>>,
    /// What happened.
    pub error: PgError,
}

impl From<StartFailure> for PgError {
    fn from(failure: StartFailure) -> PgError {
        failure.error
    }
}

/// Opens replication sessions.
struct Replication;

impl Opener for Replication {
    type Session = ReplicationSession;

    async fn open(
        &self,
        config: &ConnectConfig,
        host: &ChosenHost,
    ) -> Result<ReplicationSession, PgError> {
        let stream = connect::open_stream(config, host).await?;
        let host = ChosenHost { encryption: stream.encryption(), ..host.clone() };
        let subject = Subject { host: host.to_string(), ..connect::subject(config) };
        let mut session = ReplicationSession {
            wire: Wire::new(stream),
            host,
            parameters: HashMap::new(),
            process_id: 0,
            subject,
        };
        session.start_up(config).await.map_err(|error| error.about(&session.subject))?;
        Ok(session)
    }

    async fn role(&self, session: &mut ReplicationSession) -> Result<ServerRole, PgError> {
        let reported = |name| session.parameters.get(name).map(|value| value == "on");
        // Reported by Postgres 14 and later.
        if let (Some(in_recovery), Some(read_only)) =
            (reported("in_hot_standby"), reported("default_transaction_read_only"))
        {
            return Ok(ServerRole { in_recovery, read_only });
        }
        let rows = session.simple_query(ROLE_QUERY).await?;
        role(&rows).ok_or_else(|| PgError::new(PgErrorKind::Protocol, "ask for the server's role"))
    }
}

/// What [`ServerRole`] is made of, for servers that do not report it.
pub(crate) const ROLE_QUERY: &str =
    "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::boolean";

/// The answer to [`ROLE_QUERY`].
pub(crate) fn role(rows: &Rows) -> Option<ServerRole> {
    let [in_recovery, read_only] = rows.first()?.as_slice() else { return None };
    let is_true = |value: &Option<String>| value.as_deref() == Some("t");
    Some(ServerRole { in_recovery: is_true(in_recovery), read_only: is_true(read_only) })
}

impl ReplicationSession {
    /// Opens a session on the first server that will have us and is of the wanted kind; each
    /// address is given `connect_timeout`.
    pub async fn connect(config: &ConnectConfig) -> Result<ReplicationSession, PgError> {
        connect::walk(config, &Replication).await
    }

    async fn start_up(&mut self, config: &ConnectConfig) -> Result<(), PgError> {
        const OPERATION: &str = "start a replication session";
        let options = match &config.options {
            Some(own) => format!("{SESSION_OPTIONS} {own} {FORCED_OPTIONS}"),
            None => format!("{SESSION_OPTIONS} {FORCED_OPTIONS}"),
        };
        let parameters = [
            ("user", config.user.as_str()),
            ("database", &config.dbname),
            ("replication", "database"),
            ("client_encoding", "UTF8"),
            ("application_name", &config.application_name),
            ("options", &options),
        ];
        frontend::startup_message(parameters, &mut self.wire.out)
            .map_err(|error| PgError::new(PgErrorKind::Config, OPERATION).because(error))?;
        self.wire.send(OPERATION).await?;
        auth::authenticate(&mut self.wire, config).await?;
        loop {
            let frame = self.wire.receive(OPERATION).await?;
            let mut cursor = Cursor(frame.body);
            match frame.tag {
                b'Z' => return Ok(()),
                b'E' => return Err(refused_at_start(ServerError::parse(frame.body))),
                b'K' => self.process_id = cursor.i32().unwrap_or_default(),
                b'S' => {
                    if let (Some(name), Some(value)) = (cursor.text(), cursor.text()) {
                        self.parameters.insert(name.into_owned(), value.into_owned());
                    }
                }
                _ => {}
            }
        }
    }

    /// The server that was chosen.
    pub fn host(&self) -> &ChosenHost {
        &self.host
    }

    /// The process that serves this session.
    pub fn process_id(&self) -> i32 {
        self.process_id
    }

    /// The server's version, 150018 for 15.18; 0 if it did not say.
    pub fn server_version_num(&self) -> u32 {
        self.parameters.get("server_version").map_or(0, |text| version_num(text))
    }

    /// A setting that the server reports by itself.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Makes sure that no write of the server would wait for our stream.
    ///
    /// # Errors
    /// [`PgErrorKind::SynchronousStandby`] if one would.
    pub async fn refuse_to_be_waited_for(&mut self, config: &ConnectConfig) -> Result<(), PgError> {
        let rows = self.simple_query(standby_names::QUERY).await?;
        standby_names::refuse(&rows, config.application_name())
    }

    /// Asks who the server is. A pooler in between shows itself here at the latest.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, PgError> {
        let operation = "identify the system";
        let rows = self.command(operation, "IDENTIFY_SYSTEM").await?;
        let identity = rows.into_iter().next().and_then(|row| {
            let [system_id, timeline, lsn, dbname] = <[_; 4]>::try_from(row).ok()?;
            Some(SystemIdentity {
                system_id: system_id?,
                timeline: timeline?.parse().ok()?,
                flushed_lsn: lsn?.parse().ok()?,
                // NULL for a physical session: something in between dropped `replication`.
                dbname: dbname?,
            })
        });
        identity.ok_or_else(|| PgError::new(PgErrorKind::Pooler, operation).about(&self.subject))
    }

    /// Runs SQL, or replication commands, and gives all rows of all their answers as text.
    ///
    /// Not cancel safe: a session whose query was dropped is of no use.
    pub async fn simple_query(&mut self, sql: &str) -> Result<Rows, PgError> {
        self.command("run a query", sql).await
    }

    pub(crate) async fn command(&mut self, operation: &str, sql: &str) -> Result<Rows, PgError> {
        match self.exchange(operation, sql).await {
            Ok(Answer::Rows(rows)) => Ok(rows),
            Ok(Answer::Streaming) => Err(PgError::new(PgErrorKind::Protocol, operation)),
            Err((error, _)) => Err(error),
        }
    }

    /// Starts streaming from a slot, where it stands: what is confirmed is the slot's affair, so
    /// the position is always 0/0.
    ///
    /// The options go to the output plugin. The future is not cancel safe.
    pub async fn start_replication(
        self,
        slot: &str,
        options: &[(&str, &str)],
    ) -> Result<ReplicationStream, StartFailure> {
        self.start_replication_from(slot, Lsn::ZERO, options).await
    }

    /// The same with transactions whose commit_lsn is `from` or later, if the slot stands before
    /// that: for a slot of which nothing is to be confirmed.
    pub async fn start_replication_from(
        mut self,
        slot: &str,
        from: Lsn,
        options: &[(&str, &str)],
    ) -> Result<ReplicationStream, StartFailure> {
        self.subject.slot = Some(slot.to_string());
        let command = start_command(slot, from, options);
        match self.exchange("start replication", &command).await {
            Ok(Answer::Streaming) => Ok(ReplicationStream::new(self.wire, self.subject)),
            Ok(Answer::Rows(_)) => Err(StartFailure {
                error: PgError::new(PgErrorKind::Protocol, "start replication")
                    .about(&self.subject),
                session: Some(Box::new(self)),
            }),
            Err((error, Usable::Yes)) => Err(StartFailure { session: Some(Box::new(self)), error }),
            Err((error, Usable::No)) => Err(StartFailure { session: None, error }),
        }
    }

    /// Up to where the log was written by when: the last checkpoint's. `None`: it is not to be had.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn last_checkpoint(&mut self) -> Result<Option<(Lsn, Instant)>, PgError> {
        let asked_at = Instant::now();
        let rows = match self.exchange("ask for the last checkpoint", LAST_CHECKPOINT).await {
            Ok(Answer::Rows(rows)) => rows,
            // Somebody took the right to ask away.
            Ok(Answer::Streaming) | Err((_, Usable::Yes)) => return Ok(None),
            Err((error, Usable::No)) => return Err(error),
        };
        let mut row = rows.into_iter().flatten().map(Option::unwrap_or_default);
        let lsn = row.next().and_then(|lsn| lsn.parse().ok());
        let age = row.next().and_then(|age| age.parse().ok());
        let age = age.and_then(|age| Duration::try_from_secs_f64(age).ok());
        let age = age.and_then(|age: Duration| age.checked_sub(CHECKPOINT_MARGIN));
        Ok(lsn.zip(age.and_then(|age| asked_at.checked_sub(age))))
    }

    /// Ends the session with a word, which spares the server's log a complaint. Dropping it ends
    /// it as well.
    pub async fn close(mut self) {
        frontend::terminate(&mut self.wire.out);
        // Nothing depends on it any more.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.wire.send("end the session")).await;
    }

    pub(crate) fn subject_mut(&mut self) -> &mut Subject {
        &mut self.subject
    }

    async fn exchange(&mut self, operation: &str, sql: &str) -> Result<Answer, (PgError, Usable)> {
        match query::exchange(&mut self.wire, operation, sql).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                let error = PgError::server(operation, error).about(&self.subject);
                Err((error, Usable::Yes))
            }
            Err(error) => {
                // TLS was agreed on long ago: what breaks now is the connection.
                let error = match error.kind() {
                    PgErrorKind::Tls => error.with_kind(PgErrorKind::ConnectionLost),
                    _ => error,
                };
                Err((error.about(&self.subject), Usable::No))
            }
        }
    }
}

impl std::fmt::Debug for ReplicationSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplicationSession")
            .field("host", &self.host)
            .field("process_id", &self.process_id)
            .finish_non_exhaustive()
    }
}

/// Whether a session can go on after an error.
enum Usable {
    Yes,
    No,
}

/// A server that refuses a setting of the startup packet names it; nothing but a change of the
/// URL's options, or of the server, helps.
fn refused_at_start(error: ServerError) -> PgError {
    let setting = ["22", "42", "55"].iter().any(|class| error.sqlstate.starts_with(class));
    let error = PgError::server("start a replication session", error);
    match error.kind() {
        PgErrorKind::Other { .. } if setting => error.with_kind(PgErrorKind::Config),
        _ => error,
    }
}

/// `15.18 (Debian …)` is 150018, `9.6.24` is 90624, `18beta1` is 180000.
fn version_num(text: &str) -> u32 {
    let text = text.split(|c: char| c != '.' && !c.is_ascii_digit()).next().unwrap_or_default();
    let mut parts = text.split('.').map(|part| part.parse::<u32>().unwrap_or_default());
    let [major, second, third] = [(); 3].map(|()| parts.next().unwrap_or_default().min(9999));
    if major >= 10 { major * 10_000 + second } else { major * 10_000 + second * 100 + third }
}

fn start_command(slot: &str, from: Lsn, options: &[(&str, &str)]) -> String {
    use super::quote::{identifier, replication_literal};
    let options: Vec<String> = options
        .iter()
        .map(|(name, value)| format!("{} {}", identifier(name), replication_literal(value)))
        .collect();
    // The grammar knows no empty list.
    let list =
        if options.is_empty() { String::new() } else { format!(" ({})", options.join(", ")) };
    format!("START_REPLICATION SLOT {} LOGICAL {from}{list}", identifier(slot))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_become_numbers() {
        for (text, number) in [
            ("15.18 (Debian 15.18-0+deb12u1)", 150_018),
            ("18.4", 180_004),
            ("18beta1", 180_000),
            ("9.6.24", 90_624),
            ("", 0),
            ("99999999999.1", 100), // nonsense, but no overflow
        ] {
            assert_eq!(version_num(text), number, "{text}");
        }
    }

    #[test]
    fn options_are_quoted() {
        assert_eq!(
            start_command("a\"b", Lsn::ZERO, &[("add-tables", r"public.it\'s"), ("x", "")]),
            r#"START_REPLICATION SLOT "a""b" LOGICAL 0/0 ("add-tables" 'public.it\''s', "x" '')"#
        );
    }
}
