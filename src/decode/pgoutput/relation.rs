//! What the stream has said of a table, which its changes do not repeat.

use std::ops::Range;

use super::cursor::Cursor;
use crate::change::{Field, FieldValue};
use crate::decode::DecodeError;

/// The number of the type boolean, which prints as `t` or `f`.
const BOOL: u32 = 16;

/// The number of the type bytea, which prints with `\x` in front.
const BYTEA: u32 = 17;

/// The columns that are part of the replica identity.
const IS_KEY: u8 = 1;

/// A table as its Relation message describes it.
#[derive(Debug, Default)]
pub(super) struct Relation {
    /// The schema, the table's own name, and the columns' names, one behind the other.
    names: Vec<u8>,
    schema: Range<u32>,
    table: Range<u32>,
    columns: Vec<Column>,
}

/// One of its columns.
#[derive(Debug)]
struct Column {
    /// A range of the names.
    name: Range<u32>,
    is_key: bool,
    form: Form,
}

/// How a value's text becomes the one that rules see, which is wal2json's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// It is the same.
    AsPrinted,
    /// `t` and `f` are `true` and `false`.
    Boolean,
    /// Hexadecimal digits without the `\x` in front.
    Bytes,
}

/// Which columns of a tuple count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Columns {
    /// All.
    All,
    /// Those of the replica identity: the others are sent as NULL, whatever they hold.
    Key,
}

impl Relation {
    /// Reads the message behind its type and the table's number, in place of what was known.
    pub(super) fn read(&mut self, cursor: &mut Cursor<'_>) -> Result<(), DecodeError> {
        self.names.clear();
        self.columns.clear();
        self.schema = match cursor.text()? {
            // The protocol's word for that schema.
            b"" => push(&mut self.names, b"pg_catalog"),
            schema => push(&mut self.names, schema),
        };
        self.table = push(&mut self.names, cursor.text()?);
        // The kind of replica identity, which the columns' flags say better.
        cursor.u8()?;
        let count = cursor.count()?;
        for _ in 0..count {
            let flags = cursor.u8()?;
            let name = push(&mut self.names, cursor.text()?);
            let form = match cursor.u32()? {
                BOOL => Form::Boolean,
                BYTEA => Form::Bytes,
                _ => Form::AsPrinted,
            };
            // The type's modifier.
            cursor.u32()?;
            self.columns.push(Column { name, is_key: flags & IS_KEY != 0, form });
        }
        self.names.shrink_to_fit();
        self.columns.shrink_to_fit();
        Ok(())
    }

    pub(super) fn schema(&self) -> &[u8] {
        self.name(&self.schema)
    }

    pub(super) fn table(&self) -> &[u8] {
        self.name(&self.table)
    }

    /// What the names of fields are ranges of.
    pub(super) fn names(&self) -> &[u8] {
        &self.names
    }

    fn name(&self, range: &Range<u32>) -> &[u8] {
        self.names.get(range.start as usize..range.end as usize).unwrap_or_default()
    }

    /// Reads a tuple of this table out of `message`.
    pub(super) fn tuple(
        &self,
        cursor: &mut Cursor<'_>,
        message: &[u8],
        columns: Columns,
        fields: &mut Vec<Field>,
    ) -> Result<(), DecodeError> {
        if cursor.count()? != self.columns.len() {
            return cursor.error("another number of columns than the table has");
        }
        for column in &self.columns {
            let value = match cursor.u8()? {
                b'n' => FieldValue::Null,
                // Large, and as it was: the message does not say what.
                b'u' => continue,
                b't' => column.form.value(message, cursor.sized()?),
                _ => return cursor.error("a value that is no text"),
            };
            if columns == Columns::All || column.is_key {
                fields.push(Field { name: column.name.clone(), value });
            }
        }
        Ok(())
    }

    /// Takes the columns of the replica identity over from an image of the whole row.
    pub(super) fn identity(&self, fields: &[Field], identity: &mut Vec<Field>) {
        let mut keys = self.columns.iter().filter(|column| column.is_key).peekable();
        // Both are in the table's order.
        for field in fields {
            while keys.next_if(|key| key.name.start < field.name.start).is_some() {}
            if keys.next_if(|key| key.name.start == field.name.start).is_some() {
                identity.push(field.clone());
            }
        }
    }
}

impl Form {
    fn value(self, message: &[u8], range: Range<u32>) -> FieldValue {
        let text = message.get(range.start as usize..range.end as usize).unwrap_or_default();
        match (self, text) {
            (Form::Boolean, b"t") => FieldValue::Word("true"),
            (Form::Boolean, b"f") => FieldValue::Word("false"),
            (Form::Bytes, [b'\\', b'x', ..]) => FieldValue::Text(range.start + 2..range.end),
            _ => FieldValue::Text(range),
        }
    }
}

/// Names are short: they fit into a message.
fn push(names: &mut Vec<u8>, name: &[u8]) -> Range<u32> {
    let start = names.len() as u32;
    names.extend_from_slice(name);
    start..names.len() as u32
}
