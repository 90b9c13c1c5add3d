//! `[[rule]]`.

use std::time::Duration;

use super::entry::{Entry, pick};
use super::filter;
use super::rule_test;
use super::table::{Table, list};
use super::times;
use crate::action::{Address, Verb};
use crate::change::Op;
use crate::key_type::KeyType;
use crate::problem::{Problem, Text, nearest};
use crate::rules::{ExpireSpec, FallbackSpec, PublishSpec, RULE_VERBS, RedeleteSpec, RuleSpec};

const EXAMPLE: &str = "[[rule]]\ntable = \"public.products\"\ndelete = [\"product:{id}\"]";
const TABLE_EXAMPLE: &str = "table = \"public.products\"";
const PUBLISH_EXAMPLE: &str =
    "publish = { channel = \"invalidations\", message = \"product:{id}\" }";
/// About how many entries a stream keeps, where `maxlen` is not given.
const MAXLEN: u64 = 10_000;

/// The most that can be asked for: a stream is kept in Redis' memory.
const MAXLEN_MAX: u64 = 1_000_000_000;

const TYPED_EXAMPLE: &str = "delete_matching = [{ pattern = \"page:*\", type = \"string\" }]";
const VERB_EXAMPLE: &str = "delete = [\"product:{id}\"]";

/// For longer than this nobody would call a key invalidated.
const EXPIRE_IN_MAX: Duration = Duration::from_secs(24 * 3600);

/// What is counted of a transaction takes 8 to 16 bytes for each value.
const BULK_ABOVE_MAX: u64 = 1_000_000;

/// Reads every `[[rule]]` of the document.
pub(super) fn read(root: &mut Table<'_>, sinks: &[String]) -> Vec<RuleSpec> {
    let Some(entry) = root.entry("rule") else {
        root.missing("no rule is configured", EXAMPLE);
        return Vec::new();
    };
    if entry.items().is_some_and(|items| items.is_empty()) {
        root.missing("no rule is configured", EXAMPLE);
    }
    let tables = entry.tables();
    let rules: Vec<_> = tables.into_iter().map(|table| read_rule(table, sinks)).collect();
    check_names(root, &rules);
    rules
}

fn read_rule(mut table: Table<'_>, sinks: &[String]) -> RuleSpec {
    let name = table
        .entry("name")
        .and_then(|entry| read_name(&entry, "leave it out for the table's name"));
    let enabled = table.entry("enabled").and_then(|entry| entry.boolean()).unwrap_or(true);
    let tables = read_tables(&mut table);
    let on = table.entry("on").and_then(|entry| read_on(&entry));
    let changed = table.entry("changed").and_then(|entry| read_changed(&entry));
    let conditions = table.entry("where").map(|entry| filter::read(&entry)).unwrap_or_default();
    let templates = read_templates(&mut table);
    let lookup = table.entry("lookup").and_then(|entry| entry.text());
    let bulk_above = table.entry("bulk_above").and_then(|entry| read_bulk_above(&entry));
    let fallback_every = table.entry("fallback_every").and_then(|entry| entry.duration());
    let redelete_after = table.entry("redelete_after").and_then(|entry| {
        let times = times::read(&entry, "delete again")?;
        Some(RedeleteSpec { span: entry.value.span(), times })
    });
    let expire_in = table.entry("expire_in").and_then(|entry| read_expire_in(&entry));
    // A mistyped verb is reported as unknown, with this beside it.
    let mut verbs = RULE_VERBS.iter().chain([&Verb::Publish]);
    if !verbs.any(|verb| table.has(verb.key())) {
        table.missing("the rule does nothing: it has no verb", VERB_EXAMPLE);
    }
    let publish = table.entry("publish").and_then(|entry| read_publish(&entry));
    let sinks = table.entry("sinks").and_then(|entry| read_sinks(&entry, sinks));
    let fallback = read_fallback(&mut table);
    let tests = table.entry("test").map(|entry| rule_test::read(&entry, &tables));
    let span = table.span.clone();
    table.finish();
    RuleSpec {
        span,
        name,
        enabled,
        tables,
        on,
        changed,
        conditions,
        templates,
        publish,
        lookup,
        bulk_above,
        sinks,
        fallback,
        fallback_every,
        redelete_after,
        expire_in,
        tests: tests.unwrap_or_default(),
    }
}

/// A name of the user's own, for a rule or a test.
pub(super) fn read_name(entry: &Entry<'_>, instead: &str) -> Option<Text> {
    let name = entry.text()?;
    if name.value.trim().is_empty() || name.value.chars().any(char::is_control) {
        entry.problem_with_help(
            format!("`{}` must be readable", entry.path),
            "empty, or with control characters",
            instead,
        );
        return None;
    }
    Some(name)
}

fn read_tables(table: &mut Table<'_>) -> Vec<Text> {
    let Some(entry) = table.entry("table") else {
        table.missing("`rule.table` is missing", TABLE_EXAMPLE);
        return Vec::new();
    };
    let is_list = entry.value.get_ref().is_array();
    let texts = if is_list { entry.texts() } else { entry.text().map(|text| vec![text]) };
    let texts = texts.unwrap_or_default();
    let is_empty = entry.items().is_some_and(|items| items.is_empty());
    if is_empty {
        entry.problem_with_help("`rule.table` names no table", "empty", TABLE_EXAMPLE);
    }
    check_repeated(&entry, &texts);
    texts
}

fn read_on(entry: &Entry<'_>) -> Option<Vec<Op>> {
    let texts = entry.texts()?;
    let is_empty = entry.items().is_some_and(|items| items.is_empty());
    if is_empty {
        let help = "leave it out for all, or write enabled = false";
        entry.problem_with_help("`rule.on` names no operation", "empty", help);
    }
    check_repeated(entry, &texts);
    let words = Op::ALL.map(|op| (op.name(), op));
    Some(texts.iter().filter_map(|text| pick(entry.reader, &entry.path, text, &words)).collect())
}

fn read_changed(entry: &Entry<'_>) -> Option<Vec<Text>> {
    let texts = entry.texts()?;
    if entry.items().is_some_and(|items| items.is_empty()) {
        let help = "leave it out, so that every update counts";
        entry.problem_with_help("`rule.changed` names no column", "empty", help);
    }
    check_repeated(entry, &texts);
    Some(texts)
}

/// The templates of every verb, in the order of [`RULE_VERBS`].
fn read_templates(table: &mut Table<'_>) -> Vec<(Verb, Text)> {
    let mut templates = Vec::new();
    for verb in RULE_VERBS {
        let Some(entry) = table.entry(verb.key()) else { continue };
        if entry.items().is_some_and(|items| items.is_empty()) {
            let message = format!("`{}` is empty", entry.path);
            entry.problem_with_help(message, "empty", "leave it out, or give it a template");
        }
        if verb == Verb::DeleteMatching && entry.value.get_ref().is_array() {
            let items = entry.items().unwrap_or_default();
            templates.extend(items.iter().filter_map(read_pattern));
            continue;
        }
        let texts = entry.texts().unwrap_or_default();
        templates.extend(texts.into_iter().map(|text| (verb, text)));
    }
    templates
}

/// A pattern, or one of keys of one type.
fn read_pattern(entry: &Entry<'_>) -> Option<(Verb, Text)> {
    let is_typed = entry.value.get_ref().as_table().is_some_and(|table| {
        let places = ["env", "file", "credential"];
        !table.keys().any(|key| places.contains(&key.get_ref().as_ref()))
    });
    if !is_typed {
        return Some((Verb::DeleteMatching, entry.text()?));
    }
    let mut table = entry.table()?;
    let pattern = table.entry("pattern").map(|entry| entry.text());
    let words = KeyType::ALL.map(|of| (of.name(), of));
    let of = table.entry("type").map(|entry| entry.one_of(&words));
    for (key, is_missing) in [("pattern", pattern.is_none()), ("type", of.is_none())] {
        if is_missing {
            table.missing(format!("`{}.{key}` is missing", entry.path), TYPED_EXAMPLE);
        }
    }
    table.finish();
    Some((Verb::DeleteTyped(of??), pattern??))
}

/// A message's channel or stream must stand in a log and in front of a zero byte.
fn read_publish(entry: &Entry<'_>) -> Option<PublishSpec> {
    if !entry.value.get_ref().is_table() {
        entry.wrong_type("a channel and a message", PUBLISH_EXAMPLE);
        return None;
    }
    let mut table = entry.table()?;
    let channel = table.entry("channel").map(|entry| (entry.text(), "channel"));
    let stream = table.entry("stream").map(|entry| (entry.text(), "stream"));
    if channel.is_none() && stream.is_none() {
        let message = format!("`{}.channel` is missing", entry.path);
        table.missing(message, PUBLISH_EXAMPLE);
    }
    let maxlen = table.entry("maxlen").map(|entry| (entry.value.span(), read_maxlen(&entry)));
    let message = table.entry("message").map(|entry| entry.text());
    table.finish();
    let is_stream = channel.is_none();
    if let (Some(_), Some((Some(stream), _))) = (&channel, &stream) {
        let problem =
            Problem::new(stream.span.clone(), "a channel and a stream", "beside a channel");
        entry.reader.report(problem.help("write another rule for the second one"));
        return None;
    }
    if let Some((span, _)) = maxlen.as_ref().filter(|_| !is_stream) {
        let problem = Problem::new(span.clone(), "`maxlen` without a stream", "nothing is kept");
        entry.reader.report(problem.help("a channel keeps no messages: leave it out"));
    }
    let (address, key) = channel.or(stream)?;
    let mut address = address?;
    if address.value.is_empty() || address.value.chars().any(char::is_control) {
        let message = format!("`{}.{key}` must be readable", entry.path);
        let problem =
            Problem::new(address.span.clone(), message, "empty, or with control characters");
        entry.reader.report(problem.help(PUBLISH_EXAMPLE));
        return None;
    }
    if address.value.contains(['{', '}']) {
        let message = format!("a {key} does not vary");
        let problem = Problem::new(address.span.clone(), message, "a brace");
        entry.reader.report(problem.help("put what varies into the message"));
        return None;
    }
    if is_stream {
        let maxlen = maxlen.map_or(Some(MAXLEN), |(_, maxlen)| maxlen)?;
        address.value = Address::stream(&address.value, maxlen);
    }
    let message = match message {
        Some(text) => Some(text?),
        None => None,
    };
    Some(PublishSpec { address, message })
}

fn read_maxlen(entry: &Entry<'_>) -> Option<u64> {
    let number = entry.value.get_ref().as_integer().and_then(|text| text.as_str().parse().ok());
    let number = number.filter(|number| (1..=MAXLEN_MAX).contains(number));
    if number.is_none() {
        let wanted = format!("a whole number from 1 to {MAXLEN_MAX}");
        entry.wrong_type(&wanted, "write maxlen = 10000");
    }
    number
}

fn read_bulk_above(entry: &Entry<'_>) -> Option<u64> {
    let number = entry.value.get_ref().as_integer().and_then(|text| text.as_str().parse().ok());
    let number = number.filter(|number| (1..=BULK_ABOVE_MAX).contains(number));
    if number.is_none() {
        let wanted = format!("a whole number from 1 to {BULK_ABOVE_MAX}");
        entry.wrong_type(&wanted, "write bulk_above = 10000");
    }
    number
}

fn read_expire_in(entry: &Entry<'_>) -> Option<ExpireSpec> {
    let time = entry.duration()?;
    if time < Duration::from_millis(1) || time > EXPIRE_IN_MAX {
        let message = format!("`{}` is no time to live on for", entry.path);
        let help = "write up to \"1d\"; leave it out, so that keys are deleted at once";
        entry.problem_with_help(message, "nothing, or more than a day", help);
        return None;
    }
    let ms = u64::try_from(time.as_millis()).ok()?;
    Some(ExpireSpec { span: entry.value.span(), ms })
}

fn read_sinks(entry: &Entry<'_>, names: &[String]) -> Option<Vec<Text>> {
    let texts = entry.texts()?;
    if entry.items().is_some_and(|items| items.is_empty()) {
        let help = "leave it out for every sink that can express the rule's actions";
        entry.problem_with_help("`rule.sinks` names no sink", "empty", help);
    }
    check_repeated(entry, &texts);
    for text in &texts {
        if names.contains(&text.value) {
            continue;
        }
        let message = format!("no sink is named `{}`", text.value);
        let problem = Problem::new(text.span.clone(), message, "unknown sink");
        let known = names.iter().map(String::as_str);
        entry.reader.report(match nearest(&text.value, known) {
            Some(known) => problem.help(format!("did you mean `{known}`?")),
            None if names.is_empty() => problem,
            None => problem.help(format!("configured: {}", list(names))),
        });
    }
    Some(texts)
}

fn read_fallback(table: &mut Table<'_>) -> FallbackSpec {
    let nothing_written = FallbackSpec::default();
    let Some(entry) = table.entry("fallback") else { return nothing_written };
    if let Some(word) = entry.value.get_ref().as_str() {
        if word == "none" {
            return FallbackSpec::None;
        }
        entry.problem_with_help(
            format!("`rule.fallback` cannot be `{word}`"),
            "not allowed",
            "write \"none\" or a section [rule.fallback]",
        );
        return nothing_written;
    }
    if !entry.value.get_ref().is_table() {
        entry.wrong_type("\"none\" or a section", "write [rule.fallback]");
        return nothing_written;
    }
    let Some(mut fallback) = entry.table() else { return nothing_written };
    let derive = fallback.entry("derive").and_then(|entry| entry.boolean()).unwrap_or(true);
    let templates = read_templates(&mut fallback);
    let publish = fallback.entry("publish").and_then(|entry| read_publish(&entry));
    fallback.finish();
    FallbackSpec::Actions { derive, templates, publish }
}

/// Reports strings that stand in a list more than once.
fn check_repeated(entry: &Entry<'_>, texts: &[Text]) {
    for (index, text) in texts.iter().enumerate() {
        if texts[..index].iter().any(|before| before.value == text.value) {
            let message = format!("`{}` is in `{}` twice", text.value, entry.path);
            entry.reader.report(Problem::new(text.span.clone(), message, "given before"));
        }
    }
}

/// Reports explicit names that two rules share.
fn check_names(root: &Table<'_>, rules: &[RuleSpec]) {
    let named: Vec<_> = rules.iter().filter_map(|rule| rule.name.as_ref()).collect();
    for (index, name) in named.iter().enumerate() {
        let Some(first) = named[..index].iter().find(|before| before.value == name.value) else {
            continue;
        };
        let message = format!("two rules are named `{}`", name.value);
        let line = root.reader.line_of(&first.span);
        let problem = Problem::new(name.span.clone(), message, "named before");
        root.reader.report(problem.help(format!("the first one is in line {line}")));
    }
}
