//! `where` of a rule.

use toml::de::DeValue;

use super::entry::Entry;
use crate::rules::{Condition, Pattern, Test};

const HELP: &str = "write a value, a list of values, { null = true }, { matches = \"draft-*\" } or \
                    { not = … }";

/// Reads every condition.
pub(super) fn read(entry: &Entry<'_>) -> Vec<Condition> {
    if !entry.value.get_ref().is_table() {
        entry.wrong_type("a table of columns", "write where = { status = \"published\" }");
        return Vec::new();
    }
    let Some(table) = entry.table() else { return Vec::new() };
    let columns = table.entries();
    if columns.is_empty() {
        entry.problem_with_help("`rule.where` has no condition", "empty", "leave it out");
    }
    let condition = |(column, entry): &(&str, Entry<'_>)| {
        Some(Condition { column: column.as_bytes().to_vec(), test: read_test(entry)? })
    };
    columns.iter().filter_map(condition).collect()
}

fn read_test(entry: &Entry<'_>) -> Option<Test> {
    match entry.value.get_ref() {
        DeValue::String(text) => Some(Test::Equals(text.as_bytes().to_vec())),
        DeValue::Integer(number) => Some(Test::Equals(number.to_string().into_bytes())),
        DeValue::Boolean(word) => Some(Test::Equals(word.to_string().into_bytes())),
        DeValue::Array(_) => {
            let items = entry.items()?;
            if items.is_empty() {
                entry.problem_with_help(format!("`{}` is empty", entry.path), "empty", HELP);
            }
            Some(Test::Any(items.iter().filter_map(read_test).collect()))
        }
        DeValue::Table(_) => read_operator(entry),
        DeValue::Float(_) | DeValue::Datetime(_) => {
            let help = "write the value as Postgres prints it, in quotes: \"1.50\"";
            entry.wrong_type("a string, integer or boolean", help);
            None
        }
    }
}

fn read_operator(entry: &Entry<'_>) -> Option<Test> {
    let mut table = entry.table()?;
    let not = table.entry("not").and_then(|entry| read_test(&entry));
    let null = table.entry("null").and_then(|entry| entry.boolean());
    let matches = table.entry("matches").and_then(|entry| entry.text());
    let given = ["not", "null", "matches"].iter().filter(|key| table.has(key)).count();
    table.finish();
    if given != 1 {
        entry.problem_with_help(
            format!("`{}` must say one thing", entry.path),
            "expected one of `not`, `null`, `matches`",
            HELP,
        );
        return None;
    }
    match (not, null, matches) {
        (Some(test), ..) => Some(Test::Not(Box::new(test))),
        (_, Some(true), _) => Some(Test::Null),
        (_, Some(false), _) => Some(Test::Not(Box::new(Test::Null))),
        (.., Some(pattern)) => Some(Test::Matches(Pattern::new(&pattern.value))),
        (None, None, None) => None,
    }
}
