//! pg_recvlogical, the yardstick: Postgres' own client, which throws everything away.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::bed::{Bed, Visibility};
use crate::daemon::Daemon;
use crate::process;

/// How often its walsender's processor time is read; the last reading counts.
const SAMPLE_EVERY: Duration = Duration::from_millis(2);

/// The slot with which the options are found out.
const PROBE: &str = "bench_probe";

/// One run.
pub(crate) struct Run {
    pub(crate) seconds: f64,
    /// Processor time of the walsender that served it.
    pub(crate) walsender_cpu_seconds: f64,
}

/// The options with which walpurge starts the output plugin, as Postgres has logged them.
pub(crate) fn plugin_options(bed: &Bed) -> Result<Vec<(String, String)>> {
    options_of(bed, |slot| bed.config(slot, Visibility::Wait))
}

/// The same with the configuration that is made for a slot.
pub(crate) fn options_of(
    bed: &Bed,
    config: impl FnOnce(&str) -> String,
) -> Result<Vec<(String, String)>> {
    bed.create_slot(PROBE)?;
    Daemon::start(&config(PROBE))?.stop()?;
    bed.drop_slot(PROBE)?;
    let log = bed.postgres.log();
    // Where the plugin did not know an option, there is a second command without it.
    let mut lines = log.lines().filter(|line| line.contains("START_REPLICATION SLOT"));
    let line = lines.next_back().context("no START_REPLICATION in Postgres' log")?;
    let options = parse_options(line).with_context(|| line.to_owned())?;
    ensure!(!options.is_empty(), "no options in {line}");
    Ok(options)
}

/// Streams a slot from where it stands to `end_lsn`.
pub(crate) fn run(
    bed: &Bed,
    slot: &str,
    end_lsn: &str,
    options: &[(String, String)],
) -> Result<Run> {
    let mut command = client(bed, slot, end_lsn, options);
    let begin = Instant::now();
    let mut child = command.spawn().context("cannot start pg_recvlogical")?;
    let walsender = bed.walsender(slot);
    let mut cpu = 0.0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if let Ok(pid) = &walsender {
            // It may have gone.
            cpu = process::cpu_seconds(*pid).unwrap_or(cpu);
        }
        std::thread::sleep(SAMPLE_EVERY);
    };
    let seconds = begin.elapsed().as_secs_f64();
    ensure!(status.success(), "pg_recvlogical failed: {status}");
    Ok(Run { seconds, walsender_cpu_seconds: cpu })
}

/// The seconds that it takes to start, find nothing but one empty transaction, and end.
pub(crate) fn startup_seconds(bed: &Bed, options: &[(String, String)]) -> Result<f64> {
    bed.create_slot("bench_empty")?;
    let end_lsn = bed.end_lsn()?;
    let mut command = client(bed, "bench_empty", &end_lsn, options);
    let begin = Instant::now();
    let status = command.status().context("cannot start pg_recvlogical")?;
    let seconds = begin.elapsed().as_secs_f64();
    ensure!(status.success(), "pg_recvlogical failed: {status}");
    bed.drop_slot("bench_empty")?;
    Ok(seconds)
}

/// Starts one that streams a slot until it is killed.
pub(crate) fn follow(bed: &Bed, slot: &str, options: &[(String, String)]) -> Result<Child> {
    endless(bed, slot, options).spawn().context("cannot start pg_recvlogical")
}

fn client(bed: &Bed, slot: &str, end_lsn: &str, options: &[(String, String)]) -> Command {
    let mut command = endless(bed, slot, options);
    command.args(["--endpos", end_lsn]);
    command
}

fn endless(bed: &Bed, slot: &str, options: &[(String, String)]) -> Command {
    let mut command = bed.postgres.client("pg_recvlogical");
    // By TCP, as walpurge.
    command.args(["--host", "127.0.0.1", "--dbname", "postgres", "--slot", slot]);
    command.args(["--start", "--no-loop", "-f", "/dev/null"]);
    for (name, value) in options {
        command.arg("-o").arg(format!("{name}={value}"));
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// The options in `… LOGICAL 0/0 ("name" 'value', …)`, quotes inside doubled.
fn parse_options(command: &str) -> Option<Vec<(String, String)>> {
    let (_, mut rest) = command.split_once('(')?;
    let mut options = Vec::new();
    loop {
        let (name, behind) = quoted(rest, '"')?;
        let (value, behind) = quoted(behind, '\'')?;
        options.push((name, value));
        match behind.trim_start().strip_prefix(',') {
            Some(more) => rest = more,
            None => return Some(options),
        }
    }
}

/// The text in quotes at the start, and what is behind it.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut rest = text.trim_start().strip_prefix(quote)?;
    let mut value = String::new();
    loop {
        let (before, behind) = rest.split_once(quote)?;
        value.push_str(before);
        match behind.strip_prefix(quote) {
            Some(more) => {
                value.push(quote);
                rest = more;
            }
            None => return Some((value, behind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_from_the_logged_command() {
        let line = r#"LOG:  received replication command: START_REPLICATION SLOT "a" LOGICAL 0/0 ("format-version" '2', "add-tables" 'public.it''s\ \(x')"#;
        let options = parse_options(line).unwrap();
        let expected = [("format-version", "2"), ("add-tables", r"public.it's\ \(x")];
        assert_eq!(options, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(parse_options("START_REPLICATION SLOT \"a\" LOGICAL 0/0"), None);
    }
}
