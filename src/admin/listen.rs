//! Opens the listeners, again and again where that fails, and accepts connections up to a bound.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tracing::{error, info};

use super::serve::{Shared, serve};
use super::socket::Socket;

/// How many connections each listener serves at once. One more is closed at once.
const CONNECTIONS_MAX: usize = 64;

/// The wait before a listener is opened again.
const REOPEN_WAIT: Duration = Duration::from_secs(1);

/// The wait after a connection could not be accepted: mostly there are too many open files.
const ACCEPT_WAIT: Duration = Duration::from_millis(100);

/// Something that accepts connections.
trait Accept: Sized {
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection. Cancel safe.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Io>>;
}

impl Accept for TcpListener {
    type Io = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        TcpListener::accept(self).await.map(|(stream, _)| stream)
    }
}

impl Accept for Socket {
    type Io = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

/// Serves a TCP address for ever.
pub(super) async fn tcp(address: SocketAddr, shared: Shared) {
    let port = address.port();
    let hint = format!("who has it? ss -ltnp 'sport = :{port}'");
    let listener = open(&address.to_string(), &hint, || TcpListener::bind(address)).await;
    let opened = listener.local_addr().map_or(address, |opened| opened);
    info!(address = %opened, "the admin endpoint listens");
    accept(listener, shared).await;
}

/// Serves a Unix socket for ever.
pub(super) async fn unix(path: &Path, shared: Shared) {
    let shown = path.display().to_string();
    let hint = "is another walpurge running? each needs a RuntimeDirectory= of its own";
    let socket = open(&shown, hint, || async { Socket::open(path) }).await;
    info!(socket = shown, "the admin endpoint listens");
    accept(socket, shared).await;
}

/// Opens a listener. Says once why that fails, and when it works.
async fn open<L, F: Future<Output = io::Result<L>>>(
    name: &str,
    hint: &str,
    mut attempt: impl FnMut() -> F,
) -> L {
    let mut is_said = false;
    loop {
        match attempt().await {
            Ok(listener) => return listener,
            Err(error) if !is_said => {
                is_said = true;
                error!(
                    listener = name,
                    hint, "cannot open the admin endpoint, trying again: {error}"
                );
            }
            Err(_) => {}
        }
        sleep(REOPEN_WAIT).await;
    }
}

async fn accept<L: Accept>(listener: L, shared: Shared) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(io) = listener.accept().await else {
            sleep(ACCEPT_WAIT).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        let shared = shared.clone();
        tokio::spawn(async move {
            serve(io, shared).await;
            drop(permit);
        });
    }
}
