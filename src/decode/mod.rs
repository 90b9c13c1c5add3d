//! From an output plugin's bytes to [`Event`]s.
//!
//! Pure: no I/O, no clock. What goes in is one message of the stream; what comes out borrows from
//! it. Input that does not parse is an error, never a panic.

mod json;
mod notice;
pub mod wal2json;

pub(crate) use json::json_array;
pub use notice::{DroppedChange, dropped_change};

use crate::change::Change;
use crate::lsn::Lsn;

/// One message of the stream, in commit order.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A transaction starts. Postgres sends it only after the commit.
    Begin(Boundary<'a>),
    /// A row change of the transaction that began last.
    Change(Change<'a>),
    /// `pg_logical_emit_message`.
    Message(Message<'a>),
    /// The transaction that began last is complete.
    Commit(Boundary<'a>),
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
    /// End of the commit record.
    pub end_lsn: Option<Lsn>,
    /// The commit's time, as Postgres prints a timestamptz.
    pub committed_at: Option<&'a [u8]>,
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

/// A message of the stream that is not what its plugin writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {at}: {what}")]
pub struct DecodeError {
    /// The offset at which decoding stopped.
    pub at: usize,
    /// What was expected there, without anything of the row.
    pub what: &'static str,
}
