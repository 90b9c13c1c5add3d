//! The file that keeps [`Times`] over restarts: a line with version and checksum, a line of JSON.
//!
//! It is replaced as a whole and on disk before it counts, so that a crash leaves the old one or
//! the new one. Losing it costs knowledge of times, and no WAL and no invalidation.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::times::{Pair, Times};

/// The file's name in `state_dir`.
const FILE_NAME: &str = "replay_times";

/// What its first line starts with; another layout gets another number.
const HEAD: &str = "walpurge replay times 1 ";

/// The most that is read of it.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What the positions are positions of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Made by initdb.
    pub system_id: String,
    /// The timeline.
    pub timeline: String,
}

#[derive(Serialize, Deserialize)]
struct Content {
    origin: Origin,
    pairs: Vec<Pair>,
}

/// Why there is nothing to be had from the file.
#[derive(Debug, thiserror::Error)]
pub enum TimesFileError {
    /// It cannot be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is not what was written, or another version wrote it.
    #[error("{}: it is damaged, or of another version", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// Reads what was kept of that server; nothing if nothing was.
///
/// # Errors
/// If there is a file that cannot be read or understood.
pub fn read_times(state_dir: &Path, origin: &Origin) -> Result<Option<Times>, TimesFileError> {
    let path = state_dir.join(FILE_NAME);
    let mut text = String::new();
    let read =
        File::open(&path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(TimesFileError::Damaged { path });
        }
        Err(error) => return Err(TimesFileError::Io { path, error }),
    }
    let Some(content) = understood(&text) else { return Err(TimesFileError::Damaged { path }) };
    Ok((content.origin == *origin).then(|| Times::new(content.pairs)))
}

fn understood(text: &str) -> Option<Content> {
    let (checksum, body) = text.strip_prefix(HEAD)?.split_once('\n')?;
    let is_whole = u32::from_str_radix(checksum, 16) == Ok(crc32fast::hash(body.as_bytes()));
    is_whole.then(|| serde_json::from_str(body).ok())?
}

/// Keeps times; they are on disk afterwards.
pub(super) fn write_times(state_dir: &Path, origin: &Origin, times: &Times) -> io::Result<()> {
    let content = Content { origin: origin.clone(), pairs: times.pairs().copied().collect() };
    let body = format!("{}\n", serde_json::to_string(&content)?);
    let checksum = crc32fast::hash(body.as_bytes());
    let (path, fresh) = (state_dir.join(FILE_NAME), state_dir.join(format!("{FILE_NAME}.new")));
    // Nothing in it is secret, and `replay` may be run by somebody else.
    let mut file =
        OpenOptions::new().create(true).write(true).truncate(true).mode(0o644).open(&fresh)?;
    file.write_all(format!("{HEAD}{checksum:08x}\n{body}").as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, &path)?;
    File::open(state_dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::Lsn;

    fn origin(timeline: &str) -> Origin {
        Origin { system_id: "7".into(), timeline: timeline.into() }
    }

    fn times() -> Times {
        Times::new((1..100).map(|n| Pair { lsn: Lsn(n << 30), at: n as i64 }))
    }

    #[test]
    fn times_come_back_from_disk_for_the_server_that_they_are_of() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_times(dir.path(), &origin("1")).unwrap(), None);
        for _ in 0..2 {
            write_times(dir.path(), &origin("1"), &times()).unwrap();
            assert_eq!(read_times(dir.path(), &origin("1")).unwrap(), Some(times()));
        }
        assert_eq!(read_times(dir.path(), &origin("2")).unwrap(), None);
    }

    #[test]
    fn whatever_is_wrong_with_the_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        write_times(dir.path(), &origin("1"), &times()).unwrap();
        let path = dir.path().join(FILE_NAME);
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let read = read_times(dir.path(), &origin("1"));
            assert!(matches!(read, Err(TimesFileError::Damaged { .. })), "{cut}: {read:?}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(&path, &changed).unwrap();
            let read = read_times(dir.path(), &origin("1"));
            assert!(matches!(read, Err(TimesFileError::Damaged { .. })), "{at}: {read:?}");
        }
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        assert!(write_times(Path::new("/nowhere"), &origin("1"), &times()).is_err());
    }
}
