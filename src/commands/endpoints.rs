//! What the configuration points to, with its secrets fetched.

use std::sync::Arc;

use secrecy::ExposeSecret;

use super::Misconfigured;
use crate::config::{CdnSinkConfig, Config, PostgresConfig, RedisSinkConfig};
use crate::postgres::ConnectConfig;
use crate::sinks::Endpoint;
use crate::sinks::cdn::CdnSink;
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

/// Every sink, in the order of [`Config::sinks`], or what is wrong with it.
pub(super) fn sinks(config: &Config) -> Vec<Result<Endpoint, Misconfigured>> {
    let caches = config.redis.iter().map(redis_sink);
    caches.chain(config.cdn.iter().map(cdn_sink)).collect()
}

fn redis_sink(config: &RedisSinkConfig) -> Result<Endpoint, Misconfigured> {
    let options = config.options().map_err(Misconfigured::secret)?;
    let config = RedisConfig::new(options).map_err(Misconfigured::new)?;
    Ok(Endpoint::Redis(Arc::new(config)))
}

fn cdn_sink(config: &CdnSinkConfig) -> Result<Endpoint, Misconfigured> {
    let options = config.options().map_err(Misconfigured::secret)?;
    let wrong = |error| Misconfigured::new(format!("{}.{error}", config.kind().key()));
    Ok(Endpoint::Cdn(Arc::new(CdnSink::new(options).map_err(wrong)?)))
}
