//! Lines for systemd's journal: each begins with its priority, as sd-daemon(3) lays it out, so that
//! `journalctl -p err` shows errors alone.
//!
//! Not the journal's own protocol: that has fields of their own for `sink`, `cause` and `hint`, and
//! `journalctl` shows none of them unless it is asked to.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use tracing::Level;

/// Of an error, in syslog's numbers.
const ERROR: u8 = 3;

/// Whether stderr leads to the journal: systemd says in `$JOURNAL_STREAM` which file that is, and a
/// redirection may have led it elsewhere since.
pub(super) fn is_stderr() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let stderr = io::stderr().as_fd().try_clone_to_owned().map(File::from);
    let stderr = stderr.and_then(|file| file.metadata());
    stderr.is_ok_and(|stderr| stream == format!("{}:{}", stderr.dev(), stderr.ino()))
}

/// syslog's number for a level.
pub(super) fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => ERROR,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// The same with the priority before each line, since the journal takes each for itself.
pub(super) fn with_priority(bytes: &[u8], priority: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 16);
    for line in bytes.trim_ascii_start().split_inclusive(|&byte| byte == b'\n') {
        // Into memory, which takes all of it.
        let _ = write!(out, "<{priority}>");
        out.extend_from_slice(line);
    }
    out
}

/// A text for stderr that says why the program ends.
pub(in crate::commands) fn prefixed(text: &str) -> String {
    match is_stderr() {
        true => String::from_utf8_lossy(&with_priority(text.as_bytes(), ERROR)).into_owned(),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_priority() {
        let shown = |text: &str| String::from_utf8_lossy(&with_priority(text.as_bytes(), 3)).into();
        let check = |text, expected: &str| {
            let shown: String = shown(text);
            assert_eq!(shown, expected);
        };
        check(" ERROR one\n", "<3>ERROR one\n");
        check("ERROR one\n  two\n\nthree", "<3>ERROR one\n<3>  two\n<3>\n<3>three");
    }
}
