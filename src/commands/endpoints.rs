//! What the configuration points to, with its secrets fetched.

use std::sync::Arc;

use secrecy::ExposeSecret;

use super::Misconfigured;
use crate::config::{
    CdnParts, CdnSinkConfig, Config, Kept, PostgresConfig, RedisSinkConfig, Secret,
};
use crate::daemon::ReplicaSettings;
use crate::postgres::ConnectConfig;
use crate::sinks::Endpoint;
use crate::sinks::cdn::CdnSink;
use crate::sinks::cdn::cloudfront::CloudFrontSink;
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

/// Every sink, in the order of [`Config::sinks`], or what is wrong with it. CDN sinks keep
/// `kept`.
pub(super) fn sinks(config: &Config, kept: Kept<'_>) -> Vec<Result<Endpoint, Misconfigured>> {
    let caches = config.redis.iter().map(redis_sink);
    caches.chain(config.cdn.iter().map(|sink| cdn_sink(sink, kept))).collect()
}

fn redis_sink(config: &RedisSinkConfig) -> Result<Endpoint, Misconfigured> {
    let options = config.options().map_err(Misconfigured::secret)?;
    let config = RedisConfig::new(options).map_err(Misconfigured::new)?;
    Ok(Endpoint::Redis(Arc::new(config)))
}

fn cdn_sink(config: &CdnSinkConfig, kept: Kept<'_>) -> Result<Endpoint, Misconfigured> {
    match config.parts(kept).map_err(Misconfigured::secret)? {
        CdnParts::Http(options) => {
            let wrong = |error| Misconfigured::new(format!("{}.{error}", config.kind().key()));
            Ok(Endpoint::Cdn(Arc::new(CdnSink::new(options).map_err(wrong)?)))
        }
        CdnParts::CloudFront(options) => {
            Ok(Endpoint::CloudFront(Arc::new(CloudFrontSink::new(options))))
        }
    }
}
