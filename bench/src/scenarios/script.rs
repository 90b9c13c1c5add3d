//! How does walpurge compare with the script that people write?

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testkit::TestDir;
use testkit::process::{Process, Signal};

use super::drain;
use crate::backlog::{Backlog, Published, Run};
use crate::bed::{Bed, Plugin};
use crate::report::Section;
use crate::size;
use crate::stats::{largest, list, median, thousands};

/// The script: psycopg2 and redis-py, one DEL for each change.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/script/invalidate.py");

/// How long it may take to end.
const END: Duration = Duration::from_secs(10);

pub(super) fn run() -> Result<Section> {
    let (changes, runs) = (size::SCRIPT.get()?, size::SHAPE_RUNS.get()?);
    let changes = changes.next_multiple_of(drain::ROWS_PER_TRANSACTION);
    let python = testkit::install::python()?.join("bin/python");
    let bed = Bed::start(changes)?;
    ensure!(bed.plugin == Plugin::Wal2json, "the script reads wal2json");
    eprintln!("  loading {changes} changes");
    let backlog =
        Backlog::load(&bed, "", &Published::Tables(Vec::new()), &drain::changes(changes))?;
    let (mut scripts, mut drained) = (Vec::new(), Vec::new());
    for run in 0..runs {
        eprintln!("  run {} of {runs}", run + 1);
        drained.push(backlog.drain()?);
        scripts.push(run_script(&bed, &backlog, &python)?);
    }
    backlog.forget()?;

    let count = changes as f64;
    let each = |runs: &[Run], of: fn(&Run) -> f64| runs.iter().map(of).collect::<Vec<f64>>();
    let rates = |runs| each(runs, |run| run.seconds).iter().map(|s| count / s).collect::<Vec<_>>();
    let (script_rates, walpurge_rates) = (rates(&scripts), rates(&drained));
    let ratios: Vec<f64> =
        walpurge_rates.iter().zip(&script_rates).map(|(ours, its)| ours / its).collect();
    let cpu = |runs: &[Run]| median(&each(runs, |run| run.cpu_seconds)) / count * 1e6;
    let peak = |runs: &[Run]| largest(&each(runs, |run| run.peak_rss_mib));
    let mut section = Section::new(
        format!(
            "{} changes in transactions of {} rows, {runs} paired runs, medians; the script is \
             bench/script/invalidate.py.",
            thousands(count),
            drain::ROWS_PER_TRANSACTION
        ),
        json!({
            "changes": changes, "script_rates": script_rates, "rates": walpurge_rates,
            "ratios": ratios, "script_cpu_per_million": cpu(&scripts),
            "cpu_per_million": cpu(&drained),
        }),
    );
    section.row("the script, changes/s", thousands(median(&script_rates)));
    section.row("walpurge, changes/s", thousands(median(&walpurge_rates)));
    section.row(format!("ratio ({})", list(&ratios, 1)), format!("{:.1}", median(&ratios)));
    section.row("the script, CPU seconds per million", format!("{:.1}", cpu(&scripts)));
    section.row("walpurge, CPU seconds per million", format!("{:.1}", cpu(&drained)));
    section.row("the script, peak memory", format!("{:.0} MiB", peak(&scripts)));
    section.row("walpurge, peak memory", format!("{:.0} MiB", peak(&drained)));
    Ok(section)
}

fn run_script(bed: &Bed, backlog: &Backlog<'_>, python: &std::path::Path) -> Result<Run> {
    let dir = TestDir::new("bench-script");
    let mut process = None;
    let run = backlog.other(|slot| {
        let mut command = Command::new(python);
        command.arg(SCRIPT).arg(bed.postgres.url("walpurge", "postgres")).arg(slot);
        command.arg(bed.redis.port().to_string());
        let mut started = Process::spawn("script", command, &dir.join("log"), Signal::TERM)?;
        bed.wait("the script follows", || {
            ensure!(started.is_running(), "{}", started.report());
            Ok(started.log().contains("following"))
        })?;
        let pid = started.pid();
        process = Some(started);
        Ok(pid)
    })?;
    let mut process = process.context("no script")?;
    process.signal(Signal::TERM);
    process.wait(END).context("the script does not end")?;
    backlog.end_other()?;
    Ok(run)
}
