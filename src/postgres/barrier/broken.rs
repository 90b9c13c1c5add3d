//! Why the barrier's connection is of no use any more, and what the operator is told of it.

use tracing::{error, warn};

use crate::postgres::error::{PgError, PgErrorKind};

/// Why a connection is of no use any more.
pub(super) enum Broken {
    Connection(PgError),
    Query(tokio_postgres::Error),
    NoAnswer,
    OtherServer,
    /// Nobody asks any more.
    Unused,
}

impl Broken {
    /// Whether a new connection was refused because the server is shutting down. The end of the
    /// old one does not tell that from a single session's end.
    ///
    /// A server that streams to us is not starting: it says that it takes no connections in its
    /// own language, in which the two cannot be told apart.
    pub(super) fn is_shutdown(&self) -> bool {
        use PgErrorKind::{ServerShuttingDown, ServerStarting};
        matches!(self, Broken::Connection(error)
            if matches!(error.kind(), ServerShuttingDown | ServerStarting))
    }

    pub(super) fn log(&self) {
        const HELD: &str = "invalidations wait until visibility can be asked for";
        match self {
            Broken::Connection(error) => {
                let hint = error.hint();
                warn!(hint, "{HELD}: {error}: {:?}", error.kind());
            }
            Broken::Query(error) => warn!("{HELD}: {error}"),
            Broken::NoAnswer => warn!("{HELD}: the server gave no answer"),
            Broken::OtherServer => error!(
                hint = "let postgres.url lead to one server, without a balancer in between",
                "{HELD}: an ordinary connection reaches another server than the replication connection"
            ),
            Broken::Unused => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::fields::ServerError;

    #[test]
    fn a_shutdown_is_known_in_every_language() {
        for message in
            ["the database system is shutting down", "das Datenbanksystem fährt herunter"]
        {
            let (sqlstate, message) = ("57P03".into(), message.into());
            let said = ServerError { sqlstate, message, ..ServerError::default() };
            let refused = Broken::Connection(PgError::server("connect", said));
            assert!(refused.is_shutdown());
        }
    }
}
