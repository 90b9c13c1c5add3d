//! May this CDN sink do what the rules ask of it? Tried by calls that purge nothing, with what they
//! leave open said as such.

use reqwest::{Client, Method, Url};

use super::client::{Reply, exchange};
use super::fastly::Fastly;
use super::http::HttpEndpoint;
use super::{Api, CdnSink};
use crate::action::Verb;

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CdnFinding {
    /// How it is.
    pub state: CdnState,
    /// What was looked at, and what came of it.
    pub what: String,
    /// What mends it.
    pub hint: Option<String>,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CdnState {
    /// As it should be.
    Good,
    /// Not known: it cannot be tried without a purge.
    Untried,
    /// Not as it should be.
    Bad,
}

impl CdnFinding {
    fn new(state: CdnState, what: impl Into<String>) -> Self {
        CdnFinding { state, what: what.into(), hint: None }
    }

    fn bad(what: impl Into<String>, hint: impl Into<String>) -> Self {
        CdnFinding { state: CdnState::Bad, what: what.into(), hint: Some(hint.into()) }
    }
}

impl CdnSink {
    /// Looks at the sink, to which rules send these verbs.
    pub async fn check(&self, verbs: &[Verb]) -> Vec<CdnFinding> {
        match &self.api {
            Api::Fastly(fastly) => check_fastly(fastly, self, verbs).await,
            Api::Http(endpoint) => check_http(endpoint, self).await,
        }
    }
}

/// A token can be asked what it may do, by itself, whatever it may.
async fn check_fastly(fastly: &Fastly, sink: &CdnSink, verbs: &[Verb]) -> Vec<CdnFinding> {
    let name = &sink.name;
    let reply = match fastly.token_request(&sink.client) {
        Ok(request) => exchange(&sink.client, request).await,
        Err(message) => Err(message),
    };
    let reply = match reply {
        Ok(Reply { status: 200, body, .. }) => body,
        Ok(Reply { status: 401, .. }) => {
            let hint =
                format!("make a token with the scope purge_select, and set fastly.{name}.token");
            return vec![CdnFinding::bad("the token is unknown or has expired", hint)];
        }
        Ok(Reply { status, .. }) => {
            let what = format!("{} answers {status}", fastly.target());
            return vec![CdnFinding::bad(what, format!("correct fastly.{name}.endpoint"))];
        }
        Err(message) => {
            return vec![CdnFinding::bad(
                format!("connect: {message}"),
                format!("let this host reach fastly.{name}.endpoint"),
            )];
        }
    };
    let token: serde_json::Value = serde_json::from_slice(&reply).unwrap_or_default();
    let scopes = token["scope"].as_str().unwrap_or_default();
    let has = |scope: &str| scopes.split(' ').any(|had| had == scope || had == "global");
    let mut needed = Vec::new();
    if verbs.iter().any(|verb| matches!(verb, Verb::PurgeKey | Verb::PurgePath)) {
        needed.push("purge_select");
    }
    if verbs.contains(&Verb::PurgeAll) {
        needed.push("purge_all");
    }
    let mut findings = Vec::new();
    for scope in needed {
        findings.push(match has(scope) {
            true => CdnFinding::new(CdnState::Good, format!("the token has the scope {scope}")),
            false => CdnFinding::bad(
                format!("the token lacks the scope {scope}"),
                format!("make a token with it, and set fastly.{name}.token"),
            ),
        });
    }
    // An empty list stands for every service.
    let services = token["services"].as_array();
    let is_ours = |id: &serde_json::Value| id.as_str() == Some(fastly.service_id());
    if services.is_some_and(|services| !services.is_empty() && !services.iter().any(is_ours)) {
        findings.push(CdnFinding::bad(
            format!("the token is not for the service {}", fastly.service_id()),
            format!("give it access, or correct fastly.{name}.service_id"),
        ));
    }
    if verbs.contains(&Verb::PurgePath) {
        findings.push(CdnFinding::new(
            CdnState::Untried,
            "whether the service has these hosts is known only when a path is purged",
        ));
    }
    findings
}

/// Nothing is known of the endpoint but that it answers: whatever is asked may purge.
async fn check_http(endpoint: &HttpEndpoint, sink: &CdnSink) -> Vec<CdnFinding> {
    let target = endpoint.target();
    let outcome = match root(&sink.client, &target) {
        Ok(request) => exchange(&sink.client, request).await,
        Err(message) => Err(message),
    };
    match outcome {
        Ok(_) => vec![
            CdnFinding::new(CdnState::Good, format!("{target} answers")),
            CdnFinding::new(
                CdnState::Untried,
                "whether it lets us purge, and what it does then, is known only when it does",
            ),
        ],
        Err(message) => vec![CdnFinding::bad(
            format!("connect: {message}"),
            format!("start it, or correct http.{}.url", sink.name),
        )],
    }
}

fn root(client: &Client, target: &str) -> Result<reqwest::Request, String> {
    let url = Url::parse(target).map_err(|error| error.to_string())?;
    client.request(Method::HEAD, url).build().map_err(|error| error.without_url().to_string())
}
