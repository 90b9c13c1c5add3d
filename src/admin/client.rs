//! Asks a running daemon's admin endpoint.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Incoming};
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::body::Reply;

/// How long connecting, and the start of an answer, may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may be, in bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// How long a line of an answer may be, in bytes.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Where a daemon's endpoint may be.
#[derive(Clone, Debug)]
pub enum Place {
    /// Its Unix socket.
    Socket(PathBuf),
    /// Its TCP address, and what it wants to be shown.
    Tcp(SocketAddr, Option<SecretString>),
}

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Socket(path) => path.display().fmt(formatter),
            Place::Tcp(address, _) => address.fmt(formatter),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there.
    #[error("no daemon listens there")]
    Nobody,
    /// The connection failed.
    #[error("cannot ask the daemon")]
    Io(#[from] io::Error),
    /// It does not speak HTTP, or broke off.
    #[error("the answer is none")]
    Http(#[from] hyper::Error),
    /// It took too long.
    #[error("no answer within {} s", ANSWER_TIMEOUT.as_secs())]
    TooLate,
    /// It was refused.
    #[error("the daemon answers {0}: {1}")]
    Refused(StatusCode, String),
    /// It is too long.
    #[error("the answer is too long")]
    TooLong,
}

impl Place {
    /// Everything that the daemon answers for a path.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn ask(&self, path: &str) -> Result<Bytes, AskError> {
        let asked = async { self.open(path).await?.rest().await };
        timeout(ANSWER_TIMEOUT, asked).await.map_err(|_| AskError::TooLate)?
    }

    /// What the daemon answers for a path, line by line.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn follow(&self, path: &str) -> Result<Lines, AskError> {
        timeout(ANSWER_TIMEOUT, self.open(path)).await.map_err(|_| AskError::TooLate)?
    }

    async fn open(&self, path: &str) -> Result<Lines, AskError> {
        match self {
            Place::Socket(socket) => request(connect(socket).await?, path, None).await,
            Place::Tcp(address, token) => {
                let stream = TcpStream::connect(address).await.map_err(nobody)?;
                request(stream, path, token.as_ref()).await
            }
        }
    }
}

async fn connect(socket: &Path) -> Result<UnixStream, AskError> {
    UnixStream::connect(socket).await.map_err(nobody)
}

fn nobody(error: io::Error) -> AskError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AskError::Nobody,
        _ => AskError::Io(error),
    }
}

async fn request(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    path: &str,
    token: Option<&SecretString>,
) -> Result<Lines, AskError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    tokio::spawn(connection);
    let invalid = |_| AskError::Io(io::Error::from(io::ErrorKind::InvalidInput));
    let mut request = Request::new(Reply::Text(Bytes::new()));
    *request.uri_mut() = path.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    request.headers_mut().insert(HOST, HeaderValue::from_static("walpurge"));
    if let Some(token) = token {
        let bearer = format!("Bearer {}", token.expose_secret());
        let mut bearer = HeaderValue::from_str(&bearer).map_err(invalid)?;
        bearer.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, bearer);
    }
    let response: Response<Incoming> = sender.send_request(request).await?;
    let status = response.status();
    let mut lines = Lines { body: response.into_body(), read: BytesMut::new() };
    if status != StatusCode::OK {
        let said = lines.rest().await?;
        let said = String::from_utf8_lossy(&said[..said.len().min(500)]).trim().to_owned();
        return Err(AskError::Refused(status, said));
    }
    Ok(lines)
}

/// An answer.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    read: BytesMut,
}

impl Lines {
    /// The next line, without its end; `None` at the end of the answer.
    ///
    /// # Errors
    /// If the connection breaks, or a line is too long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, AskError> {
        loop {
            if let Some(end) = self.read.iter().position(|&byte| byte == b'\n') {
                let mut line = self.read.split_to(end + 1);
                line.truncate(end);
                return Ok(Some(line.freeze()));
            }
            if self.read.len() > LINE_BYTES_MAX {
                return Err(AskError::TooLong);
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    async fn rest(&mut self) -> Result<Bytes, AskError> {
        while self.more().await? {
            if self.read.len() > ANSWER_BYTES_MAX {
                return Err(AskError::TooLong);
            }
        }
        Ok(self.read.split().freeze())
    }

    /// Reads more; answers whether there is any.
    async fn more(&mut self) -> Result<bool, AskError> {
        let body = &mut self.body;
        let frame =
            std::future::poll_fn(|context| std::pin::Pin::new(&mut *body).poll_frame(context));
        match frame.await {
            None => Ok(false),
            Some(frame) => {
                if let Some(data) = frame?.data_ref() {
                    self.read.extend_from_slice(data);
                }
                Ok(true)
            }
        }
    }
}
