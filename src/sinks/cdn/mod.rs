//! CDN sinks: surrogate keys, paths, or everything, purged over HTTP.
//!
//! In: a [`Batch`] of purges. Out: a [`Report`], or a [`Failure`] after which the whole batch is
//! sent again. A [`CdnLane`] tries once; what a provider has acknowledged of a batch is not asked
//! for again when the batch is.
//!
//! **What a repeat does.** A request whose answer was lost may have run, and is made again: a purge
//! that runs twice costs a cache miss.
//!
//! **What a value can do.** Text from rows is checked and encoded before it enters a request: it
//! purges what it names, or is given up on, and never anything else (see `items` and [`form`]).

mod check;
mod client;
pub mod cloudfront;
mod fastly;
pub mod form;
mod http;
mod items;
mod pacer;
mod work;

use std::sync::Arc;

use reqwest::header::HeaderValue;
use reqwest::{Client, Request};
use tokio::task::JoinSet;

pub use check::{CdnFinding, CdnState};
pub use client::{ClientError, REQUEST_TIMEOUT};
pub use fastly::{ENDPOINT as FASTLY_ENDPOINT, FastlyOptions};
pub use http::{BATCH, BATCH_MAX, HeaderText, HttpOptions, RequestForm, Signature};

use crate::action::{Batch, SinkKind};
use crate::sinks::{Failure, Rejected, Report};
use client::{Reply, exchange};
use fastly::Fastly;
use http::HttpEndpoint;
use pacer::Pacer;
use work::{Job, JobKind, Verdict, Work};

/// How many requests of a lane are under way at once, where a request holds one item: enough to
/// hide the way to the provider, and few enough that none of them takes it for an attack.
const IN_FLIGHT_MAX: usize = 8;

/// A CDN sink as it was configured, its secrets fetched.
#[derive(Clone, Debug)]
pub struct CdnOptions {
    /// The sink's name.
    pub name: String,
    /// The most requests a second, all lanes together; none: as many as it takes.
    pub max_requests_per_second: Option<u32>,
    /// What it speaks to.
    pub api: ApiOptions,
}

/// What a CDN sink speaks to.
#[derive(Clone, Debug)]
pub enum ApiOptions {
    /// Fastly.
    Fastly(FastlyOptions),
    /// Any HTTP endpoint.
    Http(Box<HttpOptions>),
}

/// Why options make no sink.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sink}.{key}: {problem}")]
pub struct CdnError {
    /// The sink's name.
    pub sink: String,
    /// The key below it.
    pub key: &'static str,
    /// What is wrong, without the value.
    pub problem: String,
}

impl CdnError {
    fn new(sink: &str, key: &'static str, problem: impl std::fmt::Display) -> Self {
        CdnError { sink: sink.to_owned(), key, problem: problem.to_string() }
    }
}

/// A CDN sink, which its lanes share.
#[derive(Debug)]
pub struct CdnSink {
    name: String,
    api: Api,
    client: Client,
    pacer: Pacer,
}

#[derive(Debug)]
enum Api {
    Fastly(Fastly),
    Http(Box<HttpEndpoint>),
}

impl CdnSink {
    /// A sink that has sent nothing yet. Reads the system's root certificates.
    ///
    /// # Errors
    /// If its settings make no sense.
    pub fn new(options: CdnOptions) -> Result<Self, CdnError> {
        let name = options.name;
        let api = match options.api {
            ApiOptions::Fastly(fastly) => Api::Fastly(Fastly::new(&name, fastly)?),
            ApiOptions::Http(http) => Api::Http(Box::new(HttpEndpoint::new(&name, *http)?)),
        };
        let client = client::client().map_err(|error| CdnError::new(&name, "url", error))?;
        Ok(CdnSink { name, api, client, pacer: Pacer::new(options.max_requests_per_second) })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its kind.
    pub fn kind(&self) -> SinkKind {
        match &self.api {
            Api::Fastly(_) => SinkKind::Fastly,
            Api::Http(_) => SinkKind::Http,
        }
    }

    /// Where it leads to, without secrets.
    pub fn target(&self) -> String {
        match &self.api {
            Api::Fastly(fastly) => fastly.target(),
            Api::Http(endpoint) => endpoint.target(),
        }
    }

    /// How many keys or paths go into one request, where it holds several.
    pub fn request_items(&self) -> Option<usize> {
        match &self.api {
            Api::Fastly(_) => Some(fastly::KEYS_MAX),
            Api::Http(endpoint) => endpoint.request_items(),
        }
    }

    /// The requests that `batch` would be, as `METHOD URL (n items)`, and the reasons why parts of
    /// it would be none.
    pub fn preview(&self, batch: &Batch) -> Vec<String> {
        let (jobs, rejected) = self.jobs(batch);
        let request = |job: &Job| match self.request(job, batch) {
            Ok(request) => {
                let (method, url) = (request.method(), request.url());
                format!("{method} {url} ({} items)", job.items.len())
            }
            Err(reason) => format!("nothing: {reason}"),
        };
        let given_up = rejected.iter().map(|rejected| format!("nothing: {}", rejected.reason));
        jobs.iter().map(request).chain(given_up).collect()
    }

    /// Whether a refusal is about an item: the form of the request is known to be right.
    fn is_proven(&self) -> bool {
        match &self.api {
            Api::Fastly(_) => true,
            Api::Http(endpoint) => endpoint.is_proven(),
        }
    }

    fn jobs(&self, batch: &Batch) -> (Vec<Job>, Vec<Rejected>) {
        match &self.api {
            Api::Fastly(fastly) => fastly.jobs(batch),
            Api::Http(endpoint) => endpoint.jobs(batch),
        }
    }

    fn request(&self, job: &Job, batch: &Batch) -> Result<Request, String> {
        match &self.api {
            Api::Fastly(fastly) => fastly.request(&self.client, job, batch),
            Api::Http(endpoint) => endpoint.request(&self.client, job, batch),
        }
    }

    fn judge(&self, job: &Job, batch: &Batch, reply: &Reply) -> Result<Verdict, Failure> {
        match &self.api {
            Api::Fastly(fastly) => fastly.judge(job, batch, reply, &self.pacer),
            Api::Http(endpoint) => endpoint.judge(job, reply, &self.pacer),
        }
    }
}

/// Sends one batch of purges at a time.
#[derive(Debug)]
pub struct CdnLane {
    sink: Arc<CdnSink>,
    /// The batch that was not finished when it was sent last.
    unfinished: Option<Work>,
}

impl CdnLane {
    /// A lane of the sink.
    pub fn new(sink: Arc<CdnSink>) -> Self {
        CdnLane { sink, unfinished: None }
    }

    /// Does all of `batch`.
    ///
    /// Dropping the future abandons what is under way; what was acknowledged before may be asked
    /// for again.
    ///
    /// # Errors
    /// A [`Failure`] says that the batch is not finished; the caller sends all of it again, after a
    /// wait of its own.
    pub async fn send(&mut self, batch: &Batch) -> Result<Report, Failure> {
        let kept = self.unfinished.take().filter(|work| work.is_of(batch));
        let mut work = kept.unwrap_or_else(|| {
            let (jobs, rejected) = self.sink.jobs(batch);
            Work::new(batch, jobs, rejected)
        });
        match self.run(&mut work, batch).await {
            Ok(()) => {
                let (requested, rejected) = work.finish();
                Ok(Report { requested, rejected, ..Report::default() })
            }
            Err(Stopped::Failed(failure)) => {
                self.unfinished = Some(work);
                Err(failure)
            }
            // What became of a request is not known: everything is asked for again.
            Err(Stopped::Lost) => {
                Err(Failure::Outage { message: "a request ended unexpectedly".to_owned() })
            }
        }
    }

    /// Makes requests until none is left or one fails; those under way then are waited for.
    async fn run(&self, work: &mut Work, batch: &Batch) -> Result<(), Stopped> {
        let mut running: JoinSet<(Job, Result<Reply, String>)> = JoinSet::new();
        let mut failure = None;
        // Items that were refused before anything was accepted.
        let mut suspects = Vec::new();
        loop {
            while failure.is_none() && running.len() < IN_FLIGHT_MAX {
                let Some(job) = work.take() else { break };
                if let Some(wait) = self.sink.pacer.closed_for() {
                    work.put_back(job);
                    failure = Some(self.closed(wait));
                    break;
                }
                match self.sink.request(&job, batch) {
                    Ok(request) => {
                        self.sink.pacer.turn().await;
                        let client = self.sink.client.clone();
                        running.spawn(async move { (job, exchange(&client, request).await) });
                    }
                    // Giving that up would give up everything that it stands for.
                    Err(message) if job.kind == JobKind::All => {
                        work.put_back(job);
                        let hint = "walpurge check".to_owned();
                        failure = Some(Failure::Refused { message, hint });
                    }
                    Err(reason) => {
                        let items = job.items.clone();
                        work.answered(job, Verdict::Refused(items, reason));
                    }
                }
            }
            let Some(joined) = running.join_next().await else { break };
            let Ok((job, outcome)) = joined else { return Err(Stopped::Lost) };
            let verdict = match outcome {
                Ok(reply) => self.sink.judge(&job, batch, &reply),
                Err(message) => Err(Failure::Outage { message }),
            };
            match verdict {
                Ok(Verdict::Refused(items, reason))
                    if items.len() == 1 && !self.sink.is_proven() =>
                {
                    suspects.push((job, reason));
                }
                Ok(verdict) => work.answered(job, verdict),
                Err(new) => {
                    work.put_back(job);
                    // What a person has to mend is worth more than an outage beside it.
                    if !matches!(failure, Some(Failure::Refused { .. })) {
                        failure = Some(new);
                    }
                }
            }
        }
        if failure.is_none() && !suspects.is_empty() && !self.sink.is_proven() {
            let message = format!("{} has accepted nothing yet", self.sink.target());
            let hint = "if its request is right, purge something by hand; else correct url, \
                        method, headers and body";
            failure = Some(Failure::Refused { message, hint: hint.to_owned() });
        }
        for (job, reason) in suspects {
            match failure {
                Some(_) => work.put_back(job),
                None => work.answered(job.clone(), Verdict::Refused(job.items, reason)),
            }
        }
        failure.map_or(Ok(()), |failure| Err(Stopped::Failed(failure)))
    }

    fn closed(&self, wait: std::time::Duration) -> Failure {
        let (target, seconds) = (self.sink.target(), wait.as_secs_f32().ceil());
        Failure::Outage { message: format!("{target} wants no request for {seconds} s") }
    }
}

/// Why a batch is not finished.
enum Stopped {
    Failed(Failure),
    Lost,
}

/// A header's value that is never shown.
fn header(sink: &str, key: &'static str, value: &str) -> Result<HeaderValue, CdnError> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| CdnError::new(sink, key, "holds what a header cannot hold"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn rejected(index: usize, reason: impl Into<String>) -> Rejected {
    Rejected { index, reason: reason.into() }
}
