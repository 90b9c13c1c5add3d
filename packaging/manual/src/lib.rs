//! Man pages and shell completions, written from walpurge's real command line, so that neither can
//! say anything else than `--help`.
//!
//! The directory that is named gets `man/walpurge.1` with a page for each command beside it, and `completions/`
//! with a file for each shell, named as that shell looks for it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate};
use clap_mangen::Man;
use walpurge::cli::Cli;

/// The name that completions complete.
const PROGRAM: &str = "walpurge";

/// What the command line does not know, for the end of `walpurge.1`: the rest is in its `--help`.
const FILES_AND_CODES: &str = include_str!("../walpurge.1.end");

/// Writes all of them below `directory`, in the place of those that are there.
///
/// # Errors
///
/// With the path, when a file or a directory cannot be written.
pub fn write_all(directory: &Path) -> Result<()> {
    write_man_pages(&fresh(&directory.join("man"))?)?;
    write_completions(&fresh(&directory.join("completions"))?)
}

/// The directory without what an earlier version left in it.
fn fresh(directory: &Path) -> Result<PathBuf> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    Ok(directory.to_owned())
}

fn write_man_pages(directory: &Path) -> Result<()> {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    write_page(directory, PROGRAM, &root)?;
    write_pages_below(directory, PROGRAM, &root)
}

/// A page for each command below `parent`: `walpurge-parked-list.1` for `walpurge parked list`.
fn write_pages_below(directory: &Path, parent: &str, command: &Command) -> Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        let name = format!("{parent}-{}", below.get_name());
        write_page(directory, &name, below)?;
        write_pages_below(directory, &name, below)?;
    }
    Ok(())
}

fn write_page(directory: &Path, name: &str, command: &Command) -> Result<()> {
    let mut page = Vec::new();
    // The name of a page has no blank, as `man walpurge-run` finds it.
    let man = Man::new(command.clone().display_name(name.to_owned()))
        .title(name)
        .source(format!("{PROGRAM} {}", env!("CARGO_PKG_VERSION")))
        .manual("walpurge");
    man.render(&mut page).with_context(|| format!("cannot render {name}"))?;
    let end = match name {
        PROGRAM => FILES_AND_CODES,
        _ => ".SH \"SEE ALSO\"\n\\fBwalpurge\\fR(1)\n",
    };
    page.extend_from_slice(end.as_bytes());
    write(&directory.join(format!("{name}.1")), &page)
}

fn write_completions(directory: &Path) -> Result<()> {
    for (shell, file) in
        [(Shell::Bash, "walpurge"), (Shell::Zsh, "_walpurge"), (Shell::Fish, "walpurge.fish")]
    {
        let mut text = Vec::new();
        generate(shell, &mut Cli::command(), PROGRAM, &mut text);
        write(&directory.join(file), &text)?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
