//! `cargo run -p manual -- DIRECTORY` writes walpurge's man pages and completions there.

use std::path::PathBuf;

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let directory = std::env::args_os().nth(1).context("usage: manual DIRECTORY")?;
    manual::write_all(&PathBuf::from(directory))
}
