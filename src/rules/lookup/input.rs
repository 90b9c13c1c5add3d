//! What a lookup needs to know of the change, as the value of an action: equal bytes ask for the
//! same thing, so that they are asked once.
//!
//! ```text
//! input  = op:u8 flag:u8 [ xid:u32 ] [ commit_lsn:u64 ] text(schema) text(table)
//!          { value }            one for each parameter
//!          { value value }      old and new, for each column that templates use
//! value  = 0 (absent) | 1 (NULL) | 2 text
//! text   = length:u32 bytes     numbers in little endian
//! ```

use crate::change::{Change, Op, Value};
use crate::lsn::Lsn;
use crate::rules::Facts;

const ABSENT: u8 = 0;
const NULL: u8 = 1;
const TEXT: u8 = 2;

const HAS_XID: u8 = 1;
const HAS_LSN: u8 = 2;

pub(super) fn write_head(change: &Change<'_>, facts: Facts, to: &mut Vec<u8>) {
    let flags = if facts.xid.is_some() { HAS_XID } else { 0 }
        | if facts.commit_lsn.is_some() { HAS_LSN } else { 0 };
    to.extend_from_slice(&[change.op as u8, flags]);
    if let Some(xid) = facts.xid {
        to.extend_from_slice(&xid.to_le_bytes());
    }
    if let Some(lsn) = facts.commit_lsn {
        to.extend_from_slice(&lsn.0.to_le_bytes());
    }
    write_text(change.schema, to);
    write_text(change.table, to);
}

pub(super) fn write_value(value: Value<'_>, to: &mut Vec<u8>) {
    match value {
        Value::Absent => to.push(ABSENT),
        Value::Null => to.push(NULL),
        Value::Text(text) => {
            to.push(TEXT);
            write_text(text, to);
        }
    }
}

/// A value of a row is shorter than a message of the stream, and so than 2³² bytes.
fn write_text(text: &[u8], to: &mut Vec<u8>) {
    to.extend_from_slice(&(text.len() as u32).to_le_bytes());
    to.extend_from_slice(text);
}

/// A lookup's value, read.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    pub(super) op: Op,
    pub(super) facts: Facts,
    /// The change's table.
    pub schema: &'a [u8],
    /// Its name.
    pub table: &'a [u8],
    /// The values that follow.
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// Reads what [`write_head`] and its siblings wrote; `None` for anything else.
    pub fn read(value: &'a [u8]) -> Option<Self> {
        let mut rest = value;
        let [op, flags] = *take::<2>(&mut rest)?;
        let op = *Op::ALL.iter().find(|known| **known as u8 == op)?;
        let mut facts = Facts::default();
        if flags & HAS_XID != 0 {
            facts.xid = Some(u32::from_le_bytes(*take(&mut rest)?));
        }
        if flags & HAS_LSN != 0 {
            facts.commit_lsn = Some(Lsn(u64::from_le_bytes(*take(&mut rest)?)));
        }
        let (schema, table) = (take_text(&mut rest)?, take_text(&mut rest)?);
        Some(Input { op, facts, schema, table, rest })
    }

    /// The parameters, and then the old and the new value of each column.
    pub(super) fn values(&self) -> Values<'a> {
        Values { rest: self.rest }
    }

    /// The first `count` values, which are the parameters'; `None` is NULL.
    pub fn parameters(&self, count: usize) -> impl Iterator<Item = Option<&'a str>> + use<'a> {
        self.values().take(count).map(|value| match value {
            Value::Text(text) => std::str::from_utf8(text).ok(),
            Value::Null | Value::Absent => None,
        })
    }
}

/// Reads values one by one.
pub(super) struct Values<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        let [kind] = *take::<1>(&mut self.rest)?;
        match kind {
            ABSENT => Some(Value::Absent),
            NULL => Some(Value::Null),
            _ => take_text(&mut self.rest).map(Value::Text),
        }
    }
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(taken)
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(*take(rest)?) as usize;
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::change::Row;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            schema: Vec<u8>, table: Vec<u8>, xid: Option<u32>, lsn: Option<u64>,
            values in prop::collection::vec(any::<Option<Option<Vec<u8>>>>(), 0..8),
        ) {
            let change = Change {
                op: Op::Update, schema: &schema, table: &table, new: Row::EMPTY, old: Row::EMPTY,
            };
            let facts = Facts { xid, commit_lsn: lsn.map(Lsn) };
            let values: Vec<_> = values.iter().map(|value| match value {
                None => Value::Absent,
                Some(None) => Value::Null,
                Some(Some(text)) => Value::Text(text),
            }).collect();
            let mut bytes = Vec::new();
            write_head(&change, facts, &mut bytes);
            values.iter().for_each(|&value| write_value(value, &mut bytes));
            let input = Input::read(&bytes).unwrap();
            prop_assert_eq!((input.op, input.facts), (Op::Update, facts));
            prop_assert_eq!((input.schema, input.table), (&schema[..], &table[..]));
            prop_assert_eq!(input.values().collect::<Vec<_>>(), values);
        }

        #[test]
        fn anything_else_is_refused_or_read_without_panic(bytes: Vec<u8>) {
            if let Some(input) = Input::read(&bytes) {
                let _ = input.values().count();
            }
        }
    }
}
