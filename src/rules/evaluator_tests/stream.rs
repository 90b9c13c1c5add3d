//! What wal2json writes of a change, of which it knows less than everything.

use serde_json::json;

use super::COLUMNS;
use super::evaluator::{Happening, Image};
use crate::change::Op;
use crate::decode::wal2json::Nulls;

/// The types' OIDs.
const NUMERIC: u32 = 1700;
const TEXT: u32 = 25;

/// A table's settings, and the plugin's.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) identity: Identity,
    pub(super) numbers: Numbers,
    /// The columns whose values are large, and left out of the new row while they stay the same.
    pub(super) large: Vec<&'static str>,
}

/// The replica identity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Identity {
    /// The primary key `id`.
    Default,
    /// A unique index on `u`.
    Index,
    /// Every column.
    Full,
}

/// How numbers are printed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Numbers {
    /// As strings: NaN is `"NaN"`.
    Quoted,
    /// As JSON numbers: NaN is null, and so null may be NaN.
    Bare,
}

impl Stream {
    /// The line for a change.
    pub(super) fn line(&self, happening: &Happening) -> String {
        let action = match happening.op {
            Op::Insert => "I",
            Op::Update => "U",
            Op::Delete => "D",
            Op::Truncate => "T",
        };
        let mut line = format!(r#"{{"action":"{action}","schema":"public","table":"t""#);
        if let Some(new) = &happening.new {
            let names = COLUMNS.iter().filter(|name| !self.leaves_out(happening, name));
            line += &format!(r#","columns":{}"#, self.columns(new, names.copied()));
        }
        if let Some(old) = &happening.old {
            let names = COLUMNS.iter().filter(|name| self.identity.has(name));
            line += &format!(r#","identity":{}"#, self.columns(old, names.copied()));
        }
        line + "}"
    }

    /// What a null in its lines means.
    pub(super) fn nulls(&self) -> Nulls {
        match self.numbers {
            Numbers::Quoted => Nulls::Certain,
            Numbers::Bare => Nulls::ByType,
        }
    }

    fn leaves_out(&self, happening: &Happening, name: &str) -> bool {
        let (Some(old), Some(new)) = (&happening.old, &happening.new) else { return false };
        let is_same = match (&old[name], &new[name]) {
            (Some(old), Some(new)) => old.text == new.text,
            _ => false,
        };
        is_same && self.large.contains(&name)
    }

    fn columns(&self, row: &Image, names: impl Iterator<Item = &'static str>) -> String {
        let columns: Vec<String> = names
            .map(|name| {
                let value = match &row[name] {
                    None => "null".to_owned(),
                    Some(cell) if name == "n" && self.numbers == Numbers::Bare => {
                        if cell.text == "NaN" { "null".to_owned() } else { cell.text.clone() }
                    }
                    Some(cell) => json!(cell.text).to_string(),
                };
                let oid = if name == "n" { NUMERIC } else { TEXT };
                format!(r#"{{"name":"{name}","typeoid":{oid},"value":{value}}}"#)
            })
            .collect();
        format!("[{}]", columns.join(","))
    }
}

impl Identity {
    fn has(self, column: &str) -> bool {
        match self {
            Identity::Default => column == "id",
            Identity::Index => column == "u",
            Identity::Full => true,
        }
    }
}
