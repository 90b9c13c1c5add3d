//! A copy of this machine that a test may change: every write goes to memory and is forgotten.
//!
//! Its root is an overlay over the machine's own, in a mount and a process namespace of their own;
//! it shares the network, so that private servers can be reached. This needs root, or `sudo`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::TestDir;
use crate::process::{Process, Signal, children};

/// How long it may take to be ready, on a busy machine.
const START_WITHIN: Duration = Duration::from_secs(30);

/// What process 1 does: makes the root, moves into it, and then reaps whatever is left to it.
/// It ends when a file is gone, and with it all that runs there: a test that `sudo` helps cannot
/// send signals to root, and one that is killed sends none.
const INIT: &str = r#"
    set -eu
    cd "$1"
    mount -t tmpfs -o mode=755 tmpfs layers
    mkdir layers/upper layers/work
    mount -t overlay -o lowerdir=/,upperdir=layers/upper,workdir=layers/work overlay root
    mount -t proc proc root/proc
    mount --rbind /dev root/dev
    mount -t tmpfs -o mode=755 tmpfs root/run
    mount -t tmpfs -o mode=1777 tmpfs root/tmp
    mount --bind shared root/mnt
    exec chroot root sh -c 'cd /; echo the machine is ready; while [ -e /mnt/alive ]; do sleep 0.05; done'
"#;

/// A machine that goes away with this value, and everything that was started in it.
#[derive(Debug)]
pub struct Machine {
    // Before the directory, on which it has mounted.
    init: Process,
    pid: u32,
    dir: TestDir,
}

impl Machine {
    /// Starts one.
    ///
    /// # Panics
    ///
    /// When this machine does not allow it; the message says what was missing.
    #[track_caller]
    pub fn start() -> Self {
        match Self::try_start() {
            Ok(machine) => machine,
            Err(error) => panic!("a copy of this machine needs root and overlayfs: {error:#}"),
        }
    }

    fn try_start() -> Result<Self> {
        let dir = TestDir::new("machine");
        for name in ["layers", "root", "shared"] {
            std::fs::create_dir(dir.join(name))?;
        }
        std::fs::write(dir.join("shared/alive"), "")?;
        let mut command = as_root("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", INIT, "init"]);
        command.arg(dir.path());
        let mut init = Process::spawn("unshare", command, &dir.join("log"), Signal::KILL)?;
        let ready = crate::holds_within(START_WITHIN, || {
            !init.is_running() || init.log().contains("the machine is ready")
        });
        ensure!(ready && init.is_running(), "{}", init.report());
        let pid = first_process(init.pid()).context("the process of unshare is gone")?;
        Ok(Self { init, pid, dir })
    }

    /// Where it has what it calls `/mnt`: what both sides can read and write.
    pub fn shared(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join("shared").join(name)
    }

    /// Runs a script of `sh` in it as root, to its end.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[track_caller]
    pub fn run(&self, script: &str) -> Output {
        self.command(script).output().expect("nsenter can be started")
    }

    /// A script of `sh` in it, as root.
    pub fn command(&self, script: &str) -> Command {
        let mut command = as_root("nsenter");
        command.arg(format!("--target={}", self.pid));
        command.args(["--mount", "--pid", "--root", "--wd=/", "sh", "-euc", script]);
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    /// What a script prints, without white space around it.
    ///
    /// # Panics
    ///
    /// With all that it printed, when it fails.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let output = self.run(script);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{script}\n{}\n{out}\n{err}", output.status);
        out.trim().to_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.shared("alive"));
        self.init.wait(START_WITHIN);
    }
}

/// Bytes as text.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A program that runs as root, by `sudo` where the test does not.
fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["-n", program]);
    command
}

/// Process 1 of the machine, as it is called out here: the child of `unshare`, which may be a child
/// of `sudo`.
fn first_process(mut pid: u32) -> Option<u32> {
    loop {
        let (child, line) = children(pid).into_iter().next()?;
        if !line.starts_with("unshare") && !line.starts_with("sudo") {
            return Some(child);
        }
        pid = child;
    }
}
