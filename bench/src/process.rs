//! What has a process used? By proc(5).

use std::str::FromStr;

use anyhow::{Context, Result};

/// Clock ticks a second in /proc: Linux fixes USER_HZ at 100 on all common architectures.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds of processor time, of the program and of the kernel for it.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    // The name is in parentheses and may hold anything; utime and stime are fields 14 and 15.
    let behind_name = stat.rsplit_once(')').map(|(_, rest)| rest).with_context(|| path.clone())?;
    let ticks = behind_name.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    let ticks: Vec<f64> = ticks.collect::<Result<_, _>>().with_context(|| path.clone())?;
    Ok(ticks.iter().sum::<f64>() / TICKS_PER_SECOND)
}

/// The most memory that it has had resident so far, in MiB.
pub(crate) fn peak_rss_mib(pid: u32) -> Result<f64> {
    status_mib(pid, "VmHWM:")
}

/// The memory that it has resident, in MiB.
pub(crate) fn rss_mib(pid: u32) -> Result<f64> {
    status_mib(pid, "VmRSS:")
}

/// How often a thread that is still there has gone to sleep of its own accord, all threads together.
pub(crate) fn voluntary_switches(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/task");
    let mut count = 0;
    for task in std::fs::read_dir(&path).with_context(|| path.clone())? {
        let path = format!("{}/status", task?.path().display());
        count += field::<u64>(&path, "voluntary_ctxt_switches:")?;
    }
    Ok(count)
}

fn status_mib(pid: u32, name: &str) -> Result<f64> {
    Ok(field::<f64>(&format!("/proc/{pid}/status"), name)? / 1024.0)
}

/// The number behind a name at a line's beginning.
fn field<T: FromStr>(path: &str, name: &str) -> Result<T> {
    let status = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("{name} in {path}"))
}
