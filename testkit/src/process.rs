//! A child process that cannot outlive its test.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, kill_process};

pub use rustix::process::Signal;

/// How long a process may take to end after the signal that asks for it.
const END_WITHIN: Duration = Duration::from_secs(5);

/// What `sh` runs beside each process: its standard input ends when this process is gone,
/// in whatever way, and then it ends the process.
const WATCHDOG: &str = r#"
    read -r _
    kill -s "$2" "$1"; kill -s CONT "$1"
    for _ in 1 2 3 4 5 6 7 8 9 10; do kill -s 0 "$1" || exit 0; sleep 0.2; done
    kill -s KILL "$1"
"#;

/// A running child: ended on drop, and by a watchdog if this process is killed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    watchdog: Child,
    end: Signal,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, whose output is appended to the file `log`.
    /// `end` is the signal with which it is ended; `KILL` follows where that is not enough.
    /// It runs in a process group of its own, so that Ctrl-C reaches only the test.
    ///
    /// # Errors
    ///
    /// When the program cannot be started.
    pub fn spawn(name: &str, mut command: Command, log: &Path, end: Signal) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log);
        let output = output.with_context(|| format!("cannot open {}", log.display()))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name} ({:?})", command.get_program()))?;
        let watchdog = match watch(child.id(), end) {
            Ok(watchdog) => watchdog,
            Err(error) => {
                child.kill()?;
                child.wait()?;
                return Err(error);
            }
        };
        Ok(Self { name: name.to_owned(), child, watchdog, end, log: log.to_owned() })
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends `signal`; one to a process that has ended is lost.
    pub fn signal(&mut self, signal: Signal) {
        // Only what has not been waited for still owns its id.
        if self.is_running() {
            send(self.child.id(), signal);
        }
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end; `None` when it still runs after `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> Option<ExitStatus> {
        let mut status = None;
        crate::holds_within(deadline, || {
            status = self.child.try_wait().expect("a child can be waited for");
            status.is_some()
        });
        status
    }

    /// Ends it as `kill -9` does, and waits until it is gone.
    pub fn kill_9(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    /// All it has written since the log file was made.
    pub fn log(&self) -> String {
        read_log(&self.log)
    }

    /// Its name, its state and the end of its log: what to show when it did not do its work.
    pub fn report(&mut self) -> String {
        let state = match self.child.try_wait() {
            Ok(Some(status)) => format!("has ended ({status})"),
            _ => "is running".to_owned(),
        };
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(60)..].join("\n");
        format!("{} {state}; the end of {}:\n{tail}", self.name, self.log.display())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            self.signal(self.end);
            self.signal(Signal::CONT);
            if self.wait(END_WITHIN).is_none() {
                self.kill_9();
            }
        }
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
    }
}

/// Sends `signal` to the process `pid`; whether there was one.
pub fn send(pid: u32, signal: Signal) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// The ids and command lines of the direct children of `parent`.
pub fn children(parent: u32) -> Vec<(u32, String)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent))
        .map(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            (pid, String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned())
        })
        .collect()
}

/// A log file's text; empty where there is none.
pub(crate) fn read_log(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// The parent of `pid`, by proc(5): the second field after the parenthesised name.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Starts the watchdog of `pid`.
fn watch(pid: u32, end: Signal) -> Result<Child> {
    let end = match end {
        Signal::QUIT => "QUIT",
        Signal::TERM => "TERM",
        Signal::INT => "INT",
        _ => "KILL",
    };
    Command::new("sh")
        .args(["-c", WATCHDOG, "watchdog", &pid.to_string(), end])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("cannot start a watchdog")
}
