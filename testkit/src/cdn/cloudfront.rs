//! CloudFront's invalidations, as far as they are documented:
//! <https://docs.aws.amazon.com/cloudfront/latest/APIReference/API_CreateInvalidation.html>.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::server::{HttpServer, Request, Response};

/// The distribution that there is.
const DISTRIBUTION: &str = "E2QWRUHAPOMQZL";

const API: &str = "/2020-05-31/distribution/";

/// The most paths and tags in progress.
const ITEMS_MAX: usize = 3000;

/// The most wildcards in progress.
const WILDCARDS_MAX: usize = 15;

/// A local CloudFront with one distribution.
pub struct CloudFront {
    server: HttpServer,
    state: Arc<Mutex<State>>,
}

/// What it allows, and how it behaves.
#[derive(Clone, Debug, Default)]
pub struct CloudFrontRules {
    /// How often an invalidation is looked at before it is completed.
    pub looks: usize,
    /// The code and status of every answer, if nothing is allowed.
    pub error: Option<(&'static str, u16)>,
    /// Paths for which a whole request is refused as an invalid argument.
    pub bad_paths: Vec<String>,
    /// Answers the next request for an invalidation as if its reference had been used before.
    pub reference_is_used: bool,
}

#[derive(Default)]
struct State {
    rules: CloudFrontRules,
    invalidations: Vec<Invalidation>,
    /// The most that was in progress at once.
    items_seen: usize,
    wildcards_seen: usize,
}

#[derive(Clone, Debug)]
struct Invalidation {
    reference: String,
    items: Vec<String>,
    looks_left: usize,
}

impl CloudFront {
    /// A CloudFront that completes invalidations at once.
    pub fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let server = HttpServer::start(move |request| lock(&shared).answer(request));
        CloudFront { server, state }
    }

    /// The server behind it.
    pub fn server(&self) -> &HttpServer {
        &self.server
    }

    /// The settings of a sink for it, which asks as quickly as tests need.
    pub fn settings(&self) -> String {
        let url = self.server.url();
        format!(
            "distribution_id = \"{DISTRIBUTION}\"\nendpoint = \"{url}\"\n\
             max_requests_per_second = 200\n"
        )
    }

    /// The distribution that there is.
    pub fn distribution(&self) -> &'static str {
        DISTRIBUTION
    }

    /// Changes how it behaves.
    pub fn allow(&self, change: impl FnOnce(&mut CloudFrontRules)) {
        change(&mut lock(&self.state).rules);
    }

    /// The items of every invalidation that was made: those with a reference that was used for the
    /// same items are one.
    pub fn invalidations(&self) -> Vec<Vec<String>> {
        lock(&self.state).invalidations.iter().map(|made| made.items.clone()).collect()
    }

    /// Completes whatever is in progress.
    pub fn complete_all(&self) {
        lock(&self.state).invalidations.iter_mut().for_each(|made| made.looks_left = 0);
    }

    /// How many items were charged.
    pub fn charged(&self) -> usize {
        lock(&self.state).invalidations.iter().map(|made| made.items.len()).sum()
    }

    /// The most items and wildcards that were in progress at once.
    pub fn most_in_progress(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.items_seen, state.wildcards_seen)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn answer(&mut self, request: &Request) -> Response {
        let is_signed = request
            .header("authorization")
            .is_some_and(|signature| signature.starts_with("AWS4-HMAC-SHA256 "));
        if !is_signed {
            return error(403, "MissingAuthenticationToken");
        }
        if let Some((code, status)) = self.rules.error {
            return error(status, code);
        }
        let Some(rest) = request.target.strip_prefix(API) else {
            return error(404, "NoSuchResource");
        };
        let Some((DISTRIBUTION, rest)) = rest.split_once('/') else {
            return error(404, "NoSuchDistribution");
        };
        match (request.method.as_str(), rest.strip_prefix("invalidation")) {
            ("POST", Some("")) => self.create(&request.text()),
            ("GET", Some(id)) => self.look(id.trim_start_matches('/')),
            _ => error(405, "MethodNotAllowed"),
        }
    }

    fn create(&mut self, body: &str) -> Response {
        let items = texts(body, "Path");
        let reference = texts(body, "CallerReference").pop().unwrap_or_default();
        let quantity = texts(body, "Quantity").pop();
        if quantity != Some(items.len().to_string()) || reference.is_empty() {
            return error(400, "InconsistentQuantities");
        }
        if items.iter().any(|item| !is_item(item) || self.rules.bad_paths.contains(item)) {
            return error(400, "InvalidArgument");
        }
        if std::mem::take(&mut self.rules.reference_is_used) {
            return error(409, "InvalidationBatchAlreadyExists");
        }
        let used = self.invalidations.iter().position(|made| made.reference == reference);
        if let Some(at) = used {
            return match self.invalidations[at].items == items {
                true => self.shown(201, at),
                false => error(409, "InvalidationBatchAlreadyExists"),
            };
        }
        let running = self.invalidations.iter().filter(|made| made.looks_left > 0);
        let running: Vec<&String> = running.flat_map(|made| &made.items).chain(&items).collect();
        let wildcards = running.iter().filter(|item| item.ends_with('*')).count();
        if running.len() > ITEMS_MAX || wildcards > WILDCARDS_MAX {
            return error(400, "TooManyInvalidationsInProgress");
        }
        self.items_seen = self.items_seen.max(running.len());
        self.wildcards_seen = self.wildcards_seen.max(wildcards);
        self.invalidations.push(Invalidation { reference, items, looks_left: self.rules.looks });
        self.shown(201, self.invalidations.len() - 1)
    }

    fn look(&mut self, id: &str) -> Response {
        let at = id.strip_prefix('I').and_then(|number| number.parse::<usize>().ok());
        match at.filter(|&at| at < self.invalidations.len()) {
            Some(at) => {
                let made = &mut self.invalidations[at];
                made.looks_left = made.looks_left.saturating_sub(1);
                self.shown(200, at)
            }
            None => error(404, "NoSuchInvalidation"),
        }
    }

    fn shown(&self, status: u16, at: usize) -> Response {
        let Invalidation { reference, items, looks_left } = &self.invalidations[at];
        let progress = if *looks_left == 0 { "Completed" } else { "InProgress" };
        let paths: String =
            items.iter().map(|item| format!("<Path>{}</Path>", escaped(item))).collect();
        let count = items.len();
        Response::new(
            status,
            format!(
                "<?xml version=\"1.0\"?><Invalidation \
                 xmlns=\"http://cloudfront.amazonaws.com/doc/2020-05-31/\"><Id>I{at}</Id>\
                 <Status>{progress}</Status><CreateTime>2026-11-21T03:04:05.678Z</CreateTime>\
                 <InvalidationBatch><Paths><Quantity>{count}</Quantity><Items>{paths}</Items>\
                 </Paths><CallerReference>{reference}</CallerReference></InvalidationBatch>\
                 </Invalidation>"
            ),
        )
        .with("content-type", "text/xml")
    }
}

/// Whether CloudFront takes it for a path or a tag.
fn is_item(item: &str) -> bool {
    let is_plain = item.bytes().all(|byte| byte.is_ascii_graphic());
    let tag = item.strip_prefix('#');
    let is_tag =
        tag.is_some_and(|tag| !tag.is_empty() && tag.len() <= 256 && !tag.contains([',', '*']));
    let is_path = item.starts_with('/') && item.len() <= 4000 && !item[1..].contains('#');
    is_plain && (is_tag || is_path)
}

/// The contents of every element of that name.
fn texts(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let found = xml.split(open.as_str()).skip(1).filter_map(|rest| rest.split_once(close.as_str()));
    found
        .map(|(text, _)| {
            text.replace("&lt;", "<")
                .replace("&gt;", ">")
                .replace("&quot;", "\"")
                .replace("&apos;", "'")
                .replace("&amp;", "&")
        })
        .collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn error(status: u16, code: &str) -> Response {
    Response::new(
        status,
        format!(
            "<?xml version=\"1.0\"?><ErrorResponse \
             xmlns=\"http://cloudfront.amazonaws.com/doc/2020-05-31/\"><Error><Type>Sender</Type>\
             <Code>{code}</Code><Message>no</Message></Error><RequestId>r</RequestId>\
             </ErrorResponse>"
        ),
    )
    .with("content-type", "text/xml")
}
