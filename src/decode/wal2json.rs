//! wal2json's format 2: one JSON object for each begin, change, message and commit.
//!
//! Source of the layout: wal2json's README and its `pg_decode_write_tuple`.

use std::ops::Range;

use super::json::{Cursor, Scalar};
use super::{Boundary, CommitTime, DecodeError, Event, Message};
use crate::change::{Change, Field, FieldValue, Op, Row};
use crate::lsn::Lsn;

/// Decodes lines one at a time, and keeps its memory from one to the next.
#[derive(Debug, Default)]
pub struct Decoder {
    nulls: Nulls,
    columns: Vec<Field>,
    identity: Vec<Field>,
}

/// What a null in a line means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Nulls {
    /// NULL.
    #[default]
    Certain,
    /// NaN and Infinity print as null as well. It is NULL where the column's type has neither;
    /// where the line does not tell the type, nobody knows.
    ByType,
}

/// Where the parts of an object stand in its line.
#[derive(Default)]
struct Object {
    action: Option<u8>,
    xid: Option<u32>,
    lsn: Option<Lsn>,
    next_lsn: Option<Lsn>,
    timestamp: Option<Range<u32>>,
    schema: Option<Range<u32>>,
    table: Option<Range<u32>>,
    transactional: bool,
    prefix: Option<Range<u32>>,
    content: Option<Range<u32>>,
}

impl Decoder {
    /// A decoder for lines in which a null means this.
    pub fn new(nulls: Nulls) -> Self {
        Decoder { nulls, ..Decoder::default() }
    }

    /// What a null of its lines means.
    pub fn nulls(&self) -> Nulls {
        self.nulls
    }

    /// Decodes one line. Its strings are unescaped in place, so it can be decoded only once.
    ///
    /// # Errors
    /// If the line is not an object that wal2json writes.
    pub fn decode<'a>(&'a mut self, line: &'a mut [u8]) -> Result<Event<'a>, DecodeError> {
        let object = self.object(line)?;
        let part = |range: &Option<Range<u32>>, what| match range {
            Some(range) => Ok(&line[range.start as usize..range.end as usize]),
            None => Err(DecodeError { at: line.len(), what }),
        };
        let boundary = || Boundary {
            xid: object.xid,
            commit_lsn: object.lsn,
            end_lsn: object.next_lsn,
            committed_at: part(&object.timestamp, "").ok().map(CommitTime::Printed),
        };
        let change = |op| {
            let identity = Row::new(line, &self.identity);
            Ok(Event::Change(Change {
                op,
                schema: part(&object.schema, "a change without `schema`")?,
                table: part(&object.table, "a change without `table`")?,
                new: Row::new(line, &self.columns),
                old: identity,
            }))
        };
        match object.action {
            Some(b'B') => Ok(Event::Begin(boundary())),
            Some(b'C') => Ok(Event::Commit(boundary())),
            Some(b'I') => change(Op::Insert),
            Some(b'U') => change(Op::Update),
            Some(b'D') => change(Op::Delete),
            Some(b'T') => change(Op::Truncate),
            Some(b'M') => Ok(Event::Message(Message {
                transactional: object.transactional,
                lsn: object.lsn,
                prefix: part(&object.prefix, "a message without `prefix`")?,
                content: part(&object.content, "a message without `content`")?,
            })),
            Some(_) => Err(DecodeError { at: 0, what: "an unknown `action`" }),
            None => Err(DecodeError { at: line.len(), what: "an object without `action`" }),
        }
    }

    fn object(&mut self, line: &mut [u8]) -> Result<Object, DecodeError> {
        self.columns.clear();
        self.identity.clear();
        let mut cursor = Cursor::new(line)?;
        let mut object = Object::default();
        cursor.expect(b'{', "expected a JSON object")?;
        let mut first = true;
        while let Some(key) = cursor.key(first)? {
            first = false;
            match cursor.slice(&key) {
                b"action" => object.action = Some(one_letter(&mut cursor)?),
                b"xid" => object.xid = number(&mut cursor)?,
                b"lsn" => object.lsn = lsn(&mut cursor)?,
                b"nextlsn" => object.next_lsn = lsn(&mut cursor)?,
                b"timestamp" => object.timestamp = text(&mut cursor)?,
                b"schema" => object.schema = text(&mut cursor)?,
                b"table" => object.table = text(&mut cursor)?,
                b"transactional" => object.transactional = boolean(&mut cursor)?,
                b"prefix" => object.prefix = text(&mut cursor)?,
                b"content" => object.content = text(&mut cursor)?,
                b"columns" => fields(&mut cursor, self.nulls, &mut self.columns)?,
                b"identity" => fields(&mut cursor, self.nulls, &mut self.identity)?,
                _ => cursor.skip()?,
            }
        }
        cursor.end()?;
        Ok(object)
    }
}

/// The types that have NaN and Infinity: float4, float8 and numeric. A domain over one of them has
/// a number of its own, and prints them as text.
const NAN_TYPES: [&[u8]; 3] = [b"700", b"701", b"1700"];

/// An array of `{"name": …, "value": …}`, with `"typeoid": …` in between if that was asked for.
fn fields(
    cursor: &mut Cursor<'_>,
    nulls: Nulls,
    fields: &mut Vec<Field>,
) -> Result<(), DecodeError> {
    fields.clear();
    cursor.expect(b'[', "expected a list of columns")?;
    while cursor.element(fields.is_empty())? {
        cursor.expect(b'{', "expected a column")?;
        let (mut name, mut value) = (None, None);
        let mut null = match nulls {
            Nulls::Certain => FieldValue::Null,
            Nulls::ByType => FieldValue::Doubtful,
        };
        let mut first = true;
        while let Some(key) = cursor.key(first)? {
            first = false;
            match cursor.slice(&key) {
                b"name" => name = text(cursor)?,
                b"value" => value = Some(cursor.scalar()?),
                b"typeoid" if nulls == Nulls::ByType => {
                    if let Scalar::Text(oid) = cursor.scalar()?
                        && !NAN_TYPES.contains(&cursor.slice(&oid))
                    {
                        null = FieldValue::Null;
                    }
                }
                _ => cursor.skip()?,
            }
        }
        let (Some(name), Some(value)) = (name, value) else {
            return cursor.error("a column without `name` or `value`");
        };
        let value = match value {
            Scalar::Null => null,
            Scalar::Text(range) => FieldValue::Text(range),
        };
        fields.push(Field { name, value });
    }
    Ok(())
}

fn text(cursor: &mut Cursor<'_>) -> Result<Option<Range<u32>>, DecodeError> {
    match cursor.peek() {
        Some(b'n') => cursor.scalar().map(|_| None),
        _ => cursor.string().map(Some),
    }
}

fn one_letter(cursor: &mut Cursor<'_>) -> Result<u8, DecodeError> {
    let letter = cursor.string()?;
    match *cursor.slice(&letter) {
        [letter] => Ok(letter),
        _ => cursor.error("an unknown `action`"),
    }
}

fn boolean(cursor: &mut Cursor<'_>) -> Result<bool, DecodeError> {
    match cursor.peek() {
        Some(b't' | b'f') => {
            let scalar = cursor.scalar()?;
            Ok(matches!(scalar, Scalar::Text(word) if cursor.slice(&word) == b"true"))
        }
        _ => cursor.error("expected true or false"),
    }
}

fn number(cursor: &mut Cursor<'_>) -> Result<Option<u32>, DecodeError> {
    let Scalar::Text(digits) = cursor.scalar()? else { return Ok(None) };
    match ascii(cursor.slice(&digits)).and_then(|digits| digits.parse().ok()) {
        Some(number) => Ok(Some(number)),
        None => cursor.error("expected a transaction ID"),
    }
}

fn lsn(cursor: &mut Cursor<'_>) -> Result<Option<Lsn>, DecodeError> {
    let Some(range) = text(cursor)? else { return Ok(None) };
    match ascii(cursor.slice(&range)).and_then(|text| text.parse().ok()) {
        Some(lsn) => Ok(Some(lsn)),
        None => cursor.error("expected an LSN like 16/B374D848"),
    }
}

fn ascii(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests;
