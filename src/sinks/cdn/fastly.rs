//! Fastly: surrogate keys in batches, paths one by one, everything at once.
//!
//! Source: <https://www.fastly.com/documentation/reference/api/purging/>. In: jobs of a batch. Out:
//! requests, and what their answers mean. No I/O here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::{Client, Method, Request, Url};
use secrecy::{ExposeSecret, SecretString};

use super::client::Reply;
use super::items::{self, Wildcards};
use super::pacer::Pacer;
use super::work::{Job, JobKind, Verdict};
use super::{CdnError, header, rejected};
use crate::action::{Batch, Verb};
use crate::sinks::{Failure, Rejected};

/// Where the API is.
pub const ENDPOINT: &str = "https://api.fastly.com";

/// The most surrogate keys in one request; more are answered with 400.
pub(super) const KEYS_MAX: usize = 256;

/// The longest surrogate key, in bytes.
const KEY_BYTES_MAX: usize = 1024;

/// A service, as it was configured.
#[derive(Clone, Debug)]
pub struct FastlyOptions {
    /// The service's ID.
    pub service_id: String,
    /// An API token.
    pub token: SecretString,
    /// Whether what is purged may still be served stale while it is fetched again.
    pub soft: bool,
    /// The hosts whose paths are purged.
    pub hosts: Vec<String>,
    /// The API's base.
    pub endpoint: String,
}

/// A service.
#[derive(Debug)]
pub(super) struct Fastly {
    options: FastlyOptions,
    token: reqwest::header::HeaderValue,
    endpoint: String,
}

impl Fastly {
    pub(super) fn new(sink: &str, options: FastlyOptions) -> Result<Self, CdnError> {
        let token = header(sink, "token", options.token.expose_secret())?;
        let endpoint = options.endpoint.trim_end_matches('/').to_owned();
        Url::parse(&endpoint)
            .map_err(|error| CdnError::new(sink, "endpoint", format!("not a URL: {error}")))?;
        Ok(Fastly { options, token, endpoint })
    }

    pub(super) fn target(&self) -> String {
        format!("{}/service/{}", self.endpoint, self.options.service_id)
    }

    pub(super) fn service_id(&self) -> &str {
        &self.options.service_id
    }

    /// What the token may do, which every token may ask.
    pub(super) fn token_request(&self, client: &Client) -> Result<Request, String> {
        let url = format!("{}/tokens/self", self.endpoint);
        let request = client.get(url).header("fastly-key", self.token.clone());
        request.build().map_err(|error| error.without_url().to_string())
    }

    /// A batch as requests, and what can never be one.
    pub(super) fn jobs(&self, batch: &Batch) -> (Vec<Job>, Vec<Rejected>) {
        if batch.iter().any(|action| action.verb == Verb::PurgeAll) {
            let items = (0..batch.len()).collect();
            return (vec![Job { kind: JobKind::All, items }], Vec::new());
        }
        let (mut keys, mut paths, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        for (index, action) in batch.iter().enumerate() {
            let checked = match action.verb {
                Verb::PurgeKey => items::listed_key(action.value, KEY_BYTES_MAX).map(|_| &mut keys),
                Verb::PurgePath => {
                    items::path(action.value, Wildcards::Literal).map(|_| &mut paths)
                }
                _ => Err("Fastly has nothing like it".to_owned()),
            };
            match checked {
                Ok(list) => list.push(index),
                Err(reason) => refused.push(rejected(index, reason)),
            }
        }
        let jobs = keys.chunks(KEYS_MAX);
        let mut jobs: Vec<Job> =
            jobs.map(|keys| Job { kind: JobKind::Keys, items: keys.to_vec() }).collect();
        for path in paths {
            let at = |host| Job { kind: JobKind::Paths { host }, items: vec![path] };
            jobs.extend((0..self.options.hosts.len()).map(at));
        }
        (jobs, refused)
    }

    /// The request for a job.
    pub(super) fn request(
        &self,
        client: &Client,
        job: &Job,
        batch: &Batch,
    ) -> Result<Request, String> {
        let service = &self.options.service_id;
        let url = match job.kind {
            JobKind::Keys => format!("{}/service/{service}/purge", self.endpoint),
            JobKind::All => format!("{}/service/{service}/purge_all", self.endpoint),
            JobKind::Paths { host } => {
                let value = job.items.first().map_or(&[][..], |&item| batch.get(item).value);
                let path = items::path(value, Wildcards::Literal)?;
                format!("{}/purge/{}{path}", self.endpoint, self.options.hosts[host])
            }
        };
        let url = Url::parse(&url).map_err(|error| error.to_string())?;
        let mut request = client
            .request(Method::POST, url)
            .header("fastly-key", self.token.clone())
            .header("accept", "application/json");
        // There is no soft purge of everything.
        if self.options.soft && job.kind != JobKind::All {
            request = request.header("fastly-soft-purge", "1");
        }
        if job.kind == JobKind::Keys {
            let keys: Vec<&str> = keys(job, batch).map(|(_, key)| key).collect();
            let body = serde_json::json!({ "surrogate_keys": keys }).to_string();
            request = request.header("content-type", "application/json").body(body);
        }
        request.build().map_err(|error| error.without_url().to_string())
    }

    /// What an answer means.
    pub(super) fn judge(
        &self,
        job: &Job,
        batch: &Batch,
        reply: &Reply,
        pacer: &Pacer,
    ) -> Result<Verdict, Failure> {
        let (status, endpoint) = (reply.status, &self.endpoint);
        let message = format!("{endpoint} answers {status}");
        let wait = reply.number("fastly-ratelimit-reset").map(until).filter(|wait| !wait.is_zero());
        if let Some(wait) = wait
            && (status == 429 || reply.number("fastly-ratelimit-remaining") == Some(0))
        {
            pacer.close(wait);
        }
        let refused = |hint: String| Err(Failure::Refused { message: message.clone(), hint });
        match (status, job.kind) {
            (200, JobKind::Keys) => {
                let purged: Result<serde_json::Map<String, serde_json::Value>, _> =
                    serde_json::from_slice(&reply.body);
                let Ok(purged) = purged else {
                    let message = format!("{message} with something that is no list of keys");
                    return Err(Failure::Outage { message });
                };
                let missing = keys(job, batch).filter(|(_, key)| !purged.contains_key(*key));
                let missing: Vec<usize> = missing.map(|(index, _)| index).collect();
                Ok(match missing.is_empty() {
                    true => Verdict::Done,
                    false => Verdict::Refused(missing, "Fastly did not acknowledge it".into()),
                })
            }
            (200, _) => Ok(Verdict::Done),
            (429, _) => {
                let seconds = wait.map_or(0, |wait| wait.as_secs());
                let message = format!("{message}: the rate limit is used up for {seconds} s");
                Err(Failure::Outage { message })
            }
            (408 | 500.., _) => Err(Failure::Outage { message }),
            (400 | 413 | 414 | 422, JobKind::Keys | JobKind::Paths { .. }) => {
                Ok(Verdict::Refused(job.items.clone(), format!("Fastly answers {status}")))
            }
            (401, _) => refused(format!(
                "the token is unknown or has expired: make one with the scope {}",
                scope(job.kind)
            )),
            (403, _) => refused(format!(
                "give the token the scope {} and access to service {}",
                scope(job.kind),
                self.options.service_id
            )),
            (404, JobKind::Paths { host }) => refused(format!(
                "no service has the host {}: correct hosts",
                self.options.hosts[host]
            )),
            (404, _) => refused(format!(
                "correct service_id: the token sees no service {}",
                self.options.service_id
            )),
            _ => refused("this is not an answer of Fastly's API: correct endpoint".to_owned()),
        }
    }
}

/// The token's scope that a job needs.
fn scope(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Keys | JobKind::Paths { .. } => "purge_select",
        JobKind::All => "purge_all",
    }
}

/// The keys of a job, which were checked when it was made.
fn keys<'b>(job: &'b Job, batch: &'b Batch) -> impl Iterator<Item = (usize, &'b str)> {
    job.items.iter().filter_map(|&at| Some((at, std::str::from_utf8(batch.get(at).value).ok()?)))
}

/// How long it is until a time in seconds since the epoch.
fn until(epoch_seconds: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_secs(epoch_seconds).saturating_sub(now)
}
