//! `schema`: prints the JSON Schema of the configuration, for editors.

use std::io::Write;

use anyhow::Context;

use super::Outcome;
use crate::config;

pub(super) fn schema() -> anyhow::Result<Outcome> {
    let schema = serde_json::to_string_pretty(&config::schema()).context("cannot write JSON")?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{schema}")
        .and_then(|()| out.flush())
        .context("cannot write to standard output")?;
    Ok(Outcome::Done)
}
