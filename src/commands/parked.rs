//! `parked`: what was given up on.

use std::io::IsTerminal;
use std::path::Path;

use anyhow::{Context, anyhow};

use super::{Outcome, load, print, retry};
use crate::cli::{Global, ParkedArgs, ParkedCommand};
use crate::config::state_dir;
use crate::parked::{Kept, clear, file_in, read};

pub(super) fn parked(global: &Global, args: &ParkedArgs) -> anyhow::Result<Outcome> {
    let loaded = load(global)?;
    let directory = state_dir(&loaded.config)
        .ok_or_else(|| anyhow!("nothing is kept: neither state_dir nor $STATE_DIRECTORY is set"))?;
    let file = file_in(&directory);
    match &args.command {
        ParkedCommand::List { json } => list(&file, *json),
        ParkedCommand::Retry { sinks } => retry::retry(loaded, &file, sinks),
        ParkedCommand::Clear => {
            let kept = kept(&file)?;
            clear(&file).with_context(|| format!("cannot empty {}", file.display()))?;
            print(&format!("forgot {}\n", counted(&kept)))?;
            Ok(Outcome::Done)
        }
    }
}

fn list(file: &Path, json: bool) -> anyhow::Result<Outcome> {
    let kept = kept(file)?;
    let mut out = String::new();
    for record in &kept.records {
        if json {
            out.push_str(&serde_json::to_string(record).context("cannot write JSON")?);
            out.push('\n');
            continue;
        }
        let place = match (&record.sink, &record.lsn) {
            (Some(sink), _) => format!("sink {sink}"),
            (None, Some(lsn)) => format!("at {lsn}"),
            (None, None) => "somewhere".to_owned(),
        };
        let value = String::from_utf8_lossy(&record.what.value()).escape_debug().to_string();
        let (at, action, reason) = (&record.at, &record.what.action, &record.reason);
        out.push_str(&format!("{at}  {place}  {action} {value}\n  {reason}\n"));
    }
    if !json && std::io::stdout().is_terminal() {
        out.push_str(&format!("{}\n", counted(&kept)));
    }
    print(&out)?;
    Ok(Outcome::Done)
}

fn kept(file: &Path) -> anyhow::Result<Kept> {
    read(file).with_context(|| format!("cannot read {}", file.display()))
}

fn counted(kept: &Kept) -> String {
    let records = kept.records.len();
    let torn = if kept.torn > 0 { format!(", {} torn", kept.torn) } else { String::new() };
    format!("{records} parked{torn}")
}
