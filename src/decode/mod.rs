//! From an output plugin's bytes to [`Event`]s.
//!
//! Pure: no I/O, no clock. What goes in is one message of the stream; what comes out borrows from
//! it. Input that does not parse is an error, never a panic.

mod json;
mod notice;
pub mod pgoutput;
pub mod wal2json;

pub(crate) use json::json_array;
pub use notice::{DroppedChange, dropped_change, waits_for_standby};
pub use wal2json::Nulls;

use crate::change::Change;
use crate::lsn::Lsn;

/// One message of the stream, in commit order.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A transaction starts. Postgres sends it only after the commit.
    Begin(Boundary<'a>),
    /// A row change of the transaction that began last.
    Change(Change<'a>),
    /// Tables of the transaction that began last are emptied at once: a change of each.
    Truncate(pgoutput::Truncated<'a>),
    /// `pg_logical_emit_message`.
    Message(Message<'a>),
    /// The transaction that began last is complete.
    Commit(Boundary<'a>),
    /// What the plugin has to say of tables and types, between two others.
    Aside,
}

/// Where and when a transaction was committed.
///
/// A plugin may leave out what its options did not ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Boundary<'a> {
    /// The top-level transaction ID, whose epoch the stream does not carry.
    pub xid: Option<u32>,
    /// Start of the commit record.
    pub commit_lsn: Option<Lsn>,
    /// End of the commit record. Where a transaction begins it may be any position within the
    /// record behind its start: no other record's boundary lies there, so that it compares the
    /// same.
    pub end_lsn: Option<Lsn>,
    /// The commit's time.
    pub committed_at: Option<CommitTime<'a>>,
}

/// When a transaction was committed, by the server's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitTime<'a> {
    /// As Postgres prints a timestamptz: hardly anybody asks, so that it is read only then.
    Printed(&'a [u8]),
    /// In microseconds since 1970.
    Micros(i64),
}

/// What `pg_logical_emit_message` wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Whether it belongs to the transaction that began last; otherwise it is one of its own.
    pub transactional: bool,
    /// The position that the plugin gives for it.
    pub lsn: Option<Lsn>,
    /// Its prefix.
    pub prefix: &'a [u8],
    /// Its content.
    pub content: &'a [u8],
}

/// Decodes one stream of either plugin.
#[derive(Debug)]
pub enum Decoder {
    /// Lines of wal2json.
    Wal2json(wal2json::Decoder),
    /// Messages of pgoutput.
    Pgoutput(pgoutput::Decoder),
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder::Wal2json(wal2json::Decoder::default())
    }
}

impl Decoder {
    /// Decodes one message, which may be changed by that.
    ///
    /// # Errors
    /// If it is not what the plugin writes.
    pub fn decode<'a>(&'a mut self, message: &'a mut [u8]) -> Result<Event<'a>, DecodeError> {
        match self {
            Decoder::Wal2json(decoder) => decoder.decode(message),
            Decoder::Pgoutput(decoder) => decoder.decode(message),
        }
    }

    /// What a null of the stream means.
    pub fn nulls(&self) -> Nulls {
        match self {
            Decoder::Wal2json(decoder) => decoder.nulls(),
            // NaN prints as NaN.
            Decoder::Pgoutput(_) => Nulls::Certain,
        }
    }

    /// Whether the stream should be started again, since it takes too much memory to follow it.
    pub fn is_full(&self) -> bool {
        match self {
            Decoder::Wal2json(_) => false,
            Decoder::Pgoutput(decoder) => decoder.is_full(),
        }
    }
}

/// A message of the stream that is not what its plugin writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {at}: {what}")]
pub struct DecodeError {
    /// The offset at which decoding stopped.
    pub at: usize,
    /// What was expected there, without anything of the row.
    pub what: &'static str,
}
