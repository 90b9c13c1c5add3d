//! CDN sinks in the schema for editors.

use serde_json::{Value, json};

use crate::config::schema::terms::{Key, any_of, default, reference, section, words};
use crate::config::times;

/// `[fastly.NAME]`.
pub(in crate::config) fn fastly() -> Value {
    let mut keys = vec![
        ("service_id", "The service's ID.", reference("text")),
        (
            "token",
            "An API token with the scopes purge_select and, for fallbacks, purge_all.",
            reference("text"),
        ),
        (
            "soft",
            "Whether what is purged may be served stale while it is fetched again. A purge of \
             everything is never soft.",
            default(json!({ "type": "boolean" }), false),
        ),
        (
            "hosts",
            "The hosts whose paths are purged. Without them the sink purges no paths.",
            json!({ "type": "array", "items": reference("text") }),
        ),
        (
            "endpoint",
            "Where the API is.",
            default(reference("text"), crate::sinks::cdn::FASTLY_ENDPOINT),
        ),
    ];
    keys.extend(shared());
    sinks(section(&["service_id", "token"], keys))
}

/// `[cloudfront.NAME]`.
pub(in crate::config) fn cloudfront() -> Value {
    let mut keys = vec![
        ("distribution_id", "The distribution's ID.", reference("text")),
        ("endpoint", "Where the API is. Default: Amazon's.", reference("text")),
        (
            "paths_per_month",
            "How many paths and tags a month (UTC) may be charged. Beyond, everything is purged by \
             one wildcard. Default: any number.",
            json!({ "type": "integer", "minimum": 1, "maximum": u32::MAX }),
        ),
    ];
    keys.extend(shared());
    sinks(section(&["distribution_id"], keys))
}

/// `[http.NAME]`.
pub(in crate::config) fn http() -> Value {
    let mut keys = vec![(
        "url",
        "Where it goes. {key} or {path} in it: a request for each.",
        reference("text"),
    )];
    keys.extend(request());
    keys.extend([
        (
            "batch",
            "How many go into one request, where it has {keys} or {paths|json}.",
            default(
                json!({ "type": "integer", "minimum": 1, "maximum": crate::sinks::cdn::BATCH_MAX }),
                crate::sinks::cdn::BATCH as u64,
            ),
        ),
        (
            "accept",
            "The statuses that say that it is done. Default: 200 to 299.",
            json!({
                "type": "array",
                "minItems": 1,
                "items": { "type": "integer", "minimum": 200, "maximum": 599 },
            }),
        ),
        (
            "wildcards",
            "Whether a `*` at a path's end is understood. Default: true with {path|regex}.",
            json!({ "type": "boolean" }),
        ),
        ("token", "Sent as `Authorization: Bearer`.", reference("text")),
        (
            "signature",
            "Signs the body: HMAC-SHA256, in hexadecimal.",
            section(
                &["header", "secret"],
                vec![
                    ("header", "The header that holds it.", reference("text")),
                    ("prefix", "What stands before it, as in \"sha256=\".", reference("text")),
                    ("secret", "The key.", reference("text")),
                ],
            ),
        ),
        (
            "purge_all",
            "The request that purges everything: what is given here takes the place of the same \
             in the section.",
            {
                let mut keys = vec![("url", "Where it goes.", reference("text"))];
                keys.extend(request());
                section(&[], keys)
            },
        ),
    ]);
    keys.extend(shared());
    sinks(section(&["url"], keys))
}

/// What the sink's request and the one that purges everything have.
fn request() -> Vec<Key> {
    vec![
        ("method", "The method. Default: POST.", reference("text")),
        (
            "headers",
            "Headers. {keys}: the batch, joined by spaces; {keys|comma}: by commas; {key}, \
             {path}, {path|regex}: a request for each.",
            json!({ "type": "object", "additionalProperties": reference("text") }),
        ),
        (
            "body",
            "The body. {keys|json}, {keys|urlencode}, {paths|json}: the batch; {key|json}, \
             {path|json}: a request for each.",
            reference("text"),
        ),
    ]
}

/// What every CDN sink has.
fn shared() -> Vec<Key> {
    vec![
        (
            "after",
            "The cache sinks that finish a transaction before its purges go out. Default: every \
             Redis sink.",
            any_of([json!({ "type": "array", "items": reference("text") })]),
        ),
        (
            "max_requests_per_second",
            "The most requests a second. Default: as many as it takes; for CloudFront, one.",
            json!({ "type": "integer", "minimum": 1, "maximum": 10_000 }),
        ),
        (
            "repurge_after",
            "How long after a purge was done it is done again, for edges behind a shield. Up to 4 \
             times of at most 1 h, in ascending order. Default: never.",
            json!({ "type": "array", "maxItems": times::TIMES_MAX, "items": reference("text") }),
        ),
        (
            "mode",
            "A switch for incidents. \"hold\": the sink's purges wait, and so does the WAL. \
             \"off\": they are dropped, and the fallbacks run when it is on again.",
            default(words(["on", "hold", "off"]), "on"),
        ),
    ]
}

fn sinks(sink: Value) -> Value {
    json!({ "type": "object", "minProperties": 1, "additionalProperties": sink })
}
