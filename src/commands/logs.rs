//! Logs: to stderr, as text or JSON.

use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use indicatif::ProgressBar;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::cli::{Global, LogFormat};

/// Starts logging.
pub(super) fn start(global: &Global) -> anyhow::Result<()> {
    start_to(global, std::io::stderr)
}

/// Starts logging above a progress bar.
pub(super) fn start_above(global: &Global, bar: &ProgressBar) -> anyhow::Result<()> {
    let bar = bar.clone();
    start_to(global, move || Above(bar.clone()))
}

/// Writes to stderr while the bar is away.
struct Above(ProgressBar);

impl Write for Above {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn start_to<W>(global: &Global, writer: W) -> anyhow::Result<()>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(&global.log)
        .with_context(|| format!("--log {:?} is not a log filter", global.log))?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_target(false);
    match global.log_format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
