//! Where does a Redis listen, and how does one log in there? What URLs say of it.
//!
//! No error holds any part of a URL.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use redis::{ConnectionAddr, IntoConnectionInfo};
use secrecy::{ExposeSecret, SecretString};

use crate::sinks::redis::sentinel::Sentinel;

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Address {
    /// Host and port; whether TLS is spoken there.
    Tcp { host: String, port: u16, tls: bool },
    /// A Unix socket.
    Unix(PathBuf),
    /// Wherever the Sentinels say.
    Sentinel(Arc<Sentinel>),
}

impl Address {
    /// What is done there, for a message about a server that is not in the configuration.
    pub(in super::super) fn doing(&self, what: &str) -> String {
        match self {
            Address::Tcp { host, port, .. } => format!("{what} at {host}:{port}"),
            Address::Unix(_) | Address::Sentinel(_) => what.to_owned(),
        }
    }
}

/// Where a node of a cluster listens; shown as `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in super::super) struct NodeAddress {
    pub(in super::super) host: String,
    pub(in super::super) port: u16,
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// What a URL says.
pub(in super::super) struct Login {
    pub(in super::super) address: Address,
    pub(in super::super) user: Option<String>,
    pub(in super::super) password: Option<SecretString>,
    pub(in super::super) db: u32,
}

impl Login {
    pub(super) fn parse(url: &SecretString) -> Result<Self, String> {
        // Its errors never quote the URL.
        let info = check_scheme(url.expose_secret())?
            .into_connection_info()
            .map_err(|error| format!("not a Redis URL: {}", error.without_kind()))?;
        let settings = info.redis_settings();
        Ok(Login {
            address: address(info.addr())?,
            user: settings.username().map(str::to_owned),
            password: settings.password().map(SecretString::from),
            db: u32::try_from(settings.db())
                .map_err(|_| "the database's number must not be negative")?,
        })
    }

    /// Whether one can log in there as here.
    fn is_like(&self, other: &Login) -> bool {
        let secret = |login: &Login| login.password.as_ref().map(|p| p.expose_secret().to_owned());
        let tls = |login: &Login| matches!(login.address, Address::Tcp { tls: true, .. });
        self.user == other.user && secret(self) == secret(other) && tls(self) == tls(other)
    }
}

/// The first node's URL, which stands for all, and where the nodes are.
pub(super) fn cluster_nodes(urls: &[SecretString]) -> Result<(Login, Vec<NodeAddress>), String> {
    let mut first: Option<Login> = None;
    let mut nodes = Vec::new();
    for url in urls {
        let login = Login::parse(url)?;
        let Address::Tcp { host, port, .. } = &login.address else {
            return Err("a cluster's nodes are reached over TCP: redis:// or rediss://".into());
        };
        if login.db != 0 {
            return Err("a cluster has only database 0".into());
        }
        nodes.push(NodeAddress { host: host.clone(), port: *port });
        match &first {
            None => first = Some(login),
            Some(first) if first.is_like(&login) => {}
            Some(_) => {
                return Err("all nodes must have the same scheme, user and password".into());
            }
        }
    }
    nodes.dedup();
    let login = first.ok_or("it names no node")?;
    Ok((login, nodes))
}

pub(super) fn scheme(tls: bool) -> &'static str {
    if tls { "rediss" } else { "redis" }
}

/// The URL, if its scheme is one that the documentation promises.
fn check_scheme(url: &str) -> Result<&str, String> {
    if url.starts_with("redis://") || url.starts_with("rediss://") || url.starts_with("unix://") {
        return Ok(url);
    }
    Err("must start with redis://, rediss:// or unix://".into())
}

fn address(addr: &ConnectionAddr) -> Result<Address, String> {
    match addr {
        ConnectionAddr::Tcp(host, port) => {
            Ok(Address::Tcp { host: host.clone(), port: *port, tls: false })
        }
        ConnectionAddr::TcpTls { insecure: true, .. } => {
            Err("#insecure is not supported: name the server's root in tls_root".into())
        }
        ConnectionAddr::TcpTls { host, port, .. } => {
            Ok(Address::Tcp { host: host.clone(), port: *port, tls: true })
        }
        ConnectionAddr::Unix(path) => Ok(Address::Unix(path.clone())),
        _ => Err("must start with redis://, rediss:// or unix://".into()),
    }
}

/// What redis-rs says of a URL, without the name of its error's kind.
trait WithoutKind {
    fn without_kind(&self) -> String;
}

impl WithoutKind for redis::RedisError {
    fn without_kind(&self) -> String {
        let text = self.to_string();
        match text.split_once(" - ") {
            Some((text, _)) => text.to_lowercase(),
            None => text,
        }
    }
}
