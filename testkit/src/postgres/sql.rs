//! SQL through psql, and the questions that tests ask most.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use super::{Postgres, Session};

impl Postgres {
    /// Runs `sql` as the superuser, each statement on its own, and returns what it printed:
    /// rows as lines, columns parted by `|`.
    ///
    /// # Panics
    ///
    /// With the server's message when a statement fails.
    #[track_caller]
    pub fn psql(&self, db: &str, sql: &str) -> String {
        self.psql_as("postgres", db, sql)
    }

    /// The same as another user.
    ///
    /// # Panics
    ///
    /// With the server's message when a statement fails.
    #[track_caller]
    pub fn psql_as(&self, user: &str, db: &str, sql: &str) -> String {
        match self.try_psql(user, db, sql) {
            Ok(output) => output,
            Err(error) => panic!("SQL failed: {sql}\n{error}"),
        }
    }

    /// Runs `sql`, which must fail, and returns the messages.
    ///
    /// # Panics
    ///
    /// When it does not fail.
    #[track_caller]
    pub fn psql_fails(&self, db: &str, sql: &str) -> String {
        match self.try_psql("postgres", db, sql) {
            Ok(output) => panic!("SQL should have failed: {sql}\n{output}"),
            Err(error) => error,
        }
    }

    /// Runs `sql` as `user`: what it printed, without the last line's end.
    ///
    /// # Errors
    ///
    /// What psql wrote to its standard error.
    ///
    /// # Panics
    ///
    /// When psql cannot be started.
    pub fn try_psql(&self, user: &str, db: &str, sql: &str) -> Result<String, String> {
        let mut psql = self.psql_command(user, db);
        psql.args(["-v", "ON_ERROR_STOP=1", "-f", "-"]);
        let output = feed(&mut psql, sql.as_bytes());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\n').to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Opens a session that keeps its transaction, locks and temporary objects.
    ///
    /// # Panics
    ///
    /// When psql cannot be started.
    #[track_caller]
    pub fn session(&self, user: &str, db: &str) -> Session {
        Session::open(self.psql_command(user, db))
    }

    /// Creates a role that may log in and replicate, and nothing else.
    ///
    /// # Panics
    ///
    /// When the role exists.
    #[track_caller]
    pub fn create_role_replication(&self, name: &str) {
        self.psql("postgres", &format!("CREATE ROLE \"{name}\" LOGIN REPLICATION"));
    }

    /// How far a slot's client has confirmed, such as `0/16B3748`; empty where the slot is
    /// missing or not consistent yet.
    pub fn confirmed_flush_lsn(&self, slot: &str) -> String {
        let sql = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = ";
        self.psql("postgres", &format!("{sql}'{slot}'"))
    }

    /// Whether a slot's client has confirmed everything up to `lsn`.
    pub fn has_confirmed(&self, slot: &str, lsn: &str) -> bool {
        let sql = format!(
            "SELECT 1 FROM pg_replication_slots \
             WHERE slot_name = '{slot}' AND confirmed_flush_lsn >= '{lsn}'"
        );
        self.psql("postgres", &sql) == "1"
    }

    /// The end of WAL as written so far.
    pub fn current_lsn(&self) -> String {
        self.psql("postgres", "SELECT pg_current_wal_lsn()")
    }

    /// A client program of this Postgres' version, such as `pgbench` or `pg_recvlogical`, that
    /// connects to this server as the superuser unless its arguments say otherwise.
    pub fn client(&self, program: &str) -> Command {
        let mut command = self.install.client(program);
        command.env("PGHOST", self.socket_dir()).env("PGPORT", self.port.to_string());
        command.env("PGUSER", "postgres").env("PGDATABASE", "postgres");
        command
    }

    fn psql_command(&self, user: &str, db: &str) -> Command {
        let mut psql = self.client("psql");
        psql.args(["-XAtq", "-U", user, "-d", db]);
        psql.env("PGOPTIONS", "-c client_min_messages=warning");
        psql
    }
}

/// Runs `command` with `input` on its standard input.
fn feed(command: &mut Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("psql can be started");
    let mut stdin = child.stdin.take().expect("psql's input is a pipe");
    std::thread::scope(|scope| {
        // Beside the reading, because both pipes may fill up; psql ends early on an error.
        scope.spawn(move || {
            let _ = stdin.write_all(input);
        });
        child.wait_with_output().expect("psql's output can be read")
    })
}
