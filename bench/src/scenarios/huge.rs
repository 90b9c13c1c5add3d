//! How much memory does one huge transaction take, with Redis well and with Redis stalled, and with
//! either plugin?

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::drain::drain;
use crate::bed::{Bed, DEADLINE, Plugin, Visibility};
use crate::daemon::Daemon;
use crate::recvlogical;
use crate::report::{Section, Target};
use crate::size;
use crate::stats::thousands;

/// For how long the walsender has to wait for its client until that has stopped reading.
const STOPPED_AFTER: Duration = Duration::from_secs(2);

/// What a stall has shown.
struct Stalled {
    /// Whether walpurge stopped reading: a small transaction fits into its bounds.
    is_full: bool,
    peak_rss_mib: f64,
}

pub(super) fn run() -> Result<Section> {
    let rows = size::HUGE.get()?;
    let mut bed = Bed::start(rows)?;
    eprintln!("  changing all of them in one transaction");
    bed.sql.run("UPDATE items SET price = price + 1, updated_at = clock_timestamp()")?;
    let end_lsn = bed.end_lsn()?;
    let mut section = Section::new(
        format!(
            "{} rows with a distinct cached key each, in one transaction, which each plugin \
             decodes in turn; one run each, with the same options for walpurge and pg_recvlogical. \
             Postgres decodes it all before it sends the first row, for both. Stalled: Redis is \
             frozen until walpurge reads no more, then it goes on and everything is removed.",
            thousands(rows as f64)
        ),
        Value::Null,
    );
    let mut raw = Vec::new();
    for plugin in Plugin::BOTH {
        bed.plugin = plugin;
        raw.push(measure(&mut bed, rows, &end_lsn, &mut section)?);
    }
    section.raw = json!({ "rows": rows, "plugins": raw });
    Ok(section)
}

/// Lets both contenders have the transaction, by the bed's plugin.
fn measure(bed: &mut Bed, rows: u64, end_lsn: &str, section: &mut Section) -> Result<Value> {
    let name = bed.plugin.name();
    let options = recvlogical::plugin_options(bed)?;
    eprintln!("  {name}: pg_recvlogical");
    let startup = recvlogical::startup_seconds(bed, &options)?;
    bed.copy_slot("bench_yardstick")?;
    let yardstick = recvlogical::run(bed, "bench_yardstick", end_lsn, &options)?;
    bed.drop_slot("bench_yardstick")?;
    eprintln!("  {name}: walpurge");
    let healthy = drain(bed, end_lsn)?;
    eprintln!("  {name}: walpurge, Redis stalled");
    let stalled = drain_stalled(bed, end_lsn)?;

    let yardstick_rate = rows as f64 / (yardstick.seconds - startup);
    let rate = rows as f64 / healthy.seconds;
    let ratio = rate / yardstick_rate;
    section.row(
        format!("{name}: pg_recvlogical / walpurge, changes/s"),
        format!("{} / {}", thousands(yardstick_rate), thousands(rate)),
    );
    section.row(format!("{name}: ratio"), format!("{ratio:.2}"));
    section.bar(format!("one huge transaction, {name}"), ratio);
    let per_million = |seconds: f64| seconds / rows as f64 * 1e6;
    section.row(
        format!("{name}: CPU seconds per million, walpurge / its walsender"),
        format!(
            "{:.2} / {:.2}",
            per_million(healthy.cpu_seconds),
            per_million(healthy.walsender_cpu_seconds)
        ),
    );
    for (redis, peak) in [("healthy", healthy.peak_rss_mib), ("stalled", stalled.peak_rss_mib)] {
        let measure = format!("{name}: peak memory, Redis {redis}");
        section.judged(measure, peak, " MiB", Target::AtMost(64.0));
    }
    section.row(
        format!("{name}: stopped reading while Redis was stalled"),
        if stalled.is_full { "yes" } else { "no" },
    );
    Ok(json!({
        "plugin": name, "yardstick_rate": yardstick_rate, "rate": rate,
        "cpu_seconds": healthy.cpu_seconds,
        "walsender_cpu_seconds": healthy.walsender_cpu_seconds,
        "peak_rss_mib": healthy.peak_rss_mib,
        "peak_rss_mib_stalled": stalled.peak_rss_mib,
        "stopped_reading": stalled.is_full,
    }))
}

fn drain_stalled(bed: &mut Bed, end_lsn: &str) -> Result<Stalled> {
    let slot = "bench_stalled";
    bed.fill_keys()?;
    bed.copy_slot(slot)?;
    let mut daemon = Daemon::start(&bed.config(slot, Visibility::Wait))?;
    // Postgres is still decoding; nothing has been asked of Redis.
    bed.redis.pause();
    let is_full = wait_until_full(bed, slot);
    bed.redis.resume();
    let is_full = is_full?;
    bed.wait_drained(&mut daemon)?;
    bed.wait_confirmed(slot, end_lsn).with_context(|| daemon.report())?;
    let peak_rss_mib = daemon.peak_rss_mib()?;
    daemon.stop()?;
    bed.drop_slot(slot)?;
    Ok(Stalled { is_full, peak_rss_mib })
}

/// Waits until the walsender has long been waiting: for its client to read (true), or for new WAL
/// because everything is read (false).
fn wait_until_full(bed: &Bed, slot: &str) -> Result<bool> {
    let walsender = bed.walsender(slot)?;
    let ask = format!("SELECT wait_event FROM pg_stat_activity WHERE pid = {walsender}");
    let end = Instant::now() + DEADLINE;
    let (mut event, mut since) = (None, Instant::now());
    loop {
        let now = bed.sql.run(&ask)?;
        if now != event {
            (event, since) = (now, Instant::now());
        }
        let has_waited = since.elapsed() > STOPPED_AFTER;
        match event.as_deref() {
            Some("WalSenderWriteData") if has_waited => return Ok(true),
            Some("WalSenderWaitForWAL" | "WalSenderWaitForWal") if has_waited => return Ok(false),
            _ => anyhow::ensure!(Instant::now() < end, "the walsender never waits ({event:?})"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
