//! The configuration as a JSON Schema, for editors: what may be written where, and what it means.
//!
//! Written by hand like the walker that it describes; a test compares the keys that both know, the
//! defaults with those of `config.toml.example`, and `config.schema.json` with what comes out
//! here. It says no more than a schema can: that a template is well-formed, or that a sink exists,
//! only the walker knows.

mod postgres;
mod rule;
pub(super) mod terms;

use serde_json::{Value, json};

use self::postgres::postgres;
use self::rule::{condition, row, rule};
use self::terms::{any_of, default, exactly_one, reference, section, words};
use super::SINK_KINDS;
use super::cdn::schema::{cloudfront, fastly, http};

/// The schema, in draft 2020-12.
pub fn schema() -> Value {
    let mut root = section(
        &["postgres", "rule"],
        vec![
            (
                "state_dir",
                "Where is kept over restarts what was given up on, and which fallbacks are owed. \
                         Default: $STATE_DIRECTORY.",
                reference("text"),
            ),
            ("postgres", "How and where to read the write-ahead log.", postgres()),
            ("admin", "What can be looked at from outside, read-only.", admin()),
            ("redis", "Redis sinks: one section [redis.NAME] for each.", redis()),
            ("fastly", "Services of Fastly: one section [fastly.NAME] for each.", fastly()),
            (
                "cloudfront",
                "Distributions of Amazon CloudFront: one section [cloudfront.NAME] for each.",
                cloudfront(),
            ),
            (
                "http",
                "Anything else that purges over HTTP: one section [http.NAME] for each.",
                http(),
            ),
            (
                "rule",
                "Rules: which change of which table makes what stale.",
                json!({ "type": "array", "minItems": 1, "items": rule() }),
            ),
        ],
    );
    let has_sinks = |kind: &str| json!({ "required": [kind] });
    root["anyOf"] = SINK_KINDS.iter().map(|kind| has_sinks(kind)).collect();
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!("walpurge's configuration");
    root["$defs"] = json!({
        "text": any_of([json!({ "type": "string" }), reference("elsewhere")]),
        "elsewhere": elsewhere(),
        "texts": json!({ "type": "array", "minItems": 1, "items": reference("text") }),
        "condition": condition(),
        "row": row(),
    });
    root
}

fn redis() -> Value {
    let mut sink = section(
        &[],
        vec![
            (
                "url",
                "redis://HOST:PORT/DATABASE, rediss://… for TLS, or unix:///PATH.",
                reference("text"),
            ),
            ("sentinel", "Who knows where the server is, instead of url.", sentinel()),
            (
                "wait_replicas",
                "How many replicas must have what was done before it counts as done. Costs a \
                 round trip to them for each batch, and holds WAL while there are too few.",
                default(json!({ "type": "integer", "minimum": 0, "maximum": 100 }), 0),
            ),
            (
                "failover_window",
                "When another server has taken over, what was done within this time before is \
                 done again. \"0s\": nothing. Default: \"10s\" with sentinel, else \"0s\".",
                reference("text"),
            ),
            (
                "cluster",
                "Instead of url: some nodes of a Redis Cluster, which know the others. Scheme, user \
                 and password are the same for all.",
                reference("texts"),
            ),
            (
                "prefix",
                "Put before every key, pattern and tag key.",
                default(reference("text"), ""),
            ),
            (
                "tag_key",
                "The key that belongs to a tag; `{tag}` stands for it, once.",
                default(reference("text"), "tags:{tag}"),
            ),
            (
                "tag_mode",
                "What invalidating a tag does. \"members\": deletes the keys in the set at the \
                 tag's key. \"version\": bumps the counter at the tag's key.",
                default(words(["members", "version"]), "members"),
            ),
            (
                "max_keys_per_second",
                "How many keys a second patterns, fallbacks and lookups may delete or bump; what \
                 single rows ask for is never held back. Default: any number.",
                json!({ "type": "integer", "minimum": 1, "maximum": 100_000_000 }),
            ),
            (
                "mode",
                "A switch for incidents. \"hold\": the sink's actions wait, and so does the WAL. \
                 \"off\": they are dropped, and the fallbacks run when it is on again.",
                default(words(["on", "hold", "off"]), "on"),
            ),
            (
                "tls_root",
                "For rediss://: a PEM file with a root certificate, beside the system's.",
                reference("text"),
            ),
            ("tls_cert", "For rediss://: a PEM file with a client certificate.", reference("text")),
            ("tls_key", "For rediss://: a PEM file with its key.", reference("text")),
        ],
    );
    let has = |key: &str| json!({ "required": [key] });
    sink["anyOf"] = json!([has("url"), has("cluster"), has("sentinel")]);
    json!({ "type": "object", "minProperties": 1, "additionalProperties": sink })
}

fn sentinel() -> Value {
    section(
        &["master", "nodes"],
        vec![
            ("master", "The name by which the Sentinels know the server.", reference("text")),
            (
                "nodes",
                "redis://HOST:PORT of each Sentinel, with its own user and password if it has \
                 any; rediss://… for TLS.",
                json!({ "type": "array", "items": reference("text"), "minItems": 1 }),
            ),
            ("user", "The server's user. Default: none.", reference("text")),
            ("password", "The server's password. Default: none.", reference("text")),
            (
                "db",
                "The server's database. Default: 0.",
                json!({ "type": "integer", "minimum": 0, "maximum": 2_147_483_647 }),
            ),
            (
                "tls",
                "Whether the server speaks TLS. Default: if a Sentinel does.",
                json!({ "type": "boolean" }),
            ),
        ],
    )
}

fn admin() -> Value {
    section(
        &[],
        vec![
            (
                "listen",
                "A TCP address and port, as in \"127.0.0.1:8317\". Default: only the socket in \
                 $RUNTIME_DIRECTORY.",
                reference("text"),
            ),
            (
                "token",
                "What has to be shown over TCP as `Authorization: Bearer …`, but for /livez and \
                 /readyz. Needed if `listen` is no loopback address.",
                reference("text"),
            ),
            (
                "show_keys",
                "Whether `walpurge tail` shows values of rows instead of hashes.",
                default(json!({ "type": "boolean" }), false),
            ),
        ],
    )
}

/// `{ env = … }` and its like, in place of a string.
fn elsewhere() -> Value {
    let text = || json!({ "type": "string", "minLength": 1 });
    let mut places = section(
        &[],
        vec![
            ("env", "An environment variable.", text()),
            ("file", "A file, relative to this one; a newline at its end is dropped.", text()),
            ("credential", "A systemd credential, $CREDENTIALS_DIRECTORY/NAME.", text()),
        ],
    );
    exactly_one(&mut places);
    places
}
