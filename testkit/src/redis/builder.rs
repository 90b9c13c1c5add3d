//! What a Redis server shall be like.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::Result;

use super::Redis;
use crate::{TestDir, free_port};

/// What a server shall be like; made by [`Redis::builder`].
#[derive(Debug, Default)]
pub struct Builder {
    config: Vec<String>,
    password: Option<String>,
    tls: Option<Tls>,
    is_sentinel: bool,
}

#[derive(Debug)]
struct Tls {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Builder {
    /// Keeps every write over a `kill -9`: an append-only file, fsynced each time.
    #[must_use]
    pub fn persistent(self) -> Self {
        self.config("appendonly", "yes").config("appendfsync", "always")
    }

    /// A line of redis.conf.
    #[must_use]
    pub fn config(mut self, name: &str, value: &str) -> Self {
        self.config.push(format!("{name} {value}"));
        self
    }

    /// An ACL user, such as `app on >secret ~* +@all`.
    #[must_use]
    pub fn acl(self, user: &str) -> Self {
        self.config("user", user)
    }

    /// The default user's password.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Speaks TLS alone on the port, with PEM files; clients need no certificate.
    #[must_use]
    pub fn tls(
        mut self,
        ca: impl AsRef<Path>,
        certificate: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Self {
        let [ca, certificate, key] =
            [ca.as_ref(), certificate.as_ref(), key.as_ref()].map(Path::to_owned);
        self.tls = Some(Tls { ca, certificate, key });
        self
    }

    /// Makes the server and starts it.
    ///
    /// # Panics
    ///
    /// When it does not start; the message holds its log.
    #[track_caller]
    pub fn start(self) -> Redis {
        match self.try_start() {
            Ok(redis) => redis,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// Makes the server and starts it.
    ///
    /// # Errors
    ///
    /// When Redis is not installed or does not start; the error holds its log.
    pub fn try_start(self) -> Result<Redis> {
        let (dir, client) = (TestDir::new("redis"), Mutex::new(None));
        let mut redis = Redis { server: None, client, options: self, port: free_port(), dir };
        redis.launch()?;
        Ok(redis)
    }

    /// A Sentinel instead of a server.
    #[must_use]
    pub(super) fn sentinel(mut self) -> Self {
        self.is_sentinel = true;
        self
    }

    pub(super) fn is_sentinel(&self) -> bool {
        self.is_sentinel
    }

    pub(super) fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub(super) fn default_password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// The text of redis.conf.
    pub(super) fn text(&self, port: u16, socket: &Path) -> String {
        let mut lines = vec![
            "bind 127.0.0.1".to_owned(),
            "save \"\"".to_owned(),
            "daemonize no".to_owned(),
            format!("unixsocket {}", socket.display()),
        ];
        match &self.tls {
            None => lines.push(format!("port {port}")),
            Some(Tls { ca, certificate, key }) => lines.extend([
                "port 0".to_owned(),
                format!("tls-port {port}"),
                "tls-auth-clients no".to_owned(),
                format!("tls-ca-cert-file {}", ca.display()),
                format!("tls-cert-file {}", certificate.display()),
                format!("tls-key-file {}", key.display()),
            ]),
        }
        lines.extend(self.password.iter().map(|password| format!("requirepass {password}")));
        lines.extend(self.config.iter().cloned());
        lines.join("\n") + "\n"
    }
}
