//! `/`: the status page, for people with a browser.
//!
//! One document that asks for nothing but `status`, `history` and `tail` of the same origin. It is
//! the same for everybody and holds nothing of the daemon's, so that it is served without a token: a
//! browser sends no header of its own when it opens a page, and the page asks for the token then.
//!
//! Everything that it shows is data: rules' names, errors, keys. Its scripts know no way to make
//! markup of text, and should one slip in, the policy forbids the browser to follow it: only the
//! script and the style whose hashes it names, no other origin, and no HTML made of strings
//! (`require-trusted-types-for`).

use std::sync::LazyLock;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY};
use hyper::{Response, StatusCode};
use sha2::{Digest, Sha256};

use super::answer::respond;
use super::body::Reply;

const HTML: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");

/// In the order in which they run.
const SCRIPTS: [&str; 7] = [
    include_str!("words.js"),
    include_str!("ask.js"),
    include_str!("elements.js"),
    include_str!("plots.js"),
    include_str!("status.js"),
    include_str!("tail.js"),
    include_str!("main.js"),
];

/// What stands in the HTML where the style and the scripts belong.
const STYLE_PLACE: &str = "/* style */";
const SCRIPT_PLACE: &str = "/* script */";

struct Page {
    html: Bytes,
    policy: Option<HeaderValue>,
}

static PAGE: LazyLock<Page> = LazyLock::new(|| {
    let script = SCRIPTS.join("\n");
    let html = HTML.replacen(STYLE_PLACE, STYLE, 1).replacen(SCRIPT_PLACE, &script, 1);
    Page { html: html.into(), policy: HeaderValue::from_str(&policy(&script)).ok() }
});

/// What the browser may do.
fn policy(script: &str) -> String {
    let hash = |text: &str| BASE64_STANDARD.encode(Sha256::digest(text));
    [
        "default-src 'none'",
        &format!("script-src 'sha256-{}'", hash(script)),
        &format!("style-src 'sha256-{}'", hash(STYLE)),
        "connect-src 'self'",
        // The icon.
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
    .join("; ")
}

/// The page.
pub(super) fn page() -> Response<Reply> {
    let Page { html, policy } = &*PAGE;
    let body = Reply::Text(html.clone());
    let mut response = respond(StatusCode::OK, "text/html; charset=utf-8", body);
    let headers = response.headers_mut();
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let opener = HeaderName::from_static("cross-origin-opener-policy");
    headers.insert(opener, HeaderValue::from_static("same-origin"));
    if let Some(policy) = policy {
        headers.insert(CONTENT_SECURITY_POLICY, policy.clone());
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;

    /// What stands between two marks.
    fn between<'t>(text: &'t str, start: &str, end: &str) -> &'t str {
        text.split_once(start).unwrap().1.split_once(end).unwrap().0
    }

    #[test]
    fn the_policy_names_what_is_in_the_page_and_nothing_else() {
        let response = page();
        let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
        let html = std::str::from_utf8(&PAGE.html).unwrap();
        for (directive, start, end) in [
            ("script-src", "<script type=\"module\">", "</script>"),
            ("style-src", "<style>", "</style>"),
        ] {
            let hash = BASE64_STANDARD.encode(Sha256::digest(between(html, start, end)));
            assert!(policy.contains(&format!("{directive} 'sha256-{hash}'")), "{policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        assert!(!html.contains(STYLE_PLACE) && !html.contains(SCRIPT_PLACE));
    }

    #[test]
    fn the_page_names_no_other_origin_and_makes_no_markup_of_text() {
        let html = std::str::from_utf8(&PAGE.html).unwrap();
        // The namespace of SVG is a name, and nobody goes there.
        let html = html.replace("http://www.w3.org/2000/svg", "");
        for forbidden in ["://", "innerHTML", "outerHTML", "insertAdjacent", "document.write"] {
            assert!(!html.contains(forbidden), "{forbidden}");
        }
        assert!(!html.contains("eval(") && !html.contains("localStorage"), "it keeps nothing");
    }
}
