//! How does one connection to Redis come about, and how are requests exchanged on it?
//!
//! Every wait has a bound; whatever fails here is a [`Failure`] of the whole batch. A connection
//! that failed, or whose request was abandoned, has replies under way that belong to nobody: it
//! must be dropped, never used again (see [`RedisLane`](super::RedisLane)).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rustls_pki_types::ServerName;
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::config::{Address, RedisConfig};
use super::error::{Verdict, classify, outage};
use super::identity::Identity;
use super::rights::{Duties, missing_rights};
use super::tls;
use super::wire::{Reply, Request, parse};
use crate::sinks::Failure;

/// After this much silence the kernel asks whether the server is still there. It finds a peer
/// that vanished while the lane was idle, before a batch has to.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// The name under which CLIENT LIST shows our connections.
const CLIENT_NAME: &[u8] = b"walpurge";

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An authenticated connection on which nothing is under way.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    config: Arc<RedisConfig>,
    /// Where it leads to.
    address: Address,
    /// The history of the server's writes, where that is asked for.
    server: Option<String>,
    /// Arrived and not yet parsed.
    input: BytesMut,
}

impl Connection {
    /// Finds the server, connects, authenticates and selects the database.
    pub(super) async fn open(config: Arc<RedisConfig>) -> Result<Self, Failure> {
        let patience = config.timeouts.connect;
        let opening = async {
            let address = match &config.address {
                Address::Sentinel(sentinel) => sentinel.find(&config).await?,
                address => address.clone(),
            };
            let stream = dial(&config, &address).await?;
            let (config, server, input) = (Arc::clone(&config), None, BytesMut::new());
            let mut connection = Connection { stream, config, address, server, input };
            connection.introduce().await?;
            if connection.config.needs_identity() {
                connection.identify().await?;
            }
            Ok(connection)
        };
        match timeout(patience, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(outage(&config, "connect", format!("no answer within {patience:?}"))),
        }
    }

    /// AUTH, SELECT and a name, in one round trip.
    async fn introduce(&mut self) -> Result<(), Failure> {
        let config = Arc::clone(&self.config);
        let mut request = Request::default();
        let mut expected = Vec::with_capacity(3);
        let password = config.password.as_ref().map(|password| password.expose_secret().as_bytes());
        match (&config.user, password) {
            // A user without a password may be one that needs none; any is right for it.
            (Some(user), password) => {
                request.simple(&[b"AUTH", user.as_bytes(), password.unwrap_or_default()]);
                expected.push("AUTH");
            }
            (None, Some(password)) => {
                request.simple(&[b"AUTH", password]);
                expected.push("AUTH");
            }
            (None, None) => {}
        }
        if config.db != 0 {
            request.simple(&[b"SELECT", config.db.to_string().as_bytes()]);
            expected.push("SELECT");
        }
        request.simple(&[b"CLIENT", b"SETNAME", CLIENT_NAME]);
        self.send(&request).await?;
        expected.push("CLIENT");
        for command in expected {
            let Reply::Error(text) = self.reply(command).await? else { continue };
            let acl = || "ACL SETUSER walpurge +select".to_owned();
            let verdict = classify(&text, command, &config, acl);
            match (command, verdict) {
                // A name is a courtesy to whoever reads CLIENT LIST: a user without that right,
                // and a proxy that does not know the command, are served. What is left here is
                // the answer to the connection as such: too many clients, no password.
                ("CLIENT", Verdict::Unknown(_) | Verdict::Key(_)) => {}
                ("CLIENT", _) if text.starts_with("NOPERM") || text.starts_with("ERR unknown") => {}
                (_, Verdict::Batch(failure) | Verdict::Unknown(failure)) => return Err(failure),
                (_, Verdict::Key(reason)) => return Err(outage(&config, command, reason)),
            }
        }
        Ok(())
    }

    /// Finds out which server this is, and that it is a master.
    pub(super) async fn identify(&mut self) -> Result<(), Failure> {
        let config = Arc::clone(&self.config);
        let mut request = Request::default();
        request.simple(&[b"INFO", b"replication"]);
        self.send(&request).await?;
        let identity = match self.reply("INFO").await? {
            Reply::Bulk(info) => Identity::parse(&String::from_utf8_lossy(&info)),
            Reply::Error(text) => {
                let acl = || missing_rights(&Duties::default(), &config);
                return Err(match classify(&text, "INFO", &config, acl) {
                    Verdict::Batch(failure) | Verdict::Unknown(failure) => failure,
                    Verdict::Key(reason) => outage(&config, "INFO", reason),
                });
            }
            _ => return Err(outage(&config, "INFO", "an answer that Redis does not give")),
        };
        if !identity.is_master && config.is_cluster() {
            // It says itself whose the slots are. What it does all the same, if it is promoted in
            // this moment, is done in no history that is known.
            self.server = Some(String::new());
            return Ok(());
        }
        if !identity.is_master {
            return Err(outage(&config, &self.address.doing("INFO"), "this is a replica"));
        }
        if config.failover_window.is_zero() {
            return Ok(());
        }
        if identity.history.is_none() {
            return Err(Failure::Refused {
                message: format!(
                    "redis {} at {}: INFO says no master_replid",
                    config.name(),
                    config.target()
                ),
                hint: format!("set redis.{}.failover_window = \"0s\"", config.name()),
            });
        }
        self.server = identity.history;
        Ok(())
    }

    /// Where it leads to.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// The id of the history of the server's writes, if it was asked for.
    pub(super) fn server(&self) -> Option<&str> {
        self.server.as_deref()
    }

    /// Writes the request. Its replies must be taken, each with [`reply`](Self::reply).
    ///
    /// Redis reads on while its replies wait, so a pipeline cannot lock up both sides; callers
    /// bound the commands of a request nevertheless, for proxies that may not.
    pub(super) async fn send(&mut self, request: &Request) -> Result<(), Failure> {
        let patience = self.config.timeouts.command;
        let writing = async {
            self.stream.write_all(request.bytes()).await?;
            self.stream.flush().await
        };
        match timeout(patience, writing).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(outage(&self.config, "write", error)),
            Err(_) => Err(outage(&self.config, "write", format!("stuck for {patience:?}"))),
        }
    }

    /// The next reply; `command` is what it answers, for the error.
    pub(super) async fn reply(&mut self, command: &str) -> Result<Reply, Failure> {
        let patience = self.config.timeouts.command;
        let reading = async {
            loop {
                match parse(&self.input) {
                    Ok(Some((reply, length))) => {
                        self.input.advance(length);
                        return Ok(reply);
                    }
                    Ok(None) => {}
                    Err(error) => return Err(io::Error::other(error)),
                }
                if self.stream.read_buf(&mut self.input).await? == 0 {
                    return Err(io::Error::other("the server closed the connection"));
                }
            }
        };
        match timeout(patience, reading).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(outage(&self.config, command, error)),
            Err(_) => Err(outage(&self.config, command, format!("no answer within {patience:?}"))),
        }
    }

    /// Whether the server has hung up on us, as it does with the setting `timeout`, or sent what
    /// nobody asked for. Without this look an idle lane's next batch would count as an outage.
    pub(super) async fn is_stale(&mut self) -> bool {
        if !self.input.is_empty() {
            return true;
        }
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        poll_fn(|context| {
            let read = Pin::new(&mut self.stream).poll_read(context, &mut buffer);
            Poll::Ready(read.is_ready())
        })
        .await
    }
}

/// Reaches the server.
async fn dial(config: &RedisConfig, address: &Address) -> Result<Box<dyn Stream>, Failure> {
    let doing = match config.address {
        Address::Sentinel(_) => address.doing("connect"),
        _ => "connect".to_owned(),
    };
    let failed = |error: io::Error| outage(config, &doing, error);
    match address {
        Address::Sentinel(_) => Err(failed(io::Error::other("a Sentinel names no Sentinel"))),
        Address::Unix(path) => Ok(Box::new(UnixStream::connect(path).await.map_err(failed)?)),
        Address::Tcp { host, port, tls } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(failed)?;
            // Requests are written whole, so waiting to fill a packet only delays them.
            stream.set_nodelay(true).map_err(failed)?;
            let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
            socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(failed)?;
            let name = config.tls_name.as_deref().unwrap_or(host);
            if *tls { secure(config, name, stream).await } else { Ok(Box::new(stream)) }
        }
    }
}

/// Speaks TLS on `stream`.
async fn secure(
    config: &RedisConfig,
    host: &str,
    stream: TcpStream,
) -> Result<Box<dyn Stream>, Failure> {
    let refused = |problem: String, hint: &str| Failure::Refused {
        message: format!("redis {} at {}: TLS: {problem}", config.name, config.target()),
        hint: hint.to_owned(),
    };
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| refused(error.to_string(), "check the host in url"))?;
    let files = config.tls.clone();
    let client = match tokio::task::spawn_blocking(move || tls::client_config(&files)).await {
        Ok(Ok(client)) => client,
        Ok(Err(error)) => {
            return Err(refused(error.to_string(), "check tls_root, tls_cert and tls_key"));
        }
        Err(error) => return Err(outage(config, "TLS", error)),
    };
    match TlsConnector::from(Arc::new(client)).connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => {
            let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
            Err(match cause {
                Some(rustls::Error::InvalidCertificate(_)) => refused(
                    error.to_string(),
                    "name the file with the server's root in tls_root, and check that its \
                     certificate names the host of url",
                ),
                _ => outage(config, "TLS", error),
            })
        }
    }
}
