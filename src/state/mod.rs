//! What is kept in `state_dir` over restarts.

mod owed;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

pub use owed::{Due, Owed};

/// Writes a file so that a crash leaves the old one or the new one, and waits until it is on disk.
///
/// # Errors
/// If any step fails; the old file is then still there.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}
