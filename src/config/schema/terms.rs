//! The terms in which sections and keys are described.

use serde_json::{Map, Value, json};

/// A key, what it means, and what it may be.
pub(in crate::config) type Key = (&'static str, &'static str, Value);

/// A table that has no keys but these.
pub(in crate::config) fn section(required: &[&str], keys: Vec<Key>) -> Value {
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

pub(in crate::config) fn exactly_one(section: &mut Value) {
    section["minProperties"] = json!(1);
    section["maxProperties"] = json!(1);
}

pub(in crate::config) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/$defs/{name}") })
}

pub(in crate::config) fn any_of<const N: usize>(choices: [Value; N]) -> Value {
    json!({ "anyOf": choices.to_vec() })
}

/// One of a few words, or where the word is kept.
pub(in crate::config) fn words<const N: usize>(words: [&str; N]) -> Value {
    any_of([json!({ "enum": words.to_vec() }), reference("elsewhere")])
}

pub(in crate::config) fn default(mut value: Value, default: impl Into<Value>) -> Value {
    value["default"] = default.into();
    value
}
