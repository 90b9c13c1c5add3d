//! The file: one JSON object a line, appended to under a lock, and replaced as a whole where lines
//! go.
//!
//! Whoever waits for the lock of a file that is replaced meanwhile holds one that nobody reads any
//! more, and opens the new one.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::{PARKED_BYTES_MAX, Record};
use crate::state::write_atomically_like;

/// What a file holds.
#[derive(Debug, Default)]
pub struct Kept {
    /// In the order in which they were written.
    pub records: Vec<Record>,
    /// How many lines make no sense: a crash may have cut off the last one.
    pub torn: usize,
}

/// Which file it is, and how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    /// 0: there is none.
    pub(super) inode: u64,
    pub(super) length: u64,
}

impl Stamp {
    /// What stands at a path.
    pub(super) fn of(path: &Path) -> Self {
        std::fs::metadata(path).map(|found| Stamp::from(&found)).unwrap_or_default()
    }

    /// Whether this file is `later` with nothing but more lines.
    pub(super) fn grew_to(self, later: Stamp) -> bool {
        self.inode == later.inode && self.length <= later.length
    }
}

impl From<&std::fs::Metadata> for Stamp {
    fn from(found: &std::fs::Metadata) -> Self {
        Stamp { inode: found.ino(), length: found.len() }
    }
}

/// A file before and after a line was added to it.
pub(super) struct Grown {
    pub(super) from: Stamp,
    pub(super) to: Stamp,
}

/// Reads all records.
///
/// # Errors
/// If there is a file and it cannot be read.
pub fn read(path: &Path) -> io::Result<Kept> {
    let text = match File::open(path) {
        Ok(mut file) => read_text(&mut file)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::default()),
        Err(error) => return Err(error),
    };
    let mut kept = Kept::default();
    for line in lines(&text) {
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
    let Some(file) = open_locked(path, OpenOptions::new().write(true))? else { return Ok(()) };
    file.set_len(0)?;
    file.sync_all()
}

/// Calls `change` with every record, in order, and keeps what it answers with. A crash leaves the
/// old file or the new one; lines that make no sense stay.
///
/// # Errors
/// If it is not certain that the new file is on disk; it is then the old one or the new one.
pub(super) fn rewrite(
    path: &Path,
    mut change: impl FnMut(Record) -> Option<Record>,
) -> io::Result<()> {
    let Some(mut file) = open_locked(path, OpenOptions::new().read(true))? else { return Ok(()) };
    let old = read_text(&mut file)?;
    let mut new = Vec::with_capacity(old.len());
    for line in lines(&old) {
        match serde_json::from_slice(line) {
            Ok(record) => {
                let Some(record) = change(record) else { continue };
                serde_json::to_writer(&mut new, &record)?;
            }
            Err(_) => new.extend_from_slice(line),
        }
        new.push(b'\n');
    }
    if new == old {
        return Ok(());
    }
    // The lock of the old file goes with it: who waits for that opens the new one.
    write_atomically_like(path, &new, &file.metadata()?)
}

/// Writes a record and waits until it is on disk; `None`: there is no room for it.
///
/// # Errors
/// If it is not certain that it is on disk.
pub(super) fn append(path: &Path, record: &Record) -> io::Result<Option<Grown>> {
    let mut options = OpenOptions::new();
    let options = options.create(true).read(true).append(true).mode(0o600);
    let Some(mut file) = open_locked(path, options)? else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    let from = Stamp::from(&file.metadata()?);
    if from.length + line.len() as u64 > PARKED_BYTES_MAX {
        return Ok(None);
    }
    if from.length > 0 {
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
    if from.length == 0
        && let Some(directory) = path.parent()
    {
        File::open(directory)?.sync_all()?;
    }
    Ok(Some(Grown { from, to: Stamp::from(&file.metadata()?) }))
}

/// Opens what stands at a path, once nobody else has it; `None`: there is nothing.
fn open_locked(path: &Path, options: &OpenOptions) -> io::Result<Option<File>> {
    loop {
        let file = match options.open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        file.lock()?;
        // It may have been replaced while we waited.
        if Stamp::from(&file.metadata()?).inode == Stamp::of(path).inode {
            return Ok(Some(file));
        }
    }
}

/// A file's text, as far as walpurge can have written it.
fn read_text(file: &mut File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(2 * PARKED_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(value: &[u8]) -> Record {
        Record::message(crate::lsn::Lsn(16), "not an object", value)
    }

    #[test]
    fn a_file_that_is_replaced_is_followed_by_whoever_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("parked.jsonl");
        append(&path, &record(b"0")).unwrap();
        let appended: Vec<_> = (1..=8u8)
            .map(|number| {
                let path = path.clone();
                std::thread::spawn(move || {
                    (0..50).for_each(|round| {
                        append(&path, &record(&[b'0' + number, round])).unwrap();
                    });
                })
            })
            .collect();
        for _ in 0..100 {
            rewrite(&path, |mut record| {
                record.reason.push('!');
                Some(record)
            })
            .unwrap();
        }
        appended.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(read(&path).unwrap().records.len(), 401);
    }

    #[test]
    fn lines_that_make_no_sense_stay_where_others_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("parked.jsonl");
        rewrite(&path, |_| None).unwrap();
        append(&path, &record(b"a")).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole, &b"{\"at\":\n"[..], &whole].concat()).unwrap();
        rewrite(&path, |_| None).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"{\"at\":\n");
    }
}
