//! What is a connection made of: TCP or a Unix socket, with TLS or without?
//!
//! One stream type for all four, so that one task can own it and everything above is the same.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::url::{ConnectConfig, Host, HostSpec};

/// Where a server's socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Whether bytes on the wire are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// They are not.
    Plain,
    /// TLS.
    Tls,
}

/// The very server that a session was opened to: an ordinary connection made with it goes to the
/// same address, with the same encryption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenHost {
    pub(crate) spec: HostSpec,
    pub(crate) address: Address,
    pub(crate) encryption: Encryption,
}

impl ChosenHost {
    /// Whether the session is encrypted.
    pub fn encryption(&self) -> Encryption {
        self.encryption
    }
}

impl fmt::Display for ChosenHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.spec.host, &self.address) {
            // A name with several addresses: say which one it was.
            (Host::Tcp(name), Address::Tcp(address)) if *name != address.ip().to_string() => {
                write!(f, "{} ({})", self.spec, address.ip())
            }
            _ => write!(f, "{}", self.spec),
        }
    }
}

/// A connected socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Connects; the caller bounds the time.
    pub(crate) async fn connect(config: &ConnectConfig, address: &Address) -> io::Result<Socket> {
        match address {
            Address::Unix(path) => Ok(Socket::Unix(UnixStream::connect(path).await?)),
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                tune(config, &stream)?;
                Ok(Socket::Tcp(stream))
            }
        }
    }
}

/// Makes a dead peer an error within the configured time, and small messages go out at once.
fn tune(config: &ConnectConfig, stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    if let Some(keepalive) = config.keepalive {
        socket.set_tcp_keepalive(
            &socket2::TcpKeepalive::new()
                .with_time(keepalive.idle)
                .with_interval(keepalive.interval)
                .with_retries(keepalive.count),
        )?;
    }
    if !config.tcp_user_timeout.is_zero() {
        socket.set_tcp_user_timeout(Some(config.tcp_user_timeout))?;
    }
    Ok(())
}

/// The addresses of one host; a name may have several.
pub(crate) async fn addresses(spec: &HostSpec) -> io::Result<Vec<Address>> {
    match (&spec.host, spec.hostaddr) {
        (Host::Unix(directory), _) => Ok(vec![Address::Unix(socket_path(directory, spec.port))]),
        (Host::Tcp(_), Some(ip)) => Ok(vec![Address::Tcp(SocketAddr::new(ip, spec.port))]),
        (Host::Tcp(name), None) => {
            let found = tokio::net::lookup_host((name.as_str(), spec.port)).await?;
            Ok(found.map(Address::Tcp).collect())
        }
    }
}

/// `.s.PGSQL.<port>` in the directory; a leading @ is Linux' abstract namespace, as in libpq.
fn socket_path(directory: &Path, port: u16) -> PathBuf {
    let path = directory.join(format!(".s.PGSQL.{port}"));
    match path.to_str().and_then(|text| text.strip_prefix('@')) {
        Some(name) => PathBuf::from(format!("\0{name}")),
        None => path,
    }
}

/// A socket, or TLS on one.
pub(crate) enum Stream {
    Plain(Socket),
    Tls {
        stream: Box<TlsStream<Socket>>,
        /// The channel binding data `tls-server-end-point`, if the certificate has any.
        end_point: Option<Vec<u8>>,
    },
}

impl Stream {
    pub(crate) fn encryption(&self) -> Encryption {
        match self {
            Stream::Plain(_) => Encryption::Plain,
            Stream::Tls { .. } => Encryption::Tls,
        }
    }

    pub(crate) fn end_point(&self) -> Option<&[u8]> {
        match self {
            Stream::Plain(_) => None,
            Stream::Tls { end_point, .. } => end_point.as_deref(),
        }
    }
}

/// Calls the same method of whichever stream is inside.
macro_rules! delegate {
    ($self:ident, $first:pat => $a:expr, $second:pat => $b:expr, $method:ident($($argument:expr),*)) => {
        match $self.get_mut() {
            $first => Pin::new($a).$method($($argument),*),
            $second => Pin::new($b).$method($($argument),*),
        }
    };
}

/// The four methods of an asynchronous stream, for an enum of two.
macro_rules! async_stream {
    ($type:ty, $first:pat => $a:expr, $second:pat => $b:expr) => {
        impl AsyncRead for $type {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                delegate!(self, $first => $a, $second => $b, poll_read(cx, buffer))
            }
        }

        impl AsyncWrite for $type {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                delegate!(self, $first => $a, $second => $b, poll_write(cx, bytes))
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                delegate!(self, $first => $a, $second => $b, poll_flush(cx))
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                delegate!(self, $first => $a, $second => $b, poll_shutdown(cx))
            }
        }
    };
}

async_stream!(Socket, Socket::Tcp(stream) => stream, Socket::Unix(stream) => stream);
async_stream!(Stream, Stream::Plain(stream) => stream, Stream::Tls { stream, .. } => stream);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_dead_peer_is_found_by_the_configured_times() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        for (more, idle, user_timeout) in [
            ("", Some(30), Some(Duration::from_secs(30))),
            ("keepalives_idle=7 tcp_user_timeout=1500", Some(7), Some(Duration::from_millis(1500))),
            ("keepalives=0 tcp_user_timeout=0", None, None),
        ] {
            let config = ConnectConfig::parse(&format!("host=h user=w {more}")).unwrap();
            let Socket::Tcp(stream) = Socket::connect(&config, &address).await.unwrap() else {
                panic!("not TCP");
            };
            let socket = socket2::SockRef::from(&stream);
            assert!(stream.nodelay().unwrap());
            assert_eq!(socket.keepalive().unwrap(), idle.is_some(), "{more}");
            if let Some(idle) = idle {
                assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(idle));
            }
            assert_eq!(socket.tcp_user_timeout().unwrap(), user_timeout, "{more}");
        }
    }

    #[test]
    fn sockets_are_named_as_the_server_names_them() {
        let path = |directory| socket_path(Path::new(directory), 5433);
        assert_eq!(path("/run/pg"), PathBuf::from("/run/pg/.s.PGSQL.5433"));
        assert_eq!(path("@/run/pg"), PathBuf::from("\0/run/pg/.s.PGSQL.5433"));
    }
}
