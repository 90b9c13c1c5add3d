//! One row's insert, update or delete, or a table's truncate, as a decoder hands it on.
//!
//! Borrowed from the decoder's message: nothing is copied. Pure: no I/O, no clock.

use std::ops::Range;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// A row was inserted.
    Insert,
    /// A row was updated.
    Update,
    /// A row was deleted.
    Delete,
    /// A table was truncated.
    Truncate,
}

impl Op {
    /// Every operation on a table.
    pub const ALL: [Op; 4] = [Op::Insert, Op::Update, Op::Delete, Op::Truncate];

    /// Its name in configuration, `explain`, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Op::Insert => "insert",
            Op::Update => "update",
            Op::Delete => "delete",
            Op::Truncate => "truncate",
        }
    }
}

/// A column's value in one image of a row.
///
/// *Absent* (the image does not say) is not `Null` (the image says NULL), and `Unclear` is neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Not carried: unchanged TOAST, or an old value outside the replica identity.
    Absent,
    /// Carried as null, which may be NULL, NaN or Infinity. Not known, and, other than unchanged
    /// TOAST, no sign that the other image holds the same.
    Unclear,
    /// SQL NULL.
    Null,
    /// The value's text, exactly as Postgres prints it.
    Text(&'a [u8]),
}

/// Where a decoder found one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// The column's name: a range of what holds the row's names.
    pub name: Range<u32>,
    /// Its value.
    pub value: FieldValue,
}

/// What a decoder found of a column's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldValue {
    /// NULL.
    Null,
    /// The message says null, where NaN and Infinity are printed so too.
    Doubtful,
    /// Text: a range of the message.
    Text(Range<u32>),
    /// Text that the message says in other words.
    Word(&'static str),
}

/// One image of a row: the columns that the stream carries of it.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// What holds the names.
    names: &'a [u8],
    /// What holds the values.
    line: &'a [u8],
    fields: &'a [Field],
}

impl<'a> Row<'a> {
    /// An image that says nothing.
    pub const EMPTY: Row<'static> = Row { names: &[], line: &[], fields: &[] };

    /// An image whose `fields` are ranges of `line`.
    pub fn new(line: &'a [u8], fields: &'a [Field]) -> Self {
        Row { names: line, line, fields }
    }

    /// An image whose names are ranges of `names`, and whose values of `line`.
    pub fn named(names: &'a [u8], line: &'a [u8], fields: &'a [Field]) -> Self {
        Row { names, line, fields }
    }

    /// Whether the stream carries nothing of this image.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The value of a column.
    pub fn get(&self, name: &[u8]) -> Value<'a> {
        self.find(name).map_or(Value::Absent, |field| self.value_of(field))
    }

    /// Whether the image names the column, even if it leaves its value in doubt.
    pub fn has(&self, name: &[u8]) -> bool {
        self.find(name).is_some()
    }

    fn find(&self, name: &[u8]) -> Option<&'a Field> {
        self.fields.iter().find(|field| slice(self.names, &field.name) == name)
    }

    /// The columns in the order of the stream.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], Value<'a>)> + use<'a> {
        let row = *self;
        row.fields.iter().map(move |field| (slice(row.names, &field.name), row.value_of(field)))
    }

    fn value_of(&self, field: &Field) -> Value<'a> {
        match &field.value {
            FieldValue::Null => Value::Null,
            FieldValue::Doubtful => Value::Unclear,
            FieldValue::Text(range) => Value::Text(slice(self.line, range)),
            FieldValue::Word(word) => Value::Text(word.as_bytes()),
        }
    }
}

fn slice<'a>(line: &'a [u8], range: &Range<u32>) -> &'a [u8] {
    line.get(range.start as usize..range.end as usize).unwrap_or_default()
}

/// One change of a table.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// What happened.
    pub op: Op,
    /// The table's schema.
    pub schema: &'a [u8],
    /// The table's name.
    pub table: &'a [u8],
    /// The row after the change; empty for a delete and a truncate.
    pub new: Row<'a>,
    /// What the stream carries of the row before the change: the replica identity's columns, or
    /// all. Empty for an insert and a truncate.
    pub old: Row<'a>,
}
