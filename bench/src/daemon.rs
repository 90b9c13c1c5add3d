//! walpurge under measurement.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use testkit::TestDir;
use testkit::process::{Process, Signal};

use crate::process;

/// How long a start or a stop may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// The log line with which the stream begins.
const FOLLOWING: &str = "following the write-ahead log";

/// A running daemon.
pub(crate) struct Daemon {
    process: Process,
    following_since: SystemTime,
    // After the process, whose files are in it.
    _dir: TestDir,
}

impl Daemon {
    /// Starts it with a configuration, and waits until it streams.
    pub(crate) fn start(config: &str) -> Result<Self> {
        let dir = TestDir::new("bench");
        let (file, log) = (dir.join("config.toml"), dir.join("walpurge.log"));
        std::fs::write(&file, config)?;
        let mut command = Command::new(program()?);
        command.args(["run", "--log-format", "json", "--config"]).arg(&file);
        command.env_remove("WALPURGE_LOG");
        // What stands for an account with Amazon; the local CloudFront looks at no signature.
        command.env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE");
        command.env("AWS_SECRET_ACCESS_KEY", "not-a-secret");
        // Positions are written to a file, as anywhere.
        command.env("STATE_DIRECTORY", dir.join("state"));
        let mut process = Process::spawn("walpurge", command, &log, Signal::TERM)?;
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(following_since) = following_since(&process.log())? {
                return Ok(Daemon { process, following_since, _dir: dir });
            }
            if Instant::now() > end || !process.is_running() {
                bail!("{}", process.report());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// How long it has been streaming.
    pub(crate) fn following_for(&self) -> Result<Duration> {
        Ok(SystemTime::now().duration_since(self.following_since)?)
    }

    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        process::cpu_seconds(self.process.pid())
    }

    pub(crate) fn peak_rss_mib(&self) -> Result<f64> {
        process::peak_rss_mib(self.process.pid())
    }

    pub(crate) fn rss_mib(&self) -> Result<f64> {
        process::rss_mib(self.process.pid())
    }

    /// How often any of its threads has waited for something so far.
    pub(crate) fn wakeups(&self) -> Result<u64> {
        process::voluntary_switches(self.process.pid())
    }

    /// What it said, for an error.
    pub(crate) fn report(&mut self) -> String {
        self.process.report()
    }

    /// Stops it as systemd does.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::TERM);
        let status = self.process.wait(DEADLINE);
        ensure!(status.is_some_and(|status| status.success()), "{}", self.process.report());
        Ok(())
    }
}

/// `WALPURGE_BIN`, else the program that was built beside this one.
fn program() -> Result<PathBuf> {
    let path = match std::env::var_os("WALPURGE_BIN") {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe()?.with_file_name("walpurge"),
    };
    ensure!(path.exists(), "{} is not there: `make bench` builds it", path.display());
    Ok(path)
}

/// When the stream began, by the log's own clock: reading the log takes longer.
fn following_since(log: &str) -> Result<Option<SystemTime>> {
    let Some(line) = log.lines().find(|line| line.contains(FOLLOWING)) else { return Ok(None) };
    // The line may be half written.
    let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else { return Ok(None) };
    let timestamp = line["timestamp"].as_str().context("a log line without a timestamp")?;
    Ok(Some(timestamp.parse::<jiff::Timestamp>()?.into()))
}
