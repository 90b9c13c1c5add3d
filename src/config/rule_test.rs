//! `[[rule.test]]`.

use toml::de::DeValue;

use super::entry::Entry;
use super::rule::read_name;
use super::table::{Table, list};
use crate::action::Verb;
use crate::change::Op;
use crate::problem::{Problem, Text, nearest};
use crate::rules::{Outcome, Part, RULE_VERBS, RuleTest, TablePattern, TestRow};

const OP_EXAMPLE: &str = "op = \"update\"";
const EXPECT_EXAMPLE: &str = "expect = [\"delete product:7\"]";
const EXPECT_HELP: &str = "write a verb of a rule, a space, and the value: \"delete product:7\"";
const TABLE_HELP: &str = "write one of the rule's tables by its exact name: \"public.products\"";
const VALUE_HELP: &str = "write the value as Postgres prints it, in quotes (\"1.50\", \"{red,blue}\"), or \
     { null = true }";

/// Reads every `[[rule.test]]` of a rule that is about `tables`.
pub(super) fn read(entry: &Entry<'_>, tables: &[Text]) -> Vec<RuleTest> {
    let mut names: Vec<Text> = Vec::new();
    let mut tests = Vec::new();
    for table in entry.tables() {
        let (name, test) = read_test(table, tables);
        tests.extend(test);
        let Some(name) = name else { continue };
        if let Some(first) = names.iter().find(|before| before.value == name.value) {
            let line = entry.reader.line_of(&first.span);
            let message = format!("two tests of a rule are named `{}`", name.value);
            let problem = Problem::new(name.span.clone(), message, "named before");
            entry.reader.report(problem.help(format!("the first one is in line {line}")));
        }
        names.push(name);
    }
    tests
}

fn read_test(mut table: Table<'_>, tables: &[Text]) -> (Option<Text>, Option<RuleTest>) {
    let name = table.entry("name").and_then(|entry| read_name(&entry, "leave it out"));
    let op = read_op(&mut table);
    let target = read_table(&mut table, tables);
    let old = read_row(&mut table, "old", op, &[Op::Update, Op::Delete]);
    let new = read_row(&mut table, "new", op, &[Op::Insert, Op::Update]);
    let lookup = table.entry("lookup").map(|entry| read_rows(&entry)).unwrap_or_default();
    let expect = table.entry("expect").map(|entry| read_expect(&entry));
    let fallback = table.entry("expect_fallback").and_then(|entry| entry.boolean());
    let expect_fallback = fallback.unwrap_or(false);
    if expect.is_none() && !expect_fallback {
        table.missing("`rule.test.expect` is missing", EXPECT_EXAMPLE);
    }
    let span = table.span.clone();
    table.finish();
    let test = op.zip(target).map(|(op, (schema, table))| RuleTest {
        span,
        name: name.as_ref().map(|name| name.value.clone()),
        op,
        schema,
        table,
        old,
        new,
        lookup,
        expect: expect.unwrap_or_default(),
        expect_fallback,
    });
    (name, test)
}

fn read_op(table: &mut Table<'_>) -> Option<Op> {
    let Some(entry) = table.entry("op") else {
        table.missing("`rule.test.op` is missing", OP_EXAMPLE);
        return None;
    };
    entry.one_of(&Op::ALL.map(|op| (op.name(), op)))
}

/// The schema and name of the table that changes.
fn read_table(table: &mut Table<'_>, tables: &[Text]) -> Option<(Vec<u8>, Vec<u8>)> {
    // What is wrong with the rule's own tables is reported where the rule is compiled.
    let parsed = |text: &Text| TablePattern::parse(text).ok();
    let Some(entry) = table.entry("table") else {
        let first = tables.first()?;
        let exact = exact(&parsed(first)?);
        if exact.is_none() {
            let message = format!("the test does not say which table `{}` is", first.value);
            table.missing(message, "table = \"public.products\"");
        }
        return exact;
    };
    let text = entry.text()?;
    let pattern = match TablePattern::parse(&text) {
        Ok(pattern) => pattern,
        Err(problem) => {
            entry.reader.report(problem);
            return None;
        }
    };
    let Some((schema, name)) = exact(&pattern) else {
        let message = "`rule.test.table` must be one table";
        entry.problem_with_help(message, "several tables", TABLE_HELP);
        return None;
    };
    let patterns: Option<Vec<_>> = tables.iter().map(parsed).collect();
    let is_known = |patterns: Vec<TablePattern>| {
        patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(&schema, &name))
    };
    if !patterns.is_none_or(is_known) {
        let known: Vec<_> = tables.iter().map(|text| &text.value).collect();
        entry.problem_with_help(
            format!("the rule is not about table `{}`", text.value),
            "not a table of the rule",
            format!("its tables: {}", list(&known)),
        );
    }
    Some((schema, name))
}

/// The names of a pattern that means one table.
fn exact(pattern: &TablePattern) -> Option<(Vec<u8>, Vec<u8>)> {
    match (&pattern.schema, &pattern.table) {
        (Part::Exact(schema), Part::Exact(table)) => Some((schema.clone(), table.clone())),
        _ => None,
    }
}

/// A row, which the operations in `having` have and the others have not.
fn read_row(table: &mut Table<'_>, key: &'static str, op: Option<Op>, having: &[Op]) -> TestRow {
    let Some(entry) = table.entry(key) else {
        if let Some(op) = op.filter(|op| having.contains(op)) {
            let message = format!("`rule.test.{key}` is missing, which {} has", a(op));
            table.missing(message, &format!("{key} = {{ id = 7 }}"));
        }
        return TestRow::new();
    };
    if let Some(op) = op.filter(|op| !having.contains(op)) {
        let problem =
            Problem::new(entry.key.clone(), format!("{} has no {key} row", a(op)), "no such row");
        entry.reader.report(problem.help("leave it out"));
    }
    if !entry.value.get_ref().is_table() {
        let help = format!("write {key} = {{ id = 7, slug = \"lamp\" }}");
        entry.wrong_type("a table of columns", &help);
        return TestRow::new();
    }
    entry.table().map(|columns| read_columns(&columns)).unwrap_or_default()
}

/// The rows that a lookup gives.
fn read_rows(entry: &Entry<'_>) -> Vec<TestRow> {
    if entry.items().is_none() {
        entry.wrong_type("a list of rows", "write lookup = [{ post_id = 7 }]");
        return Vec::new();
    }
    entry.tables().iter().map(read_columns).collect()
}

fn read_columns(row: &Table<'_>) -> TestRow {
    let column =
        |(name, entry): &(&str, Entry<'_>)| Some((name.as_bytes().to_vec(), read_value(entry)?));
    row.entries().iter().filter_map(column).collect()
}

/// "an insert", "a delete".
fn a(op: Op) -> String {
    let article = if matches!(op, Op::Insert | Op::Update) { "an" } else { "a" };
    format!("{article} {}", op.name())
}

/// A value as Postgres prints it; the inner `None` is NULL.
fn read_value(entry: &Entry<'_>) -> Option<Option<Vec<u8>>> {
    match entry.value.get_ref() {
        DeValue::String(text) => Some(Some(text.as_bytes().to_vec())),
        DeValue::Integer(number) => Some(Some(number.to_string().into_bytes())),
        DeValue::Boolean(word) => Some(Some(word.to_string().into_bytes())),
        DeValue::Table(_) => {
            let mut table = entry.table()?;
            let given = table.entries().len();
            let null = table.entry("null").map(|entry| entry.boolean());
            table.finish();
            match null {
                Some(Some(true)) => Some(None),
                Some(Some(false)) => {
                    let message = format!("`{}` says what it is not", entry.path);
                    entry.problem_with_help(message, "not a value", VALUE_HELP);
                    None
                }
                Some(None) => None,
                None => {
                    // An unknown key in it is reported already.
                    if given == 0 {
                        let message = format!("`{}` is empty", entry.path);
                        entry.problem_with_help(message, "empty", VALUE_HELP);
                    }
                    None
                }
            }
        }
        _ => {
            entry.wrong_type("a string, integer, boolean or { null = true }", VALUE_HELP);
            None
        }
    }
}

fn read_expect(entry: &Entry<'_>) -> Vec<Outcome> {
    let texts = entry.texts().unwrap_or_default();
    texts.iter().filter_map(|text| read_outcome(entry, text)).collect()
}

fn read_outcome(entry: &Entry<'_>, text: &Text) -> Option<Outcome> {
    let (key, value) = text.value.split_once(' ').unwrap_or((&text.value, ""));
    let report = |message: String, label: &str, help: String| {
        let problem = Problem::new(text.span.clone(), message, label);
        entry.reader.report(problem.within(0..key.len()).help(help));
        None
    };
    let known: Vec<&'static str> = verbs().map(Verb::key).collect();
    let Some(key) = known.iter().copied().find(|known| *known == key) else {
        let help = match nearest(key, known.iter().copied()) {
            Some(known) => format!("did you mean `{known}`? {EXPECT_HELP}"),
            None => format!("{EXPECT_HELP}; verbs: {}", list(&known)),
        };
        let message = format!("`{}` cannot start with `{key}`", entry.path);
        return report(message, "not a verb", help);
    };
    if value.is_empty() {
        let message = format!("`{}` says nothing behind `{key}`", entry.path);
        return report(message, "no value", EXPECT_HELP.to_owned());
    }
    Some(Outcome { key, value: value.as_bytes().to_vec() })
}

fn verbs() -> impl Iterator<Item = Verb> {
    RULE_VERBS.into_iter().chain([Verb::Publish])
}
