//! Reads one value of the document as what it has to be, or reports what is allowed.

use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::indirect;
use super::secret::Secret;
use super::table::{Reader, Table, list};
use crate::problem::{Problem, Span, Text, nearest};

/// A key and its value.
pub(super) struct Entry<'a> {
    pub(super) reader: &'a Reader<'a>,
    /// The dotted name, as in `redis.cache.url`.
    pub(super) path: String,
    /// Where the key stands.
    pub(super) key: Span,
    pub(super) value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Entry<'a> {
    pub(super) fn new(
        reader: &'a Reader<'a>,
        path: String,
        key: Span,
        value: &'a Spanned<DeValue<'a>>,
    ) -> Self {
        Entry { reader, path, key, value }
    }

    /// Notes a problem of the value.
    pub(super) fn problem(&self, message: impl Into<String>, label: impl Into<String>) {
        self.reader.report(Problem::new(self.value.span(), message, label));
    }

    /// Notes a problem of the value, with what mends it.
    pub(super) fn problem_with_help(
        &self,
        message: impl Into<String>,
        label: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.reader.report(Problem::new(self.value.span(), message, label).help(help));
    }

    /// Notes that the value is of a wrong type.
    pub(super) fn wrong_type(&self, wanted: &str, help: &str) {
        let message = format!("`{}` must be {wanted}", self.path);
        let label = format!("this is {}", type_name(self.value.get_ref()));
        self.problem_with_help(message, label, help);
    }

    /// A string, or what its `{ env = … }`, `{ file = … }` or `{ credential = … }` holds.
    pub(super) fn text(&self) -> Option<Text> {
        if let DeValue::String(value) = self.value.get_ref() {
            return Some(Text { value: value.to_string(), span: self.value.span() });
        }
        if !self.value.get_ref().is_table() {
            self.wrong_type("a string", "write \"…\" or { env = \"NAME\" }");
            return None;
        }
        let secret = indirect::read(self)?;
        match secret.resolve_text() {
            Ok(value) => Some(Text { value, span: self.value.span() }),
            Err(error) => {
                self.problem_with_help(error.to_line(), "cannot be read", error.hint());
                None
            }
        }
    }

    /// A string that is not to be shown, or where it will come from.
    pub(super) fn secret(&self) -> Option<Secret> {
        match self.value.get_ref() {
            DeValue::String(value) => Some(Secret::literal(&self.path, value)),
            DeValue::Table(_) => indirect::read(self),
            _ => {
                let help = "write \"…\", { env = \"NAME\" }, { file = \"PATH\" } or \
                            { credential = \"NAME\" }";
                self.wrong_type("a string", help);
                None
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Option<bool> {
        let value = self.value.get_ref().as_bool();
        if value.is_none() {
            self.wrong_type("`true` or `false`", "write it without quotes");
        }
        value
    }

    /// A whole number from `least` to `most`; `example` is what to write.
    pub(super) fn number(&self, least: u32, most: u32, example: &str) -> Option<u32> {
        let number = self.value.get_ref().as_integer().and_then(|text| text.as_str().parse().ok());
        let number = number.filter(|number| (least..=most).contains(number));
        if number.is_none() {
            let wanted = format!("a whole number from {least} to {most}");
            self.wrong_type(&wanted, &format!("write {example}"));
        }
        number
    }

    /// A length of time: "30s", "1h 30m".
    pub(super) fn duration(&self) -> Option<Duration> {
        const HELP: &str = "write a number and a unit: \"500ms\", \"30s\", \"5m\", \"1h\"";
        if !matches!(self.value.get_ref(), DeValue::String(_) | DeValue::Table(_)) {
            self.wrong_type("a duration", HELP);
            return None;
        }
        let text = self.text()?;
        let duration = humantime::parse_duration(&text.value).ok();
        if duration.is_none() {
            let message = format!("`{}` is not a duration: `{}`", self.path, text.value);
            self.problem_with_help(message, "not a duration", HELP);
        }
        duration
    }

    /// A number of bytes: "512MiB", "4GiB".
    pub(super) fn size(&self) -> Option<u64> {
        const HELP: &str = "write a number and a unit: \"512MiB\", \"4GiB\"";
        if !matches!(self.value.get_ref(), DeValue::String(_) | DeValue::Table(_)) {
            self.wrong_type("a size", HELP);
            return None;
        }
        let text = self.text()?;
        let size = text.value.parse::<bytesize::ByteSize>().ok();
        if size.is_none() {
            let message = format!("`{}` is not a size: `{}`", self.path, text.value);
            self.problem_with_help(message, "not a size", HELP);
        }
        size.map(|size| size.as_u64())
    }

    /// One of a few words.
    pub(super) fn one_of<T: Copy>(&self, words: &[(&'static str, T)]) -> Option<T> {
        let text = self.text()?;
        pick(self.reader, &self.path, &text, words)
    }

    /// A list of strings.
    pub(super) fn texts(&self) -> Option<Vec<Text>> {
        let Some(items) = self.items() else {
            let help = match self.value.get_ref() {
                DeValue::String(value) => format!("write [{:?}]", value.as_ref()),
                _ => "write [\"…\", \"…\"]".to_owned(),
            };
            self.wrong_type("a list of strings", &help);
            return None;
        };
        Some(items.iter().filter_map(Entry::text).collect())
    }

    /// The items of a list; `None` if it is none.
    pub(super) fn items(&self) -> Option<Vec<Entry<'a>>> {
        let DeValue::Array(items) = self.value.get_ref() else { return None };
        let path = &self.path;
        let entry = |(index, item): (usize, &'a Spanned<DeValue<'a>>)| {
            Entry::new(self.reader, format!("{path}[{index}]"), item.span(), item)
        };
        Some(items.iter().enumerate().map(entry).collect())
    }

    /// A table.
    pub(super) fn table(&self) -> Option<Table<'a>> {
        let Some(entries) = self.value.get_ref().as_table() else {
            self.wrong_type("a section", &format!("write [{}]", self.path));
            return None;
        };
        Some(Table::new(self.reader, &self.path, self.value.span(), entries))
    }

    /// A list of tables, `[[name]]`.
    pub(super) fn tables(&self) -> Vec<Table<'a>> {
        let help = format!("write [[{}]]", self.path);
        let Some(items) = self.items() else {
            self.wrong_type("a list of sections", &help);
            return Vec::new();
        };
        let table = |item: &Entry<'a>| match item.value.get_ref().as_table() {
            Some(entries) => Some(Table::new(self.reader, &self.path, item.value.span(), entries)),
            None => {
                item.wrong_type("a section", &help);
                None
            }
        };
        items.iter().filter_map(table).collect()
    }
}

/// The meaning of `text`, which has to be one of `words`.
pub(super) fn pick<T: Copy>(
    reader: &Reader<'_>,
    path: &str,
    text: &Text,
    words: &[(&'static str, T)],
) -> Option<T> {
    let found = words.iter().find(|(word, _)| *word == text.value);
    if found.is_none() {
        let names: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        let allowed = format!("allowed: {}", list(&names));
        let help = match nearest(&text.value, names.iter().copied()) {
            Some(known) => format!("did you mean `{known}`? {allowed}"),
            None => allowed,
        };
        let message = format!("`{path}` cannot be `{}`", text.value);
        reader.report(Problem::new(text.span.clone(), message, "not allowed").help(help));
    }
    found.map(|(_, meaning)| *meaning)
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}
