//! How fast does a backlog go, compared with a client that does nothing with it?

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::bed::{Bed, Plugin, Visibility};
use crate::daemon::Daemon;
use crate::recvlogical;
use crate::report::{Section, Target};
use crate::size;
use crate::stats::{largest, list, median, smallest, thousands};

/// Rows of one transaction.
pub(super) const ROWS_PER_TRANSACTION: u64 = 3;

/// One run of walpurge over the backlog.
pub(super) struct Drained {
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
    pub(super) walsender_cpu_seconds: f64,
    pub(super) peak_rss_mib: f64,
}

pub(super) fn run() -> Result<Section> {
    let (changes, runs) = (size::CHANGES.get()?, size::RUNS.get()?);
    // Whole transactions.
    let changes = changes.next_multiple_of(ROWS_PER_TRANSACTION);
    let bed = Bed::start(changes)?;
    load(&bed)?;
    let end_lsn = bed.end_lsn()?;
    let options = recvlogical::plugin_options(&bed)?;

    let (mut yardsticks, mut drained, mut others) = (Vec::new(), Vec::new(), Vec::new());
    let mut startups = Vec::new();
    for run in 0..runs {
        eprintln!("  run {} of {runs}", run + 1);
        startups.push(recvlogical::startup_seconds(&bed, &options)?);
        // The order alternates, so that a machine that slows down does not favour one.
        for contender in [run % 2, (run + 1) % 2] {
            if contender == 0 {
                bed.copy_slot("bench_yardstick")?;
                let yardstick = recvlogical::run(&bed, "bench_yardstick", &end_lsn, &options)?;
                bed.drop_slot("bench_yardstick")?;
                yardsticks.push(yardstick);
            } else {
                drained.push(drain(&bed, &end_lsn)?);
            }
        }
        if bed.plugin == Plugin::Pgoutput {
            others.push(drain_with(&bed, Plugin::Wal2json, &end_lsn, "")?);
        }
    }
    let startup = median(&startups);
    let seconds: Vec<f64> = yardsticks.iter().map(|run| run.seconds - startup).collect();
    ensure!(smallest(&seconds) > 0.0, "too few changes to measure: raise BENCH_CHANGES");

    let count = changes as f64;
    let yardstick_rates: Vec<f64> = seconds.iter().map(|seconds| count / seconds).collect();
    let rates: Vec<f64> = drained.iter().map(|run| count / run.seconds).collect();
    let other_rates: Vec<f64> = others.iter().map(|run| count / run.seconds).collect();
    let gains: Vec<f64> = rates.iter().zip(&other_rates).map(|(a, b)| a / b).collect();
    let ratios: Vec<f64> = rates.iter().zip(&yardstick_rates).map(|(a, b)| a / b).collect();
    let per_million = |seconds: f64| seconds / count * 1e6;
    let cpu: Vec<f64> = drained.iter().map(|run| per_million(run.cpu_seconds)).collect();
    let walsender: Vec<f64> =
        drained.iter().map(|run| per_million(run.walsender_cpu_seconds)).collect();
    let yardstick_walsender: Vec<f64> =
        yardsticks.iter().map(|run| per_million(run.walsender_cpu_seconds)).collect();
    let cpu_ratios: Vec<f64> = cpu.iter().zip(&walsender).map(|(a, b)| a / b).collect();
    let peaks: Vec<f64> = drained.iter().map(|run| run.peak_rss_mib).collect();

    let mut section = Section::new(
        format!(
            "{} changes in transactions of {ROWS_PER_TRANSACTION} rows, one distinct cached key \
             each; {} with the same options for both; visibility \"wait\"; {runs} paired \
             runs, medians. From the stream's start to the last key's end; pg_recvlogical's start \
             ({startup:.2} s) is taken off, too.",
            thousands(count),
            bed.plugin.name()
        ),
        json!({
            "plugin": bed.plugin.name(), "rates_wal2json": other_rates,
            "changes": changes, "startup_seconds": startups, "yardstick_rates": yardstick_rates,
            "rates": rates, "ratios": ratios, "cpu_seconds_per_million": cpu,
            "walsender_cpu_seconds_per_million": walsender,
            "yardstick_walsender_cpu_seconds_per_million": yardstick_walsender,
            "peak_rss_mib": peaks, "plugin_options": options,
        }),
    );
    section.row("pg_recvlogical, changes/s", spread(&yardstick_rates));
    section.row("walpurge, changes/s", spread(&rates));
    section.row("ratio of each pair", list(&ratios, 2));
    // What is left of the time when the server does less of the work.
    let (ratio, cpu_ratio) = match bed.plugin {
        Plugin::Wal2json => (0.95, 0.4),
        Plugin::Pgoutput => (0.9, 0.6),
    };
    section.judged("median ratio", median(&ratios), "", Target::AtLeast(ratio));
    section.bar(format!("small transactions, {}", bed.plugin.name()), median(&ratios));
    if !gains.is_empty() {
        section.row("walpurge with wal2json, changes/s", spread(&other_rates));
        section.judged("median ratio to that", median(&gains), "", Target::AtLeast(1.5));
    }
    section.row("walpurge, CPU seconds per million", format!("{:.2}", median(&cpu)));
    section.row("its walsender, CPU seconds per million", format!("{:.2}", median(&walsender)));
    section.row(
        "pg_recvlogical's walsender, CPU seconds per million",
        format!("{:.2}", median(&yardstick_walsender)),
    );
    section.judged(
        "CPU, walpurge to its walsender",
        median(&cpu_ratios),
        "",
        Target::AtMost(cpu_ratio),
    );
    section.judged("walpurge, peak memory", largest(&peaks), " MiB", Target::AtMost(64.0));
    Ok(section)
}

/// The median rate, and between which rates the runs lay: a wide range means a noisy machine.
fn spread(rates: &[f64]) -> String {
    let [median, low, high] = [median(rates), smallest(rates), largest(rates)].map(thousands);
    format!("{median} ({low}–{high})")
}

/// Changes every item, a few in each transaction.
pub(super) fn load(bed: &Bed) -> Result<()> {
    eprintln!("  loading {} changes", bed.items);
    bed.sql.run("SET synchronous_commit = off")?;
    bed.sql.run(&changes(bed.items))?;
    bed.sql.run("RESET synchronous_commit").map(drop)
}

/// What changes so many items.
pub(super) fn changes(items: u64) -> String {
    format!(
        "DO $$ BEGIN
             FOR n IN 0..{items} - 1 BY {ROWS_PER_TRANSACTION} LOOP
                 UPDATE items SET price = price + 1, updated_at = clock_timestamp()
                     WHERE id >= n AND id < n + {ROWS_PER_TRANSACTION};
                 COMMIT;
             END LOOP;
         END $$"
    )
}

/// Lets walpurge remove every item's key.
pub(super) fn drain(bed: &Bed, end_lsn: &str) -> Result<Drained> {
    drain_with(bed, bed.plugin, end_lsn, "")
}

/// The same with that plugin, and with more in the rule.
pub(super) fn drain_with(bed: &Bed, plugin: Plugin, end_lsn: &str, more: &str) -> Result<Drained> {
    let slot = "bench_walpurge";
    bed.fill_keys()?;
    bed.copy_slot_for(plugin, slot)?;
    let mut daemon = Daemon::start(&(bed.config_of(plugin, slot, Visibility::Wait) + more))?;
    let walsender = bed.walsender(slot)?;
    bed.wait_drained(&mut daemon)?;
    let drained = Drained {
        seconds: daemon.following_for()?.as_secs_f64(),
        cpu_seconds: daemon.cpu_seconds()?,
        walsender_cpu_seconds: crate::process::cpu_seconds(walsender)?,
        peak_rss_mib: daemon.peak_rss_mib()?,
    };
    bed.wait_confirmed(slot, end_lsn).with_context(|| daemon.report())?;
    daemon.stop()?;
    bed.drop_slot(slot)?;
    Ok(drained)
}
