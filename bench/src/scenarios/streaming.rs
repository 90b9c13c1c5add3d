//! Would a large transaction be done sooner if Postgres sent it before it commits?
//!
//! pgoutput can (`streaming`), which walpurge does not ask for: nothing may be done before the
//! commit, so that all of it would have to be held. What is measured is how much there is to gain.

use std::process::Child;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;

use crate::bed::{Bed, Plugin, Visibility};
use crate::daemon::Daemon;
use crate::recvlogical;
use crate::report::Section;
use crate::size;
use crate::stats::{list, median, thousands};

const SLOT: &str = "bench_streaming";

/// Every row, in one transaction.
const CHANGE: &str = "UPDATE items SET price = price + 1, updated_at = clock_timestamp()";

/// What one transaction took.
struct Run {
    /// Until its commit was answered.
    statement: f64,
    /// From then on until the client had all of it.
    after: f64,
}

pub(super) fn run() -> Result<Section> {
    let (rows, runs) = (size::HUGE.get()?, size::SHAPE_RUNS.get()?);
    let bed = Bed::start(rows)?;
    let (mut whole, mut early, mut ours) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..runs {
        eprintln!("  run {} of {runs}", run + 1);
        whole.push(recvlogical(&bed, "off")?);
        early.push(recvlogical(&bed, "on")?);
        ours.push(walpurge(&bed)?);
    }
    let mut section = Section::new(
        format!(
            "{} rows in one transaction, to clients that wait for it; pgoutput, medians of {runs} \
             runs in turn. pg_recvlogical with and without `streaming`, which walpurge does not \
             use.",
            thousands(rows as f64)
        ),
        json!({
            "rows": rows, "after_commit": each(&whole, |run| run.after),
            "after_commit_streaming": each(&early, |run| run.after),
            "after_commit_walpurge": each(&ours, |run| run.after),
        }),
    );
    for (name, runs) in [
        ("pg_recvlogical", &whole),
        ("pg_recvlogical with `streaming`", &early),
        ("walpurge, until the last key is gone", &ours),
    ] {
        let (statement, after) = (each(runs, |run| run.statement), each(runs, |run| run.after));
        section.row(
            format!("{name}: after the commit, s ({})", list(&after, 1)),
            format!("{:.1}", median(&after)),
        );
        section.row(
            format!("{name}: the statement itself meanwhile, s"),
            format!("{:.1}", median(&statement)),
        );
    }
    Ok(section)
}

fn each(runs: &[Run], of: fn(&Run) -> f64) -> Vec<f64> {
    runs.iter().map(of).collect()
}

/// Lets Postgres' own client follow, until the walsender has sent everything.
fn recvlogical(bed: &Bed, streaming: &str) -> Result<Run> {
    bed.sql.run(&format!("SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')"))?;
    let options = [("proto_version", "2"), ("publication_names", "walpurge")];
    let options = options.into_iter().chain([("streaming", streaming)]);
    let options: Vec<_> =
        options.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let mut client = Killed(recvlogical::follow(bed, SLOT, &options)?);
    let walsender = bed.walsender(SLOT)?;
    let (statement, committed) = change(bed)?;
    let end_lsn = bed.sql.run("SELECT pg_current_wal_flush_lsn()")?.context("no LSN")?;
    let ask = format!(
        "SELECT 1 FROM pg_stat_replication WHERE pid = {walsender} AND sent_lsn >= '{end_lsn}'"
    );
    bed.wait("everything is sent", || Ok(bed.sql.run(&ask)?.is_some()))?;
    let after = committed.elapsed().as_secs_f64();
    client.end()?;
    bed.drop_slot(SLOT)?;
    Ok(Run { statement, after })
}

fn walpurge(bed: &Bed) -> Result<Run> {
    bed.fill_keys()?;
    bed.sql.run(&format!("SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')"))?;
    let mut daemon = Daemon::start(&bed.config_of(Plugin::Pgoutput, SLOT, Visibility::Wait))?;
    let (statement, committed) = change(bed)?;
    bed.wait_drained(&mut daemon)?;
    let after = committed.elapsed().as_secs_f64();
    daemon.stop()?;
    bed.drop_slot(SLOT)?;
    Ok(Run { statement, after })
}

/// Changes all rows; the seconds until the commit's reply, and when that came.
fn change(bed: &Bed) -> Result<(f64, Instant)> {
    let begin = Instant::now();
    bed.sql.run(CHANGE)?;
    let committed = Instant::now();
    Ok(((committed - begin).as_secs_f64(), committed))
}

/// A client that does not outlive this.
struct Killed(Child);

impl Killed {
    fn end(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // It has ended, or nobody reads what an error would say.
        let _ = self.end();
    }
}
