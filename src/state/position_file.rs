//! The file: a line of JSON and a line with its checksum, replaced as a whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Commit, Fingerprint, Position, SinkPosition, SinkPositions, write_atomically};

/// The file's name in `state_dir`.
pub(super) const FILE_NAME: &str = "position";

/// The format that this version writes, and the only one that it reads.
const VERSION: u32 = 1;

/// Far more than the file holds: some 150 bytes for each sink.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why a file says nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    /// It cannot be read at all.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It was cut off or changed.
    #[error("its checksum is wrong: it was cut off or changed")]
    Torn,
    /// Its format is another one.
    #[error("it has format {0}, and this version reads format {VERSION}")]
    Version(u32),
}

/// The line of JSON. Further keys may come without a new format.
#[derive(Serialize, Deserialize)]
struct Line {
    version: u32,
    system_id: String,
    timeline: u32,
    slot: String,
    confirmed_lsn: String,
    seen: Option<CommitLine>,
    /// Not in the files of the first version that wrote them.
    #[serde(default)]
    sinks: BTreeMap<String, SinkLine>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_in_gap: bool,
}

#[derive(Serialize, Deserialize)]
struct CommitLine {
    commit_lsn: String,
    end_lsn: String,
    xid: u32,
}

#[derive(Serialize, Deserialize)]
struct SinkLine {
    done_lsn: String,
    target: String,
    rules: String,
}

/// Of every format.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Reads what `directory` holds: `None` if there is nothing.
///
/// # Errors
/// If there is a file that says nothing.
pub(super) fn read(directory: &Path) -> Result<Option<Position>, Unreadable> {
    let mut text = Vec::new();
    match File::open(directory.join(FILE_NAME)) {
        Ok(file) => file.take(FILE_BYTES_MAX).read_to_end(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    decode(&text).map(Some)
}

/// Replaces what `directory` holds, and waits until that is on disk.
///
/// # Errors
/// If it is not certain that it is.
pub(super) fn write(directory: &Path, position: &Position) -> io::Result<()> {
    write_atomically(&directory.join(FILE_NAME), &encode(position)?)
}

/// Removes what `directory` holds: nothing is remembered.
pub(super) fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_file(directory.join(FILE_NAME)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn encode(position: &Position) -> io::Result<Vec<u8>> {
    let Position { system_id, timeline, slot, confirmed_lsn, seen, sinks, is_in_gap } = position;
    let sink_line = |sink: &SinkPosition| SinkLine {
        done_lsn: sink.done_lsn.to_string(),
        target: sink.target.digits().to_owned(),
        rules: sink.rules.digits().to_owned(),
    };
    let line = Line {
        version: VERSION,
        system_id: system_id.clone(),
        timeline: *timeline,
        slot: slot.clone(),
        confirmed_lsn: confirmed_lsn.to_string(),
        seen: seen.map(|seen| CommitLine {
            commit_lsn: seen.commit_lsn.to_string(),
            end_lsn: seen.end_lsn.to_string(),
            xid: seen.xid,
        }),
        sinks: sinks.iter().map(|(name, sink)| (name.clone(), sink_line(sink))).collect(),
        is_in_gap: *is_in_gap,
    };
    let mut text = serde_json::to_vec(&line)?;
    let checksum = crc32fast::hash(&text);
    writeln!(text, "\n{checksum:08x}")?;
    Ok(text)
}

fn decode(text: &[u8]) -> Result<Position, Unreadable> {
    let at = memchr::memchr(b'\n', text).ok_or(Unreadable::Torn)?;
    let (line, checksum) = text.split_at(at);
    if checksum != format!("\n{:08x}\n", crc32fast::hash(line)).as_bytes() {
        return Err(Unreadable::Torn);
    }
    let torn = |_| Unreadable::Torn;
    let Versioned { version } = serde_json::from_slice(line).map_err(torn)?;
    if version != VERSION {
        return Err(Unreadable::Version(version));
    }
    let Line { system_id, timeline, slot, confirmed_lsn, seen, sinks: lines, is_in_gap, .. } =
        serde_json::from_slice(line).map_err(torn)?;
    let lsn = |text: String| text.parse().map_err(|_| Unreadable::Torn);
    let seen = match seen {
        Some(CommitLine { commit_lsn, end_lsn, xid }) => {
            Some(Commit { commit_lsn: lsn(commit_lsn)?, end_lsn: lsn(end_lsn)?, xid })
        }
        None => None,
    };
    let mut sinks = SinkPositions::new();
    for (name, SinkLine { done_lsn, target, rules }) in lines {
        let (target, rules) = (Fingerprint::from_file(target), Fingerprint::from_file(rules));
        sinks.insert(name, SinkPosition { done_lsn: lsn(done_lsn)?, target, rules });
    }
    let confirmed_lsn = lsn(confirmed_lsn)?;
    Ok(Position { system_id, timeline, slot, confirmed_lsn, seen, sinks, is_in_gap })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::lsn::Lsn;

    fn position() -> Position {
        let sink = SinkPosition {
            done_lsn: Lsn(0x1700_0000_0042),
            target: Fingerprint::of("redis://h:6379/0"),
            rules: Fingerprint::of("rules"),
        };
        Position {
            system_id: "7412345678901234567".into(),
            timeline: 3,
            slot: "walpurge".into(),
            confirmed_lsn: Lsn(0x1600_0000_0042),
            seen: Some(Commit { commit_lsn: Lsn(0x10), end_lsn: Lsn(0x40), xid: u32::MAX }),
            sinks: [("a \"b\"".to_owned(), sink)].into(),
            is_in_gap: true,
        }
    }

    #[test]
    fn what_is_written_is_read_and_the_directory_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        assert!(read(&state).unwrap().is_none());
        let (seen, sinks) = (None, SinkPositions::new());
        let plain = Position { seen, sinks, is_in_gap: false, ..position() };
        for position in [position(), plain] {
            write(&state, &position).unwrap();
            assert_eq!(read(&state).unwrap(), Some(position));
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&state), mode(&state.join(FILE_NAME))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1);
        remove(&state).unwrap();
        remove(&state).unwrap();
        assert!(read(&state).unwrap().is_none());
    }

    #[test]
    fn a_file_that_was_cut_off_or_changed_says_nothing() {
        let text = encode(&position()).unwrap();
        for length in 0..text.len() {
            assert!(matches!(decode(&text[..length]), Err(Unreadable::Torn)), "{length}");
        }
        for at in 0..text.len() {
            let mut changed = text.clone();
            changed[at] ^= 1;
            assert!(decode(&changed).is_err(), "{at}");
        }
    }

    #[test]
    fn a_file_from_before_sinks_had_positions_is_read() {
        let line = br#"{"version":1,"system_id":"7","timeline":1,"slot":"s","confirmed_lsn":"0/10","seen":null}"#;
        let text = [&line[..], format!("\n{:08x}\n", crc32fast::hash(line)).as_bytes()].concat();
        let read = decode(&text).unwrap();
        assert_eq!((read.confirmed_lsn, read.sinks), (Lsn(0x10), SinkPositions::new()));
    }

    #[test]
    fn another_format_is_named() {
        let line = br#"{"version":2,"positions":[]}"#;
        let text = [&line[..], format!("\n{:08x}\n", crc32fast::hash(line)).as_bytes()].concat();
        assert!(matches!(decode(&text), Err(Unreadable::Version(2))));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(line: Vec<u8>) {
            let checksum = format!("\n{:08x}\n", crc32fast::hash(&line));
            let _ = decode(&[&line[..], checksum.as_bytes()].concat());
        }
    }
}
