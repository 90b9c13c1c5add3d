//! What the configuration points to, with its secrets fetched.

use std::sync::Arc;

use secrecy::ExposeSecret;

use super::Misconfigured;
use crate::config::{PostgresConfig, RedisSinkConfig};
use crate::postgres::ConnectConfig;
use crate::sinks::redis::RedisConfig;

pub(super) fn connect_config(config: &PostgresConfig) -> Result<ConnectConfig, Misconfigured> {
    let url = config.url.resolve().map_err(Misconfigured::secret)?;
    ConnectConfig::parse(url.expose_secret())
        .map_err(|error| Misconfigured::new(error).at(config.url.key()))
}

/// Where lookups go.
pub(super) fn lookup_config(config: &PostgresConfig) -> Result<ConnectConfig, Misconfigured> {
    let Some(secret) = &config.lookup_url else { return connect_config(config) };
    let url = secret.resolve().map_err(Misconfigured::secret)?;
    ConnectConfig::parse(url.expose_secret())
        .map_err(|error| Misconfigured::new(error).at(secret.key()))
}

pub(super) fn redis_sink(config: &RedisSinkConfig) -> Result<Arc<RedisConfig>, Misconfigured> {
    let options = config.options().map_err(Misconfigured::secret)?;
    RedisConfig::new(options).map(Arc::new).map_err(Misconfigured::new)
}
