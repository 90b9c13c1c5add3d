//! Anything that purges over HTTP: Varnish, nginx, Cloudflare, Bunny, a webhook.
//!
//! In: a request as it was configured, with places for keys or paths. Out: requests with checked
//! values in them, and what their answers mean. No I/O here.

mod options;
mod prepared;

use std::sync::atomic::{AtomicBool, Ordering};

pub use options::{HeaderText, HttpOptions, RequestForm, Signature};
use prepared::{Prepared, Signer};
use reqwest::{Client, Request};

use super::client::Reply;
use super::form::{Form, Place};
use super::items::{self, Wildcards};
use super::pacer::Pacer;
use super::work::{Job, JobKind, Verdict};
use super::{CdnError, rejected};
use crate::action::{Batch, Verb};
use crate::sinks::{Failure, Rejected};

/// How many keys or paths a request holds, where it is not configured.
pub const BATCH: usize = 100;

/// The most that can be configured: what the pipeline sends at once.
pub const BATCH_MAX: usize = 1024;

/// The longest surrogate key, in bytes.
const KEY_BYTES_MAX: usize = 1024;

/// How many bytes of keys or paths the URL and the headers of one request hold: Varnish takes 8 KiB
/// for a header.
const HEAD_BYTES_MAX: usize = 7 * 1024;

/// How many its body holds: proxies take 1 MiB where they are not told otherwise (nginx'
/// `client_max_body_size`), and encoding takes its share.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// An endpoint.
#[derive(Debug)]
pub(super) struct HttpEndpoint {
    sink: String,
    request: Prepared,
    purge_all: Option<Prepared>,
    place: Option<Place>,
    lists_keys: bool,
    batch: usize,
    /// How many bytes of keys or paths one request holds.
    bytes_max: usize,
    accept: Vec<u16>,
    wildcards: Wildcards,
    signer: Option<Signer>,
    /// Whether it has ever accepted a request: before, a refusal says more about the
    /// configuration than about an item.
    is_proven: AtomicBool,
}

impl HttpEndpoint {
    pub(super) fn new(sink: &str, options: HttpOptions) -> Result<Self, CdnError> {
        let place = options.request.places().next();
        let lists_keys = options.request.forms().any(Form::lists_keys);
        let in_body = options.request.body.iter().flat_map(Form::places).count();
        let bytes_max = match options.request.places().count() == in_body {
            true => BODY_BYTES_MAX,
            false => HEAD_BYTES_MAX,
        };
        let signer = options.signature.map(|signature| Signer::new(sink, signature)).transpose()?;
        Ok(HttpEndpoint {
            sink: sink.to_owned(),
            request: Prepared::new(sink, options.request)?,
            purge_all: options.purge_all.map(|form| Prepared::new(sink, form)).transpose()?,
            place,
            lists_keys,
            batch: options.batch.clamp(1, BATCH_MAX),
            bytes_max,
            accept: options.accept,
            wildcards: if options.wildcards { Wildcards::Any } else { Wildcards::Literal },
            signer,
            is_proven: AtomicBool::new(false),
        })
    }

    /// Whether it has ever accepted a request.
    pub(super) fn is_proven(&self) -> bool {
        self.is_proven.load(Ordering::Relaxed)
    }

    /// The method, scheme, host and port.
    pub(super) fn target(&self) -> String {
        self.request.origin()
    }

    /// How many keys or paths go into one request, where it holds several.
    pub(super) fn request_items(&self) -> Option<usize> {
        self.place.filter(|place| place.is_list()).map(|_| self.batch)
    }

    /// A batch as requests, and what can never be one.
    pub(super) fn jobs(&self, batch: &Batch) -> (Vec<Job>, Vec<Rejected>) {
        if batch.iter().any(|action| action.verb == Verb::PurgeAll) {
            let items = (0..batch.len()).collect();
            return (vec![Job { kind: JobKind::All, items }], Vec::new());
        }
        let (mut jobs, mut refused): (Vec<Job>, Vec<Rejected>) = (Vec::new(), Vec::new());
        let is_list = self.place.is_some_and(Place::is_list);
        let (most, mut bytes) = (if is_list { self.batch } else { 1 }, 0);
        for (index, action) in batch.iter().enumerate() {
            let kind = match action.verb {
                Verb::PurgeKey => JobKind::Keys,
                _ => JobKind::Paths { host: 0 },
            };
            let length = match self.item(batch, index) {
                Ok(item) => item.len(),
                Err(reason) => {
                    refused.push(rejected(index, reason));
                    continue;
                }
            };
            bytes += length;
            match jobs.last_mut() {
                Some(job) if job.items.len() < most && bytes <= self.bytes_max => {
                    job.items.push(index);
                }
                _ => {
                    bytes = length;
                    jobs.push(Job { kind, items: vec![index] });
                }
            }
        }
        (jobs, refused)
    }

    /// An action's value as it enters a request.
    fn item(&self, batch: &Batch, index: usize) -> Result<String, String> {
        let action = batch.get(index);
        match (action.verb, self.place.map(Place::is_key)) {
            (Verb::PurgeKey, Some(true)) if self.lists_keys => {
                items::listed_key(action.value, KEY_BYTES_MAX).map(str::to_owned)
            }
            (Verb::PurgeKey, Some(true)) => {
                items::key(action.value, KEY_BYTES_MAX).map(str::to_owned)
            }
            (Verb::PurgePath, Some(false)) => items::path(action.value, self.wildcards),
            _ => Err("the request has no place for it".to_owned()),
        }
    }

    /// The request for a job.
    pub(super) fn request(
        &self,
        client: &Client,
        job: &Job,
        batch: &Batch,
    ) -> Result<Request, String> {
        let (prepared, items) = match job.kind {
            JobKind::All => match &self.purge_all {
                Some(prepared) => (prepared, Vec::new()),
                None => return Err("purge_all is not configured".to_owned()),
            },
            JobKind::Keys | JobKind::Paths { .. } => {
                let items = job.items.iter().map(|&index| self.item(batch, index));
                (&self.request, items.collect::<Result<Vec<_>, _>>()?)
            }
        };
        prepared.build(client, &items, self.signer.as_ref())
    }

    /// What an answer means.
    pub(super) fn judge(
        &self,
        job: &Job,
        reply: &Reply,
        pacer: &Pacer,
    ) -> Result<Verdict, Failure> {
        let status = reply.status;
        let is_accepted = match self.accept.is_empty() {
            true => (200..300).contains(&status),
            false => self.accept.contains(&status),
        };
        if is_accepted {
            self.is_proven.store(true, Ordering::Relaxed);
            return Ok(Verdict::Done);
        }
        let message = format!("{} answers {status}", self.target());
        let section = &self.sink;
        let refused = |hint: String| Err(Failure::Refused { message: message.clone(), hint });
        match status {
            408 | 429 | 500.. => {
                if let Some(seconds) = reply.number("retry-after").filter(|&seconds| seconds > 0) {
                    pacer.close(std::time::Duration::from_secs(seconds));
                }
                Err(Failure::Outage { message })
            }
            400 | 413 | 414 | 422 | 431 if job.kind != JobKind::All => {
                Ok(Verdict::Refused(job.items.clone(), format!("the endpoint answers {status}")))
            }
            300..400 => refused(format!(
                "redirects are not followed: write where it leads to in http.{section}.url"
            )),
            401 | 403 | 407 => refused(format!(
                "it does not let us purge: correct http.{section}.headers or token, or its own \
                 list of who may"
            )),
            _ => refused(format!(
                "correct http.{section}.url and method, or add {status} to accept if it means \
                 that nothing was cached"
            )),
        }
    }
}

#[cfg(test)]
mod tests;
