//! What went wrong with Postgres, does a retry help, and what mends it?
//!
//! In: a server's error, an I/O error or a discovery of our own, with the operation it belongs
//! to. Out: a [`PgError`] whose [`kind`](PgError::kind) the daemon matches on.

mod classify;

use std::error::Error as StdError;
use std::fmt;
use std::io;

pub(crate) use classify::classify;

use super::fields::ServerError;
use super::frame::FrameError;

/// The cause, as far as the daemon's next step depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PgErrorKind {
    /// The connection could not be opened, broke, or timed out.
    ConnectionLost,
    /// The server does not believe who we are, or `pg_hba.conf` has no line for us.
    Auth,
    /// The server is starting or recovering (57P03).
    ServerStarting,
    /// The server is shutting down, or somebody ended our session (57P01, 57P02, 57P03).
    ServerShuttingDown,
    /// No host is of the kind that `target_session_attrs` asks for, or logical decoding is
    /// impossible on this standby.
    WrongServerRole,
    /// Another session uses the slot.
    SlotInUse {
        /// Its walsender.
        pid: Option<i32>,
    },
    /// There is no such slot.
    SlotMissing,
    /// There is already such a slot.
    SlotExists,
    /// The slot belongs to another database.
    SlotOfOtherDatabase {
        /// That database, if the server told.
        database: Option<String>,
    },
    /// The slot is for another plugin, or is a physical one.
    SlotOfOtherPlugin {
        /// That plugin; `None`: physical.
        plugin: Option<String>,
    },
    /// `synchronous_standby_names` means us: writes would wait for us while we wait for them.
    SynchronousStandby,
    /// The server has removed WAL that the slot needs.
    SlotLost,
    /// The plugin is not installed.
    PluginMissing,
    /// `output_plugin_libraries` does not list the plugin.
    PluginRefused,
    /// The plugin does not know an option.
    UnknownPluginOption(String),
    /// There is no such publication, or there was none yet where the slot stands.
    PublicationMissing,
    /// The publication does not carry what the rules need.
    PublicationLacking {
        /// What mends it where `walpurge setup` does not.
        hint: Option<String>,
    },
    /// `wal_level` is not `logical`.
    WalLevel,
    /// `max_replication_slots` is used up.
    NoFreeSlot,
    /// `max_wal_senders` is used up.
    NoFreeWalSender,
    /// `max_connections` is used up.
    NoFreeConnection,
    /// The role lacks REPLICATION.
    NoReplicationRight,
    /// There is no such database.
    DatabaseMissing,
    /// What answers is a pooler, which cannot replicate.
    Pooler,
    /// TLS was refused, or a certificate is not trusted.
    Tls,
    /// A setting or file of ours cannot be used.
    Config,
    /// The server spoke something else than the protocol.
    Protocol,
    /// Anything else that the server reported.
    Other {
        /// Its SQLSTATE.
        sqlstate: String,
    },
}

/// Whom and what an error is about, so that its hint is ready to be run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subject {
    pub(crate) user: String,
    pub(crate) dbname: String,
    /// `host:port`, as far as it is known.
    pub(crate) host: String,
    pub(crate) slot: Option<String>,
    pub(crate) plugin: Option<String>,
    pub(crate) publication: Option<String>,
}

/// An operation on Postgres that failed. It displays the operation; the cause is its source.
#[derive(Debug)]
pub struct PgError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: PgErrorKind,
    operation: String,
    subject: Subject,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl PgError {
    /// An error of a kind that is known where it happens.
    pub(crate) fn new(kind: PgErrorKind, operation: impl Into<String>) -> PgError {
        let operation = operation.into();
        PgError(Box::new(Inner { kind, operation, subject: Subject::default(), source: None }))
    }

    /// The server's answer to an operation.
    pub(crate) fn server(operation: impl Into<String>, error: ServerError) -> PgError {
        PgError::new(classify(&error), operation).because(error)
    }

    /// A socket's failure, or rustls' inside of it.
    pub(crate) fn io(operation: impl Into<String>, error: io::Error) -> PgError {
        let kind = match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(_) => PgErrorKind::Tls,
            None => PgErrorKind::ConnectionLost,
        };
        PgError::new(kind, operation).because(error)
    }

    /// The failure of a connection that worked: whatever it is, a new connection may help.
    pub(crate) fn lost(operation: impl Into<String>, error: io::Error) -> PgError {
        PgError::new(PgErrorKind::ConnectionLost, operation).because(error)
    }

    pub(crate) fn timeout(operation: impl Into<String>, after: std::time::Duration) -> PgError {
        let message = format!("no answer within {after:?}");
        PgError::io(operation, io::Error::new(io::ErrorKind::TimedOut, message))
    }

    pub(crate) fn closed(operation: impl Into<String>) -> PgError {
        let message = "the server closed the connection";
        PgError::io(operation, io::Error::new(io::ErrorKind::UnexpectedEof, message))
    }

    pub(crate) fn frame(operation: impl Into<String>, error: FrameError) -> PgError {
        PgError::new(PgErrorKind::Protocol, operation).because(error)
    }

    /// What tokio-postgres reports about an ordinary connection.
    pub(crate) fn client(operation: impl Into<String>, error: tokio_postgres::Error) -> PgError {
        let Some(db) = error.as_db_error() else {
            let is_io = error.source().is_some_and(|source| source.is::<io::Error>());
            let kind = if is_io || error.is_closed() {
                PgErrorKind::ConnectionLost
            } else if error.to_string().contains("authenticat") {
                PgErrorKind::Auth
            } else {
                PgErrorKind::Protocol
            };
            return PgError::new(kind, operation).because(error);
        };
        let error = ServerError {
            severity: db.severity().to_string(),
            sqlstate: db.code().code().to_string(),
            message: db.message().to_string(),
            hint: db.hint().map(str::to_string),
            routine: db.routine().unwrap_or_default().to_string(),
            associated_lsn: None,
        };
        PgError::server(operation, error)
    }

    pub(crate) fn because(mut self, source: impl StdError + Send + Sync + 'static) -> PgError {
        self.0.source = Some(Box::new(source));
        self
    }

    /// Fills in whom it is about, unless that is known already.
    pub(crate) fn about(mut self, subject: &Subject) -> PgError {
        let known = &mut self.0.subject;
        for (known, new) in [
            (&mut known.user, &subject.user),
            (&mut known.dbname, &subject.dbname),
            (&mut known.host, &subject.host),
        ] {
            if known.is_empty() {
                known.clone_from(new);
            }
        }
        known.slot = known.slot.take().or_else(|| subject.slot.clone());
        known.plugin = known.plugin.take().or_else(|| subject.plugin.clone());
        known.publication = known.publication.take().or_else(|| subject.publication.clone());
        self
    }

    pub(crate) fn with_kind(mut self, kind: PgErrorKind) -> PgError {
        self.0.kind = kind;
        self
    }

    /// What to match on.
    pub fn kind(&self) -> &PgErrorKind {
        &self.0.kind
    }

    /// What the server said, if it was the server.
    pub fn server_error(&self) -> Option<&ServerError> {
        self.0.source.as_ref()?.downcast_ref()
    }

    /// Whether trying again cannot help until a person has changed something.
    pub fn is_configuration(&self) -> bool {
        use PgErrorKind::*;
        match self.0.kind {
            Auth
            | SlotOfOtherDatabase { .. }
            | SlotOfOtherPlugin { .. }
            | SynchronousStandby
            | PluginMissing
            | PluginRefused
            | UnknownPluginOption(_)
            | PublicationMissing
            | PublicationLacking { .. }
            | WalLevel
            | NoReplicationRight
            | DatabaseMissing
            | Pooler
            | Tls
            | Config => true,
            ConnectionLost
            | ServerStarting
            | ServerShuttingDown
            | WrongServerRole
            | SlotInUse { .. }
            | SlotMissing
            | SlotExists
            | SlotLost
            | NoFreeSlot
            | NoFreeWalSender
            | NoFreeConnection
            | Protocol
            | Other { .. } => false,
        }
    }

    /// The SQL or setting that mends it, with names filled in.
    pub fn hint(&self) -> Option<String> {
        super::hint::hint(&self.0.kind, &self.0.subject, self.server_error())
    }
}

impl fmt::Display for PgError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Subject { user, host, dbname, .. } = &self.0.subject;
        write!(f, "cannot {}", self.0.operation)?;
        if host.is_empty() {
            return Ok(());
        }
        write!(f, " at {user}@{host}/{dbname}")
    }
}

impl StdError for PgError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| source.as_ref() as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests;
