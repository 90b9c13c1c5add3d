//! Does a longer backlog cost more for each change, or more memory?

use anyhow::Result;
use serde_json::json;

use super::shapes::in_transactions;
use crate::backlog::{Backlog, Published};
use crate::bed::Bed;
use crate::report::{Section, Target};
use crate::size;
use crate::stats::{largest, thousands};

/// The shortest backlog.
const FIRST: u64 = 100_000;

/// How much longer each next one is.
const TIMES: u64 = 10;

pub(super) fn run() -> Result<Section> {
    let most = size::GROWTH.get()?;
    let bed = Bed::start(1)?;
    let mut section = Section::new(
        "Backlogs of small transactions, each ten times as long as the one before; one run each, \
         visibility \"wait\". The keys that are removed do not exist, but for the last."
            .to_owned(),
        serde_json::Value::Null,
    );
    let (mut raw, mut costs, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
    let mut rows = FIRST.min(most);
    while rows <= most {
        eprintln!("  {} changes", thousands(rows as f64));
        bed.sql.run(&format!(
            "DROP SCHEMA IF EXISTS shape CASCADE;
             CREATE SCHEMA shape;
             CREATE TABLE shape.hot (id bigint PRIMARY KEY, n int NOT NULL);
             INSERT INTO shape.hot SELECT id, 0 FROM generate_series(0, {rows} - 1) id"
        ))?;
        let update = "UPDATE shape.hot SET n = n + 1 WHERE id >= k AND id < k + step";
        let rule = "[[rule]]\ntable = \"shape.hot\"\ndelete = [\"hot:{id}\"]\n";
        let published = Published::Tables(vec!["shape.hot".to_owned()]);
        let backlog = Backlog::load(&bed, rule, &published, &in_transactions(rows, update))?;
        let run = backlog.drain()?;
        backlog.forget()?;
        let count = rows as f64;
        let cost = run.cpu_seconds / count * 1e6;
        section.row(
            format!("{} changes", thousands(count)),
            format!(
                "{:.1} s, {} changes/s, {cost:.2} CPU-s per million, {:.1} MiB",
                run.seconds,
                thousands(count / run.seconds),
                run.peak_rss_mib
            ),
        );
        raw.push(json!({
            "changes": rows, "seconds": run.seconds, "cpu_seconds": run.cpu_seconds,
            "peak_rss_mib": run.peak_rss_mib,
        }));
        costs.push(cost);
        peaks.push(run.peak_rss_mib);
        rows *= TIMES;
    }
    if let (Some(first), Some(last)) = (costs.first(), costs.last()) {
        let measure = "CPU of a change in the longest, to one in the shortest";
        section.judged(measure, last / first, "", Target::AtMost(1.25));
    }
    section.judged("peak memory", largest(&peaks), " MiB", Target::AtMost(64.0));
    section.raw = json!(raw);
    Ok(section)
}
