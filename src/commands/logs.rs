//! Logs: to stderr, as text or JSON.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::cli::{Global, LogFormat};

/// Starts logging.
pub(super) fn start(global: &Global) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&global.log)
        .with_context(|| format!("--log {:?} is not a log filter", global.log))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    match global.log_format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
