//! A backlog of any shape that contenders drain in turn, each from a copy of the same slot.
//!
//! Its last transaction changes a row whose key is the last to go: once that is gone, everything
//! before it has been done.

use anyhow::{Context, Result, ensure};
use testkit::redis::Reply;

use crate::bed::{Bed, Visibility};
use crate::daemon::Daemon;
use crate::process;
use crate::recvlogical;

/// The slot at the backlog's beginning.
const BASE: &str = "bench_backlog";

const YARDSTICK: &str = "bench_yardstick";
const SLOT: &str = "bench_walpurge";

/// The key of the row that is changed last.
pub(crate) const LAST_KEY: &str = "bench:last:1";

/// The rule that removes [`LAST_KEY`].
const LAST_RULE: &str =
    "[[rule]]\nname = \"last\"\ntable = \"public.last\"\ndelete = [\"bench:last:{id}\"]\n";

/// What waits in a slot.
pub(crate) struct Backlog<'b> {
    bed: &'b Bed,
    config: String,
    options: Vec<(String, String)>,
    startup_seconds: f64,
    end_lsn: String,
}

/// The tables of a backlog's rules, for a plugin that has to be told.
pub(crate) enum Published {
    /// These, beside those of the bed.
    Tables(Vec<String>),
    /// All of a schema's.
    Schema(&'static str),
}

/// One run over it.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
    pub(crate) walsender_cpu_seconds: f64,
    pub(crate) peak_rss_mib: f64,
}

impl<'b> Backlog<'b> {
    /// Makes it by running `changes`, for a daemon with these rules beside those of the bed.
    pub(crate) fn load(
        bed: &'b Bed,
        rules: &str,
        published: &Published,
        changes: &str,
    ) -> Result<Self> {
        bed.sql.run(
            "DROP TABLE IF EXISTS last;
             CREATE TABLE last (id int PRIMARY KEY, n int NOT NULL);
             INSERT INTO last VALUES (1, 0)",
        )?;
        let published = match published {
            Published::Tables(tables) => {
                let tables = ["items", "last"].into_iter().chain(tables.iter().map(String::as_str));
                tables.map(|table| format!("{table}{}", bed.columns)).collect::<Vec<_>>().join(", ")
            }
            // No table of such a publication may have a list of columns.
            Published::Schema(schema) => format!("items, last, TABLES IN SCHEMA {schema}"),
        };
        bed.sql.run(&format!("ALTER PUBLICATION walpurge SET TABLE {published}"))?;
        bed.sql.run("CHECKPOINT")?;
        bed.create_slot(BASE)?;
        bed.sql.run("SET synchronous_commit = off")?;
        bed.sql.run(changes)?;
        bed.sql.run("RESET synchronous_commit")?;
        bed.sql.run("UPDATE last SET n = n + 1")?;
        let end_lsn = bed.end_lsn()?;
        let config = bed.config(SLOT, Visibility::Wait) + rules + LAST_RULE;
        let options = recvlogical::options_of(bed, |slot| config.replace(SLOT, slot))?;
        let startup_seconds = recvlogical::startup_seconds(bed, &options)?;
        Ok(Backlog { bed, config, options, startup_seconds, end_lsn })
    }

    /// Lets pg_recvlogical throw it away; its start does not count.
    pub(crate) fn yardstick(&self) -> Result<Run> {
        self.bed.copy_slot_of(BASE, YARDSTICK)?;
        let run = recvlogical::run(self.bed, YARDSTICK, &self.end_lsn, &self.options)?;
        self.bed.drop_slot(YARDSTICK)?;
        let seconds = run.seconds - self.startup_seconds;
        ensure!(seconds > 0.0, "too few changes to measure");
        let walsender_cpu_seconds = run.walsender_cpu_seconds;
        Ok(Run { seconds, cpu_seconds: 0.0, walsender_cpu_seconds, peak_rss_mib: 0.0 })
    }

    /// Lets walpurge work it off, from the stream's start to the end of the last key.
    pub(crate) fn drain(&self) -> Result<Run> {
        let bed = self.bed;
        self.put_last_key()?;
        bed.copy_slot_of(BASE, SLOT)?;
        let mut daemon = Daemon::start(&self.config)?;
        let walsender = bed.walsender(SLOT)?;
        self.wait_for_last_key().with_context(|| daemon.report())?;
        let run = Run {
            seconds: daemon.following_for()?.as_secs_f64(),
            cpu_seconds: daemon.cpu_seconds()?,
            walsender_cpu_seconds: process::cpu_seconds(walsender)?,
            peak_rss_mib: daemon.peak_rss_mib()?,
        };
        bed.wait_confirmed(SLOT, &self.end_lsn).with_context(|| daemon.report())?;
        daemon.stop()?;
        bed.drop_slot(SLOT)?;
        Ok(run)
    }

    /// Lets another program work it off, which is started with the name of its slot.
    pub(crate) fn other(&self, start: impl FnOnce(&str) -> Result<u32>) -> Result<Run> {
        let bed = self.bed;
        self.put_last_key()?;
        bed.copy_slot_of(BASE, SLOT)?;
        let pid = start(SLOT)?;
        let walsender = bed.walsender(SLOT)?;
        let begin = std::time::Instant::now();
        self.wait_for_last_key()?;
        Ok(Run {
            seconds: begin.elapsed().as_secs_f64(),
            cpu_seconds: process::cpu_seconds(pid)?,
            walsender_cpu_seconds: process::cpu_seconds(walsender)?,
            peak_rss_mib: process::peak_rss_mib(pid)?,
        })
    }

    /// Forgets the slot of [`other`](Self::other), once its program has ended.
    pub(crate) fn end_other(&self) -> Result<()> {
        self.bed.drop_slot(SLOT)
    }

    /// Gives up the backlog, and the WAL that it holds.
    pub(crate) fn forget(self) -> Result<()> {
        self.bed.drop_slot(BASE)
    }

    fn put_last_key(&self) -> Result<()> {
        let reply = self.bed.redis.try_cmd(&["SET", LAST_KEY, "cached"])?;
        ensure!(!reply.is_error(), "SET: {reply}");
        Ok(())
    }

    fn wait_for_last_key(&self) -> Result<()> {
        let redis = &self.bed.redis;
        let is_gone = || Ok(redis.try_cmd(&["EXISTS", LAST_KEY])? == Reply::Int(0));
        self.bed.wait("the last key is gone", is_gone)
    }
}
