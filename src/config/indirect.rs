//! Reads `{ env = "NAME" }`, `{ file = "PATH" }` and `{ credential = "NAME" }`.

use toml::de::DeValue;

use super::entry::Entry;
use super::secret::{Origin, Secret};

const HELP: &str = "write one of { env = \"NAME\" }, { file = \"PATH\" } and \
                    { credential = \"NAME\" }";

/// Where the string of `entry`, whose value is a table, comes from.
pub(super) fn read(entry: &Entry<'_>) -> Option<Secret> {
    let mut table = entry.table()?;
    let span = table.span.clone();
    let given: Vec<_> = ["env", "file", "credential"]
        .into_iter()
        .filter_map(|key| Some((key, table.entry(key)?)))
        .collect();
    // A mistyped key is reported with the nearest one; "none of them" would be noise beside it.
    let unknown = table.entries().len() > given.len();
    table.finish();
    let [(kind, value)] = given.as_slice() else {
        if !(unknown && given.is_empty()) {
            let message = format!("`{}` must say one place that it comes from", entry.path);
            let count = if given.is_empty() { "says none" } else { "says more than one" };
            entry.reader.report(crate::problem::Problem::new(span, message, count).help(HELP));
        }
        return None;
    };
    let DeValue::String(name) = value.value.get_ref() else {
        value.wrong_type("a string", HELP);
        return None;
    };
    let name: &str = name;
    match wrong(kind, name) {
        Some(label) => {
            value.problem_with_help(format!("`{}` cannot be `{name}`", value.path), label, HELP);
            None
        }
        None => {
            let origin = match *kind {
                "env" => Origin::Env(name.to_owned()),
                "file" => Origin::File(entry.reader.directory().join(name)),
                _ => {
                    entry.reader.credentials.note(name);
                    Origin::Credential(name.to_owned(), entry.reader.credentials.clone())
                }
            };
            Some(Secret::new(&entry.path, origin))
        }
    }
}

/// What is wrong with a name; the standard library panics on some of these.
fn wrong(kind: &str, name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("empty");
    }
    if name.contains('\0') {
        return Some("holds a NUL");
    }
    match kind {
        "env" if name.contains('=') => Some("a variable's name holds no `=`"),
        "credential" if name.contains('/') || name == "." || name == ".." => {
            Some("a credential's name is a plain file name")
        }
        _ => None,
    }
}
