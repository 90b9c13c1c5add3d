//! Reads a table of the document key by key: what is asked for is known, the rest is a problem.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::credentials::Credentials;
use super::entry::Entry;
use super::render::Source;
use crate::problem::{Problem, Span, nearest};

/// What the walk through the document shares: the problems found so far.
pub(super) struct Reader<'a> {
    source: &'a Source,
    /// Behind a cell, so that tables that are read side by side can all report.
    problems: RefCell<Vec<Problem>>,
    pub(super) credentials: Credentials,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a Source) -> Self {
        let credentials = Credentials::of(&source.name);
        Reader { source, problems: RefCell::new(Vec::new()), credentials }
    }

    /// Notes a problem.
    pub(super) fn report(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// Notes the parser's errors; says whether the tree is unusable.
    ///
    /// A key that is given twice spoils nothing else, so that the rest is still read.
    pub(super) fn syntax_errors(&self, errors: &[toml::de::Error]) -> bool {
        let mut unusable = false;
        for error in errors {
            let span = error.span().unwrap_or(super::START);
            let problem = if error.message() == "duplicate key" {
                let key = self.source.text.get(span.clone()).unwrap_or_default();
                Problem::new(span, format!("`{key}` is given twice"), "given before")
            } else {
                unusable = true;
                Problem::new(span, format!("not TOML: {}", error.message()), "here")
            };
            self.report(problem);
        }
        unusable
    }

    /// The line of `span`'s start, from 1.
    pub(super) fn line_of(&self, span: &Span) -> usize {
        self.source.line_of(span)
    }

    /// The directory that relative paths in the file are relative to: its own.
    pub(super) fn directory(&self) -> PathBuf {
        Path::new(&self.source.name).parent().map(Path::to_path_buf).unwrap_or_default()
    }

    /// Every problem, in the order in which they were found.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }
}

/// A table that is being read.
pub(super) struct Table<'a> {
    pub(super) reader: &'a Reader<'a>,
    /// Its dotted name, as in `redis.cache`; empty for the document.
    path: String,
    /// Its header, or its braces.
    pub(super) span: Span,
    entries: &'a DeTable<'a>,
    /// The keys that were asked for, which are those that are known.
    asked: Vec<&'static str>,
}

impl<'a> Table<'a> {
    pub(super) fn new(
        reader: &'a Reader<'a>,
        path: impl Into<String>,
        span: Span,
        entries: &'a DeTable<'a>,
    ) -> Self {
        Table { reader, path: path.into(), span, entries, asked: Vec::new() }
    }

    /// The entry of a key, which is a known one from now on.
    pub(super) fn entry(&mut self, key: &'static str) -> Option<Entry<'a>> {
        self.asked.push(key);
        let (name, value) = self.entries.get_key_value(key)?;
        Some(Entry::new(self.reader, self.path_of(key), name.span(), value))
    }

    /// Every entry, in the order of the file: for tables whose keys are names of the user's own.
    pub(super) fn entries(&self) -> Vec<(&'a str, Entry<'a>)> {
        let mut entries: Vec<_> = self
            .entries
            .iter()
            .map(|(name, value)| {
                let key: &'a str = name.get_ref();
                (key, Entry::new(self.reader, self.path_of(key), name.span(), value))
            })
            .collect();
        entries.sort_by_key(|(_, entry)| entry.key.start);
        entries
    }

    /// The table under a key, which is a known one from now on.
    pub(super) fn table(&mut self, key: &'static str) -> Option<Table<'a>> {
        self.entry(key)?.table()
    }

    /// Whether the key is given, rightly or not.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// The keys of the table under `key`, if there is one, and where they stand.
    pub(super) fn keys_under(&self, key: &str) -> Vec<(String, Span)> {
        let table = self.entries.get(key).and_then(|value| value.get_ref().as_table());
        let keys = table.into_iter().flat_map(|table| table.keys());
        let mut keys: Vec<_> = keys.map(|key| (key.to_string(), key.span())).collect();
        keys.sort_by_key(|(_, span)| span.start);
        keys
    }

    /// Notes that something required is not here; `example` is what to write.
    pub(super) fn missing(&self, message: impl Into<String>, example: &str) {
        let label = if self.path.is_empty() { "in this file" } else { "in this section" };
        let problem = Problem::new(self.span.clone(), message, label);
        self.reader.report(problem.help(format!("write, for example:\n{example}")));
    }

    /// Reports every key that nobody asked for.
    pub(super) fn finish(self) {
        for (key, value) in self.entries.iter() {
            let name: &str = key.get_ref();
            if self.asked.contains(&name) {
                continue;
            }
            self.reader.report(self.unknown(name, key.span(), value));
        }
    }

    fn unknown(&self, name: &str, span: Span, value: &Spanned<DeValue<'_>>) -> Problem {
        let what = match value.get_ref() {
            DeValue::Table(_) => "section",
            DeValue::Array(items) if items.iter().any(|item| item.get_ref().is_table()) => {
                "section"
            }
            _ => "key",
        };
        let place = match self.path.as_str() {
            "" => "at the top of the file".to_owned(),
            path => format!("in `{path}`"),
        };
        let problem = Problem::new(
            span,
            format!("unknown {what} `{name}` {place}"),
            format!("unknown {what}"),
        );
        match nearest(name, self.asked.iter().copied()) {
            Some(known) => problem.help(format!("did you mean `{known}`?")),
            None => problem.help(format!("known here: {}", list(&self.asked))),
        }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

/// "`a`, `b`, `c`".
pub(super) fn list<S: AsRef<str>>(names: &[S]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{}`", name.as_ref())).collect();
    quoted.join(", ")
}
