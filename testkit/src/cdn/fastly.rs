//! Fastly's purging API, as far as it is documented:
//! <https://www.fastly.com/documentation/reference/api/purging/>.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::server::{HttpServer, Request, Response};

/// The service that there is.
const SERVICE: &str = "SU1Z0isxPaozGVKXdv0eY";

/// The token that is known.
const TOKEN: &str = "fastly-token";

/// The most keys in one request.
const KEYS_MAX: usize = 256;

/// A local Fastly with one service and one token.
pub struct Fastly {
    server: HttpServer,
    state: Arc<Mutex<State>>,
}

/// What it allows.
#[derive(Clone, Debug)]
pub struct FastlyRules {
    /// The token's scopes.
    pub scopes: Vec<&'static str>,
    /// How many purges are left until the limit is reset; `None`: no limit is announced.
    pub left: Option<u64>,
    /// When it is reset, in seconds from now.
    pub reset_seconds: u64,
    /// How many there are then.
    pub after_reset: u64,
    /// Keys for which a whole request is answered with 400.
    pub bad_keys: Vec<String>,
    /// Keys that are left out of the answer, and not purged.
    pub ignored_keys: Vec<String>,
    /// Hosts of the service.
    pub hosts: Vec<&'static str>,
}

impl Default for FastlyRules {
    fn default() -> Self {
        FastlyRules {
            scopes: vec!["purge_select", "purge_all"],
            left: None,
            reset_seconds: 1,
            after_reset: 1000,
            bad_keys: Vec::new(),
            ignored_keys: Vec::new(),
            hosts: vec!["www.example.com", "example.com"],
        }
    }
}

#[derive(Default)]
struct State {
    rules: FastlyRules,
    /// When the limit is reset, in seconds since the epoch.
    reset: Option<u64>,
    keys: Vec<String>,
    urls: Vec<String>,
    all: u64,
    soft: u64,
}

impl Fastly {
    /// A Fastly that allows everything that is documented.
    pub fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let server = HttpServer::start(move |request| lock(&shared).answer(request));
        Fastly { server, state }
    }

    /// The server behind it.
    pub fn server(&self) -> &HttpServer {
        &self.server
    }

    /// The settings of a sink for it.
    pub fn settings(&self) -> String {
        let url = self.server.url();
        format!("service_id = \"{SERVICE}\"\ntoken = \"{TOKEN}\"\nendpoint = \"{url}\"\n")
    }

    /// The ID of its service.
    pub fn service(&self) -> &'static str {
        SERVICE
    }

    /// The token that it knows.
    pub fn token(&self) -> &'static str {
        TOKEN
    }

    /// Changes what it allows.
    pub fn allow(&self, change: impl FnOnce(&mut FastlyRules)) {
        let mut state = lock(&self.state);
        change(&mut state.rules);
        state.reset = None;
    }

    /// The keys that were purged, each as often as it was.
    pub fn keys(&self) -> Vec<String> {
        lock(&self.state).keys.clone()
    }

    /// The hosts and paths that were purged.
    pub fn urls(&self) -> Vec<String> {
        lock(&self.state).urls.clone()
    }

    /// How often everything was purged.
    pub fn all(&self) -> u64 {
        lock(&self.state).all
    }

    /// How many requests asked for a soft purge.
    pub fn soft(&self) -> u64 {
        lock(&self.state).soft
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn answer(&mut self, request: &Request) -> Response {
        let answer = self.judge(request);
        match self.rules.left {
            Some(left) => answer
                .with("Fastly-RateLimit-Remaining", left)
                .with("Fastly-RateLimit-Reset", self.reset.unwrap_or_default()),
            None => answer,
        }
    }

    fn judge(&mut self, request: &Request) -> Response {
        if request.header("fastly-key") != Some(TOKEN) {
            return said(401, "Provided credentials are missing or invalid");
        }
        if request.method == "GET" && request.target == "/tokens/self" {
            let scope = self.rules.scopes.join(" ");
            let body = json!({ "scope": scope, "services": [SERVICE], "expires_at": null });
            return Response::new(200, body.to_string());
        }
        if request.method != "POST" {
            return said(405, "Method not allowed");
        }
        let service = format!("/service/{SERVICE}/");
        let (scope, what) = match request.target.strip_prefix(&service) {
            Some("purge_all") => ("purge_all", What::All),
            Some("purge") => ("purge_select", What::Keys),
            _ => match request.target.strip_prefix("/purge/") {
                Some(url) => ("purge_select", What::Url(url.to_owned())),
                None => return said(404, "Record not found"),
            },
        };
        if !self.rules.scopes.contains(&scope) {
            return said(403, "You are not authorized to perform this action");
        }
        if !self.takes_one() {
            return said(429, "Exceeded purge limit");
        }
        let is_soft = request.header("fastly-soft-purge") == Some("1");
        let response = match what {
            What::All => {
                self.all += 1;
                done()
            }
            What::Keys => self.purge_keys(request),
            What::Url(url) => {
                let host = url.split('/').next().unwrap_or_default();
                if !self.rules.hosts.contains(&host) {
                    return said(404, "Record not found");
                }
                self.urls.push(url);
                done()
            }
        };
        if is_soft && response.status == 200 {
            self.soft += 1;
        }
        response
    }

    fn purge_keys(&mut self, request: &Request) -> Response {
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let Some(keys) = body["surrogate_keys"].as_array() else {
            return said(400, "Missing surrogate keys");
        };
        let keys: Vec<String> =
            keys.iter().filter_map(|key| Some(key.as_str()?.to_owned())).collect();
        let is_bad = |key: &String| {
            key.len() > 1024 || key.contains(' ') || self.rules.bad_keys.contains(key)
        };
        if keys.is_empty() || keys.len() > KEYS_MAX || keys.iter().any(is_bad) {
            return said(400, "Bad request");
        }
        let keys: Vec<String> =
            keys.into_iter().filter(|key| !self.rules.ignored_keys.contains(key)).collect();
        let purged = keys.iter().map(|key| (key.clone(), json!("108-1391560174-974124")));
        let purged = Value::Object(purged.collect());
        self.keys.extend(keys);
        Response::new(200, purged.to_string())
    }

    /// Counts a purge; says whether it is allowed.
    fn takes_one(&mut self) -> bool {
        let Some(left) = &mut self.rules.left else { return true };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if self.reset.is_some_and(|reset| reset <= now) {
            *left = self.rules.after_reset;
            self.reset = None;
        }
        self.reset.get_or_insert(now + self.rules.reset_seconds);
        if *left == 0 {
            return false;
        }
        *left -= 1;
        true
    }
}

enum What {
    Keys,
    Url(String),
    All,
}

fn done() -> Response {
    Response::new(200, json!({ "status": "ok", "id": "108-1391560174-974124" }).to_string())
}

fn said(status: u16, message: &str) -> Response {
    Response::new(status, json!({ "msg": message }).to_string())
}
