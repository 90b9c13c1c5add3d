//! A psql that stays open.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long a statement may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Printed by psql behind the answer to everything sent before.
const MARK: &str = "testkit: answered";

/// One connection, for open transactions, locks and statements that block.
#[derive(Debug)]
pub struct Session {
    psql: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    /// Marks asked for and not yet read.
    asked: usize,
}

impl Session {
    pub(super) fn open(psql: Command) -> Self {
        // Errors have to come in order with rows, so both streams are one.
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$@\" 2>&1", "sh"]).arg(psql.get_program()).args(psql.get_args());
        for (name, value) in psql.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let spawned = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut psql = spawned.expect("psql can be started");
        let input = psql.stdin.take().expect("psql's input is a pipe");
        let output = psql.stdout.take().expect("psql's output is a pipe");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
        Self { psql, input, lines, asked: 0 }
    }

    /// Sends `sql` and returns at once; [`Session::finish`] waits for the answer.
    ///
    /// # Panics
    ///
    /// When the session has ended.
    #[track_caller]
    pub fn send(&mut self, sql: &str) {
        // \warn and not \echo: psql writes it at once, and in a failed transaction too.
        let text = format!("{sql}\n;\n\\warn {MARK}\n");
        self.input.write_all(text.as_bytes()).expect("the session is open");
        self.asked += 1;
    }

    /// Waits for everything sent: the lines printed, or an error's message as `Err`;
    /// `None` when the answer is not there after `deadline`.
    ///
    /// # Panics
    ///
    /// When the session has ended.
    #[track_caller]
    pub fn finish(&mut self, deadline: Duration) -> Option<Result<String, String>> {
        let end = Instant::now() + deadline;
        let mut answer = Vec::new();
        while self.asked > 0 {
            use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if line == MARK => self.asked -= 1,
                Ok(line) => answer.push(line),
                Err(Timeout) => return None,
                Err(Disconnected) => panic!("the session has ended: {}", answer.join("\n")),
            }
        }
        let failed = answer.iter().any(|line| line.starts_with("ERROR:"));
        let answer = answer.join("\n");
        Some(if failed { Err(answer) } else { Ok(answer) })
    }

    /// Runs `sql` and returns what it printed.
    ///
    /// # Panics
    ///
    /// When it fails, or takes longer than a minute.
    #[track_caller]
    pub fn run(&mut self, sql: &str) -> String {
        self.send(sql);
        match self.finish(ANSWER_WITHIN) {
            Some(Ok(answer)) => answer,
            Some(Err(error)) => panic!("SQL failed: {sql}\n{error}"),
            None => panic!("no answer within {ANSWER_WITHIN:?}: {sql}"),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.psql.kill();
        let _ = self.psql.wait();
    }
}
