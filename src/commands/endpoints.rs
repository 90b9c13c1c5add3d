//! What the configuration points to, with its secrets fetched.

use std::sync::Arc;

use secrecy::ExposeSecret;

use super::Misconfigured;
use crate::config::{PostgresConfig, RedisSinkConfig, Secret};
use crate::daemon::ReplicaSettings;
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

/// The replicas that are waited for.
pub(super) fn replica_configs(
    config: &PostgresConfig,
) -> Result<Option<ReplicaSettings>, Misconfigured> {
    let Some(replicas) = &config.replicas else { return Ok(None) };
    let connect = |secret: &Secret| {
        let url = secret.resolve().map_err(Misconfigured::secret)?;
        ConnectConfig::parse(url.expose_secret())
            .map_err(|error| Misconfigured::new(error).at(secret.key()))
    };
    let connects = replicas.urls.iter().map(connect).collect::<Result<_, _>>()?;
    Ok(Some(ReplicaSettings { connects, max_wait: replicas.max_wait }))
}

pub(super) fn redis_sink(config: &RedisSinkConfig) -> Result<Arc<RedisConfig>, Misconfigured> {
    let options = config.options().map_err(Misconfigured::secret)?;
    RedisConfig::new(options).map(Arc::new).map_err(Misconfigured::new)
}
