//! The configuration as a JSON Schema, for editors: what may be written where, and what it means.
//!
//! Written by hand like the walker that it describes; a test compares the keys that both know, the
//! defaults with those of `config.toml.example`, and `config.schema.json` with what comes out
//! here. It says no more than a schema can: that a template is well-formed, or that a sink exists,
//! only the walker knows.

use serde_json::{Map, Value, json};

use super::SINK_KINDS;
use super::cdn::schema::{cloudfront, fastly, http};
use super::times;
use crate::action::Verb;
use crate::change::Op;
use crate::key_type::KeyType;
use crate::rules::RULE_VERBS;

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

fn postgres() -> Value {
    section(
        &["url"],
        vec![
            (
                "url",
                "A URL, or libpq's words (\"host=… user=… dbname=…\"). It leads to the server \
                 itself, past any pooler; the role needs LOGIN and REPLICATION.",
                reference("text"),
            ),
            (
                "lookup_url",
                "Where lookups run; it may lead to a pooler. The role needs SELECT on their \
                 tables. Default: url.",
                reference("text"),
            ),
            (
                "slot",
                "The replication slot. It keeps WAL in Postgres until everything in it has been \
                 acted on.",
                default(reference("text"), "walpurge"),
            ),
            (
                "plugin",
                "The slot's output plugin. \"pgoutput\" comes with Postgres and is faster; it \
                 needs a publication, which `walpurge setup` makes.",
                default(words(["wal2json", "pgoutput"]), "wal2json"),
            ),
            (
                "publication",
                "With plugin = \"pgoutput\": the publication that it sends. `walpurge setup` \
                 makes it and keeps it in step with the rules. Default: \"walpurge\".",
                reference("text"),
            ),
            (
                "create_slot",
                "Whether `run` creates the slot if it is missing.",
                default(json!({ "type": "boolean" }), true),
            ),
            (
                "visibility",
                "\"wait\": an action runs only when its transaction is visible to readers. \
                 \"skip\": it runs at once; a reader may put an old row back into the cache, for \
                 good.",
                default(words(["wait", "skip"]), "wait"),
            ),
            (
                "heartbeat",
                "Writes a small message into the WAL so often, so that an idle database does not \
                 hold WAL. \"0s\": never.",
                default(reference("text"), "30s"),
            ),
            (
                "on_gap",
                "What `run` does about a gap, a part of the log that cannot be read (a slot that \
                 is missing or lost, a restored server). \"fallback\": runs every rule's fallback \
                 and goes on. \"halt\": ends with 78; `run --assume-gap` goes on.",
                default(words(["fallback", "halt"]), "fallback"),
            ),
            (
                "messages",
                "What pg_logical_emit_message may ask for. \"keys\": exact values for delete, \
                 bump, tags and purge_keys. \"all\": delete_matching and purge_paths too. \
                 \"off\": nothing.",
                default(words(["keys", "all", "off"]), "keys"),
            ),
            (
                "replicas",
                "Where readers fill caches from besides the primary: actions wait for these servers \
                 too. Default: none.",
                replicas(),
            ),
            (
                "replay",
                "Keeps WAL for `walpurge replay`, in a second slot. Default: none.",
                replay(),
            ),
        ],
    )
}

fn replicas() -> Value {
    section(
        &["urls"],
        vec![
            (
                "urls",
                "postgres://USER@HOST:PORT/DATABASE of each, or libpq's \"host=… user=…\".",
                json!({ "type": "array", "items": reference("text"), "minItems": 1 }),
            ),
            (
                "max_wait",
                "How long an action waits for them at most. Then it runs, and once more when they \
                 have replayed its transaction.",
                default(reference("text"), "5s"),
            ),
        ],
    )
}

fn replay() -> Value {
    section(
        &[],
        vec![
            (
                "window",
                "How far one can go back: WAL and the catalog's dead rows stay for so long.",
                default(reference("text"), "1h"),
            ),
            (
                "max_wal",
                "How much WAL that may hold; beyond, the window is shorter.",
                default(reference("text"), "4GiB"),
            ),
        ],
    )
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

fn rule() -> Value {
    let ops = json!({ "type": "array", "minItems": 1, "items": words(Op::ALL.map(Op::name)) });
    let mut keys = vec![
        (
            "name",
            "Its name in logs and output. Default: the first table's name, then the same with \
             \"#2\", \"#3\".",
            reference("text"),
        ),
        ("enabled", "Whether the rule counts.", default(json!({ "type": "boolean" }), true)),
        (
            "table",
            "Exact names with the schema, quotable as in SQL: public.\"a.b\". A `*` stands for \
             any text. Several: a list.",
            any_of([reference("text"), reference("texts")]),
        ),
        ("on", "Which operations count.", default(ops, json!(Op::ALL.map(Op::name)))),
        (
            "changed",
            "Which updates count: those that change one of these columns, or one that `where` or \
             a template uses. Default: all.",
            reference("texts"),
        ),
        (
            "where",
            "Which rows count: the old one or the new one must match in every column. Default: \
             all.",
            json!({
                "type": "object",
                "minProperties": 1,
                "additionalProperties": reference("condition"),
            }),
        ),
    ];
    keys.extend(verbs());
    keys.extend([
        (
            "lookup",
            "A query whose rows the templates are rendered for; its placeholders are bound.",
            reference("text"),
        ),
        (
            "bulk_above",
            "How many distinct values one transaction may ask for before the fallback takes their \
             place. Default: 10000 for lookups and purges, else none.",
            json!({ "type": "integer", "minimum": 1, "maximum": 1_000_000 }),
        ),
        (
            "fallback_every",
            "The least time between two fallbacks of the rule that changes ask for.",
            default(reference("text"), "10s"),
        ),
        (
            "redelete_after",
            "How long after a transaction is visible its deletes are done again, against readers \
             that read before it and write after them. Up to 4 times of at most 1 h, in ascending \
             order. Default: never.",
            json!({ "type": "array", "maxItems": times::TIMES_MAX, "items": reference("text") }),
        ),
        (
            "expire_in",
            "Instead of being deleted, keys live on for so long at most: they get 80 to 100 % of it, \
             or keep what is less. At most 1 d. Default: they are deleted.",
            reference("text"),
        ),
        (
            "sinks",
            "The sinks to act on. Default: every sink that can express the action.",
            reference("texts"),
        ),
        (
            "fallback",
            "What runs where the exact keys cannot be known, as for TRUNCATE. \"none\": nothing.",
            any_of([json!({ "const": "none" }), fallback()]),
        ),
        (
            "test",
            "What the rule has to make of one change; `walpurge check` tries it.",
            json!({ "type": "array", "items": test() }),
        ),
    ]);
    let mut rule = section(&["table"], keys);
    let has = |(key, ..): &Key| json!({ "required": [key] });
    rule["anyOf"] = verbs().iter().map(has).collect();
    rule
}

fn fallback() -> Value {
    let mut keys = vec![(
        "derive",
        "Whether the rule's own templates run with a `*` for each column.",
        default(json!({ "type": "boolean" }), true),
    )];
    keys.extend(verbs());
    section(&[], keys)
}

fn test() -> Value {
    let expect = json!({ "type": "array", "items": reference("text") });
    let mut test = section(
        &["op"],
        vec![
            ("name", "What the test shows. Default: \"test 1\" and so on.", reference("text")),
            ("op", "The operation.", words(Op::ALL.map(Op::name))),
            (
                "table",
                "The table that changes, by its exact name. Default: the rule's first, if that is \
                 no pattern.",
                reference("text"),
            ),
            (
                "old",
                "What the stream carries of the old row, for an update and a delete.",
                reference("row"),
            ),
            (
                "new",
                "What the stream carries of the new row, for an insert and an update.",
                reference("row"),
            ),
            (
                "lookup",
                "The rows that the rule's lookup gives.",
                json!({ "type": "array", "items": reference("row") }),
            ),
            (
                "expect",
                "Every action that comes out, in any order: a verb, a space, and the value, as in \
                 \"delete product:7\".",
                expect,
            ),
            (
                "expect_fallback",
                "Whether the rule's fallback has to run; its actions need not be listed.",
                default(json!({ "type": "boolean" }), false),
            ),
        ],
    );
    test["anyOf"] = json!([{ "required": ["expect"] }, { "required": ["expect_fallback"] }]);
    test
}

/// What a rule and its fallback may ask for.
fn verbs() -> Vec<Key> {
    let verbs = RULE_VERBS.into_iter();
    let mut verbs: Vec<Key> = verbs.map(|verb| (verb.key(), about(verb), values(verb))).collect();
    let text = || reference("text");
    let mut publish = section(
        &[],
        vec![
            ("channel", "The channel (PUBLISH), without placeholders.", text()),
            ("stream", "Or the key of a stream (XADD), without placeholders.", text()),
            (
                "maxlen",
                "About how many entries the stream keeps.",
                default(
                    json!({ "type": "integer", "minimum": 1, "maximum": 1_000_000_000 }),
                    10_000,
                ),
            ),
            (
                "message",
                "The message; it may have placeholders. Default: JSON for each deletion.",
                text(),
            ),
        ],
    );
    publish["anyOf"] = json!([{ "required": ["channel"] }, { "required": ["stream"] }]);
    verbs.push((Verb::Publish.key(), about(Verb::Publish), publish));
    verbs
}

/// What a verb's list holds.
fn values(verb: Verb) -> Value {
    if verb != Verb::DeleteMatching {
        return reference("texts");
    }
    let typed = section(
        &["pattern", "type"],
        vec![
            ("pattern", "The pattern.", reference("text")),
            ("type", "Of which type keys have to be.", words(KeyType::ALL.map(KeyType::name))),
        ],
    );
    json!({ "type": "array", "minItems": 1, "items": any_of([reference("text"), typed]) })
}

fn about(verb: Verb) -> &'static str {
    match verb {
        Verb::Delete | Verb::Expire => {
            "Keys to delete (UNLINK). `{column}` is the column's value, in the old row and in the \
             new one."
        }
        Verb::DeleteMatching
        | Verb::ExpireMatching
        | Verb::DeleteTyped(_)
        | Verb::ExpireTyped(_) => {
            "Patterns of keys to delete (SCAN and UNLINK, never KEYS); as a section, of keys of one \
             type."
        }
        Verb::Bump | Verb::BumpMatching => "Counters to raise; they never repeat a value.",
        Verb::Tag | Verb::TagMatching | Verb::ExpireTag | Verb::ExpireTagMatching => {
            "Tags to invalidate."
        }
        Verb::PurgeKey => "Surrogate keys to purge.",
        Verb::PurgePath => {
            "Paths to purge, from the first `/` on; a `*` at the end stands for any text."
        }
        Verb::PurgeAll => "Everything.",
        Verb::Publish => {
            "A message to publish once everything else is done, for caches in processes."
        }
        Verb::Lookup => "A query.",
    }
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

/// What a column of `where` must be.
fn condition() -> Value {
    let mut operator = section(
        &[],
        vec![
            ("not", "What the value must not be.", reference("condition")),
            ("null", "Whether the value must be NULL.", json!({ "type": "boolean" })),
            ("matches", "A pattern: `*` stands for any text, `?` for one byte.", reference("text")),
        ],
    );
    exactly_one(&mut operator);
    let list = json!({ "type": "array", "minItems": 1, "items": reference("condition") });
    any_of([json!({ "type": ["string", "integer", "boolean"] }), list, operator])
}

/// A row of a test.
fn row() -> Value {
    let null = section(&["null"], vec![("null", "The value is NULL.", json!({ "const": true }))]);
    let value = any_of([json!({ "type": ["string", "integer", "boolean"] }), null]);
    json!({ "type": "object", "additionalProperties": value })
}

/// A key, what it means, and what it may be.
pub(super) type Key = (&'static str, &'static str, Value);

/// A table that has no keys but these.
pub(super) fn section(required: &[&str], keys: Vec<Key>) -> Value {
    let mut properties = Map::new();
    for (key, description, mut value) in keys {
        value["description"] = json!(description);
        properties.insert(key.to_owned(), value);
    }
    let mut section = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    });
    if !required.is_empty() {
        section["required"] = json!(required);
    }
    section
}

pub(super) fn exactly_one(section: &mut Value) {
    section["minProperties"] = json!(1);
    section["maxProperties"] = json!(1);
}

pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/$defs/{name}") })
}

pub(super) fn any_of<const N: usize>(choices: [Value; N]) -> Value {
    json!({ "anyOf": choices.to_vec() })
}

/// One of a few words, or where the word is kept.
pub(super) fn words<const N: usize>(words: [&str; N]) -> Value {
    any_of([json!({ "enum": words.to_vec() }), reference("elsewhere")])
}

pub(super) fn default(mut value: Value, default: impl Into<Value>) -> Value {
    value["default"] = default.into();
    value
}
