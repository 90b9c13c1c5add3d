//! Stopping, killing and freezing a server.

use std::time::Duration;

use super::{Postgres, START_WITHIN};
use crate::process::{Signal, children, send};

/// How a server is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Waits until all clients have gone.
    Smart,
    /// Ends sessions, but lets walsenders send the rest of WAL to their clients first.
    Fast,
    /// Ends at once; the next start recovers.
    Immediate,
}

impl Postgres {
    /// Stops the server and waits for its end.
    ///
    /// # Panics
    ///
    /// When it has not ended after a minute.
    #[track_caller]
    pub fn stop(&mut self, mode: StopMode) {
        assert!(self.stops_within(mode, START_WITHIN), "postgres did not stop ({mode:?})");
    }

    /// Asks the server to stop; whether it ended within `deadline`. It may end later.
    pub fn stops_within(&mut self, mode: StopMode, deadline: Duration) -> bool {
        let Some(server) = &mut self.server else { return true };
        server.signal(match mode {
            StopMode::Smart => Signal::TERM,
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
        });
        let ended = server.wait(deadline).is_some();
        if ended {
            self.server = None;
        }
        ended
    }

    /// Starts a stopped or killed server again, on the same port and directory.
    ///
    /// # Panics
    ///
    /// When it runs already or does not start; the message holds its log.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(!self.is_running(), "postgres is running already");
        if let Err(error) = self.launch() {
            panic!("{error:#}");
        }
    }

    /// Stops the server and starts it again.
    ///
    /// # Panics
    ///
    /// When it does not stop or start.
    #[track_caller]
    pub fn restart(&mut self, mode: StopMode) {
        self.stop(mode);
        self.start_again();
    }

    /// Whether the postmaster is there.
    pub fn is_running(&mut self) -> bool {
        self.server.as_mut().is_some_and(super::Process::is_running)
    }

    /// Kills the postmaster and all its children with SIGKILL, as a machine's crash would,
    /// except that what was written without fsync is kept.
    pub fn kill_9(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        let children = children(server.pid());
        // First the one that would start new children.
        server.kill_9();
        for (pid, _) in &children {
            send(*pid, Signal::KILL);
        }
        // The next start refuses while a child is still attached to shared memory.
        crate::wait_until("the killed server's children are gone", START_WITHIN, || {
            children.iter().all(|(pid, _)| !std::path::Path::new(&format!("/proc/{pid}")).exists())
        });
    }

    /// Freezes the whole server: connections stay open, nothing answers.
    pub fn pause(&mut self) {
        let Some(server) = &mut self.server else { return };
        server.signal(Signal::STOP);
        for (pid, _) in children(server.pid()) {
            send(pid, Signal::STOP);
        }
    }

    /// Freezes the walsenders alone, so that replication stalls and SQL goes on.
    pub fn pause_walsenders(&mut self) {
        let Some(server) = &self.server else { return };
        for (pid, line) in children(server.pid()) {
            if line.contains("walsender") {
                send(pid, Signal::STOP);
            }
        }
    }

    /// Lets everything that was frozen go on.
    pub fn resume(&mut self) {
        let Some(server) = &mut self.server else { return };
        for (pid, _) in children(server.pid()) {
            send(pid, Signal::CONT);
        }
        server.signal(Signal::CONT);
    }

    /// Makes the server read its configuration again.
    pub fn reload(&mut self) {
        if let Some(server) = &mut self.server {
            server.signal(Signal::HUP);
        }
    }

    /// Removes the System V segment that a killed server left, which its pid file names.
    pub(super) fn remove_shared_memory(&self) {
        let pid_file = self.data_dir().join("postmaster.pid");
        let Ok(text) = std::fs::read_to_string(pid_file) else { return };
        let segment = text.lines().nth(6).and_then(|line| line.split_whitespace().nth(1));
        if let Some(segment) = segment {
            let mut command = std::process::Command::new("ipcrm");
            // Where there is none any more, there is nothing to do.
            let _ = command.args(["-m", segment]).output();
        }
    }
}
