//! Serves one connection: one request, its answer, and the end.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use super::Token;
use super::answer::{Asked, answer};
use super::body::Reply;
use super::history::History;
use super::kept::KeptFile;
use crate::status::Board;

/// How long a request may take to arrive.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long everything may take, from the connection to the last byte that is read from it. A tail
/// has no such end.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// How large a request may be, in bytes.
const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// What every connection shares.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) board: Board,
    /// Locked by the admin thread alone, never across a wait.
    pub(super) kept: Arc<Mutex<KeptFile>>,
    /// Likewise.
    pub(super) history: Arc<Mutex<History>>,
    pub(super) access: Access,
}

/// Who may look.
#[derive(Clone, Debug)]
pub(super) enum Access {
    /// Whoever can connect.
    Everybody,
    /// Whoever can connect and knows the address. Another page that a browser shows knows a name,
    /// and may let that lead here.
    ByAddress,
    /// Whoever shows this.
    Token(Token),
}

impl Shared {
    pub(super) fn new(board: Board, parked: Option<PathBuf>) -> Self {
        let kept = Arc::new(Mutex::new(KeptFile::new(parked)));
        let history = Arc::default();
        Shared { board, kept, history, access: Access::Everybody }
    }

    /// The same with other rights.
    pub(super) fn with(&self, access: Access) -> Self {
        Shared { access, ..self.clone() }
    }
}

/// Whether a connection is a tail, and whether nobody reads it.
#[derive(Clone, Debug, Default)]
pub(super) struct Stalled {
    tail: Arc<AtomicBool>,
    gone: Arc<Notify>,
}

impl Stalled {
    /// It lasts as long as somebody reads.
    pub(super) fn is_tail(&self) {
        self.tail.store(true, Relaxed);
    }

    /// Nobody reads.
    pub(super) fn give_up(&self) {
        self.gone.notify_one();
    }

    /// Waits until the connection is to be cut.
    async fn over(&self) {
        tokio::time::sleep(REQUEST_TIMEOUT).await;
        if self.tail.load(Relaxed) {
            self.gone.notified().await;
        }
    }
}

/// Serves a connection to its end. Whatever a client does, there is an end, but for a tail that is
/// read.
pub(super) async fn serve(io: impl AsyncRead + AsyncWrite + Unpin, shared: Shared) {
    let stalled = Stalled::default();
    let service = service_fn(|request: Request<Incoming>| {
        let asked =
            Asked { method: request.method(), uri: request.uri(), headers: request.headers() };
        let response = answer(&asked, &shared, &stalled);
        async move { Ok::<Response<Reply>, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(REQUEST_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(io), service);
    tokio::select! {
        // What a client does wrong is its own affair.
        _ = connection => {}
        () = stalled.over() => {}
    }
}
