//! `[fastly.NAME]`.

use super::{check_base, check_header_value, check_id, required};
use crate::config::secret::{Secret, SecretError};
use crate::config::table::Table;
use crate::problem::Problem;
use crate::rules::{PathPurges, Purges};
use crate::sinks::cdn::{FASTLY_ENDPOINT, FastlyOptions};

/// Keys that are no names of sinks.
pub(super) const KEYS: &[&str] = &["service_id", "token", "soft", "hosts", "after", "endpoint"];

const SERVICE_EXAMPLE: &str = "service_id = \"SU1Z0isxPaozGVKXdv0eY\"";
const TOKEN_EXAMPLE: &str = "token = { credential = \"fastly\" }";

/// A service of Fastly.
#[derive(Clone, Debug)]
pub struct FastlyConfig {
    /// `service_id`.
    pub service_id: String,
    /// `token`.
    pub token: Secret,
    /// `soft`: what is purged may be served stale while it is fetched again.
    pub soft: bool,
    /// `hosts`: those whose paths are purged.
    pub hosts: Vec<String>,
    /// `endpoint`.
    pub endpoint: String,
}

impl FastlyConfig {
    pub(super) fn purges(&self) -> Purges {
        let paths = if self.hosts.is_empty() { PathPurges::None } else { PathPurges::Exact };
        Purges { keys: true, paths, all: true }
    }

    pub(super) fn options(&self) -> Result<FastlyOptions, SecretError> {
        Ok(FastlyOptions {
            service_id: self.service_id.clone(),
            token: self.token.resolve()?,
            soft: self.soft,
            hosts: self.hosts.clone(),
            endpoint: self.endpoint.clone(),
        })
    }
}

pub(super) fn read(name: &str, table: &mut Table<'_>) -> FastlyConfig {
    let path = format!("fastly.{name}");
    let service_id = required(table, &path, "service_id", SERVICE_EXAMPLE);
    if let Some(text) = &service_id {
        check_id(&format!("{path}.service_id"), text, table);
    }
    let token = match table.entry("token") {
        Some(entry) => entry.secret().inspect(|secret| check_header_value(&entry, secret)),
        None => {
            table.missing(format!("`{path}.token` is missing"), TOKEN_EXAMPLE);
            None
        }
    };
    let soft = table.entry("soft").and_then(|entry| entry.boolean()).unwrap_or(false);
    let hosts = table.entry("hosts").and_then(|entry| {
        let texts = entry.texts()?;
        for text in texts.iter().filter(|text| !is_host(&text.value)) {
            let message = format!("`{}` is not a host", text.value);
            let problem = Problem::new(text.span.clone(), message, "not a host");
            entry.reader.report(problem.help("write the name alone: \"www.example.com\""));
        }
        Some(texts.into_iter().map(|text| text.value).collect())
    });
    let endpoint = table.entry("endpoint").and_then(|entry| {
        let text = entry.text()?.value;
        check_base(&entry, &text);
        Some(text)
    });
    FastlyConfig {
        service_id: service_id.map(|text| text.value).unwrap_or_default(),
        token: token.unwrap_or_else(|| Secret::literal(format!("{path}.token"), "")),
        soft,
        hosts: hosts.unwrap_or_default(),
        endpoint: endpoint.unwrap_or_else(|| FASTLY_ENDPOINT.to_owned()),
    }
}

/// A name, with a port if need be.
fn is_host(host: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
    host.starts_with(|first: char| first.is_ascii_alphanumeric()) && host.bytes().all(is_allowed)
}
