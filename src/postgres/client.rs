//! How is ordinary SQL run, and is it run on the server that streams?
//!
//! tokio-postgres over our own sockets and TLS, to the very address that a replication session
//! chose, or to the first host that fits.

use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{ChannelBinding as ClientChannelBinding, SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding as BindingData, TlsConnect, TlsStream};
use tokio_postgres::{Client, Config, SimpleQueryMessage};

use super::catalog::AskCatalog;
use super::connect::{self, Opener, ServerRole};
use super::error::{PgError, PgErrorKind, Subject};
use super::query::Rows;
use super::session::{ROLE_QUERY, ReplicationSession, role};
use super::socket::{ChosenHost, Encryption, Stream};
use super::url::{ChannelBinding, ConnectConfig};

/// An ordinary connection.
pub struct OrdinaryConnection {
    /// What runs SQL.
    pub client: Client,
    /// What moves its bytes; dropping it closes the connection.
    pub task: ConnectionTask,
    /// Where it goes.
    pub host: ChosenHost,
}

/// The task that drives an ordinary connection. Dropping it ends the connection.
#[derive(Debug)]
pub struct ConnectionTask {
    task: JoinHandle<Result<(), tokio_postgres::Error>>,
    subject: Subject,
}

impl ConnectionTask {
    /// Waits until the connection ends, and says why: a server that shuts down fast ends ordinary
    /// connections first. Cancel safe; to be awaited to its end only once.
    pub async fn ended(&mut self) -> PgError {
        let operation = "keep the connection";
        let error = match (&mut self.task).await {
            Ok(Err(error)) => PgError::client(operation, error),
            Ok(Ok(())) | Err(_) => PgError::closed(operation),
        };
        error.about(&self.subject)
    }
}

impl Drop for ConnectionTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Opens an ordinary connection to the server that a session chose.
pub async fn connect_client(
    config: &ConnectConfig,
    host: &ChosenHost,
) -> Result<OrdinaryConnection, PgError> {
    let subject = Subject { host: host.to_string(), ..connect::subject(config) };
    connect::bounded(config, "connect", Ordinary.open(config, host))
        .await
        .and_then(|opened| opened)
        .map_err(|error| error.about(&subject))
}

/// Opens an ordinary connection to the first server that will have us and is of the wanted kind.
pub async fn connect_any(config: &ConnectConfig) -> Result<OrdinaryConnection, PgError> {
    connect::walk(config, &Ordinary).await
}

/// Opens ordinary connections.
struct Ordinary;

impl Opener for Ordinary {
    type Session = OrdinaryConnection;

    async fn open(
        &self,
        config: &ConnectConfig,
        host: &ChosenHost,
    ) -> Result<OrdinaryConnection, PgError> {
        let stream = connect::open_stream(config, host).await?;
        let host = ChosenHost { encryption: stream.encryption(), ..host.clone() };
        let subject = Subject { host: host.to_string(), ..connect::subject(config) };
        let settings = settings(config, host.encryption);
        // The stream is encrypted already where it shall be, so its connector has nothing to do.
        let opened = settings.connect_raw(Agreed(stream), AlreadyEncrypted).await;
        let (client, connection) =
            opened.map_err(|error| PgError::client("connect", error).about(&subject))?;
        let task = tokio::spawn(connection);
        Ok(OrdinaryConnection { client, task: ConnectionTask { task, subject }, host })
    }

    async fn role(&self, session: &mut OrdinaryConnection) -> Result<ServerRole, PgError> {
        let rows = simple_query(&session.client, ROLE_QUERY).await?;
        role(&rows).ok_or_else(|| PgError::new(PgErrorKind::Protocol, "ask for the server's role"))
    }
}

/// What tokio-postgres needs to know; sockets and TLS are ours.
fn settings(config: &ConnectConfig, encryption: Encryption) -> Config {
    let mut settings = Config::new();
    settings
        .user(config.user())
        .dbname(config.dbname())
        .application_name(config.application_name());
    if let Some(password) = config.password() {
        settings.password(password);
    }
    if let Some(options) = &config.options {
        settings.options(options);
    }
    settings.channel_binding(match config.channel_binding {
        ChannelBinding::Disable => ClientChannelBinding::Disable,
        ChannelBinding::Prefer => ClientChannelBinding::Prefer,
        ChannelBinding::Require => ClientChannelBinding::Require,
    });
    match encryption {
        Encryption::Plain => settings.ssl_mode(SslMode::Disable),
        // Direct: without asking the server again.
        Encryption::Tls => {
            settings.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct)
        }
    };
    settings
}

/// Runs SQL without parameters and gives all rows as text.
pub async fn simple_query(client: &Client, sql: &str) -> Result<Rows, PgError> {
    let messages =
        client.simple_query(sql).await.map_err(|error| PgError::client("run a query", error))?;
    Ok(rows(messages))
}

fn rows(messages: Vec<SimpleQueryMessage>) -> Rows {
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|index| row.get(index).map(str::to_string)).collect())
        }
        _ => None,
    });
    rows.collect()
}

/// How long a question about the catalog may take: it is asked before a stream starts, and a
/// database may have many tables.
const CATALOG_TIMEOUT: Duration = Duration::from_secs(60);

impl AskCatalog for OrdinaryConnection {
    async fn ask(&mut self, operation: &str, sql: &str) -> Result<Rows, PgError> {
        let error = match timeout(CATALOG_TIMEOUT, self.client.simple_query(sql)).await {
            Ok(Ok(messages)) => return Ok(rows(messages)),
            Ok(Err(error)) => PgError::client(operation, error),
            Err(_) => PgError::timeout(operation, CATALOG_TIMEOUT),
        };
        Err(error.about(&self.task.subject))
    }
}

/// Which server process answers: equal for two connections only if they go to the same one.
#[derive(Clone, Debug, Eq)]
pub struct ServerIdentity {
    /// Made by initdb.
    pub system_id: String,
    /// The timeline of the last checkpoint. It follows a promotion only with the next one, in the
    /// same process, and so it does not count here.
    pub timeline: String,
    /// When the server was started, in seconds since 1970, as text.
    pub postmaster_start: String,
}

impl PartialEq for ServerIdentity {
    fn eq(&self, other: &Self) -> bool {
        self.system_id == other.system_id && self.postmaster_start == other.postmaster_start
    }
}

/// The time as a number, since its text depends on the session's time zone.
const IDENTITY_QUERY: &str = "SELECT system_identifier, \
    (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()), \
    extract(epoch FROM pg_catalog.pg_postmaster_start_time()) \
    FROM pg_catalog.pg_control_system()";

/// Asks an ordinary connection which server it is connected to.
pub async fn server_identity(client: &Client) -> Result<ServerIdentity, PgError> {
    identity(simple_query(client, IDENTITY_QUERY).await?)
}

impl ReplicationSession {
    /// Asks the same of the replication connection, to be compared.
    pub async fn server_identity(&mut self) -> Result<ServerIdentity, PgError> {
        identity(self.simple_query(IDENTITY_QUERY).await?)
    }
}

fn identity(rows: Rows) -> Result<ServerIdentity, PgError> {
    let row = rows.into_iter().next().and_then(|row| <[_; 3]>::try_from(row).ok());
    let Some([Some(system_id), Some(timeline), Some(postmaster_start)]) = row else {
        return Err(PgError::new(PgErrorKind::Protocol, "ask for the server's identity"));
    };
    Ok(ServerIdentity { system_id, timeline, postmaster_start })
}

/// A stream on which TLS is agreed upon or done without.
struct Agreed(Stream);

/// Hands a stream on as the TLS stream that it is.
struct AlreadyEncrypted;

impl TlsConnect<Agreed> for AlreadyEncrypted {
    type Stream = Agreed;
    type Error = io::Error;
    type Future = Ready<io::Result<Agreed>>;

    fn connect(self, stream: Agreed) -> Self::Future {
        ready(Ok(stream))
    }
}

impl TlsStream for Agreed {
    fn channel_binding(&self) -> BindingData {
        match self.0.end_point() {
            Some(data) => BindingData::tls_server_end_point(data.to_vec()),
            None => BindingData::none(),
        }
    }
}

impl AsyncRead for Agreed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Agreed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::ServerIdentity;

    #[test]
    fn a_server_stays_the_same_when_it_is_promoted_and_not_when_it_is_started_again() {
        let server = |timeline: &str, start: &str| ServerIdentity {
            system_id: "7".into(),
            timeline: timeline.into(),
            postmaster_start: start.into(),
        };
        assert_eq!(server("1", "100.5"), server("2", "100.5"));
        assert_ne!(server("1", "100.5"), server("1", "100.6"));
    }
}
