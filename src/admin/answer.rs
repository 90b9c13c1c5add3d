//! What each path answers with.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Response, StatusCode, Uri};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, timeout};

use super::Token;
use super::body::Reply;
use super::serve::{Access, Shared, Stalled};
use crate::metrics::{self, exposition};
use crate::status::{Published, Status};
use crate::tail::{Heard, Line, Listener};

/// The daemon counts as dead when one of its stages has not turned for so long. Nothing that they do
/// in one turn takes half of it, whatever a server, a sink or a disk does.
const DEAD_AFTER: Duration = Duration::from_secs(30);

/// How often an empty line shows a listener that the daemon lives, and the daemon that it reads;
/// and how late it is said at most that lines were lost.
const PULSE_EVERY: Duration = Duration::from_secs(5);

/// A listener that reads nothing for so long is disconnected.
const STALLED_AFTER: Duration = Duration::from_secs(60);

/// How many lines wait in a connection.
const LINES_MAX: usize = 64;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const JSON_LINES: &str = "application/x-ndjson";

/// What is known of a request: nothing else of it is read.
pub(super) struct Asked<'r> {
    pub(super) method: &'r Method,
    pub(super) uri: &'r Uri,
    pub(super) headers: &'r HeaderMap,
}

/// The answer.
pub(super) fn answer(asked: &Asked<'_>, shared: &Shared, stalled: &Stalled) -> Response<Reply> {
    let path = asked.uri.path();
    let is_known = ["/livez", "/readyz", "/metrics", "/status", "/tail"].contains(&path);
    let is_public = matches!(path, "/livez" | "/readyz");
    if let (Access::Token(token), false) = (&shared.access, is_public)
        && !shows(token, asked.headers)
    {
        let mut refused = text(StatusCode::UNAUTHORIZED, TEXT, "a token is needed\n");
        refused.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return refused;
    }
    if !is_known {
        let paths = "/livez, /readyz, /metrics, /status, /tail";
        return text(StatusCode::NOT_FOUND, TEXT, format!("there is only {paths}\n"));
    }
    if *asked.method != Method::GET && (*asked.method != Method::HEAD || path == "/tail") {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, TEXT, "this only shows\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match path {
        "/livez" => live(shared),
        "/readyz" => ready(shared),
        "/metrics" => measures(shared),
        "/status" => match serde_json::to_string(&seen(shared).status) {
            Ok(json) => text(StatusCode::OK, JSON, json + "\n"),
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "cannot write JSON\n"),
        },
        _ => tail(shared, asked.uri.query().unwrap_or_default(), stalled),
    }
}

fn shows(token: &Token, headers: &HeaderMap) -> bool {
    let shown = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let shown = shown.and_then(|value| value.split_once(' '));
    shown.is_some_and(|(scheme, text)| {
        scheme.eq_ignore_ascii_case("bearer") && Token::new(text.trim()) == *token
    })
}

/// What was published last, with what is kept in files.
fn seen(shared: &Shared) -> Published {
    let published = shared.board.look();
    let mut status: Status = published.status.clone();
    if let Ok(mut kept) = shared.kept.lock() {
        kept.add_to(&mut status);
    }
    Published { status, counts: Arc::clone(&published.counts) }
}

fn is_dead(shared: &Shared) -> Option<String> {
    let (stage, turned) = shared.board.pulse().slowest();
    let still = turned.elapsed();
    (still > DEAD_AFTER).then(|| format!("{} for {} s\n", stage.stands(), still.as_secs()))
}

fn live(shared: &Shared) -> Response<Reply> {
    match is_dead(shared) {
        None => text(StatusCode::OK, TEXT, "alive\n"),
        Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, TEXT, why),
    }
}

fn ready(shared: &Shared) -> Response<Reply> {
    let why = is_dead(shared).or_else(|| {
        let published = shared.board.look();
        published.status.not_ready.as_ref().map(|why| format!("{why}\n"))
    });
    match why {
        None => text(StatusCode::OK, TEXT, "ready\n"),
        Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, TEXT, why),
    }
}

fn measures(shared: &Shared) -> Response<Reply> {
    match exposition(Arc::new(seen(shared))) {
        Ok(measures) => text(StatusCode::OK, metrics::CONTENT_TYPE, measures),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "cannot write metrics\n"),
    }
}

/// Which invalidations somebody wants to see: all that are of one of each.
#[derive(Debug, Default)]
struct Wanted {
    rules: Vec<String>,
    sinks: Vec<String>,
    tables: Vec<String>,
}

impl Wanted {
    fn of(query: &str) -> Option<Wanted> {
        let mut wanted = Wanted::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=')?;
            let value = percent_encoding::percent_decode_str(value).decode_utf8().ok()?;
            let values = match key {
                "rule" => &mut wanted.rules,
                "sink" => &mut wanted.sinks,
                "table" => &mut wanted.tables,
                _ => return None,
            };
            values.push(value.into_owned());
        }
        Some(wanted)
    }

    fn takes(&self, line: &Line) -> bool {
        let is_of = |wanted: &[String], found: Option<&String>| {
            wanted.is_empty() || found.is_some_and(|found| wanted.contains(found))
        };
        is_of(&self.rules, line.rule.as_ref())
            && is_of(&self.tables, line.table.as_ref())
            && (self.sinks.is_empty() || line.sinks.iter().any(|sink| self.sinks.contains(sink)))
    }
}

fn tail(shared: &Shared, query: &str, stalled: &Stalled) -> Response<Reply> {
    let Some(wanted) = Wanted::of(query) else {
        let message = "the filters are rule, sink and table\n";
        return text(StatusCode::BAD_REQUEST, TEXT, message);
    };
    let Some(listener) = shared.board.tap().listen() else {
        return text(StatusCode::SERVICE_UNAVAILABLE, TEXT, "too many listen already\n");
    };
    let (lines, body) = mpsc::channel(LINES_MAX);
    stalled.is_tail();
    tokio::spawn(pump(listener, wanted, lines, stalled.clone()));
    respond(StatusCode::OK, JSON_LINES, Reply::Lines(body))
}

/// Moves lines from the tap to a connection, until that ends or stalls.
async fn pump(mut listener: Listener, wanted: Wanted, to: mpsc::Sender<Bytes>, stalled: Stalled) {
    let mut pulse = interval(PULSE_EVERY);
    pulse.reset_at(Instant::now() + PULSE_EVERY);
    loop {
        let line = tokio::select! {
            () = to.closed() => return,
            heard = listener.hear() => match heard {
                None => return,
                Some(Heard::Line(line)) if !wanted.takes(&line) => continue,
                Some(Heard::Line(line)) => serde_json::to_string(&*line).unwrap_or_default(),
                Some(Heard::Missed(lost)) => missed(lost),
            },
            _ = pulse.tick() => listener.lost().map(missed).unwrap_or_default(),
        };
        match timeout(STALLED_AFTER, to.send(Bytes::from(line + "\n"))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => return stalled.give_up(),
        }
    }
}

/// A line that says how many were lost.
fn missed(lost: u64) -> String {
    format!("{{\"missed\":{lost}}}")
}

fn text(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Reply> {
    respond(status, kind, Reply::Text(text.into()))
}

fn respond(status: StatusCode, kind: &'static str, body: Reply) -> Response<Reply> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
