//! What does a connection string mean?
//!
//! In: libpq's URL or `key=value` form. Out: a [`ConnectConfig`]. It does no I/O and reads no
//! environment beyond the user's name; certificates are loaded when a connection is opened.
//! Neither an error nor `Debug` ever shows the password.
//! The keys, their values and defaults are those of "Database Connection Control Functions" in
//! Postgres' manual, except where a daemon needs a bound: `connect_timeout`, keepalives and
//! `tcp_user_timeout` have finite defaults.

mod read;
mod split;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

/// A connection string that cannot be used. Nothing in it comes from the password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// A key with a value that it cannot have.
    #[error("{key} = {value:?}: allowed are {allowed}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// A key that nobody knows.
    #[error("unknown key {key:?}{}", suggestion(.nearest))]
    Key {
        /// The key.
        key: String,
        /// The known one that looks most like it.
        nearest: Option<&'static str>,
    },
    /// A key that two settings disagree about, or that lacks its partner.
    #[error("{0}")]
    Conflict(&'static str),
    /// It is neither form.
    #[error("not a connection string: {0}")]
    Syntax(&'static str),
}

fn suggestion(nearest: &Option<&'static str>) -> String {
    nearest.map(|name| format!(": did you mean {name:?}?")).unwrap_or_default()
}

/// Where one server may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSpec {
    /// A name or address as it was written, which a certificate is checked against; or the
    /// directory of a Unix socket.
    pub host: Host,
    /// An address that makes looking the name up unnecessary.
    pub hostaddr: Option<IpAddr>,
    /// The port, which is also part of a Unix socket's name.
    pub port: u16,
}

/// A TCP host name or address, or the directory of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A host name or an IP address.
    Tcp(String),
    /// A directory, or an abstract name that starts with `@`.
    Unix(PathBuf),
}

impl fmt::Display for HostSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp(name) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Host::Tcp(name) => write!(f, "{name}:{}", self.port),
            Host::Unix(dir) => write!(f, "{}:{}", dir.display(), self.port),
        }
    }
}

/// How much TLS is asked for, in libpq's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // libpq's manual is their documentation
pub enum SslMode {
    Disable,
    Allow,
    #[default]
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// Where the certificates are that a server's is checked against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RootCert {
    /// Not said.
    #[default]
    Unset,
    /// The system's.
    System,
    /// Those in a PEM file.
    File(PathBuf),
}

/// Whether the password exchange must be bound to the TLS channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // libpq's manual is their documentation
pub enum ChannelBinding {
    Disable,
    #[default]
    Prefer,
    Require,
}

/// What kind of server is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // libpq's manual is their documentation
pub enum TargetSessionAttrs {
    #[default]
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// TCP keepalive; `None` leaves it to the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// How long a connection is idle before the first probe.
    pub idle: Duration,
    /// The time between probes.
    pub interval: Duration,
    /// How many probes may stay unanswered.
    pub count: u32,
}

/// Everything that is needed to open a connection.
#[derive(Clone)]
pub struct ConnectConfig {
    pub(crate) hosts: Vec<HostSpec>,
    pub(crate) user: String,
    pub(crate) password: Option<SecretString>,
    pub(crate) dbname: String,
    pub(crate) application_name: String,
    /// The user's own, which come after walpurge's and so win.
    pub(crate) options: Option<String>,
    pub(crate) sslmode: SslMode,
    pub(crate) sslrootcert: RootCert,
    /// A client certificate and its key, both PEM files.
    pub(crate) client_cert: Option<(PathBuf, PathBuf)>,
    /// TLS without asking first (Postgres 17 and later).
    pub(crate) ssl_direct: bool,
    pub(crate) channel_binding: ChannelBinding,
    pub(crate) target_session_attrs: TargetSessionAttrs,
    /// For one address, from the connect to the end of authentication; zero: no bound.
    pub(crate) connect_timeout: Duration,
    pub(crate) keepalive: Option<Keepalive>,
    /// Zero leaves it to the system.
    pub(crate) tcp_user_timeout: Duration,
}

impl ConnectConfig {
    /// Reads a URL or a `key=value` string.
    pub fn parse(text: &str) -> Result<ConnectConfig, UrlError> {
        read::config(split::pairs(text)?)
    }

    /// `user@host:port/dbname`, for logs.
    pub fn target(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(HostSpec::to_string).collect();
        format!("{}@{}/{}", self.user, hosts.join(","), self.dbname)
    }

    /// The role.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The database.
    pub fn dbname(&self) -> &str {
        &self.dbname
    }

    /// The name under which Postgres lists the session, and by which
    /// `synchronous_standby_names` could match it.
    pub fn application_name(&self) -> &str {
        &self.application_name
    }

    /// The hosts, in the order in which they are tried.
    pub fn hosts(&self) -> &[HostSpec] {
        &self.hosts
    }

    pub(crate) fn password(&self) -> Option<&str> {
        self.password.as_ref().map(ExposeSecret::expose_secret)
    }
}

impl fmt::Debug for ConnectConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectConfig")
            .field("target", &self.target())
            .field("sslmode", &self.sslmode)
            .field("target_session_attrs", &self.target_session_attrs)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
