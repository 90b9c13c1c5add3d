//! What was given up on, kept for a person to look at: messages that ask for what cannot be done,
//! and actions that a sink refuses for good.
//!
//! One JSON object a line in `state_dir/parked.jsonl`, readable by its owner alone, since it holds
//! values of rows. A record is on disk before the LSN that it belongs to is confirmed; one that is
//! streamed again after a crash is not written twice. The file is locked while it is written, so
//! that it can be cleared while the daemon runs.

mod record;

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tracing::{error, warn};

pub use record::{Record, What};

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
    /// How long the file was then.
    length: u64,
    count: u64,
    /// Nobody expects anything to be kept.
    is_off: bool,
}

impl Parked {
    /// Opens what an earlier run has left. Without a directory nothing is kept.
    pub fn open(state_dir: Option<&Path>) -> Self {
        let Some(directory) = state_dir else { return Parked::default() };
        let file = directory.join(FILE_NAME);
        let mut known = HashSet::new();
        match read(&file) {
            Ok(kept) => {
                known.extend(kept.records.iter().map(hash));
                if !kept.records.is_empty() {
                    let parked = kept.records.len();
                    warn!(parked, hint = "walpurge parked list", "something was given up on");
                }
            }
            Err(error) => {
                error!(file = %file.display(), "cannot read what was given up on: {error}");
            }
        }
        let length = std::fs::metadata(&file).map_or(0, |metadata| metadata.len());
        Parked { file: Some(file), known, length, ..Parked::default() }
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
        if self.known.contains(&hash) {
            let length = self.file.as_ref().and_then(|file| std::fs::metadata(file).ok());
            self.forget_if_cleared(length.map_or(0, |metadata| metadata.len()));
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
                self.forget_if_cleared(from);
                // A record that is known may be streamed again.
                self.known.insert(hash);
                self.length = to;
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
    /// Whoever clears the file has looked at it, and wants to see it if it happens again.
    fn forget_if_cleared(&mut self, length: u64) {
        if length < self.length {
            self.known.clear();
        }
    }
}

/// A file's length before and after.
struct Grown {
    from: u64,
    to: u64,
}

/// Where what is given up on is kept.
pub fn file_in(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE_NAME)
}

/// What a file holds.
#[derive(Debug, Default)]
pub struct Kept {
    /// In the order in which they were written.
    pub records: Vec<Record>,
    /// How many lines make no sense: a crash may have cut off the last one.
    pub torn: usize,
}

/// Reads all records.
///
/// # Errors
/// If there is a file and it cannot be read.
pub fn read(path: &Path) -> io::Result<Kept> {
    let mut text = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(2 * PARKED_BYTES_MAX).read_to_end(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::default()),
        Err(error) => return Err(error),
    };
    let mut kept = Kept::default();
    for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(record) => kept.records.push(record),
            Err(_) => kept.torn += 1,
        }
    }
    Ok(kept)
}

/// Forgets all records.
///
/// # Errors
/// If there is a file and it cannot be emptied.
pub fn clear(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).open(path) {
        Ok(file) => {
            file.lock()?;
            file.set_len(0)?;
            file.sync_all()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Writes a record and waits until it is on disk; `None`: there is no room for it.
fn append(path: &Path, record: &Record) -> io::Result<Option<Grown>> {
    let mut file =
        OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(path)?;
    file.lock()?;
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    let length = file.metadata()?.len();
    if length + line.len() as u64 > PARKED_BYTES_MAX {
        return Ok(None);
    }
    if length > 0 {
        // A crash may have cut off the last line.
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            line.insert(0, b'\n');
        }
    }
    file.write_all(&line)?;
    file.sync_all()?;
    if length == 0
        && let Some(directory) = path.parent()
    {
        File::open(directory)?.sync_all()?;
    }
    Ok(Some(Grown { from: length, to: length + line.len() as u64 }))
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
