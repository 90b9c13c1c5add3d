//! A private Postgres server with logical decoding.
//!
//! It listens on a free port of 127.0.0.1 and on a Unix socket, knows the superuser
//! `postgres`, and trusts local users unless [`Builder::hba`] says otherwise.

mod control;
mod install;
mod session;
mod sql;
mod standby;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use self::install::Install;
use crate::process::{Process, Signal};
use crate::{TestDir, free_port};

pub use self::control::StopMode;
pub use self::session::Session;

/// How long a start may take, recovery after a kill included.
const START_WITHIN: Duration = Duration::from_secs(60);

/// A private server, stopped and removed on drop.
#[derive(Debug)]
pub struct Postgres {
    // Before the directory, so that the server ends before its files go.
    server: Option<Process>,
    install: Install,
    port: u16,
    dir: TestDir,
}

/// What a server shall be like; made by [`Postgres::builder`].
#[derive(Debug, Default)]
pub struct Builder {
    settings: Vec<(String, String)>,
    hba: Vec<String>,
    initdb_args: Vec<String>,
    tls: Option<(PathBuf, PathBuf)>,
    unstarted: bool,
    version: Option<u32>,
}

impl Postgres {
    /// Starts a server with `wal_level = logical` and fsync on.
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

    /// Its TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of its Unix socket.
    pub fn socket_dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// A connection URL by TCP.
    pub fn url(&self, user: &str, db: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{db}", self.port)
    }

    /// A connection URL by Unix socket.
    pub fn socket_url(&self, user: &str, db: &str) -> String {
        let dir = self.socket_dir().to_string_lossy().replace('/', "%2F");
        format!("postgres://{user}@{dir}:{}/{db}", self.port)
    }

    /// The server's whole log.
    pub fn log(&self) -> String {
        crate::process::read_log(&self.log_path())
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Starts the server on its directory and waits until it takes connections.
    fn launch(&mut self) -> Result<()> {
        let mut command = self.install.server("postgres");
        command.arg("-D").arg(self.data_dir());
        // QUIT is the immediate shutdown, which also removes shared memory.
        let mut server = Process::spawn("postgres", command, &self.log_path(), Signal::QUIT)?;
        let pid_file = self.data_dir().join("postmaster.pid");
        let ready = crate::holds_within(START_WITHIN, || {
            !server.is_running() || is_ready(&pid_file, server.pid())
        });
        if !ready || !server.is_running() {
            bail!("postgres did not start: {}", server.report());
        }
        self.server = Some(server);
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.server = None;
        self.remove_shared_memory();
    }
}

impl Builder {
    /// Sets a configuration parameter, over the defaults and over earlier calls.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Turns fsync off, where no crash is tested.
    #[must_use]
    pub fn fsync(self, on: bool) -> Self {
        self.setting("fsync", if on { "on" } else { "off" })
    }

    /// Lines of pg_hba.conf that come before those that trust everybody; the superuser
    /// always gets in by the Unix socket.
    #[must_use]
    pub fn hba(mut self, lines: &str) -> Self {
        self.hba.push(lines.to_owned());
        self
    }

    /// An argument for initdb, such as `--wal-segsize=1`.
    #[must_use]
    pub fn initdb_arg(mut self, arg: &str) -> Self {
        self.initdb_args.push(arg.to_owned());
        self
    }

    /// Offers TLS with the PEM files of a certificate and its key, which are copied.
    #[must_use]
    pub fn tls(mut self, certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        self.tls = Some((certificate.as_ref().to_owned(), key.as_ref().to_owned()));
        self
    }

    /// Another major version than the machine's: 14, 16, 17 or 18. It has neither wal2json nor
    /// clients of its own; those of the machine serve it.
    #[must_use]
    pub fn version(mut self, major: u32) -> Self {
        self.version = Some(major);
        self
    }

    /// Makes the data directory only; [`Postgres::start_again`] starts the server.
    #[must_use]
    pub fn without_start(mut self) -> Self {
        self.unstarted = true;
        self
    }

    /// Makes the server and starts it.
    ///
    /// # Panics
    ///
    /// When it does not start; the message holds its log.
    #[track_caller]
    pub fn start(self) -> Postgres {
        match self.try_start() {
            Ok(postgres) => postgres,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// Makes the server and starts it.
    ///
    /// # Errors
    ///
    /// When Postgres is not installed or does not start; the error holds its log.
    pub fn try_start(self) -> Result<Postgres> {
        let dir = TestDir::new("pg");
        let install = match self.version {
            Some(version) => Install::copied(version, dir.path())?,
            None => Install::find()?,
        };
        install.give(dir.path())?;
        let mut postgres = Postgres { server: None, install, port: free_port(), dir };
        let data = postgres.data_dir();
        postgres.install.make_data_dir(&data, &self.initdb_args)?;
        self.configure(&postgres).context("cannot configure the server")?;
        if !self.unstarted {
            postgres.launch()?;
        }
        Ok(postgres)
    }

    /// Writes what is particular to this server into its data directory.
    fn configure(&self, postgres: &Postgres) -> Result<()> {
        let (data, install) = (postgres.data_dir(), &postgres.install);
        let mut conf = postgres.place_settings();
        conf.push_str(DEFAULTS);
        if let Some((certificate, key)) = &self.tls {
            install.write_private(&data.join("server.crt"), &std::fs::read(certificate)?)?;
            install.write_private(&data.join("server.key"), &std::fs::read(key)?)?;
            conf.push_str("ssl = on\n");
        }
        for (name, value) in &self.settings {
            writeln!(conf, "{name} = '{}'", value.replace('\'', "''"))?;
        }
        install.write_private(&data.join("testkit.conf"), conf.as_bytes())?;

        let main = data.join("postgresql.conf");
        let mut text = std::fs::read_to_string(&main)?;
        text.push_str("\ninclude 'testkit.conf'\n");
        std::fs::write(&main, text)?;

        // The template names wal2json there, and that file wins over all others.
        if self.settings.iter().any(|(name, _)| name == "output_plugin_libraries") {
            std::fs::write(data.join("postgresql.auto.conf"), "")?;
        }

        let hba = format!("{SUPERUSER_HBA}{}\n{TRUST_HBA}", self.hba.join("\n"));
        install.write_private(&data.join("pg_hba.conf"), hba.as_bytes())
    }
}

impl Postgres {
    /// The settings that say where this server is, and no other one.
    fn place_settings(&self) -> String {
        format!(
            "port = {}\nunix_socket_directories = '{}'\n",
            self.port,
            self.socket_dir().display()
        )
    }
}

/// Settings of every server. Memory-mapped files leave nothing behind after a kill.
const DEFAULTS: &str = "\
listen_addresses = '127.0.0.1'
wal_level = logical
max_wal_senders = 20
max_replication_slots = 20
max_prepared_transactions = 10
dynamic_shared_memory_type = mmap
shared_buffers = '64MB'
log_line_prefix = '%m [%p] %q%u@%d %a '
timezone = 'UTC'
log_timezone = 'UTC'
";

const SUPERUSER_HBA: &str = "local all,replication postgres trust\n";
const TRUST_HBA: &str = "\
local all,replication all trust
host all,replication all 127.0.0.1/32 trust
host all,replication all ::1/128 trust
";

/// Whether the postmaster `pid` has written that it takes connections: the eighth line of
/// its file, as pg_ctl reads it.
fn is_ready(pid_file: &Path, pid: u32) -> bool {
    let Ok(text) = std::fs::read_to_string(pid_file) else { return false };
    let mut lines = text.lines();
    lines.next().and_then(|line| line.trim().parse().ok()) == Some(pid)
        && lines.nth(6).is_some_and(|state| matches!(state.trim(), "ready" | "standby"))
}
