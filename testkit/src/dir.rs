//! A directory of a server's or a test's own.

use std::path::{Path, PathBuf};

/// A directory under the system's temporary one, removed on drop unless `WALPURGE_KEEP=1`.
///
/// Its path is short, because the path of a Unix socket ends at 107 bytes.
#[derive(Debug)]
pub struct TestDir {
    path: PathBuf,
}

impl TestDir {
    /// Makes a directory whose name starts with `name`.
    ///
    /// # Panics
    ///
    /// When the directory cannot be made.
    #[track_caller]
    pub fn new(name: &str) -> Self {
        let made = tempfile::Builder::new().prefix(&format!("walpurge-{name}-")).tempdir();
        Self { path: made.expect("a temporary directory").keep() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of `name` inside.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        if keep() {
            eprintln!("kept {}", self.path.display());
        } else {
            // What cannot be removed stays in the temporary directory; no test fails for it.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Whether directories outlive the test, so that one can look at them.
pub(crate) fn keep() -> bool {
    std::env::var_os("WALPURGE_KEEP").is_some_and(|value| value == "1")
}
