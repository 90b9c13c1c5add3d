//! Logs: to stderr, as text or JSON; with priorities where stderr is systemd's journal.

mod journal;
mod repeats;

use std::fmt;
use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use indicatif::ProgressBar;
use tracing::Metadata;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{self as format, MakeWriter};
use tracing_subscriber::prelude::*;

use crate::cli::{Global, LogFormat};
pub(super) use journal::prefixed;
pub(super) use repeats::Repeats;

/// Starts logging.
pub(super) fn start(global: &Global) -> anyhow::Result<()> {
    start_to(global, Output::Stderr, None)
}

/// Starts logging for a daemon: what repeats itself without end is left out, and
/// [`Repeats`] says how much.
pub(super) fn start_daemon(global: &Global) -> anyhow::Result<Repeats> {
    let repeats = Repeats::default();
    start_to(global, Output::Stderr, Some(repeats.clone()))?;
    Ok(repeats)
}

/// Starts logging above a progress bar.
pub(super) fn start_above(global: &Global, bar: &ProgressBar) -> anyhow::Result<()> {
    start_to(global, Output::Above(bar.clone()), None)
}

fn start_to(global: &Global, output: Output, repeats: Option<Repeats>) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&global.log)
        .with_context(|| format!("--log {:?} is not a log filter", global.log))?;
    let is_journal = journal::is_stderr();
    let writer = Lines { output, is_journal };
    let layer = format::layer().with_writer(writer).with_target(false);
    let layer = match global.log_format {
        LogFormat::Text => {
            let clock = if is_journal { Clock::Journal } else { Clock::Own };
            layer.with_ansi(io::stderr().is_terminal()).with_timer(clock).boxed()
        }
        LogFormat::Json => layer.with_ansi(false).json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(repeats)).with(filter).init();
    Ok(())
}

/// Where lines go.
#[derive(Clone)]
enum Output {
    Stderr,
    /// To stderr while the bar is away.
    Above(ProgressBar),
}

impl Output {
    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Output::Stderr => io::stderr().write_all(bytes),
            Output::Above(bar) => bar.suspend(|| io::stderr().write_all(bytes)),
        }
    }
}

/// Makes writers, each for a line of its own.
struct Lines {
    output: Output,
    is_journal: bool,
}

/// Writes what is logged at once, with its priority if it has one.
struct Line {
    output: Output,
    priority: Option<u8>,
}

impl<'w> MakeWriter<'w> for Lines {
    type Writer = Line;

    fn make_writer(&'w self) -> Line {
        Line { output: self.output.clone(), priority: None }
    }

    fn make_writer_for(&'w self, meta: &Metadata<'_>) -> Line {
        let priority = self.is_journal.then(|| journal::priority(*meta.level()));
        Line { output: self.output.clone(), priority }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.priority {
            Some(priority) => self.output.write(&journal::with_priority(bytes, priority))?,
            None => self.output.write(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What says when a line was logged.
enum Clock {
    /// We do.
    Own,
    /// The journal does.
    Journal,
}

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        match self {
            Clock::Own => SystemTime.format_time(writer),
            Clock::Journal => Ok(()),
        }
    }
}
