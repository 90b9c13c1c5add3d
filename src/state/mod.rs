//! What is remembered from one stream to the next, and over restarts: how far everything is done,
//! and in whose history.
//!
//! The slot says where to go on. What is remembered here only tells whether that slot still stands
//! in the history that was followed: if not, there is a gap. Losing it costs repeated work at most.

mod file;
mod gap;
mod keeper;

pub use file::{FILE_NAME, Unreadable, read, write};
pub use gap::{Continuity, GapCause, Server, judge};
pub use keeper::Keeper;

use crate::lsn::Lsn;

/// How far everything is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The cluster's, made by initdb.
    pub system_id: String,
    /// The timeline that was followed.
    pub timeline: u32,
    /// The slot.
    pub slot: String,
    /// Everything before this is done on all sinks, so that it may be confirmed. The slot is
    /// never confirmed beyond the one that is on disk.
    pub confirmed_lsn: Lsn,
    /// The last commit that the stream has brought, done or not.
    pub seen: Option<Seen>,
}

/// A commit, as the stream names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Start of the commit record.
    pub commit_lsn: Lsn,
    /// Its end.
    pub end_lsn: Lsn,
    /// The transaction.
    pub xid: u32,
}

impl Position {
    /// How far its history is known to have come.
    pub fn reached_lsn(&self) -> Lsn {
        self.seen.map_or(self.confirmed_lsn, |seen| seen.end_lsn.max(self.confirmed_lsn))
    }
}
