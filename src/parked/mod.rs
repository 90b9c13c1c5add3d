//! What was given up on, kept for a person to look at: messages that ask for what cannot be done,
//! and actions that a sink refuses for good.
//!
//! One JSON object a line in `state_dir/parked.jsonl`, readable by its owner alone, since it holds
//! values of rows. A record is on disk before the LSN that it belongs to is confirmed; one that is
//! streamed again after a crash is not written twice. The file is locked while it is written, so
//! that it can be cleared, and tried again, while the daemon runs.

mod file;
mod record;
mod retry;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use tracing::{error, warn};

use file::{Grown, Stamp, append};
pub use file::{Kept, clear, read};
pub use record::{Record, What};
pub use retry::{Retry, Tried};

use crate::failpoint::Place;

/// How large the file may grow, in bytes. Beyond, what is given up is logged and not kept.
pub const PARKED_BYTES_MAX: u64 = 16 << 20;

/// The file's name in `state_dir`.
const FILE_NAME: &str = "parked.jsonl";

/// Keeps what is given up on.
#[derive(Debug, Default)]
pub struct Parked {
    /// `None`: there is no `state_dir`.
    file: Option<PathBuf>,
    /// What the file holds, by hash.
    known: HashSet<u64>,
    /// Which file that was.
    stamp: Stamp,
    count: u64,
    /// Nobody expects anything to be kept.
    is_off: bool,
}

impl Parked {
    /// Opens what an earlier run has left. Without a directory nothing is kept.
    pub fn open(state_dir: Option<&Path>) -> Self {
        let Some(directory) = state_dir else { return Parked::default() };
        let file = directory.join(FILE_NAME);
        let mut parked = Parked { file: Some(file), ..Parked::default() };
        parked.learn();
        if !parked.known.is_empty() {
            let parked = parked.known.len();
            warn!(parked, hint = "walpurge parked list", "something was given up on");
        }
        parked
    }

    /// Keeps nothing: a replay's log says what it gives up on.
    pub fn off() -> Self {
        Parked { is_off: true, ..Parked::default() }
    }

    /// How much was given up on since the start.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Keeps one record.
    pub fn park(&mut self, record: &Record) {
        let hash = hash(record);
        if self.known.contains(&hash)
            && let Some(file) = &self.file
            && !self.stamp.grew_to(Stamp::of(file))
        {
            // Whoever clears the file has looked at it, and wants to see it if it happens again.
            self.learn();
        }
        if self.known.contains(&hash) {
            return;
        }
        self.count += 1;
        if self.is_off {
            return;
        }
        let Some(file) = &self.file else {
            return warn!(
                hint = "set state_dir, and what is given up on is kept there",
                "nothing is kept of what was given up on"
            );
        };
        Place::BeforePark.pass();
        let appended = append(file, record);
        Place::AfterPark.pass();
        match appended {
            Ok(Some(Grown { from, to })) => {
                let is_same = self.stamp == Stamp::default() || self.stamp.grew_to(from);
                if !is_same {
                    self.learn();
                }
                // A record that is known may be streamed again.
                self.known.insert(hash);
                self.stamp = to;
            }
            Ok(None) => error!(
                file = %file.display(),
                hint = "walpurge parked list, then walpurge parked clear",
                "there is no room for what was given up on"
            ),
            Err(error) => {
                error!(file = %file.display(), "cannot keep what was given up on: {error}");
            }
        }
    }
}

impl Parked {
    /// Reads what the file holds. What is being tried again does not count: it may be refused once
    /// more after that.
    fn learn(&mut self) {
        let Some(file) = &self.file else { return };
        // First, so that what comes in between looks like news.
        self.stamp = Stamp::of(file);
        match read(file) {
            Ok(kept) => {
                let records = kept.records.iter().filter(|record| !record.retrying);
                self.known = records.map(hash).collect();
            }
            Err(error) => {
                self.known.clear();
                error!(file = %file.display(), "cannot read what was given up on: {error}");
            }
        }
    }
}

/// Where what is given up on is kept.
pub fn file_in(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE_NAME)
}

/// The same for a record that is streamed again, whenever that is.
fn hash(record: &Record) -> u64 {
    let mut hasher = DefaultHasher::new();
    (record.lsn.as_deref(), &record.sink, &record.what).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn record(value: &[u8]) -> Record {
        Record::message(crate::lsn::Lsn(16), "not an object", value)
    }

    #[test]
    fn what_was_given_up_is_kept_once_over_restarts_and_can_be_cleared() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let mut parked = Parked::open(Some(dir.path()));
            parked.park(&record(b"{"));
            parked.park(&record(b"{"));
            parked.park(&record(b"\xff\n{"));
        }
        let file = file_in(dir.path());
        let kept = read(&file).unwrap();
        let values: Vec<_> = kept.records.iter().map(|record| record.what.value()).collect();
        assert_eq!(values, [b"{".to_vec(), b"\xff\n{".to_vec()]);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        clear(&file).unwrap();
        assert!(read(&file).unwrap().records.is_empty());
    }

    #[test]
    fn what_was_cleared_is_kept_when_it_happens_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = file_in(dir.path());
        let mut parked = Parked::open(Some(dir.path()));
        for _ in 0..2 {
            parked.park(&record(b"a"));
            parked.park(&record(b"a"));
            assert_eq!(read(&file).unwrap().records.len(), 1);
            clear(&file).unwrap();
        }
        parked.park(&record(b"b"));
        parked.park(&record(b"a"));
        assert_eq!(read(&file).unwrap().records.len(), 2);
    }

    #[test]
    fn a_torn_line_costs_itself_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = file_in(dir.path());
        Parked::open(Some(dir.path())).park(&record(b"a"));
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, [&whole, &whole[..20]].concat()).unwrap();
        Parked::open(Some(dir.path())).park(&record(b"b"));
        let kept = read(&file).unwrap();
        assert_eq!((kept.records.len(), kept.torn), (2, 1));
    }

    #[test]
    fn the_file_does_not_grow_without_bound() {
        let dir = tempfile::tempdir().unwrap();
        let mut parked = Parked::open(Some(dir.path()));
        for number in 0..6u8 {
            parked.park(&record(&vec![b'0' + number; 3 << 20]));
        }
        let file = file_in(dir.path());
        assert!(std::fs::metadata(&file).unwrap().len() <= PARKED_BYTES_MAX);
        assert_eq!((read(&file).unwrap().records.len(), parked.count()), (5, 6));
    }
}
