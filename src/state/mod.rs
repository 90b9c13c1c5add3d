//! What is kept in `state_dir` over restarts: how far everything is done and in whose history, and
//! what is owed to whoever was off.
//!
//! The slot says where to go on. What is remembered here tells whether that slot still stands in the
//! history that was followed: if not, there is a gap; and what single sinks have done beyond it.
//! Losing it costs repeated work at most.

mod gap;
mod owed;
mod position_file;
mod position_keeper;
mod servers;
mod sinks;

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

use serde::Serialize;

pub use gap::{Continuity, GapCause, Server, judge};
pub use owed::{Carried, Due, Owed};
pub use position_keeper::PositionKeeper;
pub use servers::Servers;
pub use sinks::{
    Changed, Duty, Fingerprint, KnownSink, SinkPosition, SinkPositions, advance, retain_valid,
};

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
    pub seen: Option<Commit>,
    /// What single sinks have done beyond that.
    pub sinks: SinkPositions,
    /// A gap is being closed on a slot that is not ours to make anew, and nothing else tells of it.
    pub is_in_gap: bool,
}

/// A commit, as the stream names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Start of the commit record.
    pub commit_lsn: Lsn,
    /// Its end.
    pub end_lsn: Lsn,
    /// The transaction.
    pub xid: u32,
}

impl Commit {
    /// Whether it is the same commit as one that was seen before. One that was given up may not
    /// have told where it ends.
    pub fn is(&self, seen: &Commit) -> bool {
        let is_end_unknown = seen.end_lsn.0 == seen.commit_lsn.0.saturating_add(1);
        (self.commit_lsn, self.xid) == (seen.commit_lsn, seen.xid)
            && (self.end_lsn == seen.end_lsn || is_end_unknown)
    }
}

impl Position {
    /// How far its history is known to have come.
    pub fn reached_lsn(&self) -> Lsn {
        self.seen.map_or(self.confirmed_lsn, |seen| seen.end_lsn.max(self.confirmed_lsn))
    }
}

/// Writes a file, readable by its owner alone, so that a crash leaves the old one or the new one,
/// and waits until it is on disk. Makes its directory if there is none.
///
/// # Errors
/// If it is not certain that it is on disk; the file is then the old one or the new one.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, |_| Ok(()))
}

/// The same with a value, as JSON.
///
/// # Errors
/// As above.
pub fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    write_atomically(path, &serde_json::to_vec(value)?)
}

/// The same, for a file that belongs to whom `old` belongs to: to the daemon, whoever writes it.
///
/// # Errors
/// As above, and if we may not give it away.
pub fn write_atomically_like(path: &Path, bytes: &[u8], old: &Metadata) -> io::Result<()> {
    replace(path, bytes, |new| {
        let found = new.metadata()?;
        if (found.uid(), found.gid()) != (old.uid(), old.gid()) {
            fchown(new, Some(old.uid()), Some(old.gid()))?;
        }
        Ok(())
    })
}

fn replace(
    path: &Path,
    bytes: &[u8],
    prepare: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    if !directory.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(&new)?;
    prepare(&file)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(directory)?.sync_all()
}
