//! The endpoint through which one looks at a running daemon: what is it doing, and is it well?
//!
//! It has a thread of its own and reads what the daemon publishes, so that nobody who asks, however
//! much or however slowly, holds up the stream. Everything is read-only. The number of connections,
//! the size of a request and the time that it may take have bounds.

mod answer;
mod body;
pub mod client;
mod history;
mod kept;
mod listen;
mod page;
mod serve;
mod socket;
mod tail;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread::JoinHandle;

use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tracing::error;

use crate::status::Board;
use serve::{Access, Shared};

/// The socket's name in `$RUNTIME_DIRECTORY`.
pub const SOCKET_NAME: &str = "admin.sock";

/// The thread's stack, in bytes: it only writes short texts.
const STACK_BYTES: usize = 512 * 1024;

/// Where one can look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminSettings {
    /// The TCP address; `None`: none.
    pub listen: Option<SocketAddr>,
    /// What has to be shown there, but for whether the daemon lives and is ready.
    pub token: Option<Token>,
    /// The Unix socket; `None`: none.
    pub socket: Option<PathBuf>,
    /// Where it is kept what was given up on; `None`: nowhere.
    pub parked: Option<PathBuf>,
}

/// A token, as a hash: it is compared in the same time wherever it differs.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl Token {
    /// The token that is spelled so.
    pub fn new(text: &str) -> Self {
        Token(Sha256::digest(text.as_bytes()).into())
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Token(***)")
    }
}

/// The endpoint, until it is dropped.
#[derive(Debug)]
pub struct Admin {
    settings: AdminSettings,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Opens it, in a thread of its own. What cannot be opened is logged and tried again; without a
    /// thread there is none.
    pub fn start(settings: AdminSettings, board: Board) -> Self {
        let (stop, stopped) = oneshot::channel();
        let of_thread = settings.clone();
        let thread = std::thread::Builder::new()
            .name("admin".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || run(of_thread, board, stopped));
        let thread = thread.map_err(|error| error!("no admin endpoint: {error}")).ok();
        Admin { settings, stop: Some(stop), thread }
    }

    /// Whether it is what these settings ask for.
    pub fn is_of(&self, settings: &AdminSettings) -> bool {
        self.settings == *settings
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It ends at once.
            let _ = thread.join();
        }
    }
}

fn run(settings: AdminSettings, board: Board, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return error!("no admin endpoint: {error}"),
    };
    let AdminSettings { listen, token, socket, parked } = settings;
    runtime.block_on(async {
        let shared = Shared::new(board, parked);
        let access = token.map_or(Access::ByAddress, Access::Token);
        let tcp = async {
            match listen {
                Some(address) => listen::tcp(address, shared.with(access)).await,
                None => std::future::pending().await,
            }
        };
        let unix = async {
            match socket {
                Some(path) => listen::unix(&path, shared.with(Access::Everybody)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = stopped => {}
            () = tcp => {}
            () = unix => {}
            () = history::keep(&shared) => {}
        }
    });
    // Whoever is connected is not waited for.
    runtime.shutdown_background();
}
