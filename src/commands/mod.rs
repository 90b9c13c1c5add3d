//! The commands: each turns its arguments into work, output and an exit code.

mod announce;
mod check;
mod endpoints;
mod explain;
mod lanes;
mod logs;
mod parked;
mod replay;
mod retry;
mod run;
mod schema;
mod setup;
mod status;
mod tail;
mod teardown;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;

use crate::cli::{Cli, Command, Global};
use crate::config::{self, ConfigError, Loaded, SecretError, Style};
use crate::postgres::{PgError, PgErrorKind};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what was asked.
    Done,
    /// It failed at run time; a live check failed.
    Failed,
    /// It was asked for in a way that it cannot be done.
    Misused,
    /// The configuration is wrong. systemd does not restart after this one.
    Misconfigured,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> ExitCode {
        ExitCode::from(match outcome {
            Outcome::Done => 0,
            Outcome::Failed => 1,
            Outcome::Misused => 2,
            Outcome::Misconfigured => 78,
        })
    }
}

/// Runs a command, and says on stderr why it failed.
pub fn execute(cli: Cli) -> Outcome {
    let result = match cli.command {
        Command::Explain(args) => explain::explain(&cli.global, &args),
        Command::Run(args) => run::run(&cli.global, &args),
        Command::Replay(args) => replay::replay(&cli.global, &args),
        Command::Check(args) => check::check(&cli.global, &args),
        Command::Status(args) => status::status(&cli.global, &args),
        Command::Tail(args) => tail::tail(&cli.global, &args),
        Command::Setup(args) => setup::setup(&cli.global, &args),
        Command::Teardown(args) => teardown::teardown(&cli.global, &args),
        Command::Parked(args) => parked::parked(&cli.global, &args),
        Command::Schema => schema::schema(),
    };
    result.unwrap_or_else(|error| match error.downcast_ref::<ConfigError>() {
        Some(error) => {
            say(&logs::prefixed(&error.render(style(&std::io::stderr()))));
            Outcome::Misconfigured
        }
        None => {
            say(&logs::prefixed(&format!("error: {error:#}\n")));
            match error.is::<Misconfigured>() {
                true => Outcome::Misconfigured,
                false => Outcome::Failed,
            }
        }
    })
}

/// A mistake in the configuration that shows only when a value is used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Misconfigured(String);

impl Misconfigured {
    fn new(error: impl std::fmt::Display) -> Self {
        Misconfigured(error.to_string())
    }

    /// A secret that cannot be had.
    fn secret(error: SecretError) -> Self {
        Misconfigured(format!("{error}\nhint: {}", error.hint()))
    }

    /// An error of Postgres, with what mends it; a slot of another database or plugin is a mistake
    /// in the configuration.
    fn or_failure(error: PgError) -> anyhow::Error {
        let is_ours = matches!(
            error.kind(),
            PgErrorKind::SlotOfOtherDatabase { .. } | PgErrorKind::SlotOfOtherPlugin { .. }
        );
        let hint = error.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        let told = format!("{:#}{hint}", anyhow::Error::from(error));
        if is_ours { Misconfigured(told).into() } else { anyhow::Error::msg(told) }
    }

    /// Names the key.
    fn at(self, key: &str) -> Self {
        Misconfigured(format!("`{key}`: {}", self.0))
    }
}

fn load(global: &Global) -> Result<Loaded, ConfigError> {
    config::load(&global.config)
}

/// Runs what talks to servers.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(work);
    // A lookup of a host's name cannot be interrupted, and nobody needs it any more.
    runtime.shutdown_background();
    result
}

/// Writes to stdout.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("cannot write to standard output")
}

/// Colours on a terminal, unless the user asked for none (<https://no-color.org>).
fn style(stream: &impl IsTerminal) -> Style {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if stream.is_terminal() && !unwanted { Style::Colour } else { Style::Plain }
}

/// Writes to stderr; if that is closed, nobody is listening.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
