//! A directory of a server's or a test's own.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What `sh` runs beside each directory: its standard input ends when this process is gone,
/// in whatever way, and then the directory goes, as soon as no dying server fills it again.
const WATCHDOG: &str = r#"
    read -r _
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        sleep 0.5; rm -rf -- "$1" 2>/dev/null; [ -e "$1" ] || exit 0
    done
"#;

/// A directory under the system's temporary one, removed on drop (and by a watchdog if this
/// process is killed) unless `WALPURGE_KEEP=1`.
///
/// Its path is short, because the path of a Unix socket ends at 107 bytes.
#[derive(Debug)]
pub struct TestDir {
    path: PathBuf,
    watchdog: Option<Child>,
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
        let path = made.expect("a temporary directory").keep();
        let watchdog = (!keep()).then(|| watch(&path));
        Self { path, watchdog }
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
        if let Some(watchdog) = &mut self.watchdog {
            let _ = watchdog.kill();
            let _ = watchdog.wait();
        }
        if keep() {
            eprintln!("kept {}", self.path.display());
        } else {
            // What cannot be removed stays in the temporary directory; no test fails for it.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Whether directories outlive the test, so that one can look at them.
fn keep() -> bool {
    std::env::var_os("WALPURGE_KEEP").is_some_and(|value| value == "1")
}

/// Starts the watchdog of `path`, out of reach of Ctrl-C.
fn watch(path: &Path) -> Child {
    let mut shell = Command::new("sh");
    shell.args(["-c", WATCHDOG, "watchdog"]).arg(path).process_group(0);
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    shell.spawn().expect("sh can be started")
}

/// Cargo's target directory: the one that this program was built in.
pub fn target_dir() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let built_in = program.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists());
    built_in.map_or_else(std::env::temp_dir, Path::to_owned)
}
