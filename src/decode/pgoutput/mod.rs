//! pgoutput's protocol, version 1: binary messages whose values are text.
//!
//! A table's names and columns come once, in a Relation message, before its first change and after
//! each alteration; changes name it by its number. So a decoder belongs to one stream. What comes
//! out says what wal2json says of the same change: `true` and `false`, bytea without `\x`, and an
//! old image of an update whose key stays the same.
//!
//! Source of the layout: "Logical Replication Message Formats" in Postgres' manual.

mod cursor;
mod relation;

use std::collections::HashMap;

use cursor::Cursor;
use relation::{Columns, Relation};

use super::{Boundary, CommitTime, DecodeError, Event, Message};
use crate::change::{Change, Field, Op, Row};
use crate::lsn::Lsn;

/// From 1970-01-01 to Postgres' epoch, 2000-01-01, in microseconds.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// How many tables a stream may tell of before a new one is better: the server forgets none that
/// it has told of, and neither may the decoder, while tables may come and go for years.
const RELATIONS_MAX: usize = 100_000;

/// Decodes the messages of one stream, one at a time.
#[derive(Debug, Default)]
pub struct Decoder {
    /// By the tables' numbers.
    relations: HashMap<u32, Relation, foldhash::fast::RandomState>,
    /// Of the messages to hand on; empty: of all.
    prefixes: Vec<String>,
    new: Vec<Field>,
    old: Vec<Field>,
}

/// A TRUNCATE: the tables that it empties, each of them a change.
#[derive(Clone, Copy, Debug)]
pub struct Truncated<'a> {
    decoder: &'a Decoder,
    /// The tables' numbers, four bytes each.
    numbers: &'a [u8],
}

impl<'a> Iterator for Truncated<'a> {
    type Item = Change<'a>;

    fn next(&mut self) -> Option<Change<'a>> {
        let (number, rest) = self.numbers.split_first_chunk()?;
        self.numbers = rest;
        // Looked up before, for all of them.
        let relation = self.decoder.relations.get(&u32::from_be_bytes(*number))?;
        let (schema, table) = (relation.schema(), relation.table());
        Some(Change { op: Op::Truncate, schema, table, new: Row::EMPTY, old: Row::EMPTY })
    }
}

impl Decoder {
    /// A decoder that hands on logical messages with these prefixes alone: pgoutput sends all.
    pub fn new(prefixes: Vec<String>) -> Self {
        Decoder { prefixes, ..Decoder::default() }
    }

    /// Decodes one message.
    ///
    /// # Errors
    /// If it is not what pgoutput writes, or names a table of which it has not told. The next one
    /// may be decoded nevertheless.
    pub fn decode<'a>(&'a mut self, message: &'a [u8]) -> Result<Event<'a>, DecodeError> {
        let mut cursor = Cursor::new(message);
        match cursor.u8()? {
            b'B' => begin(cursor),
            b'C' => commit(cursor),
            b'I' => self.row(Op::Insert, message, cursor),
            b'U' => self.row(Op::Update, message, cursor),
            b'D' => self.row(Op::Delete, message, cursor),
            b'T' => self.truncate(cursor),
            b'M' => self.logical_message(message, cursor),
            b'R' => self.relation(cursor),
            // The name of a type, and where a change comes from: neither matters.
            b'Y' | b'O' => Ok(Event::Aside),
            _ => Err(DecodeError { at: 0, what: "an unknown type of message" }),
        }
    }

    /// Whether the stream has told of so many tables that it should be started again.
    pub fn is_full(&self) -> bool {
        self.relations.len() >= RELATIONS_MAX
    }

    fn relation<'a>(&'a mut self, mut cursor: Cursor<'_>) -> Result<Event<'a>, DecodeError> {
        let number = cursor.u32()?;
        let read = self.relations.entry(number).or_default().read(&mut cursor);
        if let Err(error) = read.and_then(|()| cursor.end()) {
            // Changes of a table that is half known would be misread.
            self.relations.remove(&number);
            return Err(error);
        }
        Ok(Event::Aside)
    }

    /// An Insert, Update or Delete message.
    fn row<'a>(
        &'a mut self,
        op: Op,
        message: &'a [u8],
        mut cursor: Cursor<'_>,
    ) -> Result<Event<'a>, DecodeError> {
        let Decoder { relations, new, old, .. } = self;
        new.clear();
        old.clear();
        let Some(relation) = relations.get(&cursor.u32()?) else {
            return cursor.error("a table of which the stream has not told");
        };
        let mut kind = cursor.u8()?;
        if matches!(kind, b'K' | b'O') && op != Op::Insert {
            let columns = if kind == b'K' { Columns::Key } else { Columns::All };
            relation.tuple(&mut cursor, message, columns, old)?;
            if op == Op::Update {
                kind = cursor.u8()?;
            }
        } else if op == Op::Delete {
            return cursor.error("a delete without its old row");
        }
        if op != Op::Delete {
            if kind != b'N' {
                return cursor.error("a change without its new row");
            }
            relation.tuple(&mut cursor, message, Columns::All, new)?;
            if op == Op::Update && old.is_empty() {
                // What is not sent has not changed.
                relation.identity(new, old);
            }
        }
        cursor.end()?;
        Ok(Event::Change(Change {
            op,
            schema: relation.schema(),
            table: relation.table(),
            new: Row::named(relation.names(), message, new),
            old: Row::named(relation.names(), message, old),
        }))
    }

    fn logical_message<'a>(
        &self,
        message: &'a [u8],
        mut cursor: Cursor<'a>,
    ) -> Result<Event<'a>, DecodeError> {
        let flags = cursor.u8()?;
        let lsn = cursor.lsn()?;
        let prefix = cursor.text()?;
        let content = cursor.sized()?;
        cursor.end()?;
        let is_wanted = |wanted: &String| wanted.as_bytes() == prefix;
        if !self.prefixes.is_empty() && !self.prefixes.iter().any(is_wanted) {
            return Ok(Event::Aside);
        }
        Ok(Event::Message(Message {
            transactional: flags & IS_TRANSACTIONAL != 0,
            lsn: Some(lsn),
            prefix,
            content: message.get(content.start as usize..content.end as usize).unwrap_or_default(),
        }))
    }

    fn truncate<'a>(&'a mut self, mut cursor: Cursor<'a>) -> Result<Event<'a>, DecodeError> {
        let count = cursor.u32()?;
        // CASCADE and RESTART IDENTITY.
        cursor.u8()?;
        let numbers = cursor.take((count as usize).saturating_mul(size_of::<u32>()))?;
        cursor.end()?;
        let (chunks, _) = numbers.as_chunks();
        let is_known = |number: &[u8; 4]| self.relations.contains_key(&u32::from_be_bytes(*number));
        if !chunks.iter().all(is_known) {
            return cursor.error("a table of which the stream has not told");
        }
        Ok(Event::Truncate(Truncated { decoder: self, numbers }))
    }
}

fn begin(mut cursor: Cursor<'_>) -> Result<Event<'static>, DecodeError> {
    let commit_lsn = cursor.lsn()?;
    let committed_at = cursor.i64()?;
    let xid = cursor.u32()?;
    cursor.end()?;
    // Where the record ends is not said before the Commit. No position lies within a record, so
    // that whatever is compared with the first one behind its start is compared with its end.
    let end_lsn = Lsn(commit_lsn.0.saturating_add(1));
    Ok(Event::Begin(Boundary {
        xid: Some(xid),
        commit_lsn: Some(commit_lsn),
        end_lsn: Some(end_lsn),
        committed_at: Some(time(committed_at)),
    }))
}

fn commit(mut cursor: Cursor<'_>) -> Result<Event<'static>, DecodeError> {
    // Flags, of which there are none.
    cursor.u8()?;
    let (commit_lsn, end_lsn) = (cursor.lsn()?, cursor.lsn()?);
    let committed_at = cursor.i64()?;
    cursor.end()?;
    Ok(Event::Commit(Boundary {
        xid: None,
        commit_lsn: Some(commit_lsn),
        end_lsn: Some(end_lsn),
        committed_at: Some(time(committed_at)),
    }))
}

fn time(since_2000: i64) -> CommitTime<'static> {
    CommitTime::Micros(micros_since_1970(since_2000))
}

/// A time as messages carry it, in microseconds since Postgres' epoch, in those since 1970.
pub fn micros_since_1970(since_2000: i64) -> i64 {
    since_2000.saturating_add(EPOCH_MICROS)
}

/// Whether a message belongs to a transaction.
const IS_TRANSACTIONAL: u8 = 1;

#[cfg(test)]
mod tests;
