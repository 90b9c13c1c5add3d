//! What each path answers with.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderMap, HeaderValue,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::uri::Authority;
use hyper::{Method, Response, StatusCode, Uri};
use serde::Serialize;
use tokio::time::Instant;

use super::Token;
use super::body::Reply;
use super::page::page;
use super::serve::{Access, Shared, Stalled};
use super::tail::tail;
use crate::metrics::{self, exposition};
use crate::status::{self, Published, Status};

/// The daemon counts as dead when one of its stages has not turned for so long. Nothing that they do
/// in one turn takes half of it, whatever a server, a sink or a disk does.
const DEAD_AFTER: Duration = Duration::from_secs(30);

/// What there is.
const PATHS: [&str; 7] = ["/", "/livez", "/readyz", "/metrics", "/status", "/history", "/tail"];

pub(super) const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// What is known of a request: nothing else of it is read.
pub(super) struct Asked<'r> {
    pub(super) method: &'r Method,
    pub(super) uri: &'r Uri,
    pub(super) headers: &'r HeaderMap,
}

/// The answer.
pub(super) fn answer(asked: &Asked<'_>, shared: &Shared, stalled: &Stalled) -> Response<Reply> {
    let path = asked.uri.path();
    let is_known = PATHS.contains(&path);
    let is_public = matches!(path, "/" | "/livez" | "/readyz");
    if let (Access::Token(token), false) = (&shared.access, is_public)
        && !shows(token, asked.headers)
    {
        let mut refused = text(StatusCode::UNAUTHORIZED, TEXT, "a token is needed\n");
        refused.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return refused;
    }
    if matches!(shared.access, Access::ByAddress) && names_another_host(asked.headers) {
        let hint = "ask for this by its address or as localhost, or set [admin] token\n";
        return text(StatusCode::MISDIRECTED_REQUEST, TEXT, hint);
    }
    if !is_known {
        let paths = PATHS.join(", ");
        return text(StatusCode::NOT_FOUND, TEXT, format!("there is only {paths}\n"));
    }
    if *asked.method != Method::GET && (*asked.method != Method::HEAD || path == "/tail") {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, TEXT, "this only shows\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match path {
        "/" => page(),
        "/livez" => live(shared),
        "/readyz" => ready(shared),
        "/metrics" => measures(shared),
        "/status" => json(&seen(shared).status),
        "/history" => match shared.history.lock() {
            Ok(history) => json(&history.told(Instant::now().into_std())),
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "cannot read\n"),
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

/// Whether a request was meant for a name. Whoever owns a name can let it lead to this address, and
/// so make a browser read what only this machine may see (DNS rebinding).
fn names_another_host(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST) else { return false };
    let Some(authority) = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) else {
        return true;
    };
    let host = authority.host();
    let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    !is_address && !host.eq_ignore_ascii_case("localhost")
}

/// What was published last, with what is kept in files.
fn seen(shared: &Shared) -> Published {
    let published = shared.board.look();
    let mut status: Status = published.status.clone();
    status.rules = status::rules(&published.counts);
    if let Ok(mut kept) = shared.kept.lock() {
        kept.add_to(&mut status);
    }
    // What was published last may be long ago.
    status.not_ready = is_dead(shared).or(status.not_ready);
    Published { status, counts: Arc::clone(&published.counts) }
}

fn is_dead(shared: &Shared) -> Option<String> {
    let (stage, turned) = shared.board.pulse().slowest();
    let still = turned.elapsed();
    (still > DEAD_AFTER).then(|| format!("{} for {} s", stage.stands(), still.as_secs()))
}

fn live(shared: &Shared) -> Response<Reply> {
    match is_dead(shared) {
        None => text(StatusCode::OK, TEXT, "alive\n"),
        Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, TEXT, why + "\n"),
    }
}

fn ready(shared: &Shared) -> Response<Reply> {
    let why = is_dead(shared).or_else(|| shared.board.look().status.not_ready.clone());
    match why {
        None => text(StatusCode::OK, TEXT, "ready\n"),
        Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, TEXT, why + "\n"),
    }
}

fn measures(shared: &Shared) -> Response<Reply> {
    match exposition(Arc::new(seen(shared))) {
        Ok(measures) => text(StatusCode::OK, metrics::CONTENT_TYPE, measures),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "cannot write metrics\n"),
    }
}

fn json(value: &impl Serialize) -> Response<Reply> {
    match serde_json::to_string(value) {
        Ok(json) => text(StatusCode::OK, JSON, json + "\n"),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "cannot write JSON\n"),
    }
}

pub(super) fn text(
    status: StatusCode,
    kind: &'static str,
    text: impl Into<Bytes>,
) -> Response<Reply> {
    respond(status, kind, Reply::Text(text.into()))
}

pub(super) fn respond(status: StatusCode, kind: &'static str, body: Reply) -> Response<Reply> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_knows_the_address_is_served_without_a_token() {
        for (host, is_another) in [
            ("127.0.0.1:8317", false),
            ("[::1]:8317", false),
            ("::1", true),
            ("localhost:8317", false),
            ("LOCALHOST", false),
            ("walpurge.evil.example:8317", true),
            ("localhost.evil.example", true),
            ("127.0.0.1.evil.example", true),
            ("", true),
            ("a b", true),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static(host));
            assert_eq!(names_another_host(&headers), is_another, "{host:?}");
        }
        assert!(!names_another_host(&HeaderMap::new()));
    }
}
