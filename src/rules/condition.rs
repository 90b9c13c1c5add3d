//! Conditions: whether a rule is about a row (`where`), and whether an update is one that counts
//! (`changed`).
//!
//! Where the stream does not carry a value, the answer is yes: a rule then does too much, never
//! too little.

use super::lookup::Lookup;
use super::template::{Source, Template};
use crate::change::{Change, Op, Row, Value};
use crate::glob::Glob;

/// One column of `where` and what it must be.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// The column's exact name.
    pub column: Vec<u8>,
    /// What its value must be.
    pub test: Test,
}

/// What a value must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// This text, as Postgres prints the value.
    Equals(Vec<u8>),
    /// NULL.
    Null,
    /// Text that the pattern matches, where `*` stands for any text and `?` for one byte.
    Matches(Pattern),
    /// What passes one of these.
    Any(Vec<Test>),
    /// What does not pass; NULL passes unless it is excluded by name.
    Not(Box<Test>),
}

/// A compiled pattern.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Vec<u8>,
    glob: Glob,
}

impl Pattern {
    /// Compiles a pattern; every text is one.
    pub fn new(text: &str) -> Self {
        Pattern { text: text.into(), glob: Glob::new(text.as_bytes()) }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Test {
    /// Whether a value passes; `None` is NULL.
    fn passes(&self, value: Option<&[u8]>) -> bool {
        match self {
            Test::Equals(text) => value == Some(text.as_slice()),
            Test::Null => value.is_none(),
            Test::Matches(pattern) => value.is_some_and(|value| pattern.glob.matches(value)),
            Test::Any(tests) => tests.iter().any(|test| test.passes(value)),
            Test::Not(test) => !test.passes(value),
        }
    }
}

/// What decides whether a change counts for a rule.
#[derive(Debug, Default)]
pub(super) struct Filter {
    /// All must hold, for the old row or for the new one.
    conditions: Vec<Condition>,
    /// The columns of which an update must have changed one; `None`: every update counts.
    changed: Option<Vec<Vec<u8>>>,
    /// More of them, unless they are of a lookup's result and not of the row.
    changed_if_known: Vec<Vec<u8>>,
}

impl Filter {
    /// `changed` as it was typed is joined by the columns that `conditions` and `templates` use.
    pub(super) fn new<'t>(
        conditions: Vec<Condition>,
        changed: Option<Vec<Vec<u8>>>,
        lookup: Option<&Lookup>,
        templates: impl Iterator<Item = &'t Template>,
    ) -> Self {
        let Some(mut changed) = changed else {
            return Filter { conditions, ..Filter::default() };
        };
        changed.extend(conditions.iter().map(|condition| condition.column.clone()));
        let mut rendered = Vec::new();
        for placeholder in templates.flat_map(Template::placeholders) {
            if let Source::Column { name, .. } = &placeholder.source {
                rendered.push(name.clone());
            }
        }
        let mut changed_if_known = Vec::new();
        match lookup {
            None => changed.extend(rendered),
            Some(lookup) => {
                changed.extend(lookup.bound().map(|(name, _)| name.to_vec()));
                changed_if_known = rendered;
            }
        }
        for columns in [&mut changed, &mut changed_if_known] {
            columns.sort();
            columns.dedup();
        }
        Filter { conditions, changed: Some(changed), changed_if_known }
    }

    /// The columns that it looks at.
    pub(super) fn columns(&self) -> impl Iterator<Item = &[u8]> {
        let conditions = self.conditions.iter().map(|condition| condition.column.as_slice());
        conditions.chain(self.changed.iter().flatten().map(Vec::as_slice))
    }

    /// Whether the change counts.
    pub(super) fn passes(&self, change: &Change<'_>) -> bool {
        if self.conditions.is_empty() && self.changed.is_none() {
            return true;
        }
        self.has_changed(change) && self.holds(change)
    }

    fn has_changed(&self, change: &Change<'_>) -> bool {
        let Some(columns) = &self.changed else { return true };
        let has_changed = |column: &Vec<u8>, unknown: bool| {
            match (change.old.get(column), change.new.get(column)) {
                (Value::Absent, Value::Absent) => unknown,
                // An unknown old value may have been another one.
                (Value::Absent, _) => true,
                // What the new row leaves out did not change.
                (_, Value::Absent) => false,
                (old, new) => old != new,
            }
        };
        // Who knows neither value does not even know that there is such a column.
        change.op != Op::Update
            || columns.iter().any(|column| has_changed(column, true))
            || self.changed_if_known.iter().any(|column| has_changed(column, false))
    }

    fn holds(&self, change: &Change<'_>) -> bool {
        let all = |row: Row<'_>, other: Row<'_>| {
            self.conditions.iter().all(|condition| {
                let value = match row.get(&condition.column) {
                    // An unchanged value that is left out stands in the other row, if anywhere.
                    Value::Absent => other.get(&condition.column),
                    value => value,
                };
                match value {
                    Value::Absent => true,
                    Value::Null => condition.test.passes(None),
                    Value::Text(text) => condition.test.passes(Some(text)),
                }
            })
        };
        match change.op {
            Op::Insert => all(change.new, Row::EMPTY),
            Op::Delete => all(change.old, Row::EMPTY),
            // The old row's value is never taken from the new one: it may have been another.
            Op::Update => all(change.old, Row::EMPTY) || all(change.new, change.old),
            Op::Truncate => true,
        }
    }
}
