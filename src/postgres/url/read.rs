//! What do the keys of a connection string say?
//!
//! The values' meanings, defaults and limits, and which of them contradict each other.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::{
    ChannelBinding, ConnectConfig, Host, HostSpec, Keepalive, RootCert, SslMode,
    TargetSessionAttrs, UrlError,
};

const PORT: u16 = 5432;
/// Where Debian's and Red Hat's packages put the server's socket.
pub(super) const SOCKET_DIR: &str = "/var/run/postgresql";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);
const APPLICATION_NAME: &str = "walpurge";

/// Keys that change nothing for this client, and are common in URLs made for others.
const IGNORED_KEYS: [&str; 4] =
    ["fallback_application_name", "gssencmode", "sslcompression", "sslsni"];

/// Every key that means something here, for the message about one that does not.
const KNOWN_KEYS: [&str; 23] = [
    "application_name",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "options",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

/// What the keys and values of a connection string amount to.
pub(super) fn config(pairs: Vec<(String, String)>) -> Result<ConnectConfig, UrlError> {
    Reading(pairs).config()
}

/// The pairs of a connection string while they are turned into a configuration. A later pair
/// replaces an earlier one with the same key, as in libpq.
struct Reading(Vec<(String, String)>);

impl Reading {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    fn non_empty(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|value| !value.is_empty())
    }

    fn config(&self) -> Result<ConnectConfig, UrlError> {
        self.refuse_unknown_keys()?;
        let user = self.user()?;
        let sslmode = self.sslmode()?;
        let config = ConnectConfig {
            hosts: self.hosts()?,
            dbname: self.non_empty("dbname").map_or_else(|| user.clone(), str::to_string),
            user,
            password: self.non_empty("password").map(SecretString::from),
            application_name: self
                .non_empty("application_name")
                .unwrap_or(APPLICATION_NAME)
                .to_string(),
            options: self.non_empty("options").map(str::to_string),
            sslmode,
            sslrootcert: match self.non_empty("sslrootcert") {
                None => RootCert::Unset,
                Some("system") => RootCert::System,
                Some(path) => RootCert::File(path.into()),
            },
            client_cert: self.client_cert()?,
            ssl_direct: self.choice(
                "sslnegotiation",
                "postgres, direct",
                &[("postgres", false), ("direct", true)],
            )?,
            channel_binding: self.choice(
                "channel_binding",
                "disable, prefer, require",
                &[
                    ("prefer", ChannelBinding::Prefer),
                    ("disable", ChannelBinding::Disable),
                    ("require", ChannelBinding::Require),
                ],
            )?,
            target_session_attrs: self.target_session_attrs()?,
            connect_timeout: self.duration("connect_timeout", 1000)?.unwrap_or(CONNECT_TIMEOUT),
            keepalive: self.keepalive()?,
            tcp_user_timeout: self.duration("tcp_user_timeout", 1)?.unwrap_or(TCP_USER_TIMEOUT),
        };
        refuse_weak_tls(&config)?;
        if self.get("gssencmode") == Some("require") {
            return Err(UrlError::Conflict("gssencmode=require is not supported: use TLS"));
        }
        Ok(config)
    }

    fn refuse_unknown_keys(&self) -> Result<(), UrlError> {
        let mut after_password = false;
        for (key, _) in &self.0 {
            if !KNOWN_KEYS.contains(&key.as_str()) && !IGNORED_KEYS.contains(&key.as_str()) {
                if after_password {
                    // It may well be the rest of a password that should have been quoted.
                    return Err(UrlError::Syntax(
                        "an unknown key comes after the password: quote the password ('…', or %XX in a URL) if it has spaces, & or =",
                    ));
                }
                let nearest = KNOWN_KEYS
                    .into_iter()
                    .map(|name| (strsim::damerau_levenshtein(name, key), name))
                    .min()
                    .filter(|(distance, _)| *distance <= 3)
                    .map(|(_, name)| name);
                return Err(UrlError::Key { key: key.clone(), nearest });
            }
            after_password |= key == "password";
        }
        Ok(())
    }

    fn user(&self) -> Result<String, UrlError> {
        if let Some(user) = self.non_empty("user") {
            return Ok(user.to_string());
        }
        // As libpq: the operating system's user, whom systemd and login shells put here.
        ["USER", "LOGNAME"]
            .iter()
            .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()))
            .ok_or(UrlError::Conflict("user is missing"))
    }

    fn hosts(&self) -> Result<Vec<HostSpec>, UrlError> {
        let list = |key| self.non_empty(key).map(|value| value.split(',').collect::<Vec<_>>());
        let (hosts, addrs) = (list("host"), list("hostaddr"));
        let ports = list("port").unwrap_or_default();
        let count = hosts.as_ref().or(addrs.as_ref()).map_or(1, Vec::len);
        if addrs.as_ref().is_some_and(|addrs| addrs.len() != count) {
            return Err(UrlError::Conflict("hostaddr needs as many entries as host"));
        }
        if ports.len() > 1 && ports.len() != count {
            return Err(UrlError::Conflict("port needs one entry, or as many as host"));
        }
        (0..count)
            .map(|index| {
                let name = hosts.as_ref().map_or("", |hosts| hosts[index]);
                let addr = addrs.as_ref().map_or("", |addrs| addrs[index]);
                let port = ports.get(index).or(ports.first()).copied().unwrap_or_default();
                host_spec(name, addr, port)
            })
            .collect()
    }

    fn sslmode(&self) -> Result<SslMode, UrlError> {
        self.choice(
            "sslmode",
            "disable, allow, prefer, require, verify-ca, verify-full",
            &[
                ("prefer", SslMode::Prefer),
                ("disable", SslMode::Disable),
                ("allow", SslMode::Allow),
                ("require", SslMode::Require),
                ("verify-ca", SslMode::VerifyCa),
                ("verify-full", SslMode::VerifyFull),
            ],
        )
    }

    fn target_session_attrs(&self) -> Result<TargetSessionAttrs, UrlError> {
        self.choice(
            "target_session_attrs",
            "any, read-write, read-only, primary, standby, prefer-standby",
            &[
                ("any", TargetSessionAttrs::Any),
                ("read-write", TargetSessionAttrs::ReadWrite),
                ("read-only", TargetSessionAttrs::ReadOnly),
                ("primary", TargetSessionAttrs::Primary),
                ("standby", TargetSessionAttrs::Standby),
                ("prefer-standby", TargetSessionAttrs::PreferStandby),
            ],
        )
    }

    fn client_cert(&self) -> Result<Option<(PathBuf, PathBuf)>, UrlError> {
        match (self.non_empty("sslcert"), self.non_empty("sslkey")) {
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => Ok(Some((cert.into(), key.into()))),
            _ => Err(UrlError::Conflict("sslcert and sslkey need each other")),
        }
    }

    fn keepalive(&self) -> Result<Option<Keepalive>, UrlError> {
        if self.number("keepalives")? == Some(0) {
            return Ok(None);
        }
        // Dead after 60 s of silence; TCP_USER_TIMEOUT covers a peer that owes us an ACK.
        let seconds = |key, default| {
            Ok(self.duration(key, 1000)?.filter(|d| !d.is_zero()).unwrap_or(default))
        };
        let count = match self.number("keepalives_count")? {
            Some(count) => Some(count),
            None => self.number("keepalives_retries")?,
        };
        Ok(Some(Keepalive {
            idle: seconds("keepalives_idle", Duration::from_secs(30))?,
            interval: seconds("keepalives_interval", Duration::from_secs(10))?,
            count: count.filter(|count| *count > 0).unwrap_or(3),
        }))
    }

    /// The value for a key's word; the first pair is the default.
    fn choice<T: Copy>(
        &self,
        key: &'static str,
        allowed: &'static str,
        values: &[(&str, T)],
    ) -> Result<T, UrlError> {
        let value = self.non_empty(key).unwrap_or(values[0].0);
        values
            .iter()
            .find(|(word, _)| *word == value)
            .map(|(_, meaning)| *meaning)
            .ok_or_else(|| UrlError::Value { key, value: value.to_string(), allowed })
    }

    fn number(&self, key: &'static str) -> Result<Option<u32>, UrlError> {
        self.non_empty(key)
            .map(|value| {
                value.trim().parse().map_err(|_| UrlError::Value {
                    key,
                    value: value.to_string(),
                    allowed: "whole numbers from 0",
                })
            })
            .transpose()
    }

    fn duration(&self, key: &'static str, unit_ms: u64) -> Result<Option<Duration>, UrlError> {
        let number = self.number(key)?;
        Ok(number.map(|number| Duration::from_millis(u64::from(number) * unit_ms)))
    }
}

fn host_spec(name: &str, addr: &str, port: &str) -> Result<HostSpec, UrlError> {
    if name.contains('@') && !name.starts_with('@') {
        // Most likely the end of a password with a bare @ in it, so it must not be shown.
        return Err(UrlError::Syntax("a host contains @; write @ in a password as %40"));
    }
    let hostaddr = if addr.is_empty() {
        None
    } else {
        Some(addr.parse::<IpAddr>().map_err(|_| UrlError::Value {
            key: "hostaddr",
            value: addr.to_string(),
            allowed: "IP addresses",
        })?)
    };
    let host = match (name, hostaddr) {
        ("", Some(addr)) => Host::Tcp(addr.to_string()),
        ("", None) => Host::Unix(SOCKET_DIR.into()),
        (name, _) if name.starts_with(['/', '@']) => Host::Unix(name.into()),
        (name, _) => Host::Tcp(name.to_string()),
    };
    let port = match port {
        "" => PORT,
        port => port.parse().ok().filter(|port| *port != 0).ok_or(UrlError::Syntax(
            // Not shown: after a bare : or / in a URL's password, this would be a part of it.
            "a port is not a number from 1 to 65535 (write :, / and @ in a password as %3A, %2F and %40)",
        ))?,
    };
    Ok(HostSpec { host, hostaddr, port })
}

/// What libpq refuses too, and a check that would check nothing.
fn refuse_weak_tls(config: &ConnectConfig) -> Result<(), UrlError> {
    let mode = config.sslmode;
    let verified = matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull);
    if config.sslrootcert == RootCert::System && mode != SslMode::VerifyFull {
        return Err(UrlError::Conflict("sslrootcert=system needs sslmode=verify-full"));
    }
    if mode == SslMode::VerifyCa && config.sslrootcert == RootCert::Unset {
        return Err(UrlError::Conflict(
            "sslmode=verify-ca needs sslrootcert: without a name check, the system's roots vouch for anybody",
        ));
    }
    if config.ssl_direct && !verified && mode != SslMode::Require {
        return Err(UrlError::Conflict("sslnegotiation=direct needs sslmode=require or stricter"));
    }
    Ok(())
}
