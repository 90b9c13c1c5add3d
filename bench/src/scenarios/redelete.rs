//! How fast does a backlog go where a rule deletes again?

use anyhow::Result;
use serde_json::json;

use super::drain::{ROWS_PER_TRANSACTION, drain, drain_with, load};
use crate::bed::Bed;
use crate::report::{Section, Target};
use crate::size;
use crate::stats::{largest, list, median, thousands};

const REDELETE: &str = "redelete_after = [\"1s\", \"5s\"]\n";

pub(super) fn run() -> Result<Section> {
    let (changes, runs) = (size::CHANGES.get()?, size::RUNS.get()?);
    let changes = changes.next_multiple_of(ROWS_PER_TRANSACTION);
    let bed = Bed::start(changes)?;
    load(&bed)?;
    let end_lsn = bed.end_lsn()?;
    // The last delay, and how far the time of a checkpoint may be off.
    let old = "SELECT 1 FROM pg_control_checkpoint()
        WHERE clock_timestamp() - checkpoint_time > '8 s'";
    bed.wait("the backlog is old", || Ok(bed.sql.run(old)?.is_some()))?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for run in 0..runs {
        eprintln!("  run {} of {runs}", run + 1);
        for contender in [run % 2, (run + 1) % 2] {
            match contender {
                0 => without.push(drain(&bed, &end_lsn)?),
                _ => with.push(drain_with(&bed, bed.plugin, &end_lsn, REDELETE)?),
            }
        }
    }
    let rate = |seconds: f64| changes as f64 / seconds;
    let rates = |runs: &[super::drain::Drained]| -> Vec<f64> {
        runs.iter().map(|run| rate(run.seconds)).collect()
    };
    let (plain, redeleting) = (rates(&without), rates(&with));
    let ratios: Vec<f64> =
        redeleting.iter().zip(&plain).map(|(with, without)| with / without).collect();
    let peaks: Vec<f64> = with.iter().map(|run| run.peak_rss_mib).collect();
    let mut section = Section::new(
        format!(
            "{} changes in transactions of {ROWS_PER_TRANSACTION} rows, one distinct cached key \
             each, older than the last delay of `redelete_after = [\"1s\", \"5s\"]`; {runs} \
             paired runs with and without it, medians.",
            thousands(changes as f64)
        ),
        json!({
            "changes": changes, "rates": plain, "rates_redelete": redeleting, "ratios": ratios,
            "peak_rss_mib": peaks,
        }),
    );
    section.row("without, changes/s", thousands(median(&plain)));
    section.row("with, changes/s", thousands(median(&redeleting)));
    section.row("ratio of each pair", list(&ratios, 2));
    section.judged("median ratio", median(&ratios), "", Target::AtLeast(0.9));
    section.judged("with, peak memory", largest(&peaks), " MiB", Target::AtMost(64.0));
    Ok(section)
}
