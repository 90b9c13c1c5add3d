//! Which server is connected to?
//!
//! Over the hosts of a connection string in turn, over each one's addresses, and over what
//! `sslmode` lets be tried, until a session is open on a server of the wanted kind. The same walk
//! serves replication sessions and ordinary ones.

use std::future::Future;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::error::{PgError, PgErrorKind, Subject};
use super::socket::{Address, ChosenHost, Encryption, Socket, Stream, addresses};
use super::tls;
use super::url::{ConnectConfig, Host, SslMode, TargetSessionAttrs};

/// What a server is, as far as `target_session_attrs` asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServerRole {
    pub(crate) in_recovery: bool,
    pub(crate) read_only: bool,
}

/// A kind of session that can be opened to one address.
pub(crate) trait Opener {
    type Session: Send;

    /// Opens a session, to the end of authentication.
    fn open(
        &self,
        config: &ConnectConfig,
        host: &ChosenHost,
    ) -> impl Future<Output = Result<Self::Session, PgError>> + Send;

    /// Asks what the server is.
    fn role(
        &self,
        session: &mut Self::Session,
    ) -> impl Future<Output = Result<ServerRole, PgError>> + Send;
}

/// Opens a session to the first server that will have us and is of the wanted kind.
pub(crate) async fn walk<O: Opener>(
    config: &ConnectConfig,
    opener: &O,
) -> Result<O::Session, PgError> {
    match config.target_session_attrs {
        TargetSessionAttrs::PreferStandby => {
            match pass(config, opener, TargetSessionAttrs::Standby).await {
                Ok(session) => Ok(session),
                Err(_) => pass(config, opener, TargetSessionAttrs::Any).await,
            }
        }
        wanted => pass(config, opener, wanted).await,
    }
}

async fn pass<O: Opener>(
    config: &ConnectConfig,
    opener: &O,
    wanted: TargetSessionAttrs,
) -> Result<O::Session, PgError> {
    let mut failure: Option<PgError> = None;
    for spec in &config.hosts {
        let subject = |host: String| Subject { host, ..subject(config) };
        let found = match bounded(config, "look the host up", addresses(spec)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                let error = PgError::io("look the host up", error);
                worse(&mut failure, error.about(&subject(spec.to_string())));
                continue;
            }
            Err(error) => {
                worse(&mut failure, error.about(&subject(spec.to_string())));
                continue;
            }
        };
        for address in found {
            let spec = spec.clone();
            let host = ChosenHost { spec, address, encryption: Encryption::Plain };
            match address_pass(config, opener, wanted, &host).await {
                Ok(session) => return Ok(session),
                Err(error) => {
                    let error = error.about(&subject(host.to_string()));
                    // As libpq: who is refused by one server is not tried out on the others.
                    if *error.kind() == PgErrorKind::Auth {
                        return Err(error);
                    }
                    worse(&mut failure, error);
                }
            }
        }
    }
    Err(failure.unwrap_or_else(|| {
        let error = std::io::Error::other("the name has no address");
        PgError::io("look the host up", error).about(&subject(config))
    }))
}

/// Tries one address, with and without TLS as `sslmode` lets.
async fn address_pass<O: Opener>(
    config: &ConnectConfig,
    opener: &O,
    wanted: TargetSessionAttrs,
    host: &ChosenHost,
) -> Result<O::Session, PgError> {
    let attempts: &[Encryption] = match (config.sslmode, &host.address) {
        // Where bytes never leave the machine, Postgres has no TLS.
        (_, Address::Unix(_)) | (SslMode::Disable, _) => &[Encryption::Plain],
        (SslMode::Allow, _) => &[Encryption::Plain, Encryption::Tls],
        (SslMode::Prefer, _) => &[Encryption::Tls, Encryption::Plain],
        _ => &[Encryption::Tls],
    };
    let mut failure = None;
    for encryption in attempts {
        let host = ChosenHost { encryption: *encryption, ..host.clone() };
        match open_checked(config, opener, wanted, &host).await {
            Ok(session) => return Ok(session),
            Err(error) => {
                let wrong_password =
                    error.server_error().is_some_and(|error| error.sqlstate == "28P01");
                let other_may_help = matches!(error.kind(), PgErrorKind::Auth | PgErrorKind::Tls);
                // What the preferred attempt said is what the operator needs to know.
                failure.get_or_insert(error);
                if wrong_password || !other_may_help {
                    break;
                }
            }
        }
    }
    Err(failure.unwrap_or_else(|| PgError::new(PgErrorKind::Config, "connect")))
}

async fn open_checked<O: Opener>(
    config: &ConnectConfig,
    opener: &O,
    wanted: TargetSessionAttrs,
    host: &ChosenHost,
) -> Result<O::Session, PgError> {
    bounded(config, "connect", async {
        let mut session = opener.open(config, host).await?;
        if wanted != TargetSessionAttrs::Any {
            let role = opener.role(&mut session).await?;
            if !accepts(wanted, role) {
                let operation = format!("use a server that is not {}", attrs_name(wanted));
                return Err(PgError::new(PgErrorKind::WrongServerRole, operation));
            }
        }
        Ok(session)
    })
    .await?
}

/// Keeps the error that tells most: a server's word over a socket's.
fn worse(failure: &mut Option<PgError>, error: PgError) {
    let telling = |error: &PgError| *error.kind() != PgErrorKind::ConnectionLost;
    if failure.as_ref().is_none_or(|known| !telling(known)) {
        *failure = Some(error);
    }
}

fn accepts(wanted: TargetSessionAttrs, role: ServerRole) -> bool {
    match wanted {
        TargetSessionAttrs::Any | TargetSessionAttrs::PreferStandby => true,
        TargetSessionAttrs::ReadWrite => !role.read_only && !role.in_recovery,
        TargetSessionAttrs::ReadOnly => role.read_only || role.in_recovery,
        TargetSessionAttrs::Primary => !role.in_recovery,
        TargetSessionAttrs::Standby => role.in_recovery,
    }
}

fn attrs_name(wanted: TargetSessionAttrs) -> &'static str {
    match wanted {
        TargetSessionAttrs::Any | TargetSessionAttrs::PreferStandby => "any",
        TargetSessionAttrs::ReadWrite => "read-write",
        TargetSessionAttrs::ReadOnly => "read-only",
        TargetSessionAttrs::Primary => "primary",
        TargetSessionAttrs::Standby => "standby",
    }
}

pub(crate) fn subject(config: &ConnectConfig) -> Subject {
    Subject { user: config.user.clone(), dbname: config.dbname.clone(), ..Subject::default() }
}

/// Bounds a step by `connect_timeout`.
pub(crate) async fn bounded<T>(
    config: &ConnectConfig,
    operation: &str,
    step: impl Future<Output = T>,
) -> Result<T, PgError> {
    let limit = config.connect_timeout;
    if limit == Duration::ZERO {
        return Ok(step.await);
    }
    timeout(limit, step).await.map_err(|_| PgError::timeout(operation, limit))
}

/// Connects a socket and agrees on TLS, as far as `host` and `sslmode` want it.
pub(crate) async fn open_stream(
    config: &ConnectConfig,
    host: &ChosenHost,
) -> Result<Stream, PgError> {
    let lost = |error| PgError::io("connect", error);
    let mut socket = Socket::connect(config, &host.address).await.map_err(lost)?;
    if host.encryption == Encryption::Plain {
        return Ok(Stream::Plain(socket));
    }
    if !config.ssl_direct {
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        socket.write_all(&request).await.map_err(lost)?;
        // One byte and no more: whatever came along with it would have come unencrypted, and is
        // left for the handshake to choke on (CVE-2021-23222).
        match socket.read_u8().await.map_err(lost)? {
            b'S' => {}
            b'N' if config.sslmode == SslMode::Prefer => return Ok(Stream::Plain(socket)),
            b'N' => {
                return Err(PgError::new(
                    PgErrorKind::Tls,
                    "use TLS: the server has it switched off (ssl = on, or sslmode=disable)",
                ));
            }
            _ => return Err(PgError::new(PgErrorKind::Protocol, "ask for TLS")),
        }
    }
    let owned = config.clone();
    let settings = tokio::task::spawn_blocking(move || tls::client_config(&owned))
        .await
        .map_err(|error| PgError::new(PgErrorKind::Config, "set up TLS").because(error))??;
    let name = match &host.spec.host {
        Host::Tcp(name) => name.as_str(),
        Host::Unix(_) => "localhost",
    };
    tls::handshake(settings, name, socket).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_session_attrs_accept_what_libpq_accepts() {
        use TargetSessionAttrs::*;
        let role = |in_recovery, read_only| ServerRole { in_recovery, read_only };
        let (primary, standby) = (role(false, false), role(true, true));
        let frozen = role(false, true);
        for (wanted, expected) in [
            (Any, [true, true, true]),
            (ReadWrite, [true, false, false]),
            (ReadOnly, [false, true, true]),
            (Primary, [true, false, true]),
            (Standby, [false, true, false]),
        ] {
            assert_eq!([primary, standby, frozen].map(|role| accepts(wanted, role)), expected);
        }
    }
}
