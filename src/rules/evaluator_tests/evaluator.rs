//! What a rule means, by the words of its documentation, to somebody who knows both rows in full.
//!
//! Slow, plain, and without a line of what it is compared with.

use std::collections::{BTreeMap, BTreeSet};

use crate::action::Verb;
use crate::change::Op;

/// A row: each column's value; `None` is NULL.
pub(super) type Image = BTreeMap<&'static str, Option<Cell>>;

/// What there is to do.
pub(super) type Actions = BTreeSet<(Verb, Vec<u8>)>;

/// A value.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    /// As Postgres prints it.
    pub(super) text: String,
    /// What `[]` takes it apart into.
    pub(super) elements: Vec<Option<String>>,
}

/// A change, and the rows that an outsider would not see.
#[derive(Clone, Debug)]
pub(super) struct Happening {
    pub(super) op: Op,
    pub(super) old: Option<Image>,
    pub(super) new: Option<Image>,
}

#[derive(Clone, Debug)]
pub(super) struct PlainRule {
    pub(super) on: Vec<Op>,
    pub(super) changed: Option<Vec<&'static str>>,
    pub(super) conditions: Vec<(&'static str, Check)>,
    pub(super) templates: Vec<(Verb, Vec<Piece>)>,
}

/// One column's part of `where`.
#[derive(Clone, Debug)]
pub(super) enum Check {
    Is(&'static str),
    Null,
    Like(Vec<Wild>),
    OneOf(Vec<Check>),
    Not(Box<Check>),
}

/// A part of what `matches` takes.
#[derive(Clone, Debug)]
pub(super) enum Wild {
    Text(&'static str),
    Star,
    One,
}

/// A part of a template.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    Text(&'static str),
    Op,
    Column { pick: Pick, name: &'static str, elements: bool, filters: Vec<Change> },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Pick {
    Bare,
    Old,
    New,
}

/// A filter.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Lower,
    First(usize),
    UrlEncode,
    Default(&'static str),
}

impl PlainRule {
    /// The exact actions; a truncate has none.
    pub(super) fn asks_for(&self, happening: &Happening) -> Actions {
        if !self.on.contains(&happening.op) || happening.op == Op::Truncate {
            return Actions::new();
        }
        if let (Op::Update, Some(_)) = (happening.op, &self.changed)
            && !self.filter_columns().iter().any(|name| differs(happening, name))
        {
            return Actions::new();
        }
        let holds = |row: &Option<Image>| {
            row.as_ref().is_some_and(|row| {
                self.conditions.iter().all(|(name, check)| check.passes(text(row, name)))
            })
        };
        if !holds(&happening.old) && !holds(&happening.new) {
            return Actions::new();
        }
        self.values(happening)
    }

    /// What the templates come to, whatever `on`, `changed` and `where` say.
    pub(super) fn values(&self, happening: &Happening) -> Actions {
        let mut actions = Actions::new();
        for (verb, pieces) in &self.templates {
            for value in values(*verb, pieces, happening) {
                actions.insert((*verb, value));
            }
        }
        actions
    }

    /// Every column that decides whether an update counts.
    fn filter_columns(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.changed.iter().flatten().copied().collect();
        names.extend(self.conditions.iter().map(|(name, _)| *name));
        for (_, pieces) in &self.templates {
            for piece in pieces {
                if let Piece::Column { name, .. } = piece {
                    names.push(name);
                }
            }
        }
        names
    }

    /// Whether the rule looks at a column.
    pub(super) fn looks_at(&self, column: &str) -> bool {
        self.filter_columns().contains(&column)
    }
}

fn text<'r>(row: &'r Image, name: &str) -> Option<&'r str> {
    row[name].as_ref().map(|cell| cell.text.as_str())
}

fn differs(happening: &Happening, name: &str) -> bool {
    match (&happening.old, &happening.new) {
        (Some(old), Some(new)) => text(old, name) != text(new, name),
        _ => true,
    }
}

impl Check {
    fn passes(&self, value: Option<&str>) -> bool {
        match self {
            Check::Is(text) => value == Some(*text),
            Check::Null => value.is_none(),
            Check::Like(wilds) => value.is_some_and(|value| like(wilds, value.as_bytes())),
            Check::OneOf(checks) => checks.iter().any(|check| check.passes(value)),
            Check::Not(check) => !check.passes(value),
        }
    }
}

fn like(wilds: &[Wild], text: &[u8]) -> bool {
    let Some((first, rest)) = wilds.split_first() else { return text.is_empty() };
    match first {
        Wild::Text(start) => {
            text.strip_prefix(start.as_bytes()).is_some_and(|tail| like(rest, tail))
        }
        Wild::One => !text.is_empty() && like(rest, &text[1..]),
        Wild::Star => (0..=text.len()).any(|skipped| like(rest, &text[skipped..])),
    }
}

/// The values of one template: of each row that it is filled in for, of each element.
fn values(verb: Verb, pieces: &[Piece], happening: &Happening) -> Vec<Vec<u8>> {
    let (old, new) = (happening.old.as_ref(), happening.new.as_ref());
    let has_bare =
        pieces.iter().any(|piece| matches!(piece, Piece::Column { pick: Pick::Bare, .. }));
    let rows: Vec<&Image> = match (old, new) {
        (Some(old), Some(new)) if has_bare => vec![old, new],
        (_, Some(row)) | (Some(row), None) => vec![row],
        (None, None) => vec![],
    };
    let mut values = Vec::new();
    for bare in rows {
        let row_of = |pick| match pick {
            Pick::Bare => Some(bare),
            Pick::Old => old,
            Pick::New => new,
        };
        for element in elements(pieces, &row_of) {
            let filled: Option<Vec<Vec<u8>>> = pieces
                .iter()
                .map(|piece| fill(piece, verb, happening.op, element.as_deref(), &row_of))
                .collect();
            values.extend(filled.map(|parts| parts.concat()));
        }
    }
    values
}

/// What the template's list stands for, in turn: its elements, or NULL where it is NULL.
fn elements<'r>(
    pieces: &[Piece],
    row_of: &dyn Fn(Pick) -> Option<&'r Image>,
) -> Vec<Option<String>> {
    for piece in pieces {
        if let Piece::Column { pick, name, elements: true, .. } = piece {
            let Some(row) = row_of(*pick) else { return vec![] };
            let Some(list) = &row[name] else { return vec![None] };
            return list.elements.iter().filter(|element| element.is_some()).cloned().collect();
        }
    }
    vec![None]
}

/// What a piece comes to; `None` if the action is skipped.
fn fill<'r>(
    piece: &Piece,
    verb: Verb,
    op: Op,
    element: Option<&str>,
    row_of: &dyn Fn(Pick) -> Option<&'r Image>,
) -> Option<Vec<u8>> {
    let mut value = match piece {
        Piece::Text(text) => return Some(text.as_bytes().to_vec()),
        Piece::Op => Some(op.name().to_owned()),
        Piece::Column { elements: true, .. } => element.map(str::to_owned),
        Piece::Column { pick, name, .. } => text(row_of(*pick)?, name).map(str::to_owned),
    };
    if let Piece::Column { filters, .. } = piece {
        for filter in filters {
            value = filter.apply(value);
        }
    }
    let mut filled = Vec::new();
    for byte in value?.bytes() {
        if verb == Verb::DeleteMatching && b"*?[]\\".contains(&byte) {
            filled.push(b'\\');
        }
        filled.push(byte);
    }
    Some(filled)
}

impl Change {
    fn apply(&self, value: Option<String>) -> Option<String> {
        match self {
            Change::Default(text) => value.or_else(|| Some((*text).to_owned())),
            Change::Lower => value.map(|text| text.to_lowercase()),
            Change::First(count) => value.map(|text| text.chars().take(*count).collect()),
            Change::UrlEncode => value.map(|text| {
                let encode = |byte: u8| match byte {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                        char::from(byte).to_string()
                    }
                    _ => format!("%{byte:02X}"),
                };
                text.bytes().map(encode).collect()
            }),
        }
    }
}
