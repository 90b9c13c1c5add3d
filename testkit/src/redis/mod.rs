//! A private Redis server, and a small client for it.

mod builder;
mod cluster;
mod resp;
mod sentinel;

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::TestDir;
use crate::process::{Process, Signal};

pub use self::builder::Builder;
pub use self::cluster::RedisCluster;
pub use self::resp::{Client, Reply};
pub use self::sentinel::Sentinels;

/// How long a start may take, loading the append-only file included.
const START_WITHIN: Duration = Duration::from_secs(30);

/// A private server on a free port and a Unix socket, killed and removed on drop.
#[derive(Debug)]
pub struct Redis {
    // Before the directory, so that the server ends before its files go.
    server: Option<Process>,
    client: Mutex<Option<Client>>,
    options: Builder,
    port: u16,
    dir: TestDir,
}

impl Redis {
    /// Starts a server that keeps nothing on disk.
    ///
    /// # Panics
    ///
    /// When it does not start; the message holds its log.
    #[track_caller]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A server with other settings.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Its TCP port; with TLS only if the builder asked for it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A URL for its database 0, without user and password.
    pub fn url(&self) -> String {
        let scheme = if self.options.has_tls() { "rediss" } else { "redis" };
        format!("{scheme}://127.0.0.1:{}/0", self.port)
    }

    /// The URL of its Unix socket.
    pub fn socket_url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("redis.sock")
    }

    /// The server's whole log.
    pub fn log(&self) -> String {
        crate::process::read_log(&self.dir.join("log"))
    }

    /// The process's id.
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Process::pid)
    }

    /// A connection of its own, by the Unix socket, authenticated if there is a password.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub fn client(&self) -> Result<Client> {
        let mut client = Client::connect(&self.socket())?;
        if let Some(password) = self.options.default_password()
            && let Reply::Error(message) = client.cmd(&["AUTH", password])?
        {
            bail!("AUTH failed: {message}");
        }
        Ok(client)
    }

    /// Runs one command on a connection that is kept.
    ///
    /// # Panics
    ///
    /// When the server does not answer; an error reply is a [`Reply::Error`].
    #[track_caller]
    pub fn cmd<A: AsRef<[u8]>>(&self, args: &[A]) -> Reply {
        match self.try_cmd(args) {
            Ok(reply) => reply,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// Runs one command on a connection that is kept.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub fn try_cmd<A: AsRef<[u8]>>(&self, args: &[A]) -> Result<Reply> {
        let mut kept = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        let mut client = match kept.take() {
            Some(client) => client,
            None => self.client()?,
        };
        let reply = client.cmd(args)?;
        *kept = Some(client);
        Ok(reply)
    }

    /// Runs one command and shows its reply as text, arrays line by line.
    ///
    /// # Panics
    ///
    /// When the server does not answer or answers with an error.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> String {
        match self.cmd(args) {
            Reply::Error(message) => panic!("{args:?}: {message}"),
            reply => reply.to_string(),
        }
    }

    /// Sets a key.
    ///
    /// # Panics
    ///
    /// When the server does not answer or refuses.
    #[track_caller]
    pub fn set(&self, key: &str, value: &str) {
        self.cli(&["SET", key, value]);
    }

    /// A key's value.
    ///
    /// # Panics
    ///
    /// When the server does not answer, or the key holds no string.
    #[track_caller]
    pub fn get(&self, key: &str) -> Option<String> {
        match self.cmd(&["GET", key]) {
            Reply::Bulk(value) => value.map(|value| String::from_utf8_lossy(&value).into_owned()),
            reply => panic!("GET {key}: {reply}"),
        }
    }

    /// Whether a key is there.
    ///
    /// # Panics
    ///
    /// When the server does not answer.
    #[track_caller]
    pub fn exists(&self, key: &str) -> bool {
        self.cmd(&["EXISTS", key]) == Reply::Int(1)
    }

    /// Freezes the server: connections stay open, nothing answers.
    pub fn pause(&mut self) {
        self.signal(Signal::STOP);
    }

    /// Lets a frozen server go on.
    pub fn resume(&mut self) {
        self.signal(Signal::CONT);
    }

    /// Kills the server with SIGKILL; only a persistent one keeps its data.
    pub fn kill_9(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill_9();
        }
    }

    /// Stops the server in good order.
    ///
    /// # Panics
    ///
    /// When it does not end.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        if let Some(mut server) = self.server.take() {
            assert!(server.wait(START_WITHIN).is_some(), "{}", server.report());
        }
    }

    /// Starts a stopped or killed server again, on the same port.
    ///
    /// # Panics
    ///
    /// When it runs already or does not start; the message holds its log.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.server.is_none(), "redis is running already");
        if let Err(error) = self.launch() {
            panic!("{error:#}");
        }
    }

    fn signal(&mut self, signal: Signal) {
        if let Some(server) = &mut self.server {
            server.signal(signal);
        }
    }

    fn launch(&mut self) -> Result<()> {
        let path = self.dir.join("redis.conf");
        std::fs::write(&path, self.options.text(self.port, &self.socket()))?;
        let mut command = Command::new("redis-server");
        command.arg(&path).current_dir(self.dir.path());
        if self.options.is_sentinel() {
            command.arg("--sentinel");
        }
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let mut server = Process::spawn("redis", command, &self.dir.join("log"), Signal::KILL)?;
        let ready = crate::holds_within(START_WITHIN, || {
            // While it loads its data it answers -LOADING.
            !server.is_running() || self.try_cmd(&["PING"]).is_ok_and(|reply| !reply.is_error())
        });
        if !ready || !server.is_running() {
            bail!("redis did not start: {}", server.report());
        }
        self.server = Some(server);
        Ok(())
    }
}
