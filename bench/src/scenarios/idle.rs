//! What does a daemon cost that has nothing to do?

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use crate::bed::{Bed, Visibility};
use crate::daemon::Daemon;
use crate::report::{Section, Target};
use crate::size;

pub(super) fn run() -> Result<Section> {
    let seconds = size::IDLE.get()?;
    let bed = Bed::start(1)?;
    let slot = "bench_idle";
    bed.create_slot(slot)?;
    let daemon = Daemon::start(&bed.config(slot, Visibility::Wait))?;
    // Its start is not idleness.
    let end_lsn = bed.end_lsn()?;
    bed.wait_confirmed(slot, &end_lsn)?;

    eprintln!("  idle for {seconds} s");
    let (before, begin) = (daemon.cpu_seconds()?, Instant::now());
    std::thread::sleep(Duration::from_secs(seconds));
    let cpu = daemon.cpu_seconds()? - before;
    let percent = 100.0 * cpu / begin.elapsed().as_secs_f64();
    let rss = daemon.rss_mib()?;
    daemon.stop()?;

    let mut section = Section::new(
        format!("One Redis sink, heartbeat every 30 s, {seconds} s; CPU by the 10 ms."),
        json!({ "seconds": seconds, "cpu_seconds": cpu, "rss_mib": rss }),
    );
    section.judged("CPU", percent, " %", Target::AtMost(0.1));
    section.judged("memory", rss, " MiB", Target::AtMost(20.0));
    Ok(section)
}
