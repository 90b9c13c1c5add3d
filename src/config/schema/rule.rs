//! `[[rule]]`: what it is about, its verbs, its fallback and its tests.

use serde_json::{Value, json};

use super::terms::{Key, any_of, default, exactly_one, reference, section, words};
use crate::action::Verb;
use crate::change::Op;
use crate::config::times;
use crate::key_type::KeyType;
use crate::rules::RULE_VERBS;

pub(super) fn rule() -> Value {
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

/// What a column of `where` must be.
pub(super) fn condition() -> Value {
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
pub(super) fn row() -> Value {
    let null = section(&["null"], vec![("null", "The value is NULL.", json!({ "const": true }))]);
    let value = any_of([json!({ "type": ["string", "integer", "boolean"] }), null]);
    json!({ "type": "object", "additionalProperties": value })
}
