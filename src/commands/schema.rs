//! `schema`: prints the JSON Schema of the configuration, for editors.

use anyhow::Context;

use super::{Outcome, print};
use crate::config;

pub(super) fn schema() -> anyhow::Result<Outcome> {
    let schema = serde_json::to_string_pretty(&config::schema()).context("cannot write JSON")?;
    print(&format!("{schema}\n"))?;
    Ok(Outcome::Done)
}
